"""Gradient inversion: a client's images are reconstructed from what it sends in federated learning."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from torch import nn

from medassay.attacks.inversion import Mode, Search, list_sent
from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import NonNegative, NonNegativeInt, Positive, PositiveInt, Range
from medassay.data.modules import LabelledData
from medassay.data.order import make_stratified_order
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.metrics.estimates import estimate_share
from medassay.metrics.privacy import compute_gaussian_epsilon
from medassay.metrics.reconstruction import measure_psnr, measure_ssim
from medassay.protocols.inversion import figures, verdict
from medassay.protocols.inversion.attack import Attack, Found, find_bias
from medassay.protocols.inversion.cases import (
    BUDGETS,
    Amounts,
    Budget,
    Case,
    Weights,
    group_cases,
    list_batches,
    list_cases,
)
from medassay.protocols.inversion.measures import (
    CaseResult,
    InversionResults,
    Originals,
    average,
    choose_originals,
    score_images,
)
from medassay.runs.load import build_task
from medassay.runs.run import Run
from medassay.tasks.classification import Classification, WithAuxiliaries

logger = logging.getLogger(__name__)

LEAST_SIDE = 11  # pixels: SSIM's window


@dataclass(frozen=True)
class Inversion(Protocol):
    """What images does a gradient of this classifier give away?

    Where a setting is None the budget says; see :data:`medassay.protocols.inversion.cases.BUDGETS`.

    Attributes:
        name: Name of the protocol.
        budget: How much is tried.
        weights: Weights whose gradient is judged; the other ones are tried once, beside them.
        images: Number of training images that are attacked.
        batch_sizes, modes, local_steps: What is tried without a defence; the first of each belongs to every other case.
        noise: Noise multipliers of a step of DP-SGD.
        pruning: Shares of the smallest entries of the gradient that are set to 0.
        steps, restarts, lr, total_variation: See :class:`medassay.attacks.inversion.Search`.
        local_lr: Learning rate of local steps.
        clip: Largest norm of one image's gradient where noise follows.
        delta: Delta of the privacy loss.
        seed: Seed of the choice of images, of fresh weights, of noise and of the search.
    """

    requires: ClassVar[type] = Classification
    name: str = "inversion"
    budget: Budget = "full"
    weights: Weights = "trained"
    images: PositiveInt | None = None
    batch_sizes: list[PositiveInt] | None = None
    modes: list[Mode] | None = None
    local_steps: list[PositiveInt] | None = None
    noise: list[NonNegative] | None = None
    pruning: list[Annotated[float, Range(gt=0, lt=1)]] | None = None
    steps: PositiveInt | None = None
    restarts: PositiveInt = 2
    lr: Annotated[float, Range(gt=0, le=1)] = 0.05
    total_variation: NonNegative = 1.0
    local_lr: Positive = 0.01
    clip: Positive = 1.0
    delta: Annotated[float, Range(gt=0, lt=1)] = 1e-5
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        for key in ("batch_sizes", "modes", "local_steps"):
            if getattr(self, key) == []:
                raise ConfigError(f"protocol.{key}=[]: give one at least, or null for those of the budget")

    @property
    def amounts(self) -> Amounts:
        """What is tried: the settings, and where they say nothing the budget."""
        given = {key: getattr(self, key) for key in Amounts._fields if getattr(self, key) is not None}
        return BUDGETS[self.budget]._replace(**given)

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Attacks a classifier's finished run.

        Raises:
            ConfigError: no batch fits the number of images, or the images are too small.
        """
        assert isinstance(run.task, Classification)
        originals, warnings = self.choose_images(run.data), []
        nets = make_nets(run, self.seed)
        bias, note = choose_bias(run.task, nets["trained"])
        warnings += [note] if note else []
        warnings += self.list_left_out(nets["trained"])
        attack = Attack(
            nets,
            run.task.to(context.device).loss,
            originals,
            self.make_search(),
            context.device,
            self.clip,
            self.local_lr,
            bias,
        )
        tried: dict[Case, CaseResult] = {}
        undefined: list[Case] = []
        planned = list_cases(self.weights, choose_modes(self.amounts, nets["trained"]))
        for group in group_cases(planned):
            logger.info("attacking: %s%s", group[0], f", and {len(group) - 1} defences" if len(group) > 1 else "")
            found = attack.attack_defined(group)
            undefined += [case for case in group if case not in found]
            tried |= {case: self.judge(case, one, originals) for case, one in found.items()}
        if undefined:
            named = "; ".join(map(str, undefined))
            warnings.append(f"Left out, since a single value has no batch statistics: {named}.")
        if planned[0] not in tried:
            raise ConfigError(
                f"protocol.modes={self.amounts.modes}: this net normalises a single value, which has no statistics; put "
                f"eval first, or larger batches than {planned[0].batch} first in protocol.batch_sizes"
            )
        cases = [tried[case] for case in planned if case in tried]
        results = self.summarise(cases, originals, run, nets["trained"], bias)
        return self.report(results, originals, warnings)

    # --- what is attacked --------------------------------------------------------------------------------------------

    def choose_images(self, data: LabelledData) -> Originals:
        """Training images, classes in proportion, by the seed."""
        train, amounts = data.splits.train, self.amounts
        if data.size < LEAST_SIDE:
            raise ConfigError(
                f"protocol=inversion: images of {data.size} pixels are too small for SSIM, which needs {LEAST_SIDE}"
            )
        if not list_batches(amounts):
            raise ConfigError(
                f"protocol.batch_sizes={amounts.batch_sizes}: {amounts.images} images make no such batch; give smaller "
                f"ones, or protocol.images={min(amounts.batch_sizes)}"
            )
        if amounts.images >= len(train):
            raise ConfigError(
                f"protocol.images={amounts.images}: there are {len(train)} training images; give fewer than that"
            )
        return choose_originals(train, make_stratified_order(train.labels, self.seed)[: amounts.images], self.seed)

    def make_search(self) -> Search:
        """How images are looked for."""
        return Search(self.amounts.steps, self.restarts, self.lr, self.total_variation, self.seed)

    def list_left_out(self, net: nn.Module) -> list[str]:
        """What a reader must know of what was not tried."""
        amounts, told = self.amounts, []
        if large := [batch for batch in amounts.batch_sizes if batch not in list_batches(amounts)]:
            told.append(
                f"Batches of {', '.join(map(str, large))} were left out: {amounts.images} images were attacked."
            )
        if amounts.modes != choose_modes(amounts, net).modes:
            told.append("The net has no batch normalisation, so that its mode makes no difference; one is tried.")
        if isinstance(net, WithAuxiliaries):
            told.append(
                "The net’s auxiliary classifiers, which only train it, are left out of the gradient, loss and weights."
            )
        if any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in net.modules()):
            told.append("Dropout is off, also with the statistics of the batch.")
        frozen = sum(not weight.requires_grad for weight in net.parameters())
        if frozen:
            told.append(f"{frozen} of the net’s weight tensors do not learn, and are not sent.")
        return told

    # --- what is found -----------------------------------------------------------------------------------------------

    def judge(self, case: Case, found: Found, originals: Originals) -> CaseResult:
        """The numbers of a case and the rule's answer."""
        scores = score_images(found.images, originals)
        ranked = [len(one) + 1 for one in originals.others[: scores.n]]  # of the images that were attacked
        level, reason = verdict.judge_case(scores, verdict.expect_luck(ranked))
        right = found.right_labels
        return CaseResult(
            case=case,
            name=str(case),
            right_labels=None if right is None else estimate_share(int(right.sum()), len(right)),
            distance=found.distance,
            epsilon=None if case.noise is None else compute_gaussian_epsilon(case.noise, self.delta),
            level=level,
            reason=reason,
            **vars(scores),
        )

    def summarise(
        self, cases: Sequence[CaseResult], originals: Originals, run: Run, net: nn.Module, bias: str | None
    ) -> InversionResults:
        """All numbers, and what the rule says of them."""
        level, words, reason = verdict.judge(cases)
        nulls = [
            average(measure_psnr(one, originals.images), measure_ssim(one, originals.images))
            for one in (originals.mean, originals.nearest)
        ]
        search = self.make_search()
        channels, height, width = originals.images.shape[1:]
        return InversionResults(
            net=type(net).__name__,
            parameters=sum(net.get_parameter(name).numel() for name in list_sent(net, (channels, height, width))),
            budget=self.budget,
            indices=originals.indices,
            labels=originals.labels.tolist(),
            ranked=[len(one) + 1 for one in originals.others],
            labels_read=bias is not None,
            steps=search.steps,
            restarts=search.restarts,
            lr=search.lr,
            total_variation=search.total_variation,
            seed=self.seed,
            bound=self.clip,
            delta=self.delta,
            sampling_rate=cases[0].case.batch / len(run.data.splits.train),
            mean_image=nulls[0],
            nearest_other=nulls[1],
            cases=cases,
            rule=verdict.RULE,
            level=level,
            verdict=words,
            reason=reason,
            findings=verdict.list_findings(cases, self.delta),
        )

    def report(self, results: InversionResults, originals: Originals, warnings: Sequence[str]) -> Report:
        """The report of what was found."""
        pictures = figures.list_pictures(originals, results.cases)
        title = f"Reconstructions from what is sent, {results.net}"
        return Report(
            results,
            split="train",
            verdict=[f"inversion: {results.verdict}", *results.findings],
            metrics={"split": "train", "inversion": flatten_metrics(results)},
            figures={**figures.draw_curves(results), "pictures": figures.draw_pictures(pictures, title)},
            hyperparameters={"weights": self.weights, "budget": self.budget},
            warnings=warnings,
            page=Page(
                Path(__file__).with_name("page.html.j2"),
                {"pictures": pictures, "words": verdict.WORDS, "epsilon": verdict.format_epsilon},
            ),
            outcome=verdict.OUTCOMES[results.level],
        )


