"""A stored Optuna study: its trials, the runs they belong to, its table and its pictures."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medassay.core.addresses import hide_password
from medassay.core.errors import CheckpointError
from medassay.core.files import write_text
from medassay.core.paths import find_kind
from medassay.reporting.tables import format_csv
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import Job, SweepDirectory
from medassay.sweeps.objective import choose_objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

FILE = "study.db"
INTERRUPTED = "interrupted"  # the attribute of a trial whose command ended before it did
DIRECTORY = "directory"  # the attribute of a trial that names its run's directory, in that of the sweep
FEW = 20  # trials under which an importance is a hint at most
State = Literal["done", "pruned", "failed", "interrupted", "running", "waiting"]


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: Its number, from 1.
        state: ``done`` or ``pruned`` as the run says, else what became of the trial.
        value: The objective; None unless the trial is finished.
        params: The parameters that were drawn.
        run: The run directory; None where there is none.
    """

    number: int
    state: State
    value: float | None
    params: dict[str, Any]
    run: Path | None


def draw_study(sweep_directory: str | Path) -> list[tuple[str, Path]]:
    """Draws the study of a sweep into ``figures/`` and writes ``study.csv``; gives each picture with its title.

    Empty where there is no study, or one with fewer than two finished trials.

    Raises:
        CheckpointError: The study cannot be read.
        OutputError: A file cannot be written.
    """
    path = Path(sweep_directory)
    with open_study(path) as study:
        if study is None:
            return []
        trials = _list_trials(study, path)
        _write_table(trials, path / "study.csv")
        values = [trial for trial in trials if trial.value is not None]
        if len(values) < 2 or len(study.directions) > 1:
            return []
        from medassay.reporting.figures import save_figure  # torch and matplotlib take seconds to import
        from medassay.sweeps.figures import draw_parameter_importance, draw_study_history

        valued = [(trial.number, trial.value, trial.state) for trial in trials if trial.value is not None]
        failed = [trial.number for trial in trials if trial.state == "failed"]
        name = _find_objective_name(trials, SweepDirectory(path).record().get("metric"))
        history = draw_study_history(valued, failed, name, maximise=study.direction.name == "MAXIMIZE")
        charts = [("Optimization history", "study_history", history)]
        if shares := measure_importances(study):
            note = f"from {len(values)} trials" + (": a hint at most" if len(values) < FEW else "")
            charts.append(("Parameter importance", "study_importance", draw_parameter_importance(shares, note)))
    pictures = []
    for title, name, figure in charts:
        file = path / "figures" / f"{name}.png"
        save_figure(figure, file)
        pictures.append((title, file))
    return pictures


@contextmanager
def open_study(sweep_directory: Path) -> Iterator[Study | None]:
    """The study in ``sweep_directory``; None where there is none.

    Raises:
        CheckpointError: It cannot be read.
    """
    file = sweep_directory / FILE
    if find_kind(file, CheckpointError) != "file":
        yield None
        return
    import optuna

    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        names = optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=names[-1], storage=storage) if names else None
    except Exception as error:  # SQLAlchemy's and SQLite's own, Optuna's where its version is another
        raise explain_unopened(error, str(file), "move it elsewhere to do without its pictures") from error
    try:
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def explain_unopened(error: Exception, name: str, otherwise: str) -> CheckpointError:
    """The one-line form of an error in opening a study's database; to delete it is advised only where it is damaged.

    Args:
        error: What Optuna has raised.
        name: What the database is called.
        otherwise: The next step where it is neither damaged nor in use, and its driver is there.
    """
    of_sqlite: BaseException | None = error  # SQLAlchemy and Optuna wrap it
    while of_sqlite is not None and not isinstance(of_sqlite, sqlite3.Error):
        of_sqlite = of_sqlite.__cause__
    reason, advice = (str(of_sqlite or error) or type(error).__name__).splitlines()[0], otherwise
    if of_sqlite is not None and ("malformed" in reason or "not a database" in reason):
        advice = "restore it from a copy, or delete it to start anew"
    elif of_sqlite is not None and "locked" in reason:
        advice = "another command is using it: wait until that has ended, then start this one again"
    elif isinstance(error, ImportError):
        advice = f"install its driver ({error.__cause__}), or {otherwise}"
    return CheckpointError(hide_password(f"{name} cannot be read ({reason}): {advice}"))


