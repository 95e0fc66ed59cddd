"""What the adversarial protocol found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from medassay.attacks.norms import Norm
from medassay.core.estimate import Estimate
from medassay.core.results import UNWRITTEN
from medassay.metrics.chance import ChanceCheck

Attack = Literal["fgsm", "pgd", "noise", "transfer"]
Level = Literal["robust", "weakened", "fragile", "undecided", "not sound", "not judged"]

ATTACKS: dict[Attack, str] = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "noise": "random noise",
    "transfer": "PGD on the other net",
}


@dataclass(frozen=True)
class Attacked:
    """The images under one attack.

    Attributes:
        norm, attack: What a distance is, and what was done.
        epsilon: Largest distance, in grey levels of 255.
        radius: The same in this norm, of pixel values in [0, 1].
        accuracy, balanced_accuracy: What is left. An image that was misclassified beforehand stays so: who attacks may do
            nothing. Under noise it counts as the net then decides.
        kept: Share of the lead over guessing in balanced accuracy that is left.
    """

    norm: Norm
    attack: Attack
    epsilon: float
    radius: float
    accuracy: Estimate
    balanced_accuracy: Estimate
    kept: Estimate


@dataclass(frozen=True)
class SmallestEpsilons:
    """The smallest distances, in grey levels of 255, at which PGD was seen to flip the rightly classified images of a class.

    Attributes:
        norm: What a distance is.
        label: The class; None for all together.
        n: Number of images attacked.
        largest: Distance that was tried first.
        resolution: How much smaller each of them may be found by going on.
        unflipped: Number of images that withstood ``largest``; they are in none of the numbers below but the quartiles.
        quartiles: Lower quartile, median and upper quartile; None where it lies above ``largest``, or without images.
        epsilons: The distances of the others, rising.
    """

    norm: Norm
    label: int | None
    n: int
    largest: float
    resolution: float
    unflipped: int
    quartiles: list[float | None]
    epsilons: list[float]


@dataclass(frozen=True)
class Check:
    """One sign that the attack works.

    Attributes:
        name: The sign, as a statement that should hold.
        passed: Whether it holds; None where it was not looked for.
        text: What was found.
    """

    name: str
    passed: bool | None
    text: str


@dataclass(frozen=True)
class Example:
    """An image before and after PGD in L-infinity: its position in the split, true class, probabilities before and after."""

    index: int
    label: int
    before: list[float]
    after: list[float]


@dataclass(frozen=True)
class Pictures:
    """The examples' images, ``(n, C, H, W) float32 in [0, 1]`` each, before and after."""

    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class AdversarialResults:
    """What the protocol found on ``n`` images.

    Attributes:
        split, n: The images that were attacked.
        shape: Channels, height and width of an image.
        steps, restarts: Of PGD.
        norms: The norms tried; the first is judged.
        judged_at: Distance that is judged, in grey levels of 255.
        surrogate: Run directory of the other net; None for none.
        chance: How the net compares with guessing on the plain images.
        accuracy, balanced_accuracy: On the plain images.
        attacked: The images under each attack.
        smallest: The smallest distances, of all images and of each class.
        checks: Signs that the attack works.
        examples: Some images that were classified rightly, before and after.
        rule: The rule in words.
        verdict: What the rule says.
        reason: Why, in words.
        pictures: Of the examples.
    """

    split: str
    n: int
    shape: Sequence[int]
    steps: int
    restarts: int
    seed: int = field(metadata={"name": "protocol_seed"})
    norms: Sequence[Norm]
    judged_at: float
    surrogate: str | None
    chance: ChanceCheck
    accuracy: Estimate
    balanced_accuracy: Estimate
    attacked: list[Attacked]
    smallest: list[SmallestEpsilons]
    checks: list[Check]
    examples: list[Example]
    rule: str
    verdict: Level
    reason: str
    pictures: Pictures = field(metadata=UNWRITTEN)