def make_nets(run: Run, seed: int) -> Mapping[Weights, nn.Module]:
    """The net that answers with the run's weights, and a new one like it with random weights drawn by ``seed``."""
    task = run.task
    assert isinstance(task, Classification)
    fresh = build_task(run.config, derive_seed(seed, 3))
    assert isinstance(fresh, Classification)
    trained = task.net
    if task.ema is not None:  # the average itself asks for no gradient, and would send nothing
        trained = copy.deepcopy(task.net)
        trained.load_state_dict(task.ema.net.state_dict())
    return {"trained": trained, "initial": fresh.net}


def choose_modes(amounts: Amounts, net: nn.Module) -> Amounts:
    """What is tried of a net: of one without batch normalisation the first mode alone."""
    has_statistics = any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in net.modules())
    return amounts if has_statistics else amounts._replace(modes=amounts.modes[:1])


def choose_bias(task: Classification, net: nn.Module) -> tuple[str | None, str | None]:
    """The bias that labels are read from, and why there is none where labels are given to the attack."""
    bias = find_bias(net, task.num_classes)
    given = "labels were given to the attack."
    if bias is None:
        return None, f"The net’s last layer has no bias that learns, from which iDLG could read a label: {given}"
    if task.label_smoothing > 0:
        return (
            None,
            f"With label_smoothing={task.label_smoothing:g} the sign of the bias’s gradient does not tell the class: {given}",
        )
    return bias, None


def flatten_metrics(results: InversionResults) -> dict[str, float]:
    """Single numbers by name, ``<number>/<case>``; ``level`` is 0 (not recognisable), 0.5 or 1 (recognisable)."""
    flat = {"level": verdict.LEVELS.index(results.level) / 2}
    for one in results.cases:
        numbers = {
            "psnr": one.reconstruction.psnr.value,
            "ssim": one.reconstruction.ssim.value,
            "psnr_gain": one.gain.psnr.value,
            "first": one.first.value,
            "right_labels": math.nan if one.right_labels is None else one.right_labels.value,
        }
        flat |= {f"{name}/{one.case.key}": value for name, value in numbers.items() if not math.isnan(value)}
    return flat
