"""Many assays as tables: which generators can be compared, and whether the encoders agree on who is better."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau

from medassay.core.errors import CheckpointError

RANKED = ("frechet", "kid", "precision", "coverage")  # what generators are ranked by, in every encoder's features


@dataclass(frozen=True)
class Assayed:
    """One assay.

    Attributes:
        path: its directory.
        source: the run directory or file of samples that was judged.
        results: what ``assay.json`` says.
    """

    path: Path
    source: str
    results: dict[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The generator's row of the comparison table."""
        found: dict[str, Any] = self.results["rows"][0]
        return found


@dataclass(frozen=True)
class Table:
    """Assays that can be compared: the same real images, numbers of samples, encoders and training of classifiers.

    Attributes:
        data: name of the data set.
        m: samples in every row.
        assays: one per generator, best TSTR balanced accuracy first.
        agreement: ``{metric: {"encoder, encoder": Kendall's τ}}`` over the generators; empty for fewer than two.
    """

    data: str
    m: int
    assays: list[Assayed]
    agreement: dict[str, dict[str, float]]


def find(paths: Iterable[str | Path]) -> list[Assayed]:
    """The latest assay of every generator below ``paths``.

    Raises:
        CheckpointError: a path that does not exist, a file that cannot be read, or no assay below any of them.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise CheckpointError(f"{path} does not exist: give run directories, or folders that hold some")
        files += path.rglob("assay_*/assay.json")
    latest: dict[tuple[str, ...], Assayed] = {}
    for file in sorted(set(files), key=lambda file: (file.stat().st_mtime, str(file))):
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            generator = results["generator"]
            source = str(generator.get("run") or generator["samples"])
            key = (str(file.parents[2].resolve()) if "run" in generator else source, *map(str, _comparable(results)))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} cannot be read ({error}): delete it, or assay the generator again"
            ) from error
        latest[key] = Assayed(file.parent, source, results)
    if not latest:
        raise CheckpointError(
            f"no assay in {', '.join(map(str, paths))}: make one with python evaluate.py run=<generator's run>"
        )
    return list(latest.values())


def _comparable(results: dict[str, Any]) -> tuple[Any, ...]:
    """What has to be equal for two assays to stand in one table."""
    learned = results["performance"]
    described = tuple(f"{name}: {text}" for name, text in results["encoders"].items())
    return (
        results["real"]["digest"],
        results["split"],
        results["m"],
        learned["steps"],
        len(learned["seeds"]),
        described,
    )


def tables(assays: Iterable[Assayed]) -> list[Table]:
    """The assays, grouped into tables of comparable ones; the largest first."""
    groups: dict[tuple[Any, ...], list[Assayed]] = {}
    for assayed in assays:
        groups.setdefault(_comparable(assayed.results), []).append(assayed)
    found = []
    for members in groups.values():
        members.sort(key=lambda a: -a.results["performance"]["arms"]["TSTR"]["balanced_accuracy"]["mean"])
        first = members[0].results
        found.append(Table(first["data"]["name"], first["m"], members, rank_agreement([a.row for a in members])))
    return sorted(found, key=lambda table: -len(table.assays))


def rank_agreement(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Kendall's τ (b, ties counted) between every two encoders' ranking of the generators, for each ranked metric.

    1: both rank alike; 0: unrelated; -1: opposite. With few generators it can take few values: with three, four.
    """
    if len(rows) < 2:
        return {}
    names = list(rows[0]["encoders"])
    found: dict[str, dict[str, float]] = {}
    for metric in RANKED:
        scores = {name: [row["encoders"][name][metric]["mean"] for row in rows] for name in names}
        found[metric] = {
            f"{one}, {other}": float(kendalltau(scores[one], scores[other]).statistic)
            for one, other in combinations(names, 2)
        }
    return found
