"""How often the fairness audit finds a planted disparity and accuses nets without one: many seeds, rates with their intervals.

usage: python scripts/fairness_study.py outputs/fairness_study [--data chest_phantom] [--seeds 10] [--arms alike,planted]
                                        [trainer.max_epochs=10 data.train=1024 …]

Each arm is trained once per seed, on images and groups of that seed, and audited. What is there already is kept, so that a
broken-off study goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medassay.core.errors import UserError
from medassay.core.files import read_json, write_json, write_text

SHARE = "data.group.share=0.3"  # of the images are of the second scanner
BLURRED = ["data.group.kind=blur", SHARE]
MIXED = "data.group.share=[0.15,0.85]"  # of healthy and of ill images: the scanner says much about the class
ARMS = {  # what is said to train.py besides the data
    "alike": [*BLURRED, "data.group.strength=0"],
    "planted": [*BLURRED, "data.group.strength=1"],
    "weak": [*BLURRED, "data.group.strength=0.4"],
    "alike_mixed": [*BLURRED, "data.group.strength=0", MIXED],
    "shortcut": ["data.group.kind=contrast", "data.group.strength=0.5", MIXED],
    "balanced": ["data.group.kind=contrast", "data.group.strength=0.5", MIXED, "data.balance=class_group"],
}
DISPARITY = (
    "planted",
    "weak",
    "shortcut",
    "balanced",
)  # arms whose groups' images differ; the others' differ by name alone
SIZES = {  # small enough for ten seeds in minutes
    "chest_phantom": ["data.train=1024", "data.val=256", "data.test=1024", "trainer.max_epochs=10"],
    "blood_phantom": ["data.train=2048", "data.val=256", "data.test=2048", "trainer.max_epochs=10"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, audits, writes ``study.json`` and ``study.md`` and prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(description="Detection and false-alarm rates of the fairness audit over seeds.")
    parser.add_argument("output", help="where runs, study.json and study.md go")
    parser.add_argument("--data", default="chest_phantom", choices=[*SIZES], help="(default: chest_phantom)")
    parser.add_argument("--seeds", type=int, default=10, help="per arm (default: 10)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them (default: 0)")
    parser.add_argument(
        "--arms", type=arms, default="alike,planted", help=f"of {','.join(ARMS)} (default: the first two)"
    )
    parser.add_argument("--budget", default="full", choices=["quick", "full"], help="of the audit (default: full)")
    arguments, overrides = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING)
    output = Path(arguments.output) / arguments.data
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arguments.arms}
    try:
        for seed in seeds:
            for arm in arguments.arms:
                # images and groups of their own for each seed: audits of the same test images would not be independent
                own = [f"seed={seed}", f"data.phantom_seed={seed}", f"data.group.seed={seed}"]
                settings = [f"data={arguments.data}", *SIZES[arguments.data], *own, *ARMS[arm], *overrides]
                found[arm].append(audited(output / f"{arm}_seed-{seed}", settings, arguments.budget))
                print(f"{arm} seed {seed}: {found[arm][-1]['verdict']}", flush=True)
        results = {arm: summary(rows) for arm, rows in found.items()}
        write_json(output / "study.json", {"overrides": overrides, "arms": results, "nets": found})
        table = as_markdown(results, arguments.data)
        write_text(output / "study.md", table)
    except UserError as error:
        print(f"fairness_study: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


def arms(text: str) -> list[str]:
    """The arms named in ``a,b``."""
    chosen = text.split(",")
    if unknown := set(chosen) - ARMS.keys():
        raise argparse.ArgumentTypeError(f"no such arm: {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
    return chosen


def audited(path: Path, overrides: Sequence[str], budget: str) -> dict[str, Any]:
    """One net's numbers: trained and audited in ``path``, or read from there."""
    from medassay import train_run
    from medassay.evaluation.evaluate import evaluate, load_protocol_node

    if not list(path.glob("eval/fairness_*/metrics.json")):
        if not (path / "metrics.json").exists():
            train_run("model=pneumonia_cnn", "test=false", *overrides, directory=path)
        evaluate(str(path), load_protocol_node("fairness", budget=budget), {}, path)
    file = sorted(path.glob("eval/fairness_*/metrics.json"))[0]
    results = read_json(file.with_name("fairness.json"))
    one = results["comparisons"][0]
    gaps = {name: gap["value"]["mean"] for name, gap in one["gaps"].items()}
    accuracy = {group["name"]: group["metrics"]["accuracy"]["mean"] for group in one["groups"]}
    return {"run": str(path), "verdict": results["verdict"], "level": results["level"], **gaps, "groups": accuracy}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the verdicts, the rate of ``found`` with its exact 95 % interval (Clopper & Pearson 1934), and ranges."""
    from scipy.stats import binomtest

    levels = [row["level"] for row in rows]
    found = levels.count("found")
    low, high = binomtest(found, len(rows)).proportion_ci(0.95)
    ranges = {name: _find_range(row[name] for row in rows) for name in ("equalised_odds", "accuracy")}
    ranges |= {f"accuracy of {group}": _find_range(row["groups"][group] for row in rows) for group in rows[0]["groups"]}
    counts = {level: levels.count(level) for level in ("found", "undecided", "none")}
    return {"n": len(rows), **counts, "rate": found / len(rows), "interval_95": [low, high], "ranges": ranges}


def _find_range(values: Any) -> list[float]:
    numbers = sorted(values)
    return [numbers[0], numbers[-1]]


def as_markdown(results: dict[str, Any], data: str) -> str:
    """A line per arm."""
    names = list(next(iter(results.values()))["ranges"])
    head = ["arm", "groups differ in", "nets", "disparity found", "95 % interval", "undecided", "none found", *names]
    lines = [head, ["---"] * len(head)]
    for arm, one in results.items():
        low, high = one["interval_95"]
        spans = [f"{a:.2f} to {b:.2f}" for a, b in one["ranges"].values()]
        counts = [str(one["n"]), f"{one['found']} ({one['rate']:.0%})", f"[{low:.2f}, {high:.2f}]"]
        differ = "images" if arm in DISPARITY else "name alone"
        lines.append([arm, differ, *counts, str(one["undecided"]), str(one["none"]), *spans])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## Fairness audit on {data}\n\n{text}\n\nRanges over nets.\n"


if __name__ == "__main__":
    sys.exit(main())
