"""Optuna studies that are stopped and started again: a restart runs only the trials that remain."""

from __future__ import annotations

import inspect
import logging
import math
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.config.command_line import parse
from medassay.core.errors import ConfigError, TrainingError
from medassay.core.types import PositiveInt, Probability
from medassay.runs.table import TRAINER_PLACES
from medassay.sweeps import study as studies
from medassay.sweeps.directory import SweepDirectory, code_hash
from medassay.sweeps.launchers.base import SweepLauncher
from medassay.sweeps.sweepers.search_space import SearchSpace, read_search_space

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import Trial

logger = logging.getLogger(__name__)

ANOTHER = "give this search another sweep.name, or start it anew with sweep.force=true"
SAMPLERS = "optuna.samplers.*"  # what hydra.sweeper.sampler may name


class OptunaStudySweeper(Sweeper):
    """Draws the trials of a study, launches them in batches, and goes on where an earlier command left the study.

    A trial that a killed command left running, or that failed, is tried again with its own parameters, so that its job
    finds its own directory and checkpoint; once per command. A trial that fails again makes room for a new one.

    Args:
        sampler: The node of Optuna's sampler.
        direction: Whether more or less of the objective is better; None follows ``sweep.mode``, and without it what chooses the
            model's epoch; what ranks a generator is maximised.
        storage: The URL of the database that keeps the study; None keeps it in memory.
        study_name: The name of the study in there; None for a new one with each command.
        n_trials: Number of trials of the whole study that finish, those of earlier commands included.
        n_jobs: Number of trials in a batch, which run at the same time where the launcher can.
        max_failure_rate: The study ends when a larger share of a batch fails.
        custom_search_space: The dotted name of a function ``(config, trial)`` that suggests further parameters.
        params: What is searched, by key, in the words of the command line.
    """

    def __init__(
        self,
        sampler: Any,
        direction: Literal["minimize", "maximize"] | None = None,
        storage: str | None = None,
        study_name: str | None = "study",
        n_trials: PositiveInt = 20,
        n_jobs: PositiveInt = 2,
        max_failure_rate: Probability = 1.0,
        custom_search_space: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        _quiet()
        self.sampler, self.direction, self.storage, self.study_name = sampler, direction, storage, study_name
        self.n_trials, self.n_jobs, self.max_failure_rate = n_trials, n_jobs, max_failure_rate
        self.custom_search_space, self.params = custom_search_space, params
        self.suggest_further: Callable[[DictConfig, Trial], object] | None = None

    config: DictConfig
    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See Hydra's sweeper.

        Raises:
            ConfigError: A setting that cannot be.
        """
        configuration.check_arguments(config.hydra.sweeper, type(self), "hydra.sweeper")
        self.config = config
        self._build_sampler(trials=0)  # to know now what is wrong with it
        if self.custom_search_space is not None:
            self.suggest_further = _find_function(self.custom_search_space)
        if self.direction is None:
            self.direction = "minimize" if _choose_mode(config) == "min" else "maximize"
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        if isinstance(self.launcher, SweepLauncher):
            self.launcher.planned = self.n_trials

    def sweep(self, arguments: list[str]) -> None:
        """Runs what remains of the study and writes ``optimization_results.yaml``.

        Raises:
            ConfigError: A search space that cannot be read, or a stored study of another one.
            CheckpointError: A stored study that cannot be read.
            TrainingError: More trials of a batch have failed than ``max_failure_rate`` allows.
        """
        directory = Path(str(self.config.hydra.sweep.dir))
        directory.mkdir(parents=True, exist_ok=True)
        space = read_search_space([*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments])
        with _opened(self.storage) as storage:
            study = self._open_study(storage, space, arguments)
            try:
                self._run(study, storage, space)
            finally:  # jobs that an earlier command finished belong to this sweep, too
                jobs, finished = studies.match_jobs(study, directory), studies.list_finished(study)
                SweepDirectory(directory).add(jobs[trial.number] for trial in finished if trial.number in jobs)

    def _run(self, study: Study, storage: BaseStorage, space: SearchSpace) -> None:
        _end_abandoned(study, storage)
        retries = _queue_retries(study, space.distributions, self.n_trials)
        finished = len(studies.list_finished(study))
        logger.info(
            "study: %d of %d trials are finished; %d to be tried again, %d to be drawn",
            *(finished, self.n_trials, retries, max(0, self.n_trials - finished - retries)),
        )
        self._run_trials(study, space, retries, number=finished)  # jobs are numbered through the whole study
        remaining = max(0, self.n_trials - len(studies.list_finished(study)))
        self._run_trials(study, space, remaining, number=finished + retries)
        if studies.list_finished(study):
            params = ", ".join(f"{name}={value}" for name, value in study.best_params.items())
            logger.info("study: the best objective is %.5g, with %s", study.best_value, params)
            best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
            OmegaConf.save(OmegaConf.create(best), Path(self.config.hydra.sweep.dir) / "optimization_results.yaml")

    def _run_trials(self, study: Study, space: SearchSpace, count: int, number: int) -> None:
        """Runs ``count`` trials, queued ones first, in batches of ``n_jobs``; ``number`` is that of the first job."""
        study.sampler = self._build_sampler(len(study.trials))
        for start in range(0, count, self.n_jobs):
            trials = [_ask(study, space) for _ in range(min(self.n_jobs, count - start))]
            overrides = [self._list_overrides(trial, space) for trial in trials]
            results = self.launcher.launch(overrides, initial_job_idx=number + start)
            for trial, result in zip(trials, results, strict=True):
                self._remember_directory(trial, result)
            failed = sum(not _tell(study, trial, result) for trial, result in zip(trials, results, strict=True))
            if failed > self.max_failure_rate * len(trials):
                raise TrainingError(
                    f"the study ended: {failed} of {len(trials)} trials that were run together failed, a larger share than "
                    f"hydra.sweeper.max_failure_rate={self.max_failure_rate:g}"
                )

    def _list_overrides(self, trial: Trial, space: SearchSpace) -> list[str]:
        """The overrides of the trial's job."""
        for key, value in space.fixed.items():
            trial.set_user_attr(key, value)
        if self.suggest_further is not None:
            self.suggest_further(self.config, trial)
            if overlap := sorted(trial.params.keys() & space.fixed.keys()):
                raise ConfigError(
                    f"hydra.sweeper.custom_search_space={self.custom_search_space}: suggests {overlap[0]}, which has a "
                    "fixed value; leave out one of them"
                )
        return space.list_overrides(trial.params)

    def _remember_directory(self, trial: Trial, result: JobReturn) -> None:
        """Writes down which of the sweep's directories has the trial's run, where the launcher says so."""
        if result.working_dir is None:
            return
        directory, top = Path(result.working_dir), Path(str(self.config.hydra.sweep.dir))
        if directory.parent.resolve() == top.resolve():  # Hydra's own launchers give the command's directory
            trial.set_user_attr(studies.DIRECTORY, directory.name)

    def _build_sampler(self, trials: int) -> BaseSampler:
        """The sampler, seeded so that it does not repeat what it drew for the study's first ``trials`` trials.

        Raises:
            ConfigError: A setting of the sampler that cannot be.
        """
        import numpy as np
        from optuna.samplers import GridSampler, QMCSampler

        kind = _find_function(self.sampler._target_, "hydra.sweeper.sampler._target_")
        if kind is GridSampler:
            raise ConfigError(
                "hydra/sweeper/sampler=grid: a grid needs no study; give lists, key=a,b,c, with hydra/sweeper=basic"
            )
        _check_sampler(self.sampler, kind)
        seed = self.sampler.get("seed")
        # QMCSampler remembers in the study how far its sequence is
        if trials and seed is not None and kind is not QMCSampler:
            seed = int(np.random.SeedSequence([seed, trials]).generate_state(1)[0])
        changes = {} if seed is None else {"seed": seed}
        try:
            sampler: BaseSampler = instantiate(self.sampler, **changes, _execution_whitelist_=SAMPLERS)
        except Exception as error:  # Hydra's, of whatever the sampler raises
            reason = str(error.__cause__ or error).splitlines()[0]
            raise ConfigError(f"hydra.sweeper.sampler: {reason}") from error
        return sampler

    def _open_study(self, storage: BaseStorage, space: SearchSpace, arguments: Sequence[str]) -> Study:
        """The stored study, or a new one."""
        import optuna

        force = bool(OmegaConf.select(self.config, "sweep.force", default=False))
        if force and self.study_name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=self.study_name, storage=storage)
        study = optuna.create_study(
            study_name=self.study_name, storage=storage, direction=self.direction, load_if_exists=True
        )
        if [direction.name.lower() for direction in study.directions] != [self.direction]:
            raise ConfigError(f"sweep.mode: the stored study is to {study.directions[0].name.lower()}: {ANOTHER}")
        _refuse_another_space(study, space.distributions, extended=self.suggest_further is not None)
        _refuse_another_basis(study, arguments)
        return study


