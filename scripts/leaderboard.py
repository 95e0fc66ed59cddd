"""Many runs in one table, from their directories alone: a sweep's summary, and assayed generators side by side.

A sweep's directory gets its summary.csv, summary.md and sweep.html anew. Assays below any of the directories become a
leaderboard of generators: HTML, CSV and markdown, with rank agreement between encoders.

usage: python scripts/leaderboard.py outputs/… [more …] [--output DIRECTORY]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medassay.core.errors import UserError
from medassay.core.files import write_text
from medassay.protocols.assay import leaderboard
from medassay.protocols.assay.leaderboard import Assayed, Table, find_assays, group_comparable
from medassay.protocols.assay.results import Metrics
from medassay.protocols.assay.tables import format_deviations
from medassay.reporting import html
from medassay.reporting.numbers import format_fixed, format_spread, format_with_bounds
from medassay.reporting.tables import format_markdown, format_records_as_csv
from medassay.sweeps import page as sweep_page
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
SCORES = ("TSTR balanced accuracy", "TSTR / TRTR")


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
            sweep_page.write_summary(found, sweep_page.list_further_figures(path))
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


def write_leaderboard(paths: Sequence[str | Path], output: Path) -> str:
    """Writes ``leaderboard.html``, ``.csv`` and ``.md`` of the generators below ``paths``; gives the markdown."""
    tables = group_comparable(find_assays(paths))
    shown = [contents(table) for table in tables]
    markdown = "\n\n".join(map(to_markdown, shown)).replace("\N{NO-BREAK SPACE}", " ") + "\n"
    files = {
        "html": html.render_page(Path(leaderboard.__file__).with_name("leaderboard.html.j2"), tables=shown),
        "csv": format_records_as_csv([line for number, table in enumerate(tables) for line in records(number, table)]),
        "md": markdown,
    }
    for suffix, text in files.items():
        write_text(output / f"leaderboard.{suffix}", text)
    return markdown


def contents(table: Table) -> dict[str, Any]:
    """One table as text: title, headings, a line per generator and one of the floor, and a note."""
    first = table.assays[0].results
    floor, learned, headline = first.floor, first.performance, first.headline
    where = "" if first.split == "test" else " (validation images stand in for test images)"
    unturned = [one.results.name for one in table.assays if not one.results.judged.exact_copies_turned.known]
    forms = f" Copies were not looked for in turned forms: {', '.join(unturned)}." if unturned else ""
    by = ", by an earlier version (sets as the samples came)" if first.version == 1 else ""
    last = [floor.name, "", "", "", *numbers(floor.headline), format_fixed(floor.class_consistency.value), "none"]
    return {
        "title": f"{first.data['name']}: {first.m} samples in every row{where}{by}",
        "headings": ["generator", "epochs", *SCORES, *METRICS.values(), "class consistency", "faults"],
        "lines": [*map(cells, table.assays), last],
        "note": (
            f"Distances and shares in the features of '{headline}' ({first.encoders[headline]}); mean ± standard deviation "
            f"over disjoint sets of {first.m} samples. TSTR: mean [95 % interval] over {len(learned.seeds)} classifier seeds, "
            f"{learned.steps} steps.{forms}"
        ),
        "agreement": table.agreement,
        "pairs": list(next(iter(table.agreement.values()), ())),
    }


def cells(assayed: Assayed) -> list[str]:
    """One generator's line."""
    results, row, learned = assayed.results, assayed.results.judged, assayed.results.performance
    return [
        f"{results.name} ({assayed.source})",
        str(results.generator.get("epochs") or ""),
        format_with_bounds(learned.tstr.balanced_accuracy),
        format_with_bounds(learned.ratio.balanced_accuracy),
        *numbers(row.headline),
        format_spread(row.class_consistency),
        ", ".join(results.faults).replace("_", " ") or "none",
    ]


def numbers(metrics: Metrics) -> list[str]:
    """The metrics shown, as text."""
    return [format_spread(getattr(metrics, name), None if name == "frechet" else 3) for name in METRICS]


def to_markdown(table: dict[str, Any]) -> str:
    """The :func:`contents` of one table, with its note and the encoders' agreement."""
    parts, pairs = (
        [f"## {table['title']}", format_markdown(table["headings"], table["lines"]), table["note"]],
        table["pairs"],
    )
    if table["agreement"]:
        rows = [
            [name, *(format_fixed(values[pair], 2) for pair in pairs)] for name, values in table["agreement"].items()
        ]
        parts.append(format_markdown(["Kendall's τ, ranked by", *pairs], rows))
    return "\n\n".join(parts)


def records(number: int, table: Table) -> Iterator[dict[str, Any]]:
    """A line per generator and encoder, every metric's mean and standard deviation."""
    for assayed in table.assays:
        results, learned = assayed.results, assayed.results.performance
        shared = {
            "table": number,
            "data": results.data["name"],
            "m": results.m,
            "generator": results.name,
            "source": assayed.source,
            "tstr_balanced_accuracy": learned.tstr.balanced_accuracy.value,
            "trtr_balanced_accuracy": learned.trtr.balanced_accuracy.value,
            "class_consistency": results.judged.class_consistency.value,
            "faults": " ".join(results.faults),
        }
        for encoder, values in results.judged.encoders.items():
            yield {**shared, "encoder": encoder, **format_deviations(vars(values))}


if __name__ == "__main__":
    sys.exit(main())
