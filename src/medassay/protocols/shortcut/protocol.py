"""The shortcut audit: stamps put on, taken off and moved, on test images; and the verdict."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.progress import track
from medassay.core.types import LabelledImages, NonNegativeInt, PositiveInt, Range
from medassay.data.order import make_stratified_order
from medassay.data.stamps import Stamp
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.explain.activation_maps import ActivationMaps, Method, has_feature_maps
from medassay.protocols.shortcut import figures, measures, verdict
from medassay.protocols.shortcut.measures import Group, Heat, Trial
from medassay.protocols.shortcut.trials import evaluate_stamp, has_both_sides, list_stamps, stamp_as_trained
from medassay.reporting.charts import Chart
from medassay.reporting.heat_maps import overlay
from medassay.reporting.numbers import format_percent
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict_logits

Rows = dict[str, Tensor]  # pictures (n, 3, H, W) uint8 by the name of the row


@dataclass(frozen=True)
class ShortcutAudit:
    """What an audit found on ``n`` test images.

    Attributes:
        trained_with: The run's own stamp in words; None for none.
        rule: The verdict's rule in words.
        level, learned, verdict: The worst of all trials, whether that is ``learned``, and that in words.
        trials: One stamp on one class each.
        without_heat: Why there are no heat maps; None where there are.
        left_out: Classes that no stamp was tried on, as there are no images of them, or of others.
    """

    n: int
    split: str
    trained_with: str | None
    rule: str
    level: measures.Level
    learned: bool
    verdict: str
    trials: list[Trial]
    without_heat: str | None = None
    left_out: list[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Shortcut(Protocol):
    """Has a classifier learnt a stamp instead of the disease?

    Attributes:
        name: Name of the protocol.
        stamp: Stamp to put on; None, or of kind ``none``, for the run's own stamp, or, where it has none, a date on each class
            in turn (a square on images too small for a date). A stamp without a label is tried on each class.
        method: Method of the heat maps.
        layer: Dotted name of the module that the heat maps are made of; None for the activation before the last pooling.
        heat_maps: Number of images of each group that heat maps are made of, at most.
        shown: Number of images of each group in the report.
        colormaps: Names of colours in matplotlib, for views of plain images.
        seed: Seed of the choice of these images.
    """

    requires: ClassVar[type] = Classification
    name: str = "shortcut"
    stamp: Stamp | None = None
    method: Method = "gradcam"
    layer: str | None = None
    heat_maps: PositiveInt = 200
    shown: Annotated[int, Range(ge=1, le=12)] = 6
    colormaps: list[str] = dataclasses.field(default_factory=lambda: ["gray", "jet", "summer", "flag", "rainbow"])
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        from matplotlib import colormaps

        for name in self.colormaps:
            if name not in colormaps:
                raise ConfigError(
                    f"protocol.colormaps: matplotlib has no {name!r}; e.g. gray, jet, summer, flag, rainbow"
                )

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Audits a classifier's finished run.

        Raises:
            ConfigError: a stamp that does not fit the data.
            DataError: classes without test images.
        """
        assert isinstance(run.task, Classification)
        data, own = run.data, run.data.stamp
        split = select_evaluated_images(data, "test", run.settings)
        familiar = predict_logits(run.task, stamp_as_trained(own, split, data.classes), context.device)
        maps, without_heat = self.make_maps(run.task.net, split, context.device)
        stamps = list_stamps(self.stamp, own, data.classes, data.size)
        fitting = [stamp for stamp in stamps if has_both_sides(stamp, split)] or stamps[:1]
        trials, pictures = [], []
        for stamp in track(fitting, "stamping", "stamps"):
            is_own = own is not None and stamp == own.with_class(own.class_index(data.classes))
            numbers = evaluate_stamp(run.task, stamp, split, data.classes, context.device)
            heat, shown = self.measure_heat(maps, stamp, split)
            chance = measures.check_class(familiar, split.labels, numbers.label)
            level, text = verdict.judge(numbers, chance)
            trials.append(Trial(**vars(numbers), own=is_own, chance=chance, heat=heat, level=level, text=text))
            pictures.append(shown)
        trained_with = None
        if own is not None:
            trained_with = f"{own}, on {format_percent(own.share)} of {data.classes[own.class_index(data.classes)]}"
        level, words = verdict.judge_all(trials)
        tried = {trial.label for trial in trials}
        results = ShortcutAudit(
            len(split),
            "test",
            trained_with,
            verdict.RULE,
            level,
            level == "learned",
            words,
            trials,
            without_heat,
            [data.classes[stamp.class_index(data.classes)] for stamp in stamps if stamp.label not in tried],
        )
        return self.report(results, pictures)

    def make_maps(
        self, net: nn.Module, split: LabelledImages, device: torch.device
    ) -> tuple[ActivationMaps | None, str | None]:
        """What makes the heat maps, or why there are none: they do not decide, so the audit goes on without them.

        Raises:
            ConfigError: a layer that was asked for does not fit.
        """
        if not has_feature_maps(net):
            return None, "the net has no feature maps to make them of"
        try:
            maps = ActivationMaps(net, self.method, self.layer, device)
            maps(split.images[:1].float() / 255, [0])
        except ConfigError as error:
            if self.layer is not None:
                raise
            return None, str(error)
        return maps, None

    def measure_heat(
        self, maps: ActivationMaps | None, stamp: Stamp, split: LabelledImages
    ) -> tuple[Heat | None, dict[str, Rows]]:
        """Where the class's heat maps lie, with the stamp and without, for the class's images and the others'; and pictures.

        Without ``maps`` the pictures are of the images alone.
        """
        label = stamp.label
        assert isinstance(label, int)
        box, first = stamp.box(split.images.shape[-1]), slice(0, self.shown)
        groups, pictures = [], {}
        for group, members in (("class", split.labels == label), ("others", split.labels != label)):
            some = split[members]
            plain = some.images[make_stratified_order(some.labels, self.seed)[: self.heat_maps]]
            stamped, _ = stamp(plain)
            if maps is None:
                rows = {"without": plain, "with the stamp": stamped}
                pictures[group] = {name: images[first].expand(-1, 3, -1, -1) for name, images in rows.items()}
                continue
            without, with_stamp = (maps(images.float() / 255, [label])[:, 0] for images in (plain, stamped))
            groups.append(Group.from_maps(without, with_stamp, box))
            pictures[group] = {
                "without": plain[first].expand(-1, 3, -1, -1),
                "its heat map": overlay(plain[first], without[first]),
                "with the stamp": stamped[first].expand(-1, 3, -1, -1),
                "its heat map ": overlay(stamped[first], with_stamp[first]),
            }
        if maps is None:
            return None, pictures
        return Heat(maps.method, maps.layer, float(box.double().mean()), *groups), pictures

    def report(self, results: ShortcutAudit, pictures: Sequence[Mapping[str, Rows]]) -> Report:
        """The report of an audit; ``pictures`` are, for each trial, images of the class and of the others."""
        views = figures.colour_views(choose_plain_views(pictures[0]), self.colormaps)
        values = {
            "names": [{name: describe_condition(name, trial) for name in trial.conditions} for trial in results.trials],
            "pictures": pictures,
            "views": views,
            "words": verdict.WORDS,
            "limit": verdict.LIMIT,
        }
        return Report(
            results,
            split="test",
            verdict=[f"shortcut: {results.verdict}", *(trial.text for trial in results.trials)],
            metrics={"shortcut": flatten_metrics(results)},
            figures={**dict(_draw_figures(results, pictures)), "colour_views": figures.draw_picture_rows(views)},
            hyperparameters={"stamp": results.trials[0].described},
            page=Page(Path(__file__).with_name("page.html.j2"), values),
            outcome=verdict.OUTCOMES[results.level],
            warnings=[
                f"No stamp was tried on {name}: that takes test images of it and of other classes."
                for name in results.left_out
            ],
        )


