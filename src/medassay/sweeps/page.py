"""What a sweep leaves in its directory: every run as CSV, the ranking as markdown, and one page with its charts."""

from __future__ import annotations

import base64
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from markupsafe import Markup

from medassay.core.estimate import Estimate
from medassay.core.files import write_text
from medassay.evaluation.about import list_data_warnings
from medassay.reporting import figures as drawing
from medassay.reporting import html
from medassay.reporting.charts import Chart
from medassay.reporting.numbers import DASH, format_compact, format_compact_spread
from medassay.reporting.tables import Table
from medassay.runs.csv_view import format_runs_as_csv, shorten_path
from medassay.runs.groups import describe_settings, find_number, shorten_keys
from medassay.runs.table import RunRow
from medassay.sweeps.charts import MANY, choose_tabled_effects, draw_charts
from medassay.sweeps.summary import (
    Summary,
    choose_headlines,
    count_seeds,
    describe_testing,
    describe_verdict,
    format_cell,
    format_value,
    list_seeds,
)

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def write_summary(summary: Summary, figures: Sequence[tuple[str, Path]] = ()) -> list[Path]:
    """Leaves ``summary.csv``, ``summary.md``, ``sweep.html`` and ``figures/*.png`` in the sweep's directory.

    Args:
        summary: The sweep's summary.
        figures: Further pictures for the page, each with its title.

    Returns:
        The files written.

    Raises:
        OutputError: A file cannot be written.
    """
    drawn_charts = draw_charts(summary)
    files = {
        "summary.csv": make_csv(summary),
        "summary.md": make_markdown(summary),
        "sweep.html": make_page(summary, drawn_charts, figures),
    }
    for name, text in files.items():
        write_text(summary.path / name, text)
    pictures = {f"figures/{name}.png": figure for name, (figure, _) in drawn_charts.items()}
    for name, figure in pictures.items():
        drawing.save_figure(figure, summary.path / name)
    return [summary.path / name for name in (*files, *pictures)]


def list_further_figures(path: Path) -> list[tuple[str, Path]]:
    """Pictures in a sweep's ``figures/`` that this report has not drawn, each with a title."""
    own = ("effect_", "interaction", "parallel", "curves_")
    files = sorted(file for file in (path / "figures").glob("*.png") if not file.name.startswith(own))
    return [(file.stem.replace("_", " ").capitalize(), file) for file in files]


# --- tables ----------------------------------------------------------------------------------------------------------


def make_csv(summary: Summary) -> str:
    """The sweep's part of the table of runs, see :func:`medassay.runs.csv_view.format_runs_as_csv`."""
    parts = {row.path: part for part, rows in (("sweep", summary.rows), ("final", summary.final)) for row in rows}
    rows = [*summary.rows, *summary.final]
    return format_runs_as_csv(
        summary.groups, rows, keys=summary.swept, metric=summary.metric, top=summary.path, parts=parts
    )


def make_markdown(summary: Summary) -> str:
    """The verdict, the ranking, the chosen one's test numbers, the effects of single settings, and what failed."""
    test = [make_test_table(summary)] if summary.test else []
    tables = [make_ranking(summary), *test, *make_effect_tables(summary), *make_trouble_tables(summary)]
    parts = [f"# Sweep {summary.name}", *describe_verdict(summary), *(table.to_markdown() for table in tables)]
    return "\n\n".join(parts) + "\n"


def make_ranking(summary: Summary) -> Table:
    """The configurations: place, settings, the metric, its seeds, other validation numbers, and test numbers of several."""
    names = shorten_keys(summary.swept)
    others = dict.fromkeys(name for group in summary.groups for name in group.numbers if name != summary.metric)
    test = [name for name in others if name.startswith("test/")]
    shown_others = choose_headlines([name for name in others if name not in test], summary.metric)
    shown_others += choose_headlines(test, summary.metric)
    header = ["", *(names[key] for key in summary.swept), summary.metric or "metric", "seeds", *shown_others]
    rows = []
    for place, group in enumerate(summary.groups, 1):
        settings = map(format_value, group.settings.values())
        numbers = (format_cell(group, name) for name in shown_others)
        place_text = str(place) if group.complete else DASH
        rows.append([place_text, *settings, format_cell(group, summary.metric), list_seeds(group), *numbers])
    note = "Mean ± sample standard deviation over the seeds; chosen by the first number, on validation data alone."
    if test:
        note += f" {describe_testing(summary)}"
    return Table("Configurations, best first", header, rows, note)


def make_test_table(summary: Summary) -> Table:
    """The test numbers of the chosen configuration."""
    settings = " ".join(summary.chosen.overrides) if summary.chosen else ""
    rows = [[name, *_format_cells(estimate)] for name, estimate in summary.test.items()]
    return Table(f"Test images: {settings}".rstrip(": "), ["number", "mean ± sd", "seeds"], rows)


def make_effect_tables(summary: Summary) -> list[Table]:
    """For each swept key with few values, the metric by its value."""
    return [
        Table(
            f"{summary.metric} by {key}",
            [key, "mean ± sd", "runs"],
            [[format_value(v), *_format_cells(e)] for v, e in values.items()],
        )
        for key, values in choose_tabled_effects(summary).items()
    ]


def make_trouble_tables(summary: Summary) -> list[Table]:
    """The jobs that have no result, by what became of them."""
    kinds = {
        "Failed": summary.failed,
        "Pruned": summary.pruned,
        "Interrupted or still running": summary.unfinished,
        "Waiting": summary.waiting,
    }
    return [
        Table(
            f"{title}: {len(rows)}",
            ["run", "reason", "settings"],
            [
                [shorten_path(row.path, summary.path), row.reason or DASH, _format_settings(summary, row)]
                for row in rows
            ],
        )
        for title, rows in kinds.items()
        if rows
    ]


def make_runs_table(summary: Summary) -> Table:
    """Every run, with a link to its directory."""
    rows = []
    for row in (*summary.rows, *summary.final):
        name = shorten_path(row.path, summary.path)
        link = Markup('<a href="{}/">{}</a>').format(quote(name), name)
        status = row.status + (", trained for the test only" if row in summary.final else "")
        seconds = DASH if row.seconds is None else _format_time(row.seconds)
        rows.append(
            [link, status, format_compact(find_number(row, summary.metric)), seconds, _format_settings(summary, row)]
        )
    return Table("All runs", ["run", "status", summary.metric or "metric", "time", "settings"], rows)


# --- page ------------------------------------------------------------------------------------------------------------


def make_page(summary: Summary, drawn_charts: Mapping[str, Chart], figures: Sequence[tuple[str, Path]] = ()) -> str:
    """``sweep.html`` with its charts and further pictures."""
    pictures = html.inline_charts(drawn_charts)
    return html.render_page(
        Path(__file__).with_name("page.html.j2"),
        summary=summary,
        tiles=_make_tiles(summary),
        reading=_describe_lead(summary),
        testing=describe_testing(summary),
        warnings=_list_warnings(summary),
        ranking=make_ranking(summary),
        best=0 if summary.best else -1,
        many=MANY,
        full_names=[(short, key) for key, short in shorten_keys(summary.swept).items() if short != key],
        test=make_test_table(summary),
        effects=make_effect_tables(summary),
        pictures={
            kind: [picture for name, picture in pictures.items() if name.startswith(kind)]
            for kind in ("effect", "parallel", "curves")
        },
        extra=[(title, _embed(file)) for title, file in figures if file.is_file() and file.suffix in _TYPES],
        troubles=make_trouble_tables(summary),
        durations=_describe_durations(summary),
        runs=make_runs_table(summary),
        command=_format_command(summary.record.get("command")),
    )


def _format_command(overrides: Sequence[str] | None) -> str | None:
    """What to type to run the sweep again; None where it is not recorded."""
    if not overrides:
        return None
    return shlex.join(["python", "train.py", "-m", *(text for text in overrides if text not in ("-m", "--multirun"))])


def _make_tiles(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Name, value, its deviation and a note of the headline numbers."""
    best, done = summary.best, len(summary.choose_rows("done"))
    tiles = []
    if best is not None:
        name = summary.metric or ""
        tiles.append((f"Best {name}", *_split_spread(best.numbers[name]), f"validation, {list_seeds(best)}"))
    for name in choose_headlines(summary.test, summary.metric, 1):
        tiles.append((name, *_split_spread(summary.test[name]), f"test images, {count_seeds(summary.test[name].n)}"))
    total = len(summary.rows) + len(summary.final)
    tiles.append(("Configurations", str(len(summary.groups)), "", ", ".join(shorten_keys(summary.swept).values())))
    return [*tiles, ("Runs finished", f"{done} of {total}", "", _count_lost(summary))]


def _format_cells(estimate: Estimate) -> tuple[str, str]:
    """The number with its deviation, and how many runs it is of."""
    return format_compact_spread(estimate), str(estimate.n)


def _split_spread(estimate: Estimate) -> tuple[str, str]:
    mean, sign, sd = format_compact_spread(estimate).partition("±")
    return mean.strip(), sign + sd


def _count_lost(summary: Summary) -> str:
    counts = {
        "failed": summary.failed,
        "pruned": summary.pruned,
        "interrupted or running": summary.unfinished,
        "waiting": summary.waiting,
    }
    return ", ".join(f"{len(entries)} {word}" for word, entries in counts.items() if entries)


def _describe_lead(summary: Summary) -> str:
    """How far the first is ahead, in words."""
    best, metric = summary.best, summary.metric or ""
    if best is None:
        return ""
    first = best.numbers[metric]
    others = [c.numbers[metric] for c in summary.groups if c.complete and c is not best]
    if not others:
        return "No other configuration has all its seeds, so that there was none to compare it with."
    behind = abs(first.value - others[0].value)
    if first.sd is None:
        return f"The next one is {format_compact(behind)} behind; with one seed each, their order may be chance."
    near = sum(abs(first.value - other.value) <= first.sd for other in others)
    if near:
        return f"{near} of {len(others)} others lie within one standard deviation of it: their order is uncertain."
    return f"The next one is {format_compact(behind)} behind, more than one standard deviation over the seeds."


def _list_warnings(summary: Summary) -> list[str]:
    """What a reader must know first."""
    of_data = [text for row in summary.choose_rows("done") for text in list_data_warnings(row.data_provenance)]
    failed = len(summary.failed)
    failures = f"{failed} of {len(summary.rows) + len(summary.final)} runs failed; the reasons are listed below."
    warnings = [*of_data, *summary.notes, failures if failed else None]
    return list(dict.fromkeys(text for text in warnings if text is not None))


def _embed(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{_TYPES[file.suffix]};base64,{content}"


def _format_settings(summary: Summary, row: RunRow) -> str:
    names, values = shorten_keys(summary.swept), describe_settings(row, summary.swept)
    settings = [f"{names[key]}={format_value(value)}" for key, value in values.items()]
    return " ".join([*settings, *([] if row.seed is None else [f"seed={row.seed}"])])


def _describe_durations(summary: Summary) -> str:
    seconds = sorted(e.seconds for e in (*summary.rows, *summary.final) if e.seconds is not None and e.status == "done")
    if not seconds:
        return ""
    middle, total = seconds[len(seconds) // 2], sum(seconds)
    around = f"{_format_time(middle)} (median), {_format_time(seconds[0])} to {_format_time(seconds[-1])}"
    return f"{_format_time(total)} of training in all; a run took {around}."


def _format_time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
