"""Hydra's Optuna sweeper for studies that are stopped and started again: a restart runs only the trials that remain."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import DictConfig, OmegaConf

from medassay.config.command_line import parse
from medassay.core.errors import CheckpointError, ConfigError
from medassay.runs.table import TRAINER_PLACES
from medassay.sweeps import study as studies
from medassay.sweeps.directory import SweepDirectory, code_hash

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)

ANOTHER = "give this search another sweep.name, or start it anew with sweep.force=true"
SAMPLERS = ("hydra_plugins.hydra_optuna_sweeper.*", "optuna.samplers.*")  # what hydra.sweeper.sampler may name
# these draw one sequence and remember in the study how far they are: another seed would be another sequence
SEQUENCES = ("optuna.samplers.QMCSampler",)


class OptunaStudySweeper(OptunaSweeper):
    """Hydra's own sweeper, with a study that goes on where an earlier command left it.

    ``n_trials`` counts the trials of the study that finished, not those of this command. A trial that a killed command
    left running, or that failed, is tried again with its own parameters, so that its job finds its own directory and
    checkpoint; once per command. A trial that fails again makes room for a new one. ``direction`` null follows
    ``sweep.mode``.
    """

    def __init__(self, **settings: Any) -> None:
        _quiet()
        super().__init__(**settings)
        self._sampler_node, self._n_trials = settings["sampler"], settings["n_trials"]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self._sampler_node.get("_target_") == "optuna.samplers.GridSampler":
            raise ConfigError(
                "hydra/sweeper/sampler=grid: a grid needs no study; give lists, key=a,b,c, with hydra/sweeper=basic"
            )
        for name, number in (("n_trials", self._n_trials), ("n_jobs", self.sweeper.n_jobs)):
            if not isinstance(number, int) or isinstance(number, bool) or number < 1:
                raise ConfigError(f"hydra.sweeper.{name}={number}: expected an integer >= 1")
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.sweeper.launcher.planned = self._n_trials  # type: ignore[union-attr]
        if self.sweeper.direction is None:
            mode = OmegaConf.select(config, "sweep.mode")
            self.sweeper.direction = "minimize" if mode == "min" else "maximize"
        self._force = bool(OmegaConf.select(config, "sweep.force", default=False))

    def sweep(self, arguments: list[str]) -> None:
        """Runs what remains of the study and writes ``optimization_results.yaml``.

        Raises:
            ConfigError: a search space that cannot be read, or a stored study of another one.
            CheckpointError: a stored study that cannot be read.
        """
        directory = Path(str(self.sweeper.sweep_dir))
        directory.mkdir(parents=True, exist_ok=True)
        space = self._space(arguments)
        with _opened(self.sweeper.storage) as storage:
            study = self._study(storage, space, arguments)
            try:
                self._run(study, space, arguments)
            finally:  # jobs that an earlier command finished belong to this sweep, too
                jobs, finished = studies.jobs(study, directory), studies.list_finished(study)
                SweepDirectory(directory).add(jobs[trial.number] for trial in finished if trial.number in jobs)

    def _run(self, study: Study, space: Mapping[str, BaseDistribution], arguments: list[str]) -> None:
        again = _queue_retries(study, space, self._n_trials)
        finished = len(studies.list_finished(study))
        self.sweeper.job_idx = finished  # jobs are numbered through the whole study
        logger.info(
            "study: %d of %d trials are finished; %d to be tried again, %d to be drawn",
            *(finished, self._n_trials, again, max(0, self._n_trials - finished - again)),
        )
        if again:
            self._trials(study, again, arguments)
        self._trials(study, max(0, self._n_trials - len(studies.list_finished(study))), arguments)
        if studies.list_finished(study) and len(study.directions) == 1:
            drawn = ", ".join(f"{name}={value}" for name, value in study.best_params.items())
            logger.info("study: the best objective is %.5g, with %s", study.best_value, drawn)

    def _trials(self, study: Study, count: int, arguments: list[str]) -> None:
        """Hydra's own loop over ``count`` trials; queued ones come first."""
        self.sweeper.storage, self.sweeper.study_name = study._storage, study.study_name
        self.sweeper.sampler = self._sampler(len(study.trials))
        self.sweeper.n_trials = count
        before = len(_ended(study))
        try:
            super().sweep(arguments)
        except ValueError:  # it looks for the best trial at its end: where all have failed there is none
            if studies.list_finished(study) or len(_ended(study)) < before + count:
                raise

    def _sampler(self, trials: int) -> Any:
        """The sampler, seeded so that it does not repeat what it drew for the study's first ``trials`` trials."""
        import numpy as np

        node = self._sampler_node
        changes: dict[str, Any] = {}
        if trials and node.get("seed") is not None and node.get("_target_") not in SEQUENCES:
            changes["seed"] = int(np.random.SeedSequence([node.seed, trials]).generate_state(1)[0])
        return instantiate(node, **changes, _execution_whitelist_=SAMPLERS)

    def _space(self, arguments: list[str]) -> dict[str, BaseDistribution]:
        """What is searched: ``hydra.sweeper.params`` and the lists on the command line, without what that fixes."""
        from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

        self.sweeper._process_searchspace_config()
        try:
            space, fixed, _ = create_params_from_overrides([*self.sweeper._parse_sweeper_params_config(), *arguments])
        except (ValueError, NotImplementedError, AssertionError) as error:
            raise ConfigError(f"hydra.sweeper.params: {error}") from error
        return {name: distribution for name, distribution in space.items() if name not in fixed}

    def _study(self, storage: BaseStorage, space: Mapping[str, BaseDistribution], arguments: list[str]) -> Study:
        """The stored study, or a new one."""
        import optuna

        name = self.sweeper.study_name
        if self._force and name in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        directions: Any = self.sweeper._get_directions()
        study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
        if [d.name.lower() for d in study.directions] != directions:
            raise ConfigError(f"sweep.mode: the stored study is to {study.direction.name.lower()}: {ANOTHER}")
        _refuse_another_space(study, space, extended=self.sweeper.custom_search_space_extender is not None)
        _refuse_another_basis(study, arguments)
        return study


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
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"the study in {url} cannot be read ({reason}): delete that file to start anew"
        ) from error
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _ended(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _queue_retries(study: Study, space: Mapping[str, BaseDistribution], n_trials: int) -> int:
    """Queues the parameters of failed and abandoned trials that no other trial finished; gives how many are queued."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # of a command that is gone
        study._storage.set_trial_user_attr(trial._trial_id, studies.INTERRUPTED, True)
        study.tell(trial.number, state=TrialState.FAIL)
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
    return space.keys() <= params.keys() and all(
        distribution._contains(distribution.to_internal_repr(params[name])) for name, distribution in space.items()
    )


def _refuse_another_basis(study: Study, arguments: Sequence[str]) -> None:
    """Raises :class:`ConfigError` where the study's trials had other fixed settings, or ran with other code."""
    places = ("sweep", "outputs", "logger", "test", *(f"trainer.{key}" for key in TRAINER_PLACES), "data.root")
    given = [override.input_line or "" for override in parse(arguments) if not override.is_sweep_override()]
    fixed = [text for text in given if not text.startswith(tuple(f"{key}{end}" for key in places for end in "=."))]
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
    """Optuna's messages, and what it says of arguments that may yet change, are not for who only wants a search."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl").addFilter(_one_line)


def _one_line(record: logging.LogRecord) -> bool:
    """Hydra's sweeper in brief: what failed, in one line each; the launcher has said why a job did."""
    text = record.getMessage()
    if text.startswith("Failed experiment"):
        text = "a trial failed: it is tried again when the same sweep is started again"
    record.msg, record.args = text.partition("\n")[0], ()
    return record.levelno >= logging.WARNING
