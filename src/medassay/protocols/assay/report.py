"""What an assay leaves: all numbers as JSON and CSV, charts, TensorBoard events, and one page that explains them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from medassay.core.files import whole, write_json
from medassay.protocols import pages
from medassay.reporting import assay_figures, figures, html
from medassay.reporting.tensorboard import add_results

if TYPE_CHECKING:
    from medassay.protocols.assay.protocol import Examples, Gallery

RECORDED = ("run", "samples", "status", "protocol", "overrides", "resize")  # what the command was
GENERAL = ("class_consistency", "exact_copies")  # numbers of a row that depend on no encoder
EXPECTED = {
    "floor": "no fault: the best to expect at this m",
    "copies": "copying",
    "noisy_copies": "copying, in some encoder",
    "without_class": "a missing class; precision stays",
    "floor_same_m": "no fault: the floor for (d)",
    "shuffled_labels": "wrong labels; distance stays",
}
FAULTS = {
    "copies": "samples repeat training images",
    "missing_class": "classes are missing",
    "labels": "labels and images do not agree",
    "fidelity": "many samples do not look real",
    "diversity": "part of the variety is missing",
    "usefulness": "a classifier learns much less from them than from real images",
}


@dataclass(frozen=True)
class Metric:
    """A line of the comparison table.

    Attributes:
        key: its name in the results.
        name: its name in tables.
        better: how it is read.
        decimals: None for three significant digits, of what has no natural scale.
    """

    key: str
    name: str
    better: str
    decimals: int | None = 3


UP, DOWN = "↑ higher is better", "↓ lower is better"
METRICS = {
    "Distance to the training images": [
        Metric("frechet", "Fréchet distance", DOWN, None),
        Metric("intra_class_frechet", "Intra-class Fréchet distance", DOWN, None),
        Metric("kid", "KID", f"{DOWN}; 0 or below: none", None),
    ],
    "Fidelity": [
        Metric("precision", "Precision", UP),
        Metric("density", "Density", "↑ higher is better, up to the floor’s; may pass 1"),
        Metric("alpha_precision", "α-precision, integrated", UP),
    ],
    "Diversity": [
        Metric("recall", "Recall", UP),
        Metric("coverage", "Coverage", UP),
        Metric("beta_recall", "β-recall, integrated", UP),
    ],
    "Copying": [
        Metric("authenticity", "Authenticity", "≈ near the floor’s (its null); below: copying; higher is not better"),
        Metric("memorisation_ratio", "Memorisation ratio", "≈ near 1; below: copying"),
        Metric("c_t", "C_T", "≈ near 0; negative: copying", 2),
        Metric("membership_auc", "Membership attack, AUC", "≈ near the floor’s and 0.5; above: copying"),
        Metric("membership_null_auc", "— its null, members against members", "≈ near 0.5"),
        Metric("membership_tpr_at_1_fpr", "— true positives at 1 % false ones", "≈ near 0.01; above: copying"),
    ],
}
OTHER_METRICS = [
    Metric("exact_copies", "Exact copies, share", "≈ near the floor’s; above: copying"),
    Metric("class_consistency", "Class consistency", UP),
    Metric("tstr", "TSTR of the set itself, balanced accuracy", "↑ higher is better; controls only, see note"),
]


def write(directory: Path, results: dict[str, Any], examples: Examples, gallery: Gallery) -> None:
    """Leaves ``assay.json``, ``assay.csv``, ``metrics.json``, ``figures/``, ``tensorboard/`` and ``report.html``.

    Args:
        directory: where.
        results: of :func:`medassay.protocols.assay.protocol.measured`, with the command's record.
        examples, gallery: pictures.

    Raises:
        OutputError: a file cannot be written.
    """
    write_json(directory / "assay.json", results)
    with whole(directory / "assay.csv") as partial:
        partial.write_text(table(results), encoding="utf-8", newline="")
    flat = flat_metrics(results)
    record = {key: results[key] for key in RECORDED if key in results}
    write_json(directory / "metrics.json", {**record, "m": results["m"], "assay": flat})
    drawn = assay_figures.charts(results)
    content = page(results, drawn, examples, gallery)
    images = {name: figure for name, (figure, _) in drawn.items()} | grids(results["classes"], examples, gallery)
    for name, figure in images.items():
        figures.save(figure, directory / "figures" / f"{name}.png")
    add_results(
        directory / "tensorboard",
        step=0,
        pictures=[directory / "figures" / f"{name}.png" for name in images],
        text={"verdict": "\n\n".join(f"{finding['level']}: {finding['text']}" for finding in results["verdict"])},
        hyperparameters={key: results[key] for key in ("name", "budget", "split", "m")}
        | {"data": results["data"]["name"]},
        metrics={f"assay/{name}": value for name, value in flat.items() if html.known(value)},
    )
    with whole(directory / "report.html") as partial:
        partial.write_text(content, encoding="utf-8", newline="\n")


# --- numbers ---------------------------------------------------------------------------------------------------------


def flat_metrics(results: dict[str, Any]) -> dict[str, float]:
    """The generator's single numbers by name; those of encoders other than the headline as ``<metric>/<encoder>``."""
    row, performance = results["rows"][0], results["performance"]
    flat = {
        f"{arm.lower()}_{name}": performance["arms"][arm][name]["mean"]
        for arm in ("TSTR", "TRTR")
        for name in ("balanced_accuracy", "accuracy", "auroc")
    }
    flat["tstr_trtr_ratio"] = performance["ratio"]["balanced_accuracy"]["mean"]
    flat |= {name: row[name]["mean"] for name in GENERAL}
    for place, (encoder, values) in enumerate(row["encoders"].items()):
        flat |= {name if place == 0 else f"{name}/{encoder}": value["mean"] for name, value in values.items()}
    return flat


