"""Mean ± standard deviation over seeds of the runs below some directories, as a markdown table.

usage: python scripts/summary.py outputs/sweeps/<sweep> [more …] [--metrics test/accuracy,test/auroc]
"""

from __future__ import annotations

import argparse
import sys

from medassay.core.errors import UserError
from medassay.reporting.numbers import DASH
from medassay.reporting.tables import format_markdown
from medassay.runs.groups import describe_settings, find_differing_keys, group_over_seeds, shorten_keys
from medassay.runs.table import read_rows


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
        groups = group_over_seeds([row for row in read_rows(arguments.paths) if row.status == "done"])
        keys = find_differing_keys([group.counted[0] for group in groups])
        settings = [describe_settings(group.counted[0], keys) for group in groups]
    except UserError as error:
        print(f"summary: {error}", file=sys.stderr)
        return 2
    names = shorten_keys([key for key in keys if key not in ("model", "data")])  # these have a column each
    lines = []
    for group, values in zip(groups, settings, strict=True):
        cells = []
        for name in columns:
            number = group.numbers.get(name)
            sd = "" if number is None or number.sd is None else f" ± {number.sd:.3f}"
            cells.append("" if number is None else f"{number.value:.3f}{sd}")
        one, seeds = group.counted[0], ", ".join(map(str, group.seeds))
        differing = " ".join(f"{name}={values[key]}" for key, name in names.items() if values[key] != DASH)
        lines.append([one.model, one.data, differing, seeds, *cells])
    print(format_markdown(["model", "data", "settings", "seeds", *columns], lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
