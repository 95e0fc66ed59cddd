"""Whether a classifier is above chance on some images: without that, no verdict on how it decides means anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from medassay.core.estimate import Estimate
from medassay.metrics.scores import ClassificationScores, score_classification

CHANCE_AUROC = 0.5  # of scores that know nothing
ENOUGH = "and each class must have enough images for that (of two classes, six each)"  # said in the rules of verdicts
_TAIL = 0.025  # of a 95 % interval


@dataclass(frozen=True)
class ChanceCheck:
    """Two numbers of a classifier on some images, and what guessing reaches.

    Decisions and ranking are both asked for: a net that calls every image the same decides nothing, however it ranks them.

    Attributes:
        balanced_accuracy, auroc: What the classifier reaches, with 95 % intervals over images.
        chance: Balanced accuracy of guessing; the AUROC of guessing is 0.5.
        enough: Whether :func:`are_enough` images of the classes were there. Resamples of a few images that are all right are
            all right, too: the intervals have no width, and say nothing.
    """

    balanced_accuracy: Estimate
    auroc: Estimate
    chance: float
    enough: bool = True

    @property
    def passed(self) -> bool:
        """Whether both intervals lie above chance as a whole; False where one of the numbers is undefined."""
        return self.enough and self.balanced_accuracy.is_above(self.chance) and self.auroc.is_above(CHANCE_AUROC)


def check_against_chance(probabilities: Tensor, labels: Tensor) -> ChanceCheck:
    """Compares predictions with guessing.

    Args:
        probabilities: Class probabilities, ``(N, K)`` float in [0, 1], K at least 2.
        labels: True classes, ``(N,) int64``. Classes without images are left out of the means, and of what guessing reaches.
    """
    return compare_with_chance(score_classification(probabilities, labels))


def compare_with_chance(scores: ClassificationScores) -> ChanceCheck:
    """:func:`check_against_chance` of predictions that have been scored."""
    counts = [sum(row) for row in scores.confusion if any(row)]
    chance, estimates = 1 / len(counts), scores.estimates
    enough = len(counts) == 1 or are_enough(counts, chance)  # of one class alone no number of images is
    return ChanceCheck(estimates["balanced_accuracy"], estimates["auroc"], chance, enough)


def are_enough(counts: Sequence[int], chance: float) -> bool:
    """Whether a classifier that is right on all images of each class would be shown to be above chance.

    By the exact lower bound of the recall of the class with the fewest (Clopper & Pearson 1934): six images of each of two
    classes are enough, two of each of eight.

    Args:
        counts: Number of images of each class, at least 1.
        chance: Balanced accuracy of guessing.
    """
    return chance < 1 and min(counts) >= count_enough(chance)


def count_enough(chance: float) -> int:
    """The number of images of each class from which :func:`are_enough` holds; ``chance`` is below 1."""
    return math.floor(math.log(_TAIL) / math.log(chance)) + 1
