"""The error without a block, and without several at once, beside that of the whole net.

The error is the share of images given to a wrong class, the balanced error its mean over the classes. All intervals are 95 %
percentile bootstrap intervals over images. Every net is judged on the same resamples, so that a rise compares pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from medassay.core.estimate import Estimate, mean_over
from medassay.core.progress import track
from medassay.metrics.chance import ChanceCheck
from medassay.metrics.marks import estimate as estimate
from medassay.metrics.marks import resample_marks

Level = Literal["yes", "no", "undecided"]
RESAMPLES = 1000
_SEED = 0  # of the resamples


@dataclass(frozen=True)
class Lesion:
    """One block removed.

    Attributes:
        name: Name of the block.
        downsampling: Whether its shortcut is a projection.
        shortcut: What is left of it, in words.
        parameters: Number of parameters that went with it.
        error, balanced_error: Of the net without it.
        rise: Error of the net without it less that of the whole net.
        borne: Whether the net bears the loss, by the rule; None where the net is not judged.
    """

    name: str
    downsampling: bool
    shortcut: str
    parameters: int
    error: Estimate
    balanced_error: Estimate
    rise: Estimate
    borne: Level | None


@dataclass(frozen=True)
class MeanRises:
    """Mean rise over the downsampling blocks, over the others, and the former less the latter."""

    downsampling: Estimate
    others: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Finding:
    """A question, the rule's answer to it, and the answer in words."""

    question: str
    level: Level
    text: str


@dataclass(frozen=True)
class LesionResults:
    """What a lesion study found on ``n`` images.

    Attributes:
        net: Name of the architecture.
        chance: How the whole net compares with guessing.
        guessing: Error of calling every image the most frequent class of the split.
        error, balanced_error: Of the whole net.
        lesions: Each block removed, from input to output.
        rises: Downsampling blocks against the others.
        several: Error without 1, 2, … all blocks; mean and deviation over the random orders of removal.
        permutations, seed: Number of these orders, and their seed.
        rule: The rule in words.
        limit: The rise of the error up to which a loss is borne; None where the net is not judged.
        findings: The rule's answers; none where the net is no better than guessing.
        verdict: The answers in words, or why there are none.
    """

    split: str
    n: int
    net: str
    chance: ChanceCheck
    guessing: float
    error: Estimate
    balanced_error: Estimate
    lesions: list[Lesion]
    rises: MeanRises
    several: list[Estimate]
    permutations: int
    seed: int = field(metadata={"name": "protocol_seed"})
    rule: str
    limit: float | None
    findings: list[Finding]
    verdict: list[str]


class Errors(NamedTuple):
    """Errors of M nets, ``(1 + RESAMPLES, M) float64`` each: first of all images, then of each resample."""

    plain: Tensor
    balanced: Tensor

    @property
    def rises(self) -> Tensor:
        """By how much the error of each further net is larger than that of the first, ``(1 + RESAMPLES, M - 1)``."""
        return self.plain[:, 1:] - self.plain[:, :1]


def measure_errors(mistakes: Tensor, labels: Tensor) -> Errors:
    """Error and balanced error of several nets on the same images.

    Args:
        mistakes: Whether each net is wrong, ``(M, N) bool``.
        labels: True classes, ``(N,) int64``. Classes without images are left out of the mean; a resample without an image of
            one of the others has no balanced error (NaN).
    """
    return Errors(*resample_marks(mistakes, labels, resamples=RESAMPLES, seed=_SEED))


def compare_kinds(rises: Tensor, downsampling: Tensor, n: int) -> MeanRises:
    """The mean rises of both kinds of blocks.

    Args:
        rises: Rise without each block, ``(1 + RESAMPLES, M) float64``.
        downsampling: Kind of each block, ``(M,) bool``.
        n: Number of images.
    """
    of_downsampling, of_others = (rises[:, members].mean(1) for members in (downsampling, ~downsampling))
    return MeanRises(*(estimate(one, n) for one in (of_downsampling, of_others, of_downsampling - of_others)))


def measure_several(
    measure_error: Callable[[Sequence[str]], float], names: Sequence[str], permutations: int, seed: int
) -> list[Estimate]:
    """The error when blocks are removed one after the other in random order.

    Source: Veit et al. (2016), section 4.2, which spares no kind of block: downsampling ones are removed like any other.

    Args:
        measure_error: Gives the error without the named blocks.
        names: All blocks.
        permutations: Number of random orders.
        seed: Seed of the orders.

    Returns:
        Without 1, 2, … all blocks the mean and the standard deviation over the orders.
    """
    rng = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(names), generator=rng).tolist() for _ in range(permutations)]
    return [
        mean_over("draws", [measure_error([names[i] for i in order[:removed]]) for order in orders])
        for removed in track(range(1, len(names) + 1), "removing several", "numbers of blocks")
    ]
