"""Many runs in one table, from their directories alone: a sweep's summary, and assayed generators side by side.

A sweep's directory gets its summary.csv, summary.md and sweep.html anew. Assays below any of the directories become a
leaderboard of generators: HTML, CSV and markdown, with rank agreement between encoders.

usage: python scripts/leaderboard.py outputs/… [more …] [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from medassay.core.errors import UserError
from medassay.core.files import whole
from medassay.reporting.html import bounds, fixed, page, spread
from medassay.runs.assays import Assayed, Table, find, tables
from medassay.sweeps import report
from medassay.sweeps.summary import summarise

METRICS = {
    "frechet": "Fréchet distance",
    "precision": "precision",
    "density": "density",
    "recall": "recall",
    "coverage": "coverage",
    "authenticity": "authenticity",
    "membership_auc": "membership AUC",
}


def main() -> int:
    """Writes the files and prints the tables; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="A sweep's summary anew; assayed generators in one table, best TSTR first."
    )
    parser.add_argument("paths", nargs="+", help="sweep directories, run directories, or folders that hold some")
    parser.add_argument("--output", default=".", help="where leaderboard.html, .csv and .md go (default: here)")
    parser.add_argument(
        "--metric", help="what ranks a sweep's configurations, e.g. val/auroc (default: the sweep's own)"
    )
    parser.add_argument(
        "--mode", choices=("max", "min"), help="with --metric: whether more or less is better (default: max)"
    )
    arguments = parser.parse_args()
    try:
        sweeps = [path for path in map(Path, arguments.paths) if is_sweep(path)]
        for path in sweeps:
            found = summarise(path, arguments.metric, arguments.mode)
            report.write(found, report.further_figures(path))
            print("\n".join([f"{path / 'sweep.html'}", *found.lines()]))
        if not sweeps or any(map(has_assays, map(Path, arguments.paths))):
            print(write_leaderboard(arguments.paths, Path(arguments.output)))
    except UserError as error:
        print(f"leaderboard: {error}", file=sys.stderr)
        return 2
    return 0


def has_assays(path: Path) -> bool:
    """Whether there is an assay below."""
    return any(path.rglob("assay_*/assay.json"))


def is_sweep(path: Path) -> bool:
    """Whether a sweep has left the directory, or it holds runs and no assay."""
    if (path / "sweep.json").is_file() or (path / "multirun.yaml").is_file():
        return True
    return not (path / ".hydra").is_dir() and not has_assays(path) and any(path.rglob("run.json"))


def write_leaderboard(paths: list[str], output: Path) -> str:
    """Writes the leaderboard of generators; gives its markdown."""
    found = tables(find(paths))
    shown = [contents(table) for table in found]
    markdown = "\n\n".join(as_markdown(table) for table in shown).replace("\N{NO-BREAK SPACE}", " ") + "\n"
    files = {"html": page("leaderboard.html.j2", tables=shown), "csv": as_csv(found), "md": markdown}
    for suffix, text in files.items():
        with whole(output / f"leaderboard.{suffix}") as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    return markdown


def contents(table: Table) -> dict[str, Any]:
    """One table as text: title, headings, lines and a note."""
    first = table.assays[0].results
    headline = next(iter(first["encoders"]))
    floor = next(row for row in first["rows"] if row["kind"] == "floor")
    headings = [
        "generator",
        "epochs",
        "TSTR balanced accuracy",
        "TSTR / TRTR",
        *METRICS.values(),
        "class consistency",
        "faults",
    ]
    lines = [line(assayed, headline) for assayed in table.assays]
    lines.append(
        [floor["name"], "", "", "", *numbers(floor, headline), fixed(floor["class_consistency"]["mean"]), "none"]
    )
    pairs = list(next(iter(table.agreement.values()))) if table.agreement else []
    where = "" if first["split"] == "test" else " (validation images stand in for test images)"
    return {
        "title": f"{table.data}: {table.m} samples in every row{where}",
        "headings": headings,
        "lines": lines,
        "note": (
            f"Distances and shares in the features of '{headline}' ({first['encoders'][headline]}); mean ± standard deviation "
            f"over disjoint sets of {table.m} samples. TSTR: mean [95 % interval] over {len(first['performance']['seeds'])} "
            f"classifier seeds, {first['performance']['steps']} steps."
        ),
        "agreement": table.agreement,
        "pairs": pairs,
    }


def line(assayed: Assayed, headline: str) -> list[str]:
    """One generator's cells."""
    results = assayed.results
    tstr = results["performance"]["arms"]["TSTR"]["balanced_accuracy"]
    ratio = results["performance"]["ratio"]["balanced_accuracy"]
    return [
        f"{results['name']} ({assayed.source})",
        str(results["generator"].get("epochs") or ""),
        f"{fixed(tstr['mean'])} {bounds(tstr)}".strip(),
        f"{fixed(ratio['mean'])} {bounds(ratio)}".strip(),
        *numbers(assayed.row, headline),
        spread(assayed.row["class_consistency"]),
        ", ".join(results["faults"]).replace("_", " ") or "none",
    ]


def numbers(row: dict[str, Any], encoder: str) -> list[str]:
    """The metrics of a row in one encoder's features."""
    values = row["encoders"][encoder]
    return [spread(values[name], None if name == "frechet" else 3) for name in METRICS]


def as_markdown(table: dict[str, Any]) -> str:
    """One table with its note and the encoders' agreement."""
    rows = [table["headings"], ["---"] * len(table["headings"]), *table["lines"]]
    text = (
        f"## {table['title']}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n{table['note']}"
    )
    if table["agreement"]:
        rows = [["Kendall's τ, ranked by", *table["pairs"]], ["---"] * (1 + len(table["pairs"]))]
        rows += [[name, *(fixed(v[pair], 2) for pair in table["pairs"])] for name, v in table["agreement"].items()]
        text += "\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)
    return text


def as_csv(found: list[Table]) -> str:
    """A line per generator and encoder, every metric's mean and standard deviation."""
    stream = io.StringIO()
    writer: Any = None
    for number, table in enumerate(found):
        for assayed in table.assays:
            learned = assayed.results["performance"]
            shared = {
                "table": number,
                "data": table.data,
                "m": table.m,
                "generator": assayed.results["name"],
                "source": assayed.source,
                "tstr_balanced_accuracy": learned["arms"]["TSTR"]["balanced_accuracy"]["mean"],
                "trtr_balanced_accuracy": learned["arms"]["TRTR"]["balanced_accuracy"]["mean"],
                "class_consistency": assayed.row["class_consistency"]["mean"],
                "faults": " ".join(assayed.results["faults"]),
            }
            for encoder, values in assayed.row["encoders"].items():
                cells = {**shared, "encoder": encoder}
                for name, value in values.items():
                    cells |= {name: value["mean"], f"{name}_sd": value["sd"]}
                if writer is None:
                    writer = csv.DictWriter(stream, list(cells))
                    writer.writeheader()
                writer.writerow(cells)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main())
