"""The comparison table as text, and the numbers of an assay in a line each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from medassay.core.estimate import Estimate
from medassay.protocols.assay.results import SCORES, AssayResults, Row
from medassay.reporting.numbers import format_fixed, format_spread
from medassay.reporting.tables import format_records_as_csv

GENERAL = ("class_consistency", "exact_copies", "exact_copies_turned")  # numbers of a row that depend on no encoder
EXPECTED = {
    "floor": "no fault: the best to expect at this m",
    "copies": "copying",
    "noisy_copies": "copying, in at least one encoder; noise may look like other faults, too",
    "turned_copies": "copying, turned and mirrored forms being looked at, too",
    "without_class": "a missing class; precision unchanged",
    "floor_same_m": "no fault: the floor for the set without a class",
    "shuffled_labels": "wrong labels; distances unchanged",
}


class Metric(NamedTuple):
    """A metric's key in the results, its name in tables, and how it is read."""

    key: str
    name: str
    better: str
    decimals: int | None = 3  # None for three significant digits, of what has no natural scale


class Line(NamedTuple):
    """A line of the comparison table as text, a cell per row of the results."""

    name: str
    better: str
    cells: list[str]


UP, DOWN = "↑ higher is better", "↓ lower is better"
METRICS = {
    "Distance to the training images": [
        Metric("frechet", "Fréchet distance", DOWN, None),
        Metric("intra_class_frechet", "Intra-class Fréchet distance", DOWN, None),
        Metric("kid", "KID", f"{DOWN}; 0 or below: no difference", None),
    ],
    "Fidelity": [
        Metric("precision", "Precision", UP),
        Metric("density", "Density", "↑ higher is better, up to the floor’s; may exceed 1"),
        Metric("alpha_precision", "α-precision, integrated", UP),
    ],
    "Diversity": [
        Metric("recall", "Recall", UP),
        Metric("coverage", "Coverage", UP),
        Metric("beta_recall", "β-recall, integrated", UP),
    ],
    "Copying": [
        Metric("authenticity", "Authenticity", "≈ near the floor’s is best; below: copying; higher is not better"),
        Metric(
            "authenticity_turned",
            "— turned and mirrored, too",
            "the first set’s samples in the nearest of eight forms; ≈ near the floor’s",
        ),
        Metric("memorisation_ratio", "Memorisation ratio", "≈ near 1; below: copying"),
        Metric("c_t", "C_T", "rank test of the distances to training images; ≈ near 0; negative: copying", 2),
        Metric(
            "membership_auc",
            "Membership attack, AUC",
            "are training images told from new ones? ≈ near the floor’s and 0.5; above: copying",
        ),
        Metric("membership_auc_turned", "— turned and mirrored, too", "≈ near the floor’s and 0.5; above: copying"),
        Metric(
            "membership_null_auc", "— the same among training images alone", "a check of the attack itself: ≈ near 0.5"
        ),
        Metric("membership_tpr_at_1_fpr", "— true positives at 1 % false positives", "≈ near 0.01; above: copying"),
    ],
}
OTHER_METRICS = [
    Metric("exact_copies", "Exact copies, share", "≈ near the floor’s; above: copying"),
    Metric("exact_copies_turned", "— turned and mirrored, too", "≈ near the floor’s; above: copying"),
    Metric("class_consistency", "Class consistency", UP),
    Metric("consistency_by_class", "Class consistency, mean over the classes", UP),
]
TSTR = (
    "TSTR of the set itself, balanced accuracy",
    f"of a classifier trained on the set; {UP}; controls only, see note",
)


def compare(rows: Sequence[Row], encoder: str, *, general: bool) -> dict[str, list[Line]]:
    """The comparison table's lines by group: metrics downwards, rows of the results across.

    ``general`` adds the numbers that do not depend on the encoder.
    """

    def line(metric: Metric, of: Sequence[Any]) -> Line:
        name = metric.name.replace("Fréchet distance", "FID") if encoder == "inception" else metric.name
        return Line(name, metric.better, [format_spread(getattr(one, metric.key), metric.decimals) for one in of])

    numbers = [row.encoders[encoder] for row in rows]
    groups = {group: [line(metric, numbers) for metric in metrics] for group, metrics in METRICS.items()}
    if general:
        own = [format_fixed(None if row.tstr is None else row.tstr.balanced_accuracy) for row in rows]
        others = [*(line(metric, rows) for metric in OTHER_METRICS), Line(*TSTR, own)]
        groups["Labels, copies and use (no encoder)"] = others
    return groups


def flatten(results: AssayResults) -> dict[str, float]:
    """The generator's single numbers by name; those of encoders other than the headline as ``<metric>/<encoder>``."""
    row, learned = results.judged, results.performance
    flat = {
        f"{arm}_{name}": getattr(scores, name).value
        for arm, scores in (("tstr", learned.tstr), ("trtr", learned.trtr))
        for name in ("balanced_accuracy", "accuracy", "auroc")
    }
    flat["tstr_trtr_ratio"] = learned.ratio.balanced_accuracy.value
    flat |= {name: getattr(row, name).value for name in (*GENERAL, "consistency_by_class")}
    for encoder, numbers in row.encoders.items():
        suffix = "" if encoder == results.headline else f"/{encoder}"
        flat |= {f"{name}{suffix}": estimate.value for name, estimate in vars(numbers).items()}
    return flat


def format_rows_as_csv(results: AssayResults) -> str:
    """All rows, a line per row and encoder; empty where there is no number."""
    records = []
    for row in [*results.rows, *([results.large] if results.large else [])]:
        named = {name: getattr(row, name) for name in ("key", "name", "kind", "m", "sets")}
        general = {name: getattr(row, name) for name in GENERAL}
        by_class = {"consistency_by_class": row.consistency_by_class.value}  # of all sets together
        tstr = {f"tstr_{name}": row.tstr and getattr(row.tstr, name) for name in SCORES}
        for encoder, numbers in row.encoders.items():
            records.append(
                {**named, "encoder": encoder, **format_deviations(vars(numbers) | general), **by_class, **tstr}
            )
    return format_records_as_csv(records)


def format_deviations(numbers: dict[str, Estimate]) -> dict[str, float | None]:
    """Two columns each: the number, and its standard deviation as ``<name>_sd``."""
    return {
        column: value
        for name, estimate in numbers.items()
        for column, value in ((name, estimate.value), (f"{name}_sd", estimate.sd))
    }
