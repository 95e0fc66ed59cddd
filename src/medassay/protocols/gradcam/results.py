"""What the heat-map protocol found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medassay.core.estimate import Estimate
from medassay.explain.activation_maps import Method
from medassay.metrics.chance import ChanceCheck

LOCATES = ("pointing", "energy")  # the scores that need a true mask
FOLLOWS = ("deletion", "insertion")
BASELINES = {"random": "random", "centre": "centre prior"}


@dataclass(frozen=True)
class Layer:
    """The layer that heat maps are made of: its name, and the number and size of its feature maps."""

    name: str
    maps: int
    height: int
    width: int


@dataclass(frozen=True)
class ExplainedImage:
    """An image of the split by its position, its true and its predicted class, and what the classifier says."""

    index: int
    label: int
    predicted: int
    probabilities: list[float]


@dataclass(frozen=True)
class ClassScores:
    """Where maps point in the images of one true class that have a true mask."""

    name: str
    pointing: Estimate
    energy: Estimate


@dataclass(frozen=True)
class Scores:
    """How good the maps of a method, or of a baseline, are: means over images by name of the score.

    ``key`` is its name in settings and files, ``name`` the one for a reader.
    """

    key: str
    name: str
    scores: dict[str, Estimate]
    per_class: list[ClassScores]

    def to_json(self) -> dict[str, Any]:
        """All fields, the scores among them."""
        return {
            "key": self.key,
            "name": self.name,
            **self.scores,
            **{k: v for k, v in vars(self).items() if k != "scores"},
        }


@dataclass(frozen=True)
class MethodScores(Scores):
    """A method's scores and the rule's verdict.

    Attributes:
        gain: By score and baseline, how much better than the baseline's it is, image by image.
        trusted: The rule's verdict; None where it cannot be said.
        reasons: What speaks against the method, in words.
        unlike: Whether the sanity check reads otherwise over the pixels that maps reach than over all, with two decimals.
    """

    gain: dict[str, dict[str, Estimate]]
    trusted: bool | None
    reasons: list[str]
    unlike: bool


@dataclass(frozen=True)
class Comparison:
    """The scores of all methods (``rows``) and of the baselines on the same images; all else are numbers.

    With less than ``fewest_masks`` nothing is said of where maps point; ``steps`` are looks along a deletion or insertion
    curve. Where the classifier fails the ``chance`` check on these images, no method is judged.
    """

    chance: ChanceCheck
    images: int
    with_mask: int
    fewest_masks: int
    steps: int
    randomisations: int
    rows: list[MethodScores]
    baselines: list[Scores]


@dataclass(frozen=True)
class GradCAMResults:
    """What ``gradcam.json`` holds: ``images`` and ``methods`` are those shown, ``selection`` says how they were chosen."""

    split: str
    layer: Layer
    selection: str
    images: list[ExplainedImage]
    methods: list[Method]
    scores: Comparison | None