def _choose_mode(config: DictConfig) -> str | None:
    """Whether more or less of what ranks the trials is better, as for the summary; None where nothing says so."""
    mode: str | None = OmegaConf.select(config, "sweep.mode")
    own = OmegaConf.select(config, "sweep.metric") is None and OmegaConf.select(config, "recipe.monitor") is not None
    if mode is None and own:
        mode = OmegaConf.select(config, "recipe.mode")
    return mode


def _ask(study: Study, space: SearchSpace) -> Trial:
    """A trial to run: a queued one, else a new one."""
    try:
        return study.ask(space.distributions)
    except ModuleNotFoundError as error:  # Optuna imports what a sampler needs when it first draws
        raise ConfigError(f"hydra.sweeper.sampler needs {error.name}: pip install {error.name}") from error


def _tell(study: Study, trial: Trial, result: JobReturn) -> bool:
    """Tells the study what became of the trial's job; gives whether it came to a number."""
    from optuna.trial import TrialState

    try:
        value = float(result.return_value)
    except Exception:  # none, no number, or the job's own error, which Hydra raises here
        value = math.nan
    if math.isnan(value):
        study.tell(trial, state=TrialState.FAIL)
        logger.warning("a trial failed: it is tried again when the same sweep is started again")
        return False
    study.tell(trial, value)
    return True


