"""A stored Optuna study: its trials, the runs they belong to, its table and its pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from medassay.core.errors import CheckpointError
from medassay.core.files import whole
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import Job, SweepDirectory
from medassay.sweeps.objective import objective

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from optuna.trial import FrozenTrial

FILE = "study.db"
INTERRUPTED = "interrupted"  # the attribute of a trial whose command ended before it did
FEW = 20  # trials under which an importance is a hint at most
State = Literal["done", "pruned", "failed", "interrupted", "running", "waiting"]


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: from 1.
        state: ``done`` or ``pruned`` as the run says, else what became of the trial.
        value: the objective; None unless finished.
        params: what was drawn.
        run: the run's directory; None where there is none.
    """

    number: int
    state: State
    value: float | None
    params: dict[str, Any]
    run: Path | None


def figures(sweep_directory: str | Path) -> list[tuple[str, Path]]:
    """Draws the study of a sweep into ``figures/`` and writes ``study.csv``; gives each picture with its title.

    Empty where there is no study, or one with fewer than two finished trials.

    Raises:
        CheckpointError: the study cannot be read.
        OutputError: a file cannot be written.
    """
    path = Path(sweep_directory)
    with opened(path) as study:
        if study is None:
            return []
        trials = _trials(study, path)
        _write_table(trials, path / "study.csv")
        values = [trial for trial in trials if trial.value is not None]
        if len(values) < 2 or len(study.directions) > 1:
            return []
        maximise = study.direction.name == "MAXIMIZE"
        name = _objective_name(trials, SweepDirectory(path).record().get("metric"))
        drawn = [("Optimization history", "study_history", _history(trials, name, maximise=maximise))]
        if shares := importances(study):
            drawn.append(("Parameter importance", "study_importance", _importance(shares, len(values))))
    from medassay.reporting.figures import save  # torch and matplotlib take seconds to import

    found = []
    for title, name, figure in drawn:
        file = path / "figures" / f"{name}.png"
        save(figure, file)
        found.append((title, file))
    return found


@contextmanager
def opened(sweep_directory: Path) -> Iterator[Study | None]:
    """The study in ``sweep_directory``; None where there is none.

    Raises:
        CheckpointError: it cannot be read.
    """
    file = sweep_directory / FILE
    if not file.is_file():
        yield None
        return
    import optuna

    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        names = optuna.get_all_study_names(storage)
        study = optuna.load_study(study_name=names[-1], storage=storage) if names else None
    except Exception as error:  # SQLAlchemy's and SQLite's own, Optuna's where its version is another
        raise CheckpointError(f"{file} cannot be read ({str(error).splitlines()[0]}): restore or delete it") from error
    try:
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def finished(study: Study) -> list[FrozenTrial]:
    """The trials that came to a value, or were pruned before."""
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def jobs(study: Study, sweep_directory: Path) -> dict[int, Job]:
    """The job of each trial, by the trial's number (from 0): the run whose overrides are the trial's parameters.

    Of several, the one with the fewest others is the trial's own; the rest are further seeds of it.
    """
    runs: list[Job] = []
    for file in sorted(sweep_directory.glob("*/run.json")):
        try:
            overrides = RunDirectory(file.parent).record().get("overrides") or []
        except CheckpointError:  # cut off in the middle: the run will be done again
            continue
        runs.append(Job(file.parent, [str(text) for text in overrides]))
    found: dict[int, Job] = {}
    for trial in study.get_trials(deepcopy=False):
        needed = {f"{name}={value}" for name, value in trial.params.items()}
        own = [job for job in runs if needed and needed <= set(job.overrides)]
        if own:
            found[trial.number] = min(own, key=lambda job: len(job.overrides))
    return found


def importances(study: Study) -> dict[str, float]:
    """Each parameter's share of the variance of the objective, largest first; empty where that says nothing.

    fANOVA (Hutter, Hoos & Leyton-Brown, ICML 2014): a random forest's variance, decomposed. It uses every finished trial,
    where PED-ANOVA compares the best tenth alone, which in a study of 40 is four trials.
    """
    import optuna

    complete = [trial for trial in finished(study) if trial.value is not None]
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


