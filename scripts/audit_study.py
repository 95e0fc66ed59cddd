"""How often an audit finds a planted fault, and how often it accuses nets without one: many seeds, rates with their intervals.

usage: python scripts/audit_study.py shortcut outputs/shortcut_study [--seeds 10] [--arms clean,infected]
                                     [protocol.heat_maps=50 trainer.max_epochs=10 data=pneumoniamnist …]

Audits: shortcut, domain_shift, fairness, adversarial, inversion. Each arm is trained once per seed, on phantoms of that seed,
and audited. Settings go to train.py, those that begin with protocol. to evaluate.py. What is there already is kept, so that
a broken-off study goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medassay.core.errors import UserError
from medassay.core.files import read_json, write_json, write_text


@dataclass(frozen=True)
class Arm:
    """Nets that are trained in one way.

    Attributes:
        fault: Whether they have the fault that the audit looks for.
        settings: What is said to train.py; ``{seed}`` stands for the seed.
    """

    fault: bool
    settings: Sequence[str] = ()


@dataclass(frozen=True)
class Study:
    """What is trained and audited.

    Attributes:
        found: Levels of the verdict that say that the fault is there.
        arms: Ways of training by name; the first with the fault and the first without are the default.
        settings: What is said to train.py in every arm.
        numbers: Columns of the table by name: keys of the audit's own part of ``metrics.json``.
        protocol: Settings of the audit.
        level: Key of the level in ``<audit>.json``.
    """

    found: Sequence[str]
    arms: Mapping[str, Arm]
    settings: Sequence[str]
    numbers: Mapping[str, str]
    protocol: Mapping[str, Any] = field(default_factory=dict)
    level: str = "level"


CHEST = ["model=pneumonia_cnn", "data=chest_phantom"]
SMALL = [*CHEST, "data.train=1024", "data.val=256", "data.test=512", "trainer.max_epochs=10"]  # seconds a net
DATE = ["data.stamp.kind=date", "data.stamp.label=pneumonia", "data.stamp.share=0.9"]
BLUR = [
    "data.group.kind=blur",
    "data.group.share=0.3",
    "data.group.seed={seed}",
]  # 0.3 of the images are of the second scanner
MIXED = "data.group.share=[0.15,0.85]"  # of healthy and of ill images: the scanner says much about the class
CONTRAST = ["data.group.kind=contrast", "data.group.strength=0.5", MIXED, "data.group.seed={seed}"]

STUDIES = {
    "shortcut": Study(
        found=["learned"],
        arms={
            "infected": Arm(True, DATE),
            "clean": Arm(False),
            "other_class": Arm(True, [*DATE, "data.stamp.label=normal"]),
            "faint": Arm(True, [*DATE, "data.stamp.opacity=0.3"]),
            "every": Arm(True, [*DATE, "data.stamp.share=1.0"]),
            "half": Arm(True, [*DATE, "data.stamp.share=0.5"]),
            "text": Arm(True, [*DATE, "data.stamp.kind=text", "data.stamp.position=top_right"]),
            "square": Arm(True, [*DATE, "data.stamp.kind=square", "data.stamp.position=bottom_left"]),
        },
        settings=SMALL,
        numbers={
            "pairs outranked": "outranks",
            "drawn over": "drawn_over",
            "heat in stamp": "heat_in_stamp_others",
            "accuracy, clean": "accuracy_clean",
            "accuracy, as trained": "accuracy_as_trained",
        },
        protocol={"heat_maps": 100},
    ),
    # Nets that never saw another contrast than the phantoms' own, and nets that saw any; both audited with lower contrast alone
    "domain_shift": Study(
        found=["silent"],
        arms={
            "one_contrast": Arm(True),
            "any_contrast": Arm(
                False, ["data.augment.contrast=0.9"]
            ),  # factors from 0.1 to 1.9; the strongest corruption's is 0.15
        },
        settings=[*SMALL, "trainer.max_epochs=6"],
        numbers={
            "accuracy, lowest contrast": "contrast/5/accuracy",
            "confidence, lowest contrast": "contrast/5/confidence",
        },
        protocol={"budget": "quick", "corruptions": ["contrast"]},
    ),
    # Arms without the fault have groups that differ by name alone
    "fairness": Study(
        found=["found"],
        arms={
            "planted": Arm(True, [*BLUR, "data.group.strength=1"]),
            "alike": Arm(False, [*BLUR, "data.group.strength=0"]),
            "weak": Arm(True, [*BLUR, "data.group.strength=0.4"]),
            "alike_mixed": Arm(False, [*BLUR, "data.group.strength=0", MIXED]),
            "shortcut": Arm(True, CONTRAST),
            "balanced": Arm(True, [*CONTRAST, "data.balance=class_group"]),
        },
        settings=[*SMALL, "data.test=1024"],
        numbers={
            "equalised odds": "equalised_odds/scanner",
            "accuracy gap": "accuracy/scanner",
            "accuracy, worse group": "worst_accuracy/scanner",
        },
    ),
    # The fault of every net that is trained plainly, and nets that were trained against it
    "adversarial": Study(
        found=["fragile"],
        arms={"plain": Arm(True), "hardened": Arm(False, ["model.adversarial_epsilon=3", "model.adversarial_steps=3"])},
        settings=[*CHEST, "data.train=4096", "data.val=256", "data.test=512", "trainer.max_epochs=15"],
        numbers={
            "lead kept": "kept",
            "balanced accuracy": "clean/balanced_accuracy",
            "attacked": "attacked/balanced_accuracy",
        },
        protocol={"budget": "quick", "images": 400},
        level="verdict",
    ),
    # A net that is known to leak (Zhu et al. 2019), and one with fewer weights than an image has pixels
    "inversion": Study(
        found=["recognisable"],
        arms={"lenet": Arm(True, ["model/net=lenet"]), "tiny": Arm(False, ["model.net.width=1"])},
        settings=[*SMALL, "data.test=64", "trainer.max_epochs=4"],
        numbers={
            "PSNR, dB": "psnr/trained",
            "gain over the nearest image, dB": "psnr_gain/trained",
            "first": "first/trained",
        },
        protocol={"budget": "quick", "images": 4, "noise": [], "pruning": []},
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Trains, audits, writes ``study.json`` and ``study.md`` and prints the table; gives the exit code."""
    parser = argparse.ArgumentParser(description="Detection and false-alarm rates of an audit over seeds.")
    parser.add_argument("audit", choices=[*STUDIES])
    parser.add_argument("output", help="where runs, study.json and study.md go")
    parser.add_argument("--seeds", type=int, default=10, help="per arm (default: 10)")
    parser.add_argument("--first-seed", type=int, default=0, help="of them (default: 0)")
    parser.add_argument("--arms", help="a,b (default: one with the fault and one without)")
    arguments, overrides = parser.parse_known_args(argv)
    logging.basicConfig(level=logging.WARNING)
    study, output = STUDIES[arguments.audit], Path(arguments.output)
    rows: list[dict[str, Any]] = []
    try:
        arms = choose_arms(study, arguments.arms)
        training, protocol = divide(study, overrides)
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            for arm in arms:
                settings = list_settings(study, arm, training, seed)
                keep_settings(output / f"{arm}_seed-{seed}.json", {"training": settings, "audit": protocol})
                row = audit_net(output / f"{arm}_seed-{seed}", arguments.audit, settings, protocol)
                rows.append({"arm": arm, "seed": seed, **row})
                print(f"{arm} seed {seed}: {row['level']}", flush=True)
        results = {arm: summarise(study, arm, [row for row in rows if row["arm"] == arm]) for arm in arms}
        write_json(output / "study.json", {"overrides": overrides, "arms": results, "nets": rows})
        write_text(output / "study.md", table := format_table(arguments.audit, results))
    except UserError as error:
        print(f"audit_study: {error}", file=sys.stderr)
        return 2
    print(table)
    return 0


