"""``train -m``: a sweep from its command line to the summary in its directory."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.plugin import Plugin
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.config.command_line import find_swept_keys, is_hydra, pair_arguments, parse, quote_value, run_hydra
from medassay.config.moved import find_present_key
from medassay.core.errors import ConfigError, TrainingError, UserError, advise
from medassay.core.paths import expand_home
from medassay.runs.directory import RunDirectory
from medassay.runs.settings import SweepSettings
from medassay.runs.table import DATA_PLACES, TRAINER_PLACES
from medassay.sweeps.directory import SweepDirectory, now
from medassay.sweeps.job import TrainJob
from medassay.sweeps.launchers.base import SweepLauncher
from medassay.sweeps.launchers.serial import SerialLauncher
from medassay.sweeps.sweepers.arguments import ArgumentsSweeper

if TYPE_CHECKING:
    from medassay.sweeps.summary import Summary

OK, FAILED = 0, 1
OF_THE_SWEEP = ("sweep", "search", "outputs", "test", "tags", "notes")  # keys that all its jobs share
# what a search says of its sweeper: further seeds of one configuration do not need it
SWEEPER = ("hydra/sweeper", "hydra.sweeper")
KNOWN_SPACES = (  # sweepers that draw from nothing but hydra.sweeper.params and the command line
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "medassay.sweeps.sweepers.arguments.ArgumentsSweeper",
    "medassay.sweeps.sweepers.optuna_study.OptunaStudySweeper",
)


def multirun(argv: Sequence[str], overrides: Sequence[Override]) -> int:
    """Runs all jobs that are not finished, writes the summary, and gives the exit code: 1 if a job failed.

    Args:
        argv: The command line.
        overrides: The overrides in it.

    Raises:
        UserError: Something is wrong with the command line as a whole; a job's own errors are listed instead.
    """
    directory, settings, added, here = _prepare_sweep(overrides)
    sweep = SweepDirectory(directory)
    placed = any(override.key_or_group == "hydra.sweep.dir" for override in overrides)
    elsewhere = f"choose another place with {'hydra.sweep.dir' if placed else 'outputs'}=<directory>"
    with advise(full="free some space, then start the same command again", refused=elsewhere), sweep.lock():
        command = [argument for argument, _ in pair_arguments(argv) if argument not in ("-m", "--multirun")]
        sweep.begin(name=directory.name, command=command, metric=settings.metric, mode=settings.mode)
        place = f"hydra.sweep.dir={quote_value(str(directory))}"
        try:
            ended_early: TrainingError | None = None
            try:
                _launch([*argv, *added, place])
            except TrainingError as error:  # of a study: its jobs are summarised nonetheless
                ended_early = error
            hydra = [a for a, o in pair_arguments([*argv, *added]) if o is not None and is_hydra(o)]
            hydra = [*(a for a in hydra if not a.startswith(SWEEPER)), place]
            return _conclude(sweep, settings, hydra, here, ended_early)
        except KeyboardInterrupt as error:
            again = ""
            with suppress(UserError, OSError):  # its record is damaged, say: an interruption it is still
                again = _describe_repetition(sweep, settings)
            _say(f"interrupted; finished jobs are kept: start the same command again{again} to continue")
            return 128 + int(getattr(error, "signum", signal.SIGINT))
        except Exception:
            with suppress(UserError, OSError):  # the directory is gone, say: the reason still reaches the terminal
                _leave_nothing_of(sweep)
            raise


def _leave_nothing_of(sweep: SweepDirectory) -> None:
    """Removes the directory of a sweep that failed before its first job."""
    files = [sweep.path / name for name in ("sweep.json", "multirun.yaml", ".lock")]
    if not sweep.jobs() and set(sweep.path.iterdir()) <= set(files):
        for file in files:
            file.unlink(missing_ok=True)
        sweep.path.rmdir()


def _prepare_sweep(overrides: Sequence[Override]) -> tuple[Path, SweepSettings, list[str], dict[str, Any]]:
    """The sweep's directory, its settings, what to add to the command line (whether jobs look at test images), and where the
    command says that data and device are."""
    plain: list[str] = []
    for override in overrides:
        if override.is_sweep_override():
            if override.key_or_group.partition(".")[0] in OF_THE_SWEEP or is_hydra(override):
                raise ConfigError(f"{override.input_line}: one value for the whole sweep, please")
        elif override.key_or_group == "hydra.sweep.subdir":
            raise ConfigError(
                f"{override.input_line}: a sweep finds what is finished by the names that it gives to its jobs' directories; "
                "leave it out (sweep.name and hydra.sweep.dir name the sweep's own)"
            )
        elif override.input_line is not None:
            plain.append(override.input_line)
    cfg = configuration.compose_with_hydra("train", plain)
    params = OmegaConf.to_container(
        OmegaConf.select(cfg, "hydra.sweeper.params") or OmegaConf.create({}), resolve=False
    )
    assert isinstance(params, dict)
    for key in map(str, params):
        if (now_called := find_present_key(key)) is not None:
            raise ConfigError(f"hydra.sweeper.params.{key}: it is called {now_called} now")
    swept = find_swept_keys([*parse([f"{key!s}={value}" for key, value in params.items()]), *overrides])
    node = configuration.resolve(OmegaConf.create({"sweep": cfg.sweep}))["sweep"]
    configuration.check(node, "sweep")
    over_seeds = swept <= {"seed"} and _is_space_known(cfg.hydra.sweeper)
    added = [] if cfg.test is not None else [f"test={str(over_seeds).lower()}"]
    _find_plugin(cfg.hydra.sweeper, Sweeper)
    if not issubclass(_find_plugin(cfg.hydra.launcher, Launcher), SweepLauncher):
        added.append("hydra/launcher=serial")
        if any(override.key_or_group == "hydra/launcher" for override in overrides):
            _say("that launcher can neither list nor skip jobs: hydra/launcher=serial runs them")
    places = {*(f"trainer.{key}" for key in TRAINER_PLACES), *(f"data.{key}" for key in DATA_PLACES)}
    named = {override.key_or_group for override in overrides if not override.is_sweep_override()} & places
    values = {key: OmegaConf.select(cfg, key) for key in sorted(named)}
    here = {key: OmegaConf.to_container(one) if OmegaConf.is_config(one) else one for key, one in values.items()}
    return expand_home(str(cfg.hydra.sweep.dir)).absolute(), configuration.build(node), added, here


def _is_space_known(sweeper: DictConfig) -> bool:
    """Whether the jobs of this sweeper differ in nothing but the keys that the configuration and the command line say."""
    return sweeper._target_ in KNOWN_SPACES and sweeper.get("custom_search_space") is None


def _find_plugin(node: DictConfig, kind: type[Plugin]) -> type[Plugin]:
    """The class of a launcher or sweeper; one that Hydra has not found by itself is made known to it."""
    target = str(node._target_)
    plugins = {f"{plugin.__module__}.{plugin.__name__}": plugin for plugin in Plugins.instance().discover(kind)}
    if target in plugins:
        return plugins[target]
    plugin: Any = configuration.locate(target, "hydra")
    Plugins.instance().register(plugin)
    return plugin  # type: ignore[no-any-return]


def _launch(argv: Sequence[str]) -> None:
    for plugin in (SerialLauncher, ArgumentsSweeper):
        Plugins.instance().register(plugin)
    run_hydra("train", TrainJob(), argv)


def _conclude(
    sweep: SweepDirectory,
    settings: SweepSettings,
    hydra: list[str],
    here: Mapping[str, Any],
    ended_early: TrainingError | None,
) -> int:
    """Makes the choice, tests it, writes the summary; gives the exit code. Nothing is tested where the sweep ended early.

    ``here`` says where data and device are now, ``hydra`` what further seeds have on their command line.
    """
    from medassay.sweeps import page, study, summary

    result = summary.summarise(sweep.path, settings.metric, settings.mode)
    failure: Exception | None = None
    if result.best is not None and settings.final and not result.unfinished and ended_early is None:
        try:
            _test_chosen(sweep, settings, result, hydra, here)
        except Exception as error:  # the summary is written nonetheless
            failure = error
        result = summary.summarise(sweep.path, settings.metric, settings.mode)
    if settings.keep == "none":
        _forget_checkpoints(result)
    sweep.update(ended=now())
    page.write_summary(result, study.draw_study(sweep.path))
    for line in result.lines():
        print(line)
    print(f"summary: {sweep.path / 'sweep.html'}")
    if failure is not None:
        raise failure
    without_result = [*result.failed, *result.unfinished, *result.waiting]
    for row in without_result:
        _say(f"job {row.path.name} {row.status}: {row.reason or 'see its directory'}")
    if without_result:
        total = len(result.rows) + len(result.final)
        again = _describe_repetition(sweep, settings)
        _say(f"{len(without_result)} of {total} jobs failed; start the same command again{again} to retry them")
    if ended_early is not None:
        _say(str(ended_early))
    return FAILED if without_result or ended_early else OK


def _test_chosen(
    sweep: SweepDirectory, settings: SweepSettings, result: Summary, hydra: list[str], here: Mapping[str, Any]
) -> None:
    """Trains the further seeds of the chosen configuration and looks at the test set with all its runs."""
    best = result.best
    assert best is not None
    assert result.metric is not None
    first = next(job for job in sweep.jobs() if job.directory.resolve() == best.counted[0].path.resolve())
    fixed = [override for override in first.overrides if not override.startswith("seed=")]
    sweep.choose(
        configuration=best.configuration,
        overrides=fixed,
        seeds=best.seeds,
        metric=result.metric,
        mean=best.numbers[result.metric].value,
        sd=best.numbers[result.metric].sd,
    )
    further = [seed for seed in settings.final_seeds or [] if seed not in best.seeds]
    if further:
        _launch(["-m", *fixed, f"seed={','.join(map(str, further))}", *hydra, "hydra/sweeper=arguments"])
    from medassay.evaluation.evaluate import choose_protocol, evaluate, load_protocol_node
    from medassay.runs.load import join_overrides

    paths = [*(row.path for row in best.counted), *(job.directory for job in sweep.jobs(final=True))]
    runs = [RunDirectory(path) for path in paths]
    protocol = load_protocol_node(choose_protocol([str(paths[0])]))
    for run in runs:
        if run.state() == "done" and not _is_tested(run):
            print(f"testing {run.path.name}")
            config = run.config()
            known = {f"{group}.{name}" for group in ("data", "trainer") for name in config[group]}
            now = {key: value for key, value in here.items() if key in known}
            places = join_overrides(run.record().get("resumed_with", {}), now)
            evaluate(str(run.path), protocol, {}, Path(config["outputs"]), places)


def _is_tested(run: RunDirectory) -> bool:
    """Whether the run has been measured on test images already."""
    evaluations = [RunDirectory(directory).metrics() for directory in run.evaluations()]
    return any("test" in numbers for numbers in (run.metrics(), *evaluations)) or any(
        "assay" in numbers and numbers.get("protocol", {}).get("split") == "test" for numbers in evaluations
    )


def _forget_checkpoints(result: Summary) -> None:
    """Removes the weights of all jobs except those of the chosen configuration."""
    if result.chosen is None or result.failed or result.unfinished or result.waiting:
        return  # they may be needed yet
    chosen = {row.path.resolve() for row in result.chosen.rows}
    for row in result.rows:
        if row.path.resolve() not in chosen:
            shutil.rmtree(row.path / "checkpoints", ignore_errors=True)


def _describe_repetition(sweep: SweepDirectory, settings: SweepSettings) -> str:
    """What the same command must say besides to go on with this sweep."""
    placed = any(override.startswith("hydra.sweep.dir=") for override in sweep.record().get("command", []))
    named = "" if settings.name or placed else f" with sweep.name={sweep.path.name}"
    return named + (" and without sweep.force" if settings.force else "")


def _say(line: str) -> None:
    print(f"medassay: {line}", file=sys.stderr)
