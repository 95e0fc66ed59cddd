"""How often the shortcut audit catches infected nets and accuses clean ones: many seeds, rates with their intervals.

usage: python scripts/shortcut_study.py outputs/shortcut_study [--data chest_phantom] [--seeds 10] [--arms clean,infected]
                                        [trainer.max_epochs=10 data.train=1024 …]

Each arm is trained once per seed and audited. What is there already is kept, so that a broken-off study goes on.
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

SHARE = 0.9  # of the class's images that carry the stamp, in most arms
DATE = ["data.stamp.kind=date", "data.stamp.label=pneumonia", f"data.stamp.share={SHARE}"]
ARMS = {  # what is said to train.py besides the data
    "clean": [],
    "infected": DATE,
    "other_class": [*DATE, "data.stamp.label=normal"],
    "faint": [*DATE, "data.stamp.opacity=0.3"],
    "every": [*DATE, "data.stamp.share=1.0"],
    "half": [*DATE, "data.stamp.share=0.5"],
    "text": [*DATE, "data.stamp.kind=text", "data.stamp.position=top_right"],
    "square": [*DATE, "data.stamp.kind=square", "data.stamp.position=bottom_left"],
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, audits, writes ``study.json`` and ``study.md`` and prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(description="Detection and false-alarm rates of the shortcut audit over seeds.")
    parser.add_argument("output", help="where runs, study.json and study.md go")
    parser.add_argument("--data", default="chest_phantom", help="chest_phantom (default) or pneumoniamnist")
    parser.add_argument("--seeds", type=int, default=10, help="per arm (default: 10)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them (default: 0)")
    parser.add_argument(
        "--arms", type=arms, default="clean,infected", help=f"of {','.join(ARMS)} (default: the first two)"
    )
    parser.add_argument("--heat-maps", type=int, default=100, help="images per group for heat maps (default: 100)")
    arguments, overrides = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING)
    output = Path(arguments.output) / arguments.data
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arguments.arms}
    try:
        for seed in seeds:
            for arm in arguments.arms:
                path = output / f"{arm}_seed-{seed}"
                settings = [f"data={arguments.data}", f"seed={seed}", *overrides, *ARMS[arm]]
                found[arm].append(audited(path, settings, arguments.heat_maps))
                last = found[arm][-1]
                print(f"{arm} seed {seed}: {last['verdict']} ({last['outranks']:.2f} of pairs)", flush=True)
        results = {arm: summary(rows) for arm, rows in found.items()}
        write_json(output / "study.json", {"overrides": overrides, "arms": results, "nets": found})
        table = as_markdown(results, arguments.data)
        write_text(output / "study.md", table)
    except UserError as error:
        print(f"shortcut_study: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


def arms(text: str) -> list[str]:
    """The arms named in ``a,b``."""
    chosen = text.split(",")
    if unknown := set(chosen) - ARMS.keys():
        raise argparse.ArgumentTypeError(f"no such arm: {', '.join(sorted(unknown))}; known: {', '.join(ARMS)}")
    return chosen


def audited(path: Path, overrides: Sequence[str], heat_maps: int) -> dict[str, Any]:
    """One net's numbers: trained and audited in ``path``, or read from there."""
    from medassay import train_run
    from medassay.evaluation.evaluate import evaluate, load_protocol_node

    if not list(path.glob("eval/shortcut_*/shortcut.json")):
        if not (path / "metrics.json").exists():
            train_run("model=pneumonia_cnn", "test=false", *overrides, directory=path)
        evaluate(str(path), load_protocol_node("shortcut", heat_maps=heat_maps), {}, path)
    file = sorted(path.glob("eval/shortcut_*/shortcut.json"))[0]
    results = read_json(file)
    metrics = read_json(file.parent / "metrics.json")["shortcut"]
    return {"run": str(path), "verdict": results["verdict"], "level": results["level"], **metrics}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts of the verdicts, the rate of ``learned`` with its exact 95 % interval (Clopper & Pearson 1934), and ranges."""
    from scipy.stats import binomtest

    levels = [row["level"] for row in rows]
    learned = levels.count("learned")
    low, high = binomtest(learned, len(rows)).proportion_ci(0.95)
    ranges = {
        name: [min(row[name] for row in rows), max(row[name] for row in rows)]
        for name in ("outranks", "drawn_over", "heat_in_stamp_others", "accuracy_clean", "accuracy_as_trained")
    }
    counts = {level: levels.count(level) for level in ("learned", "sensitive", "undecided", "none")}
    return {"n": len(rows), **counts, "rate": learned / len(rows), "interval_95": [low, high], "ranges": ranges}


def as_markdown(results: dict[str, Any], data: str) -> str:
    """A line per arm."""
    head = [
        "arm", "nets", "learned the stamp", "95 % interval", "sensitive", "undecided", "no sign", "pairs outranked",
        "drawn over", "heat in stamp", "accuracy, clean", "accuracy, as trained",
    ]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for arm, one in results.items():
        low, high = one["interval_95"]
        spans = [f"{a:.2f} to {b:.2f}" for a, b in one["ranges"].values()]
        share = f"{one['rate']:.0%}"
        counts = [str(one["n"]), f"{one['learned']} ({share})", f"[{low:.2f}, {high:.2f}]"]
        lines.append([arm, *counts, str(one["sensitive"]), str(one["undecided"]), str(one["none"]), *spans])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## Shortcut audit on {data}\n\n{text}\n\nRanges over nets, of the class on which the stamp does most.\n"


if __name__ == "__main__":
    sys.exit(main())