def table(results: dict[str, Any]) -> str:
    """All rows as CSV, a line per row and encoder; empty where there is no number."""
    lines = []
    for row in [*results["rows"], *([results["large"]] if results["large"] else [])]:
        for encoder, values in row["encoders"].items():
            line = {key: row[key] for key in ("key", "name", "kind", "m", "sets")} | {"encoder": encoder}
            for name, value in {**values, **{name: row[name] for name in GENERAL}}.items():
                line |= {name: value["mean"], f"{name}_sd": value["sd"]}
            tstr = row.get("tstr", {})
            line |= {f"tstr_{name}": tstr.get(name) for name in ("accuracy", "balanced_accuracy", "auroc")}
            lines.append({key: value for key, value in line.items() if value == value})
    columns = list(dict.fromkeys(name for line in lines for name in line))
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return written.getvalue()


# --- pictures --------------------------------------------------------------------------------------------------------


def grids(classes: Sequence[str], examples: Examples, gallery: Gallery) -> dict[str, Figure]:
    """Pictures of images, for files; without those that would be empty."""
    drawn = {}
    if examples.real.shape[1]:
        drawn["examples"] = assay_figures.example_grid(examples.real, examples.generated, classes)
    if len(gallery.samples):
        drawn["suspicious"] = assay_figures.gallery_grid(gallery.samples, gallery.nearest)
    return drawn


# --- the page --------------------------------------------------------------------------------------------------------


def page(results: dict[str, Any], drawn: Mapping[str, tuple[Figure, str]], examples: Examples, gallery: Gallery) -> str:
    """``report.html``."""
    rows = results["rows"]
    headline, *others = results["encoders"]
    return html.page(
        "assay.html.j2",
        results=results,
        headline=headline,
        generator=rows[0],
        floor=rows[1],
        main=rows[0]["encoders"][headline],
        best=rows[1]["encoders"][headline],
        warnings=warnings(results),
        overall=overall(results["faults"]),
        faults={key: key.replace("_", " ") for key in FAULTS},
        expected=EXPECTED,
        comparison={name: comparison(rows, name, general=name == headline) for name in results["encoders"]},
        others=others,
        large=None if results["large"] is None else comparison([results["large"]], headline, general=True),
        examples=examples,
        gallery=gallery,
        charts={name: html.svg(figure, name, text) for name, (figure, text) in drawn.items()},
        command=pages.command(results),
        provenance={name: dict(pages.flat(results[name])) for name in ("generator", "data", "real")},
        extra=dict(pages.flat({k: v for k, v in results.items() if k in ("versions", "code", "process", "machine")})),
    )


def warnings(results: dict[str, Any]) -> list[str]:
    """What a reader must know before any number."""
    data = results["data"].get("real", results["data"])
    found = []
    if data.get("phantom"):
        found.append("The data are rendered phantoms, not real images.")
    elif not data.get("published"):
        found.append(f"The data are not the published file (md5 {data.get('md5', 'unknown')}).")
    if results["split"] == "val":
        found.append("Validation images stand in for test images: good for a search, not for a result.")
    if results["budget"] == "quick":
        found.append("Quick budget: one classifier seed and few steps, so no interval.")
    if results.get("status", "done") != "done":
        found.append(f"The run's status is {results['status']}: the generator was judged before it was finished.")
    return found


def overall(faults: Sequence[str]) -> str:
    """The verdict in a sentence."""
    if not faults:
        return "The rules find no fault."
    count = "one fault" if len(faults) == 1 else f"{len(faults)} faults"
    return f"The rules find {count}: {'; '.join(FAULTS.get(fault, fault) for fault in faults)}."


def comparison(rows: Sequence[dict[str, Any]], encoder: str, *, general: bool) -> dict[str, list[dict[str, Any]]]:
    """The comparison table's lines by group, cells as text: metrics downwards, rows of the results across.

    Args:
        rows: of one table.
        encoder: whose numbers.
        general: also the numbers that depend on no encoder.
    """
    groups = METRICS | ({"Labels, copies and use (no encoder)": OTHER_METRICS} if general else {})
    return {
        group: [
            {
                "name": metric.name.replace("Fréchet distance", "FID") if encoder == "inception" else metric.name,
                "better": metric.better,
                "cells": [html.spread(_value(row, encoder, metric.key), metric.decimals) for row in rows],
            }
            for metric in metrics
        ]
        for group, metrics in groups.items()
    }


def _value(row: dict[str, Any], encoder: str, key: str) -> dict[str, Any]:
    if key == "tstr":
        return {"mean": row.get("tstr", {}).get("balanced_accuracy")}
    found: dict[str, Any] = row[key] if key in GENERAL else row["encoders"][encoder][key]
    return found
