"""The one place that writes what a protocol found: JSON, metrics, pictures, TensorBoard events, further files, the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from medassay.core.files import atomic_write, write_json, write_text
from medassay.core.results import to_json
from medassay.evaluation.about import About, flatten, format_command, list_warnings
from medassay.evaluation.protocol import Page, Report
from medassay.reporting import figures, html
from medassay.reporting.charts import Chart
from medassay.reporting.tensorboard import add_results
from medassay.runs.directory import describe_environment
from medassay.runs.table import collect_single_numbers

logger = logging.getLogger(__name__)


def write_report(report: Report, about: About, record: Mapping[str, Any], directory: Path) -> None:
    """Leaves what ``report`` holds in ``directory``, and says its verdict.

    ``<protocol>.json`` has the command, what was evaluated, the results and the environment; ``metrics.json`` the command
    and the single numbers; then ``figures/``, ``tensorboard/``, ``report.html`` and the report's own files. Each of its parts
    leaves the same in a directory of its own below.

    Args:
        report: What a protocol found.
        about: What was evaluated.
        record: The command: ``run`` or ``samples``, ``protocol``, ``overrides`` and the run's ``status``.
        directory: A new one.

    Raises:
        OutputError: a file cannot be written.
    """
    _write_files(report, about, record, directory, describe_environment())
    for line in report.verdict:
        logger.info("%s", line)
    if report.page is not None:
        logger.info("report: %s", directory / "report.html")


def _write_files(
    report: Report,
    about: About,
    record: Mapping[str, Any],
    directory: Path,
    here: Mapping[str, Any],
    whole: str | None = None,
) -> None:
    """All files of a report and of its parts; ``whole`` is the address of the page that this one is a part of."""
    for part in report.parts:
        own = {**record, "protocol": dict(part.protocol)}
        _write_files(part.report, part.about, own, directory / part.name, here, "../report.html")
    facts = to_json(about)
    results = {**record, **facts, "environment": here, **to_json(report.results)}
    write_json(directory / f"{record['protocol']['name']}.json", results)
    drawn = {name: one.figure if isinstance(one, Chart) else one for name, one in report.figures.items()}
    for name, figure in drawn.items():
        figures.save_figure(figure, directory / "figures" / f"{name}.png")
    for inside, content in report.files.items():
        _write_file(directory / inside, content)
    if report.metrics and not report.parts:  # parts have events of their own
        _add_events(report, about, drawn, directory)
    if report.page is not None:
        write_text(directory / "report.html", _render_page(report, report.page, about, record, here, whole))
    if report.metrics:  # last: where it is, the evaluation is whole
        write_json(directory / "metrics.json", {**record, **to_json(report.metrics)})


def _write_file(path: Path, content: Any) -> None:
    if isinstance(content, Figure):
        figures.save_figure(content, path)
    elif isinstance(content, str):
        write_text(path, content)
    else:
        with atomic_write(path) as partial:
            content(partial)


def _add_events(report: Report, about: About, drawn: Mapping[str, Figure], directory: Path) -> None:
    known = {
        "name": about.name,
        "model": about.model,
        "data": about.data["name"],
        "seed": about.seed,
        "split": report.split,
    }
    add_results(
        directory / "tensorboard",
        step=0,
        pictures=[directory / "figures" / f"{name}.png" for name in drawn],
        text={"verdict": "\n\n".join(report.verdict)},
        hyperparameters={k: v for k, v in known.items() if v is not None} | dict(report.hyperparameters),
        metrics=collect_single_numbers(to_json(report.metrics)),
    )


def _render_page(
    report: Report,
    page: Page,
    about: About,
    record: Mapping[str, Any],
    here: Mapping[str, Any],
    whole: str | None = None,
) -> str:
    charts = {name: one for name, one in report.figures.items() if isinstance(one, Chart)}
    return html.render_page(
        page.template.absolute(),
        **page.values,
        results=report.results,
        about=about,
        record=record,
        split=report.split,
        warnings=[*list_warnings(about, record, report.split), *report.warnings],
        charts=html.inline_charts(charts),
        whole=whole,
        command=format_command(record),
        provenance=dict(flatten(about.data)),
        environment=dict(flatten(here)),
    )
