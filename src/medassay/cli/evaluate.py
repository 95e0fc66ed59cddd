"""The command line ``evaluate``: one protocol on one run, on several, or on images from elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from medassay import config as configuration
from medassay.cli.help import HELP, describe_command
from medassay.config.command_line import (
    SHOWING,
    find_value,
    is_hydra,
    list_override_texts,
    list_values,
    parse,
    run_hydra,
    start_log,
)
from medassay.core.errors import ConfigError, advise

OK, FAILED = 0, 1
RESULTS = {
    "full": "free some space, or put the results on another disk with eval_dir=<directory>",
    "refused": "put the results where you can write, with eval_dir=<directory>",
}
# other keys are changes of the run's configuration
OWN_KEYS = ("run", "checkpoint", "samples", "resize", "outputs", "eval_dir", "protocol")


@dataclass(frozen=True)
class EvaluateSettings:
    """The keys at the top of evaluate.yaml that say how and where; see there."""

    outputs: str
    resize: bool = False
    eval_dir: str | None = None
    checkpoint: str = "best"


def run_evaluate(argv: list[str]) -> int:
    """Does what the arguments ask for and gives the exit code; raises :class:`UserError` where they are wrong."""
    if HELP & set(argv):
        chosen = any(argument.startswith("protocol=") for argument in argv)
        print(describe_command("evaluate", argv if chosen else [*argv, "protocol=classification"]))
        return OK
    overrides = parse(argv)
    flags = {argument.partition("=")[0] for argument in argv if argument.startswith("-")}
    if flags & {"-m", "--multirun"}:
        raise ConfigError("evaluate.py takes one command at a time: leave out -m")
    paths, samples = list_values(overrides, "run"), find_value(overrides, "samples")
    if flags & SHOWING:
        run_hydra("evaluate", lambda cfg: None, [*argv, *_choose_protocol(overrides, paths, samples)])
        return OK
    _refuse_unclear(overrides, paths, samples)
    changes = [o for o in overrides if o.key_or_group.partition(".")[0] not in OWN_KEYS and not is_hydra(o)]
    texts = [str(change.input_line) for change in changes]
    own = [text for text in list_override_texts(argv) if text not in texts]
    cfg = configuration.compose("evaluate", [*own, *_choose_protocol(overrides, paths, samples)])
    start_log(cfg, configuration.find_run_directory(cfg))
    values = configuration.resolve(cfg)
    settings = {key: values[key] for key in ("resize", "outputs", "eval_dir", "checkpoint")}
    configuration.check_arguments(settings, EvaluateSettings, "")
    checkpoint = values["checkpoint"]
    if values["resize"] and samples is None:
        raise ConfigError("resize=true is for samples=: a run's own images have the size of its data")
    if checkpoint != "best" and samples is not None:
        raise ConfigError(f"checkpoint={checkpoint}: samples= have none; leave it out")
    protocol, outputs = values["protocol"], Path(values["outputs"])
    eval_dir = None if values["eval_dir"] is None else Path(values["eval_dir"])
    configuration.check(protocol, "protocol")
    if samples is None:
        keys = {o.key_or_group: o.value() for o in changes}
        return _evaluate_runs(paths, protocol, keys, outputs, eval_dir, checkpoint)
    from medassay.evaluation.evaluate import evaluate_samples

    with advise(**RESULTS):
        directory = evaluate_samples(samples, protocol, texts, outputs, resize=values["resize"], eval_dir=eval_dir)
    print("results:", directory)
    return OK


def _refuse_unclear(overrides: Sequence[Override], paths: Sequence[str], samples: str | None) -> None:
    """Raises :class:`ConfigError` where nothing, or more than one thing, is named to be evaluated."""
    if paths and samples is not None:
        raise ConfigError("run= and samples= both say what to evaluate: give one of them")
    if not paths and any(override.key_or_group == "run" for override in overrides):
        raise ConfigError("run=: give one run directory, or several as a list: 'run=[a,b]'")
    if not paths and samples is None:
        raise ConfigError(
            "run= is missing: python evaluate.py run=<run directory>, e.g. run=outputs/pneumonia_cnn/<run>, run=[a,b] or a "
            "sweep's directory; images from elsewhere: samples=<npz or folder> data=<data set>"
        )


def _choose_protocol(overrides: Sequence[Override], paths: Sequence[str], samples: str | None) -> list[str]:
    """The protocol that fits where none is named, as an override."""
    if any(override.key_or_group == "protocol" for override in overrides):
        return []
    if samples is not None:
        return ["protocol=assay"]
    if not paths:
        return ["protocol=classification"]  # to be shown
    from medassay.evaluation.evaluate import choose_protocol

    return [f"protocol={choose_protocol(paths)}"]


def _evaluate_runs(
    paths: Sequence[str],
    protocol: dict[str, Any],
    changes: dict[str, Any],
    outputs: Path,
    eval_dir: Path | None,
    checkpoint: str,
) -> int:
    """One protocol on one run or on several; gives the exit code: 1 where it failed on some of several."""
    from medassay.evaluation import several
    from medassay.evaluation.evaluate import evaluate

    def evaluate_one(path: str, protocol: Mapping[str, Any], changes: Mapping[str, Any], outputs: Path) -> Path:
        with advise(**RESULTS):
            return evaluate(path, protocol, changes, outputs, eval_dir=eval_dir, checkpoint=checkpoint)

    if not several.is_several(paths):
        print("results:", evaluate_one(paths[0], protocol, changes, outputs))
        return OK
    with advise(**RESULTS):
        evaluations = several.evaluate_many(paths, protocol, changes, outputs, evaluate_one, eval_dir, checkpoint)
    for run, reason in evaluations.failed:
        print(f"medassay: {run} failed: {reason}", file=sys.stderr)
    print("report:", evaluations.directory / "report.html")
    print("results:", evaluations.directory)
    return FAILED if evaluations.failed else OK