# --- what is reported ------------------------------------------------------------------------------------------------


def flatten_metrics(results: ShortcutAudit) -> dict[str, float]:
    """Single numbers by name: of the class that the verdict is of, and ``learned`` and ``undecided`` as 0 or 1."""
    trial = max(results.trials, key=lambda one: (verdict.LEVELS.index(one.level), one.outranks.value))
    flat = {"learned": float(results.learned), "undecided": float(results.level == "undecided")}
    flat["label"] = float(trial.label)
    flat |= {name: getattr(trial, name).value for name in ("outranks", "outranks_clean", "drawn_over")}
    for where, rates in trial.conditions.items():
        flat |= {f"{name}_{where}": estimate.value for name, estimate in rates.items()}
    if (heat := trial.heat) is not None:
        for name, group in (("class", heat.own), ("others", heat.others)):
            flat[f"heat_in_stamp_{name}"] = group.energy.value
            flat[f"heat_relative_{name}"] = group.energy.value / heat.area
    return flat


def choose_plain_views(pictures: Mapping[str, Rows]) -> Tensor:
    """Two plain images of each group, each without the stamp and with it: ``(8, 3, H, W) uint8``."""
    pairs = [[lines[name][:2] for name in ("without", "with the stamp")] for lines in pictures.values()]
    return torch.cat([torch.stack(pair, 1).flatten(0, 1) for pair in pairs])


def _draw_figures(
    results: ShortcutAudit, pictures: Sequence[Mapping[str, Rows]]
) -> Iterator[tuple[str, Figure | Chart]]:
    for trial, shown in zip(results.trials, pictures, strict=True):
        yield f"conditions_class_{trial.label}", figures.draw_conditions(trial)
        yield f"ranks_class_{trial.label}", figures.draw_ranks(trial)
        if trial.heat is not None:
            yield f"heat_class_{trial.label}", figures.draw_heat(trial.heat, trial.class_name)
        for group, lines in shown.items():
            of = trial.class_name if group == "class" else f"classes other than {trial.class_name}"
            title = f"Images of {of}" + ("" if trial.heat is None else f"; heat maps for {trial.class_name}")
            yield f"maps_of_{group}_class_{trial.label}", figures.draw_picture_rows(lines, title)


def describe_condition(name: str, trial: Trial) -> str:
    """A condition in words."""
    named = {
        "clean": "no stamp",
        "as_trained": f"on {trial.class_name}" + (", as trained" if trial.own else ""),
        "other_classes": "on the other classes instead",
    }
    return named.get(name, f"moved to the {name.removeprefix('moved_').replace('_', ' ')}")
