"""What the report holds, and its numbers in words."""

from __future__ import annotations

from dataclasses import dataclass

from medassay.core.estimate import Estimate
from medassay.protocols.uncertainty.measures import Ambiguous, Blurred, Foreign, KeptImages, Pair, Sure
from medassay.reporting.numbers import format_fixed, format_percent, format_percent_bounds, format_with_bounds

KINDS = {"letters": "letters", "shuffled": "images with shuffled pixels"}


@dataclass(frozen=True)
class UncertaintyResults:
    """How sure a classifier is on one split.

    Attributes:
        sure_at: The largest probability from which on the net counts as sure.
        by: What the most ambiguous images are chosen by.
        ambiguous: The most ambiguous images.
        unsure: Number of images that the net is not sure of.
        pairs: Pairs of classes between which it hovers on them.
        kept: Accuracy on the surest images, by the share that is kept.
        area: Area under the risk-coverage curve.
        sure: The images that it is sure of.
        foreign: Images of none of its classes.
        blurred: Its own images blurred; the first are not.
    """

    split: str
    n: int
    sure_at: float
    by: str
    ambiguous: list[Ambiguous]
    unsure: int
    pairs: list[Pair]
    kept: list[KeptImages]
    area: Estimate
    sure: Sure
    foreign: list[Foreign]
    blurred: list[Blurred]

    def list_sentences(self) -> list[str]:
        """The findings in words."""
        images = {"test": "test", "val": "validation"}[self.split]
        some = min(self.kept[1:] or self.kept, key=lambda row: abs(row.asked - 0.9))
        lines = [
            f"accuracy {format_with_bounds(self.kept[0].accuracy)} on all {images} images, "
            f"{format_with_bounds(some.accuracy)} on the {format_percent(some.share)} of them that the net is surest of"
        ]
        sure = f"at least {100 * self.sure_at:g} % sure"
        lines.append(
            f"{sure} of {format_percent(self.sure.share.value)} {format_percent_bounds(self.sure.share)} of the {images} "
            f"images; accuracy on these {format_with_bounds(self.sure.accuracy)}"
        )
        for one in self.foreign:
            lines.append(
                f"{sure} of {format_percent(one.sure)} of {one.n} {KINDS[one.kind]}, which are of none of its classes"
            )
        if self.pairs:
            a, b = self.pairs[0].classes
            lines.append(f"less sure of {self.unsure} images; most often between {a} and {b} ({self.pairs[0].n})")
        return lines

    def flatten(self) -> dict[str, float]:
        """Single numbers for tables of many runs."""
        flat = {
            "area_under_risk_coverage": self.area.value,
            "sure": self.sure.share.value,
            "accuracy_where_sure": self.sure.accuracy.value,
        }
        flat |= {f"accuracy_kept/{100 * row.asked:g}": row.accuracy.value for row in self.kept}
        for one in self.foreign:
            flat |= {f"sure_of/{one.kind}": one.sure, f"detection/{one.kind}": one.detection.value}
        return flat | {f"accuracy_blurred/{row.severity}": row.accuracy.value for row in self.blurred if row.severity}


def describe_chances(chances: list[tuple[str, float]], most: int = 2) -> str:
    """``4 0.48 · 9 0.45``: the classes between which an image lies."""
    return " · ".join(f"{name} {format_fixed(chance)}" for name, chance in chances[:most])
