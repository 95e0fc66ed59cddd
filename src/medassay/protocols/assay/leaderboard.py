"""Many assays beside each other: which can be compared, who is better, and whether the encoders agree on that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from medassay.core.errors import CheckpointError
from medassay.core.paths import find_kind
from medassay.core.results import read_result
from medassay.protocols.assay.results import AssayResults, Row

RANKED = ("frechet", "kid", "precision", "coverage")  # what generators are ranked by, in every encoder's features


@dataclass(frozen=True)
class Assayed:
    """One assay: its directory, the run directory or file of samples that was judged, and what ``assay.json`` says."""

    path: Path
    source: str
    results: AssayResults

    @property
    def conditions(self) -> tuple[Any, ...]:
        """What has to be equal for two assays to stand in one table."""
        results, learned = self.results, self.results.performance
        described = tuple(f"{name}: {text}" for name, text in results.encoders.items())
        conditions = (results.real.digest, results.split, results.m, learned.steps, len(learned.seeds), results.version)
        return (*conditions, described)


@dataclass(frozen=True)
class Table:
    """Assays that can be compared, best TSTR balanced accuracy first, and :func:`measure_rank_agreement` over them."""

    assays: list[Assayed]
    agreement: dict[str, dict[str, float]]


def find_assays(paths: Iterable[str | Path]) -> list[Assayed]:
    """The latest assay of every generator below ``paths``.

    Raises:
        CheckpointError: a path that does not exist, a file that cannot be read, or no assay below any of them.
    """
    files: set[Path] = set()
    for path in map(Path, paths):
        if find_kind(path, CheckpointError) is None:
            raise CheckpointError(f"{path} does not exist: give run directories, or folders that hold some")
        files |= set(path.rglob("assay_*/assay.json"))
    latest: dict[tuple[Any, ...], Assayed] = {}
    for file in sorted(files, key=lambda file: (file.stat().st_mtime, str(file))):
        results = read_result(AssayResults, file, "delete it, or assay the generator again")
        source = str(results.generator.get("run") or results.generator.get("samples"))
        place = _find_run(file) or source  # a moved run is the same
        weights = results.generator.get("checkpoint")  # other ones than those that were chosen
        changes = {"checkpoint": weights} if weights else {}
        changes |= results.generator.get("sampling", {})  # settings other than the trained ones
        settings = tuple(f"{key}={value}" for key, value in changes.items())
        assayed = Assayed(file.parent, ", ".join([source, *settings]), results)
        latest[place, settings, *assayed.conditions] = assayed
    if not latest:
        raise CheckpointError(
            f"no assay in {', '.join(map(str, paths))}: make one with python evaluate.py run=<generator's run>"
        )
    return list(latest.values())


def _find_run(file: Path) -> str | None:
    """The run directory that an assay lies in, ``<run>/eval/assay_<...>/assay.json``; None for an assay that lies elsewhere."""
    parents = file.resolve().parents
    is_inside = len(parents) > 2 and parents[1].name == "eval" and (parents[2] / "run.json").is_file()
    return str(parents[2]) if is_inside else None


def group_comparable(assays: Iterable[Assayed]) -> list[Table]:
    """The assays, grouped into tables of comparable ones; the largest first."""
    groups: dict[tuple[Any, ...], list[Assayed]] = {}
    for one in assays:
        groups.setdefault(one.conditions, []).append(one)
    for members in groups.values():
        members.sort(key=lambda one: -one.results.performance.tstr.balanced_accuracy.value)
    tables = [
        Table(members, measure_rank_agreement([one.results.judged for one in members])) for members in groups.values()
    ]
    return sorted(tables, key=lambda table: -len(table.assays))


def measure_rank_agreement(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Kendall's τ (b, ties counted) of every two encoders' rankings: ``{metric: {"encoder, encoder": τ}}``.

    1: both rank alike; 0: unrelated; -1: opposite. With few generators it can take few values; of one there is none.
    """
    agreement: dict[str, dict[str, float]] = {}
    for metric in RANKED if len(rows) > 1 else ():
        scores = {name: [getattr(row.encoders[name], metric).value for row in rows] for name in rows[0].encoders}
        agreement[metric] = {
            f"{one}, {other}": float(kendalltau(scores[one], scores[other]).statistic)
            for one, other in combinations(scores, 2)
        }
    return agreement
