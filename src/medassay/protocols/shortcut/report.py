"""What a shortcut audit leaves: numbers as JSON, pictures, TensorBoard events, and one page that explains them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from medassay.core.files import whole, write_json
from medassay.protocols import pages
from medassay.protocols.shortcut import verdict
from medassay.reporting import figures, html, shortcut_figures
from medassay.reporting.gradcam_figures import overlay
from medassay.reporting.tensorboard import add_results

RECORDED = ("run", "status", "protocol", "overrides")  # what the command was


@dataclass(frozen=True)
class Shown:
    """Some images without the stamp and with it, ``(n, C, H, W) uint8``, and their heat maps, ``(n, H, W)`` in [0, 1]."""

    clean: Tensor
    clean_maps: Tensor
    stamped: Tensor
    stamped_maps: Tensor

    def lines(self) -> dict[str, Tensor]:
        """Four rows of pictures, ``(n, 3, H, W) uint8`` each."""
        return {
            "without": self.clean.expand(-1, 3, -1, -1),
            "its heat map": overlay(self.clean, self.clean_maps),
            "with the stamp": self.stamped.expand(-1, 3, -1, -1),
            "its heat map ": overlay(self.stamped, self.stamped_maps),
        }


def write(
    directory: Path, results: dict[str, Any], pictures: Sequence[Mapping[str, Shown]], colormaps: Sequence[str]
) -> None:
    """Leaves ``shortcut.json``, ``metrics.json``, ``figures/``, ``tensorboard/`` and ``report.html``.

    Args:
        directory: where.
        results: of :func:`medassay.protocols.shortcut.protocol.shortcut_run`; single images' log-odds are drawn, not kept.
        pictures: for each trial the images of the class and of the others.
        colormaps: for views of plain images.

    Raises:
        OutputError: a file cannot be written.
    """
    charts = [_charts(trial) for trial in results["trials"]]
    kept = {**results, "trials": [{k: v for k, v in trial.items() if k != "odds"} for trial in results["trials"]]}
    flat = flat_metrics(kept)
    plain = views(pictures[0])
    write_json(directory / "shortcut.json", kept)
    write_json(directory / "metrics.json", {**{k: kept[k] for k in RECORDED if k in kept}, "shortcut": flat})
    content = page(kept, charts, pictures, shortcut_figures.colour_views(plain, colormaps))
    drawn = dict(_files(kept, charts, pictures, plain, colormaps))
    for name, figure in drawn.items():
        figures.save(figure, directory / "figures" / f"{name}.png")
    add_results(
        directory / "tensorboard",
        step=0,
        pictures=[directory / "figures" / f"{name}.png" for name in drawn],
        text={"verdict": "\n\n".join([kept["verdict"], *(trial["text"] for trial in kept["trials"])])},
        hyperparameters={"data": kept["data"]["name"], "model": kept["model"], "stamp": kept["trials"][0]["described"]},
        metrics={f"shortcut/{name}": value for name, value in flat.items() if html.known(value)},
    )
    with whole(directory / "report.html") as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


def flat_metrics(results: Mapping[str, Any]) -> dict[str, float]:
    """Single numbers by name: of the class on which the stamp does most, and ``learned`` as 0 or 1."""
    trial = max(results["trials"], key=lambda one: one["outranks"]["mean"])
    found = {"learned": float(results["learned"]), "label": float(trial["label"])}
    for name in ("outranks", "outranks_clean", "drawn_over"):
        found[name] = trial[name]["mean"]
    for condition, values in trial["conditions"].items():
        found |= {f"{name}_{condition}": value["mean"] for name, value in values.items()}
    for group in ("class", "others"):
        heat = trial["heat"][group]
        found |= {f"heat_in_stamp_{group}": heat["energy"]["mean"], f"heat_relative_{group}": heat["relative"]["mean"]}
    return found


def views(pictures: Mapping[str, Shown]) -> Tensor:
    """Two plain images of each group, each without the stamp and with it: ``(8, C, H, W) uint8``."""
    import torch

    pairs = [
        torch.stack([group.clean[:2], group.stamped[:2]], 1).flatten(0, 1)
        for group in (pictures["class"], pictures["others"])
    ]
    return torch.cat(pairs)


def _charts(trial: Mapping[str, Any]) -> dict[str, tuple[Figure, str]]:
    return {
        "conditions": shortcut_figures.conditions(trial),
        "ranks": shortcut_figures.ranks(trial),
        "heat": shortcut_figures.heat(trial),
    }


def _files(
    results: Mapping[str, Any],
    charts: Sequence[Mapping[str, tuple[Figure, str]]],
    pictures: Sequence[Mapping[str, Shown]],
    plain: Tensor,
    colormaps: Sequence[str],
) -> Iterator[tuple[str, Figure]]:
    for trial, drawn, shown in zip(results["trials"], charts, pictures, strict=True):
        for name, (figure, _) in drawn.items():
            yield f"{name}_class_{trial['label']}", figure
        for group, some in shown.items():
            name = f"maps_of_{group}_class_{trial['label']}"
            of = trial["class"] if group == "class" else f"classes other than {trial['class']}"
            yield name, shortcut_figures.picture_rows(some.lines(), f"Images of {of}; heat maps for {trial['class']}")
    yield "colour_views", shortcut_figures.picture_rows(shortcut_figures.colour_views(plain, colormaps), "")


def page(
    results: Mapping[str, Any],
    charts: Sequence[Mapping[str, tuple[Figure, str]]],
    pictures: Sequence[Mapping[str, Shown]],
    plain: Mapping[str, Tensor],
) -> str:
    """``report.html``."""
    parts = []
    for trial, drawn, shown in zip(results["trials"], charts, pictures, strict=True):
        mark = f"t{trial['label']}-"
        parts.append(
            {
                **trial,
                "names": {name: condition(name, trial) for name in trial["conditions"]},
                "charts": {name: (html.svg(figure, mark + name, text), text) for name, (figure, text) in drawn.items()},
                "pictures": {group: some.lines() for group, some in shown.items()},
            }
        )
    return html.page(
        "shortcut.html.j2",
        results=results,
        trials=parts,
        views=plain,
        words=verdict.WORDS,
        limit=verdict.LIMIT,
        warnings=pages.said(pages.origin(results["data"]), pages.unfinished(results)),
        command=pages.command(_flattened(results)),
        provenance=dict(pages.flat(results["data"])),
    )


def condition(name: str, trial: Mapping[str, Any]) -> str:
    """A condition in words."""
    named = {
        "clean": "no stamp",
        "as_trained": f"on {trial['class']}" + (", as trained" if trial["own"] else ""),
        "other_classes": "on the other classes instead",
    }
    where = f"moved to the {name.removeprefix('moved_').replace('_', ' ')}"
    return named.get(name, where)


def _flattened(results: Mapping[str, Any]) -> dict[str, Any]:
    """The record with the stamp's settings as keys of their own, as they are typed."""
    protocol = dict(results.get("protocol") or {})
    stamp = protocol.pop("stamp", None)
    if stamp and stamp.get("kind", "none") != "none":
        protocol |= {f"stamp.{key}": value for key, value in stamp.items() if key != "_target_"}
    return {**results, "protocol": protocol} if protocol else dict(results)
