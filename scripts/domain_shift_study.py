"""How often the domain-shift audit finds a planted silent failure and accuses a net without one: two arms over seeds.

usage: python scripts/domain_shift_study.py outputs/domain_shift_study [--seeds 10] [--first-seed 0] [trainer.max_epochs=6 …]

Chest phantoms. Planted: nets that never saw another contrast than the phantoms' own. Unplanted: the same with training images
of any contrast. Both are audited with lower contrast alone. What is there already is kept, so that a broken-off study goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medassay.core.errors import UserError
from medassay.core.files import read_json, write_json

ARMS: dict[str, list[str]] = {  # what is said to train.py besides the data
    "planted": [],
    "unplanted": ["data.augment.contrast=0.9"],  # factors from 0.1 to 1.9; the strongest corruption's is 0.15
}
COMMON = ["model=pneumonia_cnn", "data=chest_phantom", "data.train=1024", "data.val=256", "data.test=512", "test=false"]
AUDIT: dict[str, Any] = {"budget": "quick", "corruptions": ["contrast"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains and audits every arm and seed, writes ``study.json`` and prints a line each; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="Detection and false-alarm rates of the domain-shift audit over seeds."
    )
    parser.add_argument("output", help="where runs and study.json go")
    parser.add_argument("--seeds", type=int, default=10, help="per arm (default: 10)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them (default: 0)")
    arguments, overrides = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING)
    output, rows = Path(arguments.output), []
    try:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for arm in ARMS:
                rows.append(audit_arm(output / f"{arm}_seed-{seed}", arm, seed, overrides))
                print(f"{arm} seed {seed}: {rows[-1]['verdict']}", flush=True)
        summary = {arm: summarise([row for row in rows if row["arm"] == arm]) for arm in ARMS}
        write_json(output / "study.json", {"overrides": overrides, "arms": summary, "nets": rows})
    except UserError as error:
        print(f"domain_shift_study: {error}", file=sys.stderr)
        return 2
    for arm, one in summary.items():
        low, high = one["interval_95"]
        print(
            f"{arm}: silent failure in {one['silent']} of {one['n']} nets, exact 95 % interval [{low:.2f}, {high:.2f}]"
        )
    return 0


def audit_arm(path: Path, arm: str, seed: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """One net's verdict: trained and audited in ``path``, or read from there.

    Args:
        path: Directory of the run.
        arm: One of ``ARMS``.
        seed: Seed of the training.
        overrides: More that is said to train.py.
    """
    from medassay import train_run
    from medassay.evaluation.evaluate import evaluate, load_protocol_node

    if not list(path.glob("eval/domain_shift_*/metrics.json")):
        if not (path / "metrics.json").exists():
            train_run(*COMMON, f"seed={seed}", *overrides, *ARMS[arm], directory=path)
        evaluate(str(path), load_protocol_node("domain_shift", **AUDIT), {}, path)
    results = read_json(sorted(path.glob("eval/domain_shift_*/domain_shift.json"))[0])
    return {"run": str(path), "arm": arm, "seed": seed, "level": results["level"], "verdict": results["verdict"]}


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The number of nets, of silent failures and of every level, and the exact 95 % interval of the silent ones' share."""
    from medassay.metrics.estimates import estimate_share

    levels = [str(row["level"]) for row in rows]
    share = estimate_share(levels.count("silent"), len(levels))
    counts = {level: levels.count(level) for level in sorted(set(levels))}
    return {
        "n": len(levels),
        "silent": levels.count("silent"),
        "levels": counts,
        "interval_95": [share.low, share.high],
    }


if __name__ == "__main__":
    sys.exit(main())
