"""The command line ``evaluate``: one protocol on one run, on several, or on images from elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from medassay import config as configuration
from medassay.config.command_line import is_hydra, list_values, pair_arguments, parse, run_hydra, single_value
from medassay.core.errors import ConfigError

OK, FAILED = 0, 1


@dataclass(frozen=True)
class EvaluateSettings:
    """The keys at the top of evaluate.yaml that are not text; see there."""

    resize: bool = False


def run_evaluate(argv: list[str]) -> int:
    if "-m" in argv or "--multirun" in argv:
        raise ConfigError("evaluate.py takes one command at a time: leave out -m")
    overrides = parse(argv)
    paths, samples = list_values(overrides, "run"), single_value(overrides, "samples")
    if not paths and any(o.key_or_group == "run" for o in overrides):
        raise ConfigError("run=: give one run directory, or several as a list: 'run=[a,b]'")
    if paths and samples is not None:
        raise ConfigError("run= and samples= both say what to evaluate: give one of them")
    if not paths and samples is None and not any(argument.startswith("-") for argument in argv):
        raise ConfigError(
            "run= is missing: python evaluate.py run=<run directory>, e.g. run=outputs/pneumonia_cnn/<run>, run=[a,b] or a "
            "sweep's directory; images from elsewhere: samples=<npz or folder> data=<data set>"
        )
    extra: list[str] = []
    from medassay.evaluation import evaluate as evaluation
    from medassay.evaluation import several

    if not any(o.key_or_group == "protocol" for o in overrides):
        fitting = "assay" if samples is not None else evaluation.choose_protocol(paths) if paths else "classification"
        extra.append(f"protocol={fitting}")
    known = ("run", "samples", "resize", "outputs", "protocol")
    changes = {
        argument: o
        for argument, o in pair_arguments(argv)
        if o is not None and not is_hydra(o) and o.key_or_group.partition(".")[0] not in known
    }
    passed = [argument for argument in argv if argument not in changes]
    found: list[DictConfig] = []

    def job(cfg: DictConfig) -> None:
        found.append(cfg)

    run_hydra("evaluate", job, [*passed, *extra])
    if not found:  # --help, --cfg: nothing to run
        return OK
    values = configuration.resolve(found[0])
    configuration.check_arguments({"resize": values["resize"]}, EvaluateSettings, "")
    if values["resize"] and samples is None:
        raise ConfigError("resize=true is for samples=: a run's own images have the size of its data")
    protocol, outputs = values["protocol"], Path(values["outputs"])
    configuration.check(protocol, "protocol")
    if samples is not None:
        print(
            "results:", evaluation.evaluate_samples(samples, protocol, list(changes), outputs, resize=values["resize"])
        )
        return OK
    keys = {o.key_or_group: o.value() for o in changes.values()}
    if not several.is_several(paths):
        print("results:", evaluation.evaluate(paths[0], protocol, keys, outputs))
        return OK
    evaluations = several.evaluate_many(paths, protocol, keys, outputs, evaluation.evaluate)
    for run, reason in evaluations.failed:
        print(f"medassay: {run} failed: {reason}", file=sys.stderr)
    print("results:", evaluations.directory)
    return FAILED if evaluations.failed else OK