def _find_function(name: str, key: str = "hydra.sweeper.custom_search_space") -> Callable[..., Any]:
    """The function or class of the dotted name that stands at ``key``."""
    try:
        function = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}={name}: there is no such function ({error})") from error
    if not callable(function):
        raise ConfigError(f"{key}={name}: that is no function")
    return function  # type: ignore[no-any-return]


def _check_sampler(node: DictConfig, kind: Callable[..., Any]) -> None:
    """Compares each setting with the type of its default, since Optuna itself compares none.

    Raises:
        ConfigError: A setting that is of another type.
    """
    for name, parameter in inspect.signature(kind).parameters.items():
        usual, value = parameter.default, node.get(name)
        if isinstance(usual, (bool, int, float, str)) and not configuration.conforms(value, type(usual)):
            expected = configuration.describe(type(usual))
            raise ConfigError(f"hydra.sweeper.sampler.{name}={value}: expected {expected}, such as {usual}")


@contextmanager
def _opened(url: str | None) -> Iterator[BaseStorage]:
    """The storage at ``url``, in memory for None, closed afterwards."""
    import optuna

    if url is None:
        yield optuna.storages.InMemoryStorage()
        return
    try:
        storage = optuna.storages.RDBStorage(str(url))
    except Exception as error:  # SQLAlchemy's and SQLite's own, Optuna's where its version is another
        raise studies.explain_unopened(error, f"the study in {url}", "give another hydra.sweeper.storage") from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _end_abandoned(study: Study, storage: BaseStorage) -> None:
    """Marks the trials that a command left running when it ended as interrupted and failed."""
    from optuna.trial import TrialState

    study_id = storage.get_study_id_from_name(study.study_name)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_user_attr(trial_id, studies.INTERRUPTED, True)
        study.tell(trial.number, state=TrialState.FAIL)


def _queue_retries(study: Study, space: Mapping[str, BaseDistribution], n_trials: int) -> int:
    """Queues the parameters of failed trials that no other trial finished; gives how many are queued."""
    from optuna.trial import TrialState

    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    seen = [trial.params for trial in studies.list_finished(study)]
    seen += [trial.system_attrs.get("fixed_params", {}) for trial in waiting]
    room = n_trials - len(seen)
    for trial in study.get_trials(states=(TrialState.FAIL,)):
        if room > 0 and trial.params not in seen and _fits(trial.params, space):
            study.enqueue_trial(trial.params)
            seen.append(trial.params)
            room -= 1
    queued = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
    return max(0, min(queued, n_trials - len(studies.list_finished(study))))


def _fits(params: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> bool:
    """Whether every parameter was drawn before the command ended, and lies in the space that is searched now."""
    from optuna.trial import TrialState, create_trial

    if not space.keys() <= params.keys():
        return False
    try:  # it checks each value against its distribution
        create_trial(state=TrialState.WAITING, params={name: params[name] for name in space}, distributions={**space})
    except ValueError:
        return False
    return True


def _refuse_another_basis(study: Study, arguments: Sequence[str]) -> None:
    """Raises :class:`ConfigError` where the study's trials had other fixed settings, or ran with other code."""
    places = (
        "sweep",
        "outputs",
        "logger",
        "test",
        "tags",
        "notes",
        *(f"trainer.{key}" for key in TRAINER_PLACES),
        "data.root",
    )
    single = [override.input_line or "" for override in parse(arguments) if not override.is_sweep_override()]
    fixed = [text for text in single if not text.startswith(tuple(f"{key}{end}" for key in places for end in "=."))]
    basis = {"settings": sorted(fixed), "code": code_hash()}
    if studies.list_finished(study) and study.user_attrs.get("basis", basis) != basis:
        raise ConfigError(f"the stored study had other settings or other code: {ANOTHER}")
    study.set_user_attr("basis", basis)


def _refuse_another_space(study: Study, space: Mapping[str, BaseDistribution], *, extended: bool) -> None:
    """Raises :class:`ConfigError` where the study's trials were drawn from other parameters or choices."""
    from optuna.distributions import check_distribution_compatibility

    for trial in studies.list_finished(study):
        before = trial.distributions
        if not extended and (changed := sorted(before.keys() ^ space.keys())):
            raise ConfigError(f"{changed[0]}: the stored study searched other parameters: {ANOTHER}")
        for name in before.keys() & space.keys():
            try:
                check_distribution_compatibility(before[name], space[name])
            except ValueError as error:
                raise ConfigError(f"{name}: the stored study had other choices: {ANOTHER}") from error


def _quiet() -> None:
    """Silences Optuna's own messages, and its warnings of arguments that may change in another version."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
