"""Mean ± standard deviation over seeds of the runs below some directories, as a markdown table.

usage: python scripts/summary.py outputs/sweeps/<sweep> [more …] [--metrics test/accuracy,test/auroc]
"""

from __future__ import annotations

import argparse
import sys

from medassay.core.errors import UserError
from medassay.runs.table import over_seeds, table


def main() -> int:
    """Prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="Mean ± standard deviation over seeds of the runs below some directories."
    )
    parser.add_argument("paths", nargs="+", help="run directories, or folders that hold some")
    parser.add_argument(
        "--metrics", default="val/auroc,test/accuracy,test/balanced_accuracy,test/auroc", help="columns, by comma"
    )
    arguments = parser.parse_args()
    columns = arguments.metrics.split(",")
    try:
        groups = over_seeds(table(arguments.paths))
    except UserError as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    print("| model | data | seeds | " + " | ".join(columns) + " |")
    print("|---|---|---|" + "---|" * len(columns))
    for group in groups:
        cells = []
        for name in columns:
            mean, sd = group.mean.get(name), group.sd.get(name)
            cells.append("" if mean is None else f"{mean:.3f}" + ("" if sd is None else f" ± {sd:.3f}"))
        seeds = ", ".join(str(row.seed) for row in sorted(group.rows, key=lambda row: row.seed))
        print(f"| {group.rows[0].model} | {group.rows[0].data} | {seeds} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