def choose_arms(study: Study, named: str | None) -> list[str]:
    """The arms named in ``a,b``, or the first of each kind.

    Raises:
        UserError: There is no arm of that name.
    """
    if named is None:
        return [next(name for name, arm in study.arms.items() if arm.fault is fault) for fault in (True, False)]
    if unknown := set(named.split(",")) - study.arms.keys():
        raise UserError(f"--arms: no such arm: {', '.join(sorted(unknown))}; known: {', '.join(study.arms)}")
    return named.split(",")


def divide(study: Study, overrides: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What is said to train.py, and the settings of the audit: those of the study and of ``protocol.…=…``."""
    own = [text.removeprefix("protocol.").split("=", 1) for text in overrides if text.startswith("protocol.")]
    if any(len(pair) < 2 for pair in own):
        raise UserError("settings of the audit are protocol.<key>=<value>")
    training = [text for text in overrides if not text.startswith("protocol.")]
    return training, {**study.protocol, **{key: read_value(value) for key, value in own}}


def read_value(text: str) -> Any:
    """A number, list or null as JSON writes it; anything else is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def list_settings(study: Study, arm: str, overrides: Sequence[str], seed: int) -> list[str]:
    """What is said to train.py. Phantoms are of the seed too: audits of the same test images would not be independent.

    Real images have no such seed, and are as many as there are: the study's numbers of phantoms are left out.

    Raises:
        UserError: The arm needs groups that only phantoms can be given.
    """
    arms = study.arms[arm].settings
    data = [text for text in [*study.settings, *overrides] if text.startswith("data=")][-1]
    if data.endswith("_phantom"):
        own = [f"data.phantom_seed={seed}", *study.settings]
    else:
        if any(text.startswith("data.group.") for text in arms):
            raise UserError(f"{data}: the groups of arm '{arm}' are drawn into phantoms: choose one of these")
        own = [text for text in study.settings if not text.startswith(("data.train=", "data.val=", "data.test="))]
    said = [*own, *overrides, *arms]
    return [text.replace("{seed}", str(seed)) for text in [f"seed={seed}", "test=false", *said]]


def keep_settings(file: Path, settings: dict[str, Any]) -> None:
    """Writes what a net is made with; raises :class:`UserError` where one is there that was made otherwise."""
    if file.exists() and read_json(file) != settings:
        raise UserError(
            f"{file.with_suffix('')} was trained or audited with other settings ({file.name}); give another directory, or "
            "remove both"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def audit_net(path: Path, audit: str, settings: Sequence[str], protocol: Mapping[str, Any]) -> dict[str, Any]:
    """One net's verdict and numbers: trained and audited in ``path``, or read from there."""
    from medassay import train_run
    from medassay.evaluation.evaluate import evaluate, load_protocol_node

    if not list(path.glob(f"eval/{audit}_*/metrics.json")):
        if not (path / "metrics.json").exists():
            train_run(*settings, directory=path)
        evaluate(str(path), load_protocol_node(audit, **protocol), {}, path)
    file = sorted(path.glob(f"eval/{audit}_*/metrics.json"))[0]
    results = read_json(file.with_name(f"{audit}.json"))
    metrics = read_json(file)[audit]
    numbers = {name: metrics.get(key) for name, key in STUDIES[audit].numbers.items()}
    return {"run": str(path), "level": results[STUDIES[audit].level] or "not judged", "numbers": numbers}


def summarise(study: Study, arm: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers of nets, of accused ones with the exact 95 % interval of their share, and of each level; ranges."""
    from medassay.metrics.estimates import estimate_share

    levels = [row["level"] for row in rows]
    found = sum(level in study.found for level in levels)
    share = estimate_share(found, len(levels))
    return {
        "fault": study.arms[arm].fault,
        "n": len(levels),
        "found": found,
        "interval_95": [share.low, share.high],
        "levels": {level: levels.count(level) for level in sorted(set(levels))},
        "ranges": dict(list_ranges(rows)),
    }


def list_ranges(rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, list[float] | None]]:
    """Smallest and largest of each number over the nets; None where no net has it."""
    for name in rows[0]["numbers"]:
        values = [row["numbers"][name] for row in rows if row["numbers"][name] is not None]
        yield name, [min(values), max(values)] if values else None


def format_table(audit: str, results: Mapping[str, dict[str, Any]]) -> str:
    """A line per arm, as markdown."""
    names = list(next(iter(results.values()))["ranges"])
    lines = [["arm", "has the fault", "nets", "accused", "95 % interval", "verdicts", *names]]
    lines.append(["---"] * len(lines[0]))
    for arm, one in results.items():
        spans = [f"{span[0]:.2f} to {span[1]:.2f}" if span else "–" for span in one["ranges"].values()]
        low, high = one["interval_95"]
        levels = ", ".join(f"{count} {level.replace('_', ' ')}" for level, count in one["levels"].items())
        fault = "yes" if one["fault"] else "no"
        lines.append([arm, fault, str(one["n"]), str(one["found"]), f"[{low:.2f}, {high:.2f}]", levels, *spans])
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"## Audit study: {audit}\n\n{text}\n\nThe last {len(names)} columns are ranges over the nets.\n"


if __name__ == "__main__":
    sys.exit(main())
