"""What an assay finds, in the shape of ``assay.json``."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from medassay.core.estimate import Estimate
from medassay.training.epoch_scores import Selection

Budget = Literal["quick", "full"]
Split = Literal["test", "val"]
Kind = Literal["generator", "floor", "control"]
Level = Literal["good", "missing", "suspicious", "undecided"]
Fault = Literal["copies", "missing_class", "labels", "fidelity", "diversity", "usefulness"]

SCORES = ("accuracy", "balanced_accuracy", "auroc")  # what is reported of a classifier


def make_undefined() -> Estimate:
    """A number that was not measured: of an older assay, or where it is not looked for."""
    return Estimate(math.nan, kind="sets")


@dataclass(frozen=True)
class Metrics:
    """The numbers of a row in the features of one encoder; the page's glossary says what they mean."""

    frechet: Estimate
    kid: Estimate
    kid_subsets_sd: Estimate
    intra_class_frechet: Estimate
    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate
    alpha_precision: Estimate
    beta_recall: Estimate
    authenticity: Estimate
    memorisation_ratio: Estimate
    c_t: Estimate
    membership_auc: Estimate
    membership_auc_se: Estimate
    membership_tpr_at_1_fpr: Estimate
    membership_null_auc: Estimate
    # of a row's first set alone, every image in the nearest of its eight turned and mirrored forms
    authenticity_turned: Estimate = field(default_factory=make_undefined)
    membership_auc_turned: Estimate = field(default_factory=make_undefined)
    membership_auc_se_turned: Estimate = field(default_factory=make_undefined)


@dataclass(frozen=True)
class PerClass:
    """One number per class, NaN for a class without images; but for ``class_consistency`` in the headline's features."""

    coverage: list[float]
    authenticity: list[float]
    frechet: list[float]
    class_consistency: list[float]


@dataclass(frozen=True)
class Curves:
    """α-precision and β-recall over their grid, in the headline's features."""

    alpha: list[float]
    beta: list[float]


@dataclass(frozen=True)
class Scores:
    """What one classifier reaches on the real test images."""

    accuracy: float
    balanced_accuracy: float
    auroc: float


@dataclass(frozen=True)
class Row:
    """A row of the comparison table: the generator, the floor, or a control."""

    key: str  # its name in files; ``name`` is for tables
    name: str
    kind: Kind
    m: int  # images in each of its disjoint ``sets``, which its numbers are means over
    sets: int
    encoders: dict[str, Metrics]  # the headline first
    class_consistency: Estimate
    exact_copies: Estimate
    per_class: PerClass
    curves: Curves
    tstr: Scores | None = None  # of a classifier trained on the row's images
    faults: list[Fault] = field(default_factory=list)  # what the rules find wrong with it
    exact_copies_turned: Estimate = field(default_factory=make_undefined)  # of the first set, turned and mirrored too

    @property
    def headline(self) -> Metrics:
        """The numbers of the first encoder."""
        return next(iter(self.encoders.values()))

    @property
    def consistency_by_class(self) -> Estimate:
        """``class_consistency`` as a mean over the classes that have images: what the verdict goes by."""
        known = [share for share in self.per_class.class_consistency if not math.isnan(share)]
        return Estimate(fmean(known) if known else math.nan, kind=self.class_consistency.kind)


@dataclass(frozen=True)
class ArmScores:
    """What the classifiers of one arm reach, means over seeds; ``recall`` is by class, ``images`` the number learnt from."""

    accuracy: Estimate
    balanced_accuracy: Estimate
    auroc: Estimate
    recall: list[float]
    images: int


@dataclass(frozen=True)
class Ratio:
    """TSTR / TRTR, seed by seed."""

    accuracy: Estimate
    balanced_accuracy: Estimate


@dataclass(frozen=True)
class Performance:
    """What classifiers learn from generated images, and from real ones; all have learnt for ``steps``."""

    steps: int
    seeds: list[int]
    n: int  # real training images
    test: int
    arms: dict[str, ArmScores]  # TRTR, TSTR, and in a full assay TSTR 2x, TSTR 5x, TR+STR, TRTS
    ratio: Ratio

    @property
    def trtr(self) -> ArmScores:
        """Trained on real images."""
        return self.arms["TRTR"]

    @property
    def tstr(self) -> ArmScores:
        """Trained on as many generated images."""
        return self.arms["TSTR"]


@dataclass(frozen=True)
class Finding:
    """One sentence of the verdict; ``fault`` names what is wrong, if anything is."""

    level: Level
    fault: Fault | None
    text: str


@dataclass(frozen=True)
class RealCounts:
    """Numbers of real images, and a digest of them all; ``unique`` are training images without duplicates."""

    digest: str
    train: int
    unique: int
    val: int
    test: int


@dataclass(frozen=True)
class AssayResults:
    """All that an assay finds; ``generator`` and ``data`` say where the images judged and the real ones come from."""

    generator: dict[str, Any]
    name: str
    data: dict[str, Any]
    classes: list[str]
    budget: Budget
    split: Split
    real: RealCounts
    encoders: dict[str, str]  # descriptions, the headline first
    verdict: list[Finding]
    faults: list[Fault]
    rows: list[Row]  # the generator, the floor, then the controls
    m: int  # images in every row but those of a control that lacks a class
    large: Row | None  # the generator's row of 10,000 images
    performance: Performance
    seconds: dict[str, float]
    peak_memory_mb: float
    precision: str  # floating-point type of the distances
    selection: Selection | None = None  # how training chose the generator's epoch by its samples
    scarce: str | None = (
        None  # the class that there are too few samples of for a larger m, in the real images' proportions
    )
    version: int = 1  # 2: sets in the real images' proportions, labels judged by class

    @property
    def headline(self) -> str:
        """Name of the first encoder."""
        return next(iter(self.encoders))

    @property
    def judged(self) -> Row:
        """The generator's row."""
        return self.rows[0]

    @property
    def floor(self) -> Row:
        """The row of real images that nobody trained on."""
        return self.rows[1]
