"""What is tried: one way of computing and defending a gradient each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from medassay.attacks.inversion import Mode

Weights = Literal["trained", "initial"]
Budget = Literal["full", "quick"]


class Amounts(NamedTuple):
    """What a budget tries where the settings do not say.

    Attributes:
        images: Number of images.
        steps: Steps of the search.
        batch_sizes, modes, local_steps, noise, pruning: See :class:`Case`; the first of each stands in every other case.
    """

    images: int
    steps: int
    batch_sizes: list[int]
    modes: list[Mode]
    local_steps: list[int]
    noise: list[float]
    pruning: list[float]


BUDGETS: dict[Budget, Amounts] = {
    "full": Amounts(8, 500, [1, 2, 4, 8], ["eval", "train"], [1, 4], [0.001, 0.01, 0.1], [0.5, 0.9, 0.99]),
    "quick": Amounts(2, 500, [1], ["eval"], [1], [0.01], [0.9]),
}


@dataclass(frozen=True)
class Case:
    """One way of computing and defending what is sent.

    Attributes:
        weights: Weights of the net: those of the run, or random ones as before any training.
        mode: Mode of the net.
        batch: Number of images that the gradient is the mean over.
        local_steps: Steps of gradient descent before the change of the weights is sent; 1: the gradient itself.
        noise: Noise multiplier of a step of DP-SGD, whose clipping comes first; None: neither.
        pruned: Share of the smallest entries that are set to 0.
    """

    weights: Weights
    mode: Mode = "eval"
    batch: int = 1
    local_steps: int = 1
    noise: float | None = None
    pruned: float = 0.0

    @property
    def is_defended(self) -> bool:
        return self.noise is not None or self.pruned > 0

    @property
    def key(self) -> str:
        """Its name in files: what differs from one gradient of one image in evaluation mode."""
        parts = [
            self.weights,
            self.mode if self.mode != "eval" else "",
            f"batch_{self.batch}" if self.batch > 1 else "",
        ]
        parts += [f"steps_{self.local_steps}" if self.local_steps > 1 else ""]
        parts += [
            f"noise_{self.noise:g}" if self.noise is not None else "",
            f"pruned_{self.pruned:g}" if self.pruned else "",
        ]
        return "_".join(filter(None, parts))

    def __str__(self) -> str:
        parts = [
            f"{self.weights} weights",
            "one image" if self.batch == 1 else f"{self.batch} images",
            "batch statistics" if self.mode == "train" else "",
            f"{self.local_steps} local steps" if self.local_steps > 1 else "",
            "" if self.noise is None else f"clipping and noise {self.noise:g}" if self.noise else "clipping",
            f"{100 * self.pruned:g} % pruned" if self.pruned else "",
        ]
        return ", ".join(filter(None, parts))


def list_cases(weights: Weights, amounts: Amounts) -> list[Case]:
    """One gradient of one image, the same with the other weights, and each change of it, one at a time.

    Batches that there are too few images for are left out; there must be one that fits.
    """
    base = Case(weights, amounts.modes[0], list_batches(amounts)[0], amounts.local_steps[0])
    other = replace(base, weights="initial" if weights == "trained" else "trained")
    return list(dict.fromkeys([base, other, *_list_changes(base, amounts)]))


def _list_changes(base: Case, amounts: Amounts) -> Iterator[Case]:
    yield from (replace(base, mode=mode) for mode in amounts.modes[1:])
    yield from (replace(base, batch=batch) for batch in list_batches(amounts)[1:])
    yield from (replace(base, local_steps=steps) for steps in amounts.local_steps[1:])
    yield from (replace(base, noise=multiplier) for multiplier in amounts.noise)
    yield from (replace(base, pruned=share) for share in amounts.pruning)


def list_batches(amounts: Amounts) -> list[int]:
    """The batch sizes for which there are images enough."""
    return [batch for batch in amounts.batch_sizes if batch <= amounts.images]


def group_cases(cases: Sequence[Case]) -> list[list[Case]]:
    """The cases that are computed side by side: they differ in their defence alone."""
    groups: dict[Case, list[Case]] = {}
    for case in cases:
        groups.setdefault(replace(case, noise=None, pruned=0.0), []).append(case)
    return [*groups.values()]