def _trials(study: Study, path: Path) -> list[Trial]:
    found = []
    names: Mapping[str, State] = {"COMPLETE": "done", "FAIL": "failed", "PRUNED": "pruned", "RUNNING": "running"}
    own = jobs(study, path)
    for trial in study.get_trials(deepcopy=False):
        job = own.get(trial.number)
        state = names.get(trial.state.name, "waiting")
        if state == "done" and job is not None and RunDirectory(job.directory).record().get("status") == "pruned":
            state = "pruned"
        if trial.user_attrs.get(INTERRUPTED):
            state = "interrupted"
        value = trial.value if trial.values is not None and len(trial.values) == 1 else None
        run = None if job is None else job.directory
        found.append(Trial(trial.number + 1, state, value, dict(trial.params), run))
    return found


def _objective_name(trials: Sequence[Trial], metric: str | None) -> str:
    """What the runs were ranked by: ``metric`` if given, else what their configuration says."""
    for trial in trials:
        if trial.run is not None:
            try:
                return objective(RunDirectory(trial.run).config(), metric).name
            except CheckpointError:  # it failed before it began
                continue
    return metric or "objective"


def _write_table(trials: Sequence[Trial], file: Path) -> None:
    """One line a trial: number, state, objective, parameters, run."""
    names = sorted({name for trial in trials for name in trial.params})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "value", *names, "run"])
    for trial in trials:
        drawn = [trial.params.get(name, "") for name in names]
        value = "" if trial.value is None else trial.value
        writer.writerow([trial.number, trial.state, value, *drawn, "" if trial.run is None else trial.run.name])
    with whole(file) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8")


# --- pictures --------------------------------------------------------------------------------------------------------


def _history(trials: Sequence[Trial], ranked_by: str, *, maximise: bool) -> Figure:
    """Each trial's objective, and the best so far."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from medassay.reporting.figures import PALETTE

    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    better = max if maximise else min
    valued = [(trial.number, trial.value, trial.state) for trial in trials if trial.value is not None]
    best: list[float] = []
    for _, value, _ in valued:
        best.append(better(value, best[-1]) if best else value)
    axes.step([n for n, *_ in valued], best, where="post", color=PALETTE[1], linewidth=1.5, label="best so far")
    looks: list[tuple[State, dict[str, Any]]] = [
        ("done", {"color": PALETTE[0]}),
        ("pruned", {"facecolors": "none", "edgecolors": PALETTE[0], "linewidths": 1.2}),
    ]
    for state, look in looks:
        points = [(n, value) for n, value, of in valued if of == state]
        if points:
            axes.scatter([n for n, _ in points], [y for _, y in points], s=26, zorder=3, label=state, **look)
    if failed := [trial.number for trial in trials if trial.state == "failed"]:
        bottom = axes.get_xaxis_transform()  # they have no value: marks at the lower edge
        look = {"marker": "x", "s": 24, "color": "#666666", "clip_on": False, "zorder": 4}
        axes.scatter(failed, [0] * len(failed), transform=bottom, label="failed", **look)
    axes.set(xlabel="Trial", ylabel=ranked_by, xlim=(0.4, trials[-1].number + 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    place: Any = "outside upper right"  # understood by figures only, and left out of their type hints
    figure.legend(loc=place, ncols=4, frameon=False, fontsize=9)
    return figure


def _importance(shares: Mapping[str, float], trials: int) -> Figure:
    """A bar for each parameter, the most important first."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from medassay.reporting.figures import PALETTE

    figure = Figure(figsize=(6.4, 1.1 + 0.34 * len(shares)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    names, widths = list(shares), list(shares.values())
    axes.barh(range(len(names)), widths, color=PALETTE[0], height=0.62)
    for row, share in enumerate(widths):
        axes.annotate(f"{share:.0%}", (share, row), (4, 0), textcoords="offset points", va="center", size=9)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel="Share of the objective's variance (fANOVA)", xlim=(0, max(widths) * 1.12))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    caution = ": a hint at most" if trials < FEW else ""
    axes.set_title(f"from {trials} trials{caution}", loc="left", size=10)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure
