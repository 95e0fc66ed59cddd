"""What a sweep leaves in its directory: every run as CSV, the ranking as markdown, and one page with its charts."""

from __future__ import annotations

import base64
import csv
import io
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup
from matplotlib.figure import Figure

from medassay.core.files import whole
from medassay.protocols import pages
from medassay.reporting import figures as drawing
from medassay.reporting import html
from medassay.runs.directory import RunDirectory
from medassay.sweeps.charts import MANY, charts, tabled
from medassay.sweeps.configurations import Spread, known, number
from medassay.sweeps.entries import DASH, Entry, settings
from medassay.sweeps.summary import Summary, cell, headlines, labels, seeds_of, shown, verdict

_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def write(summary: Summary, figures: Sequence[tuple[str, Path]] = ()) -> list[Path]:
    """Leaves ``summary.csv``, ``summary.md``, ``sweep.html`` and ``figures/*.png`` in the sweep's directory.

    Args:
        summary: what there is to say.
        figures: further pictures for the page, each with its title.

    Returns:
        The files written.

    Raises:
        OutputError: a file cannot be written.
    """
    drawn = charts(summary)
    files = {
        "summary.csv": as_csv(summary),
        "summary.md": as_markdown(summary),
        "sweep.html": as_page(summary, drawn, figures),
    }
    for name, text in files.items():
        with whole(summary.path / name) as partial:
            partial.write_text(text, encoding="utf-8", newline="")
    pictures = {f"figures/{name}.png": figure for name, (figure, _) in drawn.items()}
    for name, figure in pictures.items():
        drawing.save(figure, summary.path / name)
    return [summary.path / name for name in (*files, *pictures)]


def further_figures(path: Path) -> list[tuple[str, Path]]:
    """Pictures in a sweep's ``figures/`` that are none of this report's, each with a title."""
    own = ("effect_", "parallel", "curves_")
    files = sorted(file for file in (path / "figures").glob("*.png") if not file.name.startswith(own))
    return [(file.stem.replace("_", " ").capitalize(), file) for file in files]


# --- tables ----------------------------------------------------------------------------------------------------------


def as_csv(summary: Summary) -> str:
    """A line per run: what it was, its settings, all its single numbers, and how long it took."""
    runs = [*((entry, "sweep") for entry in summary.entries), *((entry, "final") for entry in summary.final)]
    names = list(dict.fromkeys(name for entry, _ in runs for name in entry.values))
    names.sort(key=lambda name: name != summary.metric)
    ranks = {id(e): rank for rank, c in enumerate(summary.configurations, 1) for e in c.entries}
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["status", "part", "rank", "seed", *summary.swept, *names, "seconds", "directory", "reason"])
    for entry, part in runs:
        seed = "" if entry.seed is None else entry.seed
        values = [_plain(entry.values.get(name)) for name in names]
        given = settings(entry, summary.swept).values()
        about = [_plain(entry.seconds), _relative(summary, entry), entry.reason or ""]
        writer.writerow([entry.status, part, ranks.get(id(entry), ""), seed, *given, *values, *about])
    return written.getvalue()


def _plain(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else repr(value)


def _relative(summary: Summary, entry: Entry) -> str:
    """The job's directory as seen from the sweep's."""
    return str(entry.path.relative_to(summary.path)) if entry.path.is_relative_to(summary.path) else str(entry.path)


def as_markdown(summary: Summary) -> str:
    """The verdict, the ranking, the chosen one's test numbers, the effects of single settings, and what failed."""
    parts = [f"# Sweep {summary.name}", "\n\n".join(verdict(summary)), "## Configurations, best first"]
    heads, rows = ranking(summary)
    parts.append(_table([heads, *rows]))
    parts.append(
        "Mean ± sample standard deviation over the seeds; chosen by the first number, on validation data alone."
    )
    if summary.test:
        parts.append(f"## Test images: {' '.join(summary.chosen.overrides) if summary.chosen else ''}".rstrip(": "))
        parts.append(
            _table([["number", "mean ± sd", "seeds"], *([n, str(s), str(s.n)] for n, s in summary.test.items())])
        )
    for key, values in tabled(summary).items():
        parts.append(f"## {summary.metric} by {key}")
        parts.append(_table([[key, "mean ± sd", "runs"], *([shown(v), str(s), str(s.n)] for v, s in values.items())]))
    for title, entries in troubles(summary).items():
        lines = [[_relative(summary, e), e.reason or DASH] for e in entries]
        parts += [f"## {title}", _table([["run", "reason"], *lines])]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def ranking(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the ranking: place, settings, the metric, its seeds, then other validation numbers."""
    names = labels(summary.swept)
    others = list(dict.fromkeys(name for c in summary.configurations for name in c.numbers if name != summary.metric))
    others = headlines(others, summary.metric)
    metric = summary.metric or "metric"
    heads = ["", *(names[key] for key in summary.swept), metric, "seeds", *others]
    rows = []
    for place, c in enumerate(summary.configurations, 1):
        said = [shown(value) for value in c.settings.values()]
        place_said = str(place) if c.complete else DASH
        rows.append([place_said, *said, cell(c, summary.metric), seeds_of(c), *(cell(c, name) for name in others)])
    return heads, rows


def troubles(summary: Summary) -> dict[str, list[Entry]]:
    """The jobs that have no result, by what became of them."""
    found = {
        "Failed": summary.failed,
        "Pruned": summary.pruned,
        "Interrupted or still running": summary.unfinished,
        "Waiting": summary.waiting,
    }
    return {f"{title}: {len(entries)}": entries for title, entries in found.items() if entries}


# --- page ------------------------------------------------------------------------------------------------------------


def as_page(summary: Summary, drawn: Mapping[str, tuple[Figure, str]], figures: Sequence[tuple[str, Path]] = ()) -> str:
    """``sweep.html`` with its charts and further pictures."""
    heads, rows = ranking(summary)
    pictures = {n: (html.svg(figure, n.replace("_", "-"), said), said) for n, (figure, said) in drawn.items()}
    return html.page(
        "sweep.html.j2",
        summary=summary,
        settings=" ".join(summary.best.overrides) if summary.best else "",
        chosen_settings=" ".join(summary.chosen.overrides) if summary.chosen else "",
        tiles=_tiles(summary),
        reading=_reading(summary),
        warnings=_warnings(summary),
        heads=heads,
        metric_place=1 + len(summary.swept),
        rows=[(row, c is summary.best) for row, c in zip(rows, summary.configurations, strict=True)],
        many=MANY,
        full_names=[(short, key) for key, short in labels(summary.swept).items() if short != key],
        test=[(name, str(spread), spread.n) for name, spread in summary.test.items()],
        effects={
            key: [(shown(value), str(spread), spread.n) for value, spread in values.items()]
            for key, values in tabled(summary).items()
        },
        pictures={
            kind: [picture for name, picture in pictures.items() if name.startswith(kind)]
            for kind in ("effect", "parallel", "curves")
        },
        extra=[(title, _embedded(file)) for title, file in figures if file.is_file() and file.suffix in _TYPES],
        troubles={
            title: [(_relative(summary, e), _settings_said(summary, e), e.reason or DASH) for e in entries]
            for title, entries in troubles(summary).items()
        },
        durations=_durations(summary),
        runs=[_run_line(summary, entry) for entry in (*summary.entries, *summary.final)],
        command=_command(summary.record.get("command")),
    )


def _command(overrides: Sequence[str] | None) -> str | None:
    """What to type to run the sweep again; None where it is not recorded."""
    if not overrides:
        return None
    return shlex.join(["python", "train.py", "-m", *(text for text in overrides if text not in ("-m", "--multirun"))])


def _tiles(summary: Summary) -> list[tuple[str, str, str, str]]:
    """Name, value, its deviation and a note of the headline numbers."""
    best, done = summary.best, len(summary.having("done"))
    tiles = []
    if best is not None:
        name = summary.metric or ""
        tiles.append((f"Best {name}", *_halves(best.numbers[name]), f"validation, seeds {seeds_of(best)}"))
    for name in headlines(summary.test, summary.metric, 1):
        tiles.append((name, *_halves(summary.test[name]), f"test images, n = {summary.test[name].n}"))
    total = len(summary.entries) + len(summary.final)
    tiles.append(("Configurations", str(len(summary.configurations)), "", ", ".join(labels(summary.swept).values())))
    return [*tiles, ("Runs finished", f"{done} of {total}", "", _lost(summary))]


def _halves(spread: Spread) -> tuple[str, str]:
    mean, sign, sd = str(spread).partition("±")
    return mean.strip(), sign + sd


def _lost(summary: Summary) -> str:
    counts = {
        "failed": summary.failed,
        "pruned": summary.pruned,
        "interrupted or running": summary.unfinished,
        "waiting": summary.waiting,
    }
    return ", ".join(f"{len(entries)} {word}" for word, entries in counts.items() if entries)


def _reading(summary: Summary) -> str:
    """How far the first is ahead, in words."""
    best, metric = summary.best, summary.metric or ""
    if best is None:
        return ""
    first = best.numbers[metric]
    others = [c.numbers[metric] for c in summary.configurations if c.complete and c is not best]
    if not others:
        return "No other configuration has all its seeds: nothing was chosen among several."
    behind = abs(first.mean - others[0].mean)
    if first.sd is None:
        return f"The next one lies {number(behind)} behind; with one seed each, chance alone may have ordered them."
    near = sum(abs(first.mean - other.mean) <= first.sd for other in others)
    if near:
        return f"{near} of {len(others)} others lie within one standard deviation of it: their order is uncertain."
    return f"The next one lies {number(behind)} behind, more than one standard deviation over the seeds."


def _warnings(summary: Summary) -> list[str]:
    """What a reader must know first."""
    origins = []
    for entry in summary.having("done"):
        data = RunDirectory(entry.path).record().get("data") or {}
        origins.append(pages.origin(data.get("real", data)))
    failed = len(summary.failed)
    lost = f"{failed} of {len(summary.entries) + len(summary.final)} runs failed; their reasons stand below."
    return list(dict.fromkeys(pages.said(*origins, *summary.notes, lost if failed else None)))


def _embedded(file: Path) -> str:
    content = base64.b64encode(file.read_bytes()).decode("ascii")
    return f"data:{_TYPES[file.suffix]};base64,{content}"


def _settings_said(summary: Summary, entry: Entry) -> str:
    names, values = labels(summary.swept), settings(entry, summary.swept)
    said = [f"{names[key]}={shown(value)}" for key, value in values.items()]
    return " ".join([*said, *([] if entry.seed is None else [f"seed={entry.seed}"])])


def _durations(summary: Summary) -> str:
    seconds = sorted(
        e.seconds for e in (*summary.entries, *summary.final) if e.seconds is not None and e.status == "done"
    )
    if not seconds:
        return ""
    middle, total = seconds[len(seconds) // 2], sum(seconds)
    around = f"{_time(middle)} (median), {_time(seconds[0])} to {_time(seconds[-1])}"
    return f"{_time(total)} of training in all; a run took {around}."


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _run_line(summary: Summary, entry: Entry) -> dict[str, Any]:
    return {
        "name": _relative(summary, entry),
        "link": Markup(quote(_relative(summary, entry)) + "/"),
        "status": entry.status,
        "settings": _settings_said(summary, entry),
        "metric": number(known(entry, summary.metric)),
        "seconds": DASH if entry.seconds is None else _time(entry.seconds),
        "final": entry in summary.final,
    }