def list_finished(study: Study) -> list[FrozenTrial]:
    """The trials that came to a value, or were pruned before."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def match_jobs(study: Study, sweep_directory: Path) -> dict[int, Job]:
    """The job of each trial, by the trial's number (from 0): the run in the directory that the trial names.

    A trial that names none, as of before they did, has the run whose overrides are its parameters; of several that with the
    study's fixed settings and the fewest others. The rest are further seeds of it.
    """
    runs: list[Job] = []
    for file in sorted(sweep_directory.glob("*/run.json")):
        try:
            overrides = RunDirectory(file.parent).record().get("overrides") or []
        except CheckpointError:  # cut off in the middle: the run will be done again
            continue
        runs.append(Job(file.parent, [str(text) for text in overrides]))
    job_of: dict[int, Job] = {}
    for trial in study.get_trials(deepcopy=False):
        needed = {f"{name}={value}" for name, value in trial.params.items()}
        own = trial.user_attrs.get(DIRECTORY)
        if own is not None:
            matches = [job for job in runs if job.directory.name == own]
        else:
            matches = [job for job in runs if needed and needed <= set(job.overrides)]
        if matches:
            fixed = {f"{name}={value}" for name, value in trial.user_attrs.items()}
            job_of[trial.number] = min(matches, key=lambda job: (len(fixed - set(job.overrides)), len(job.overrides)))
    return job_of


def measure_importances(study: Study) -> dict[str, float]:
    """Each parameter's share of the variance of the objective, largest first; empty where that says nothing.

    fANOVA (Hutter, Hoos & Leyton-Brown, ICML 2014): a random forest's variance, decomposed. It uses every finished trial,
    where PED-ANOVA compares the best tenth alone, which in a study of 40 is four trials.
    """
    import optuna

    complete = [trial for trial in list_finished(study) if trial.value is not None]
    names = set.intersection(*(set(trial.params) for trial in complete)) if complete else set()
    varied = sorted(name for name in names if len({trial.params[name] for trial in complete}) > 1)
    if len(varied) < 2 or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied)
    except RuntimeError:  # no tree of the forest found any difference
        return {}
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: -item[1])}


def _list_trials(study: Study, path: Path) -> list[Trial]:
    trials = []
    names: Mapping[str, State] = {"COMPLETE": "done", "FAIL": "failed", "PRUNED": "pruned", "RUNNING": "running"}
    job_of = match_jobs(study, path)
    for trial in study.get_trials(deepcopy=False):
        job = job_of.get(trial.number)
        state = names.get(trial.state.name, "waiting")
        if state == "done" and job is not None and RunDirectory(job.directory).record().get("status") == "pruned":
            state = "pruned"
        if trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        value = trial.value if trial.values is not None and len(trial.values) == 1 else None
        run = None if job is None else job.directory
        trials.append(Trial(trial.number + 1, state, value, dict(trial.params), run))
    return trials


def _find_objective_name(trials: Sequence[Trial], metric: str | None) -> str:
    """What the runs were ranked by: ``metric`` if given, else what their configuration says."""
    for trial in trials:
        if trial.run is not None:
            try:
                return choose_objective(RunDirectory(trial.run).config(), metric).name
            except CheckpointError:  # it failed before it began
                continue
    return metric or "objective"


def _write_table(trials: Sequence[Trial], file: Path) -> None:
    """One line a trial: number, state, objective, parameters, run."""
    names = sorted({name for trial in trials for name in trial.params})
    rows = (
        [t.number, t.state, t.value, *map(t.params.get, names), None if t.run is None else t.run.name] for t in trials
    )
    write_text(file, format_csv(["trial", "state", "value", *names, "run"], rows))
