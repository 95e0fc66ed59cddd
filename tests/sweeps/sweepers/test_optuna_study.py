"""Studies that are stopped and started again, with Hydra's own machinery around jobs that only give a number."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from optuna.trial import TrialState

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, TrainingError
from medassay.runs.check import check_training
from medassay.sweeps import study as studies
from medassay.sweeps.directory import SweepDirectory, code_hash
from medassay.sweeps.sweepers.optuna_study import OptunaStudySweeper
from medassay.sweeps.sweepers.search_space import read_search_space

CONF = Path(__file__).parents[3] / "conf"
CONFIG = """
defaults:
  - override hydra/sweeper: optuna_study
  - override hydra/launcher: direct
  - _self_
x: 0.0
y: a
seed: 3
sweep: {mode: null, force: false}
hydra:
  output_subdir: null
  hydra_logging: {formatters: {simple: {format: '%(message)s'}}}
  sweep:
    dir: DIRECTORY
    subdir: ${hydra.job.num}
  sweeper:
    n_trials: 4
    params:
      x: interval(0.0, 1.0)
      y: choice(a, b)
"""
Objective = Callable[[DictConfig], float | None]


class DirectLauncher(Launcher):
    """Calls the objective with the overrides alone: no configuration is composed for a job, which takes Hydra longest."""

    objective: Objective

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.top = Path(config.hydra.sweep.dir)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        return [self.one(list(overrides), initial_job_idx + i) for i, overrides in enumerate(job_overrides)]

    def one(self, overrides: list[str], number: int) -> JobReturn:
        returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        try:
            returned.return_value = type(self).objective(OmegaConf.from_dotlist(overrides))
        except Exception as error:
            returned.return_value, returned.status = error, JobStatus.FAILED
        returned.working_dir = str(self.top / str(number))
        (self.top / str(number)).mkdir(exist_ok=True)
        record = {"status": "done", "overrides": overrides}
        (self.top / str(number) / "run.json").write_text(json.dumps(record))
        return returned


class Search:
    """A search in a directory of its own; remembers the overrides of every job it was asked to run."""

    def __init__(self, top: Path) -> None:
        self.conf = top / "conf"
        self.path = top / "sweep"
        self.jobs: list[list[str]] = []
        shutil.copytree(CONF / "hydra" / "sweeper", self.conf / "hydra" / "sweeper")
        launcher = f"{DirectLauncher.__module__}.{DirectLauncher.__name__}"
        (self.conf / "hydra" / "launcher").mkdir()
        (self.conf / "hydra" / "launcher" / "direct.yaml").write_text(f"_target_: {launcher}")
        (self.conf / "config.yaml").write_text(CONFIG.replace("DIRECTORY", str(self.path)))

    def run(self, objective: Objective, *argv: str) -> list[list[str]]:
        """One command; gives the jobs that it ran, each its overrides."""
        before = len(self.jobs)

        def job(cfg: DictConfig) -> float | None:
            self.jobs.append([f"{key}={value}" for key, value in cfg.items() if key in ("x", "y")])
            return objective(cfg)

        DirectLauncher.objective = staticmethod(job)
        for plugin in (OptunaStudySweeper, DirectLauncher):
            Plugins.instance().register(plugin)
        arguments, environment = sys.argv, dict(os.environ)
        sys.argv = ["search", "-m", *argv]
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            hydra.main(config_path=str(self.conf), config_name="config")(job)()
        finally:
            sys.argv = arguments
            os.environ.clear()
            os.environ.update(environment)
            GlobalHydra.instance().clear()
        return self.jobs[before:]

    def overrides(self) -> list[str]:
        """The overrides of every job, a line each."""
        return [" ".join(json.loads(file.read_text())["overrides"]) for file in self.path.glob("*/run.json")]

    def trials(self, *states: TrialState) -> list[optuna.trial.FrozenTrial]:
        with studies.open_study(self.path) as study:
            assert study is not None
            return study.get_trials(states=states or None)

    @property
    def finished(self) -> int:
        return len(self.trials(TrialState.COMPLETE))

    @property
    def results(self) -> Path:
        return self.path / "optimization_results.yaml"


@pytest.fixture(scope="module")
def schema() -> str:
    """The version of Optuna's tables, which it finds out anew, in ten files, whenever it opens a study."""
    storage = optuna.storages.RDBStorage("sqlite:///:memory:")
    try:
        return storage.get_head_version()
    finally:
        storage.engine.dispose()


@pytest.fixture
def search(tmp_path: Path, schema: str, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.setattr(optuna.storages._rdb.storage._VersionManager, "get_head_version", lambda manager: schema)
    return Search(tmp_path)


def near_a_third(cfg: DictConfig) -> float:
    return 1.0 - abs(float(cfg.x) - 1 / 3)


def interrupted_at(number: int) -> Objective:
    """An objective with Ctrl-C in job ``number``, from 1."""
    asked: list[float] = []

    def objective(cfg: DictConfig) -> float:
        asked.append(cfg.x)
        if len(asked) == number:
            raise KeyboardInterrupt
        return near_a_third(cfg)

    return objective


def failing(*numbers: int) -> Objective:
    """An objective that fails in the jobs with these numbers, from 1."""
    asked: list[float] = []

    def objective(cfg: DictConfig) -> float:
        asked.append(cfg.x)
        if len(asked) in numbers:
            raise RuntimeError("the loss is not finite\nand a second line")
        return near_a_third(cfg)

    return objective


def never(cfg: DictConfig) -> float:
    raise AssertionError("no job is left to run")


# --- going on --------------------------------------------------------------------------------------------------------


def test_a_finished_study_runs_nothing_more_and_still_writes_its_result(search: Search) -> None:
    assert len(search.run(near_a_third)) == 4
    first = search.results.read_text()
    search.results.unlink()
    assert search.run(never) == []
    assert search.results.read_text() == first


def test_the_result_is_the_best_trial(search: Search) -> None:
    search.run(near_a_third)
    best = min(abs(float(dict(o.split("=") for o in job)["x"]) - 1 / 3) for job in search.jobs)
    assert OmegaConf.load(search.results).best_value == pytest.approx(1 - best)


def test_after_an_interruption_only_the_trials_that_remain_are_run(search: Search) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.run(interrupted_at(4))
    assert len(search.run(near_a_third)) == 2  # of the second pair, one had ended but was not told yet
    assert search.finished == 4
    studies.draw_study(search.path)
    lines = (search.path / "study.csv").read_text().splitlines()
    assert [line.split(",")[1] for line in lines[1:]] == ["done", "done", "interrupted", "interrupted", "done", "done"]


def test_interrupted_trials_are_run_again_with_the_same_overrides(search: Search) -> None:
    with pytest.raises(KeyboardInterrupt):
        search.run(interrupted_at(3))
    left = [trial.params for trial in search.trials(TrialState.RUNNING)]
    assert len(left) == 2  # the second of the pair had not begun
    again = search.run(near_a_third)
    assert again[0] == search.jobs[2]
    assert again[1] == [f"{name}={value}" for name, value in left[1].items()]


def test_an_interruption_while_trials_are_drawn_leaves_none_behind(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = optuna.trial.Trial._suggest
    drawn: list[str] = []

    def suggest(self: optuna.trial.Trial, name: str, distribution: Any) -> Any:
        drawn.append(name)
        if len(drawn) == 2:  # between the two parameters of the first trial
            raise KeyboardInterrupt
        return real(self, name, distribution)

    monkeypatch.setattr(optuna.trial.Trial, "_suggest", suggest)
    with pytest.raises(KeyboardInterrupt):
        search.run(near_a_third)
    monkeypatch.undo()
    assert len(search.run(near_a_third)) == 4
    assert search.finished == 4


def test_more_trials_can_be_asked_for_later(search: Search) -> None:
    search.run(near_a_third)
    assert len(search.run(near_a_third, "hydra.sweeper.n_trials=6")) == 2
    assert len(search.run(never, "hydra.sweeper.n_trials=3")) == 0


@pytest.mark.parametrize("sampler", ["tpe", "qmc"])
def test_a_restart_does_not_repeat_the_first_draws(sampler: str, search: Search) -> None:
    chosen = f"hydra/sweeper/sampler={sampler}"
    search.run(near_a_third, chosen, "hydra.sweeper.n_trials=2")
    search.run(near_a_third, chosen)
    assert len({job[0] for job in search.jobs}) == 4  # x, to the last digit


def test_the_same_seed_draws_the_same_trials(search: Search, tmp_path: Path) -> None:
    other = Search(tmp_path / "other")
    two = "hydra.sweeper.n_trials=2"
    assert search.run(near_a_third, two) == other.run(near_a_third, two)
    third = Search(tmp_path / "third")
    assert third.run(near_a_third, two, "seed=4")[0] != search.jobs[0]


def test_jobs_are_numbered_through_the_whole_study(search: Search) -> None:
    search.run(near_a_third, "hydra.sweeper.n_trials=2")
    search.run(near_a_third)
    assert sorted(path.name for path in search.path.iterdir() if path.is_dir()) == ["0", "1", "2", "3"]


def test_jobs_of_an_earlier_command_belong_to_the_sweep(search: Search) -> None:
    search.run(near_a_third, "hydra.sweeper.n_trials=2")
    sweep = SweepDirectory(search.path)
    sweep.begin(name="sweep")  # as each command does
    search.run(near_a_third)
    assert [job.overrides for job in sweep.jobs()] == search.jobs


def test_each_trial_names_the_directory_of_its_run_where_the_launcher_says_which_it_is(search: Search) -> None:
    search.run(near_a_third, "hydra.sweeper.n_trials=2")
    assert [trial.user_attrs[studies.DIRECTORY] for trial in search.trials()] == ["0", "1"]
    search.run(near_a_third, "hydra/launcher=basic")
    assert [studies.DIRECTORY in trial.user_attrs for trial in search.trials()] == [True, True, False, False]


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_trial_does_not_end_the_study(search: Search) -> None:
    assert len(search.run(failing(1, 2, 3))) == 4
    assert search.finished == 1


def test_failed_trials_are_run_again_once_a_command(search: Search) -> None:
    search.run(failing(2, 3))
    failed = [search.jobs[1], search.jobs[2]]
    assert search.run(near_a_third) == failed
    assert search.finished == 4
    assert search.run(never) == []


def test_parameters_that_always_fail_make_room_for_others(search: Search) -> None:
    search.run(failing(2))
    jobs = search.run(failing(1))
    assert jobs[0] == search.jobs[1]
    assert len(jobs) == 2
    assert jobs[1] not in search.jobs[:4]
    assert search.finished == 4


def test_a_study_without_any_result_just_ends(search: Search) -> None:
    assert len(search.run(failing(*range(1, 5)))) == 4
    assert not search.results.exists()
    assert len(search.run(failing(*range(1, 9)))) == 8  # each once more, then four others
    assert len(search.trials(TrialState.FAIL)) == 12


def test_a_job_without_a_number_has_failed(search: Search) -> None:
    search.run(lambda cfg: None if cfg.y == "a" else 0.5)
    values = {trial.params["y"]: trial.value for trial in search.trials(TrialState.COMPLETE)}
    assert values == {"b": 0.5}


def test_a_batch_with_more_failures_than_allowed_ends_the_study_in_one_line(search: Search) -> None:
    reason = "2 of 2 trials that were run together failed, a larger share than hydra.sweeper.max_failure_rate=0.5$"
    with pytest.raises(TrainingError, match=reason) as raised:
        search.run(failing(2, 3, 4), "hydra.sweeper.max_failure_rate=0.5", "hydra.sweeper.n_trials=8")
    assert "\n" not in str(raised.value)
    assert len(search.jobs) == 4  # half of the first pair failed, which is no more than half
    assert len(search.trials(TrialState.FAIL)) == 3
    assert search.trials(TrialState.RUNNING) == []


def test_without_any_failure_allowed_the_first_one_ends_the_study(search: Search) -> None:
    with pytest.raises(TrainingError, match="1 of 2 trials"):
        search.run(failing(2), "hydra.sweeper.max_failure_rate=0")
    assert len(search.jobs) == 2


def test_a_study_that_ended_early_goes_on_with_the_trials_that_failed(search: Search) -> None:
    with pytest.raises(TrainingError):
        search.run(failing(1), "hydra.sweeper.max_failure_rate=0")
    assert search.run(near_a_third)[0] == search.jobs[0]
    assert search.finished == 4


def test_a_failure_is_one_line_and_the_rest_is_quiet(search: Search, capfd: pytest.CaptureFixture[str]) -> None:
    extra = ["hydra.sweeper.sampler.multivariate=true", "hydra.sweeper.sampler.constant_liar=true"]
    search.run(failing(2), "hydra/launcher=basic", *extra)
    said = "".join(capfd.readouterr())
    assert said.count("a trial failed") == 1
    for noise in ("second line", "Traceback", "ExperimentalWarning", "Failed experiment", "Storage:", "A new study"):
        assert noise not in said
    assert "study: 0 of 4 trials are finished; 0 to be tried again, 4 to be drawn" in said


# --- starting anew, and what does not fit ----------------------------------------------------------------------------


def test_force_starts_a_study_anew(search: Search) -> None:
    search.run(near_a_third)
    assert search.run(near_a_third, "sweep.force=true")[0][:2] == search.jobs[0][:2]  # the first draw of its seed
    assert len(search.trials()) == 4


@pytest.mark.parametrize(("mode", "expected"), [("min", 0.0), ("null", 3.0)])
def test_the_direction_follows_the_sweeps_mode(mode: str, expected: float, search: Search) -> None:
    values = iter(range(4))
    search.run(lambda cfg: float(next(values)), f"sweep.mode={mode}")
    assert OmegaConf.load(search.results).best_value == expected


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["+recipe.monitor=val/loss", "+recipe.mode=min"], 0.0),
        (["+recipe.monitor=val/auroc", "+recipe.mode=max"], 3.0),
        (["+recipe.monitor=null", "+recipe.mode=min"], 3.0),  # a generator, ranked by its TSTR
        (["+recipe.monitor=val/loss", "+recipe.mode=min", "sweep.mode=max"], 3.0),
    ],
)
def test_without_a_mode_the_direction_is_that_of_what_chooses_the_models_epoch(
    argv: list[str], expected: float, search: Search
) -> None:
    values = iter(range(4))
    search.run(lambda cfg: float(next(values)), *argv)
    assert OmegaConf.load(search.results).best_value == expected


def test_a_stored_study_keeps_its_direction(search: Search) -> None:
    search.run(near_a_third)
    with pytest.raises(ConfigError, match=r"^sweep\.mode: the stored study is to maximize: .*sweep\.force=true"):
        search.run(never, "sweep.mode=min")


def test_a_stored_study_keeps_its_choices(search: Search) -> None:
    search.run(near_a_third)
    with pytest.raises(ConfigError, match=r"^y: the stored study had other choices: .*sweep\.force=true"):
        search.run(never, "y=choice(a, b, c)", "hydra.sweeper.n_trials=6")


def test_a_stored_study_keeps_its_parameters(search: Search) -> None:
    search.run(near_a_third)
    with pytest.raises(ConfigError, match=r"^y: the stored study searched other parameters: "):
        search.run(never, "y=a", "hydra.sweeper.n_trials=6")


def test_the_range_of_a_number_may_change(search: Search) -> None:
    search.run(near_a_third)
    jobs = search.run(near_a_third, "x=interval(2.0, 3.0)", "hydra.sweeper.n_trials=6")
    assert [2 <= float(job[0].removeprefix("x=")) <= 3 for job in jobs] == [True] * 2


def test_a_study_goes_on_with_its_own_settings_and_code_only(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    search.run(near_a_third)
    with pytest.raises(ConfigError, match=r"other settings or other code: give this search another sweep\.name"):
        search.run(near_a_third, "+z=1", "hydra.sweeper.n_trials=6")
    monkeypatch.setattr("medassay.sweeps.sweepers.optuna_study.code_hash", lambda: "other")
    with pytest.raises(ConfigError, match="other code"):
        search.run(near_a_third, "hydra.sweeper.n_trials=6")


def test_what_the_command_line_fixes_is_not_searched(search: Search) -> None:
    search.run(near_a_third, "x=0.25")
    assert all("x=0.25" in job for job in search.jobs)
    assert {*search.trials()[0].params} == {"y"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("hydra/sweeper/sampler=grid", "a grid needs no study"),
        ("hydra.sweeper.n_trials=0", "hydra.sweeper.n_trials=0: expected an integer >= 1"),
        ("hydra.sweeper.n_jobs=0", "hydra.sweeper.n_jobs=0: expected an integer >= 1"),
        ("hydra.sweeper.max_failure_rate=1.5", "hydra.sweeper.max_failure_rate=1.5: expected a number >= 0 and <= 1"),
        ("hydra.sweeper.direction=up", "hydra.sweeper.direction=up: expected one of minimize, maximize or null"),
        (
            "hydra.sweeper.sampler.n_startup_trials=few",
            "hydra.sweeper.sampler.n_startup_trials=few: expected an integer",
        ),
        (
            "hydra.sweeper.custom_search_space=json.nothing",
            "custom_search_space=json.nothing: there is no such function",
        ),
        ("x=interval(2.0, 1.0)", r"hydra.sweeper.params: x=interval\(2.0, 1.0\): "),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(argument: str, message: str, search: Search) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        search.run(never, argument)
    assert "\n" not in str(raised.value)
    assert not (search.path / "study.db").exists()


def test_a_damaged_study_is_refused_in_one_line(search: Search) -> None:
    search.path.mkdir()
    (search.path / "study.db").write_text("this is no database, and never was one")
    with pytest.raises(CheckpointError, match=r"study\.db cannot be read .*delete"):
        search.run(never)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///nowhere/study.db", "the study in sqlite:///nowhere/study.db cannot be read .*unable to open"),
        ("nonsense://me:secret@host/db", r"the study in nonsense://me:\*\*\*@host/db cannot be read"),
        ("nonsense//me:secret@host/db", r"the study in nonsense//me:\*\*\*@host/db cannot be read"),
    ],
)
def test_of_a_storage_that_is_not_there_nothing_is_to_be_deleted_and_no_password_shown(
    url: str, shown: str, search: Search
) -> None:
    with pytest.raises(CheckpointError, match=f"{shown}.*: give another hydra.sweeper.storage$") as raised:
        search.run(never, f"hydra.sweeper.storage='{url}'")
    assert "secret" not in str(raised.value)


def test_a_storage_whose_driver_is_missing_says_so(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver in ("psycopg", "psycopg2"):
        monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(
        CheckpointError, match=r"install its driver \(.*psycopg.*\), or give another hydra.sweeper.storage"
    ):
        search.run(never, "hydra.sweeper.storage='postgresql://me:secret@host/db'")


def test_a_study_needs_no_file(search: Search) -> None:
    assert len(search.run(failing(2), "hydra.sweeper.storage=null")) == 4
    assert not (search.path / "study.db").exists()


# --- what else can be chosen -----------------------------------------------------------------------------------------


def suggest_z(config: DictConfig, trial: optuna.trial.Trial) -> None:
    trial.suggest_int("+z", 5, 6)


@pytest.mark.parametrize("sampler", [path.stem for path in CONF.glob("hydra/sweeper/sampler/*.yaml")])
def test_every_sampler_draws_from_the_space(sampler: str, search: Search) -> None:
    if sampler == "grid":
        pytest.skip("refused")
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    few = "hydra.sweeper.sampler.n_startup_trials=2"
    search.run(near_a_third, f"hydra/sweeper/sampler={sampler}", *([few] if sampler in ("tpe", "gp") else []))
    assert all(0 <= float(x.removeprefix("x=")) <= 1 and y in ("y=a", "y=b") for x, y in search.jobs)
    assert len({x for x, _ in search.jobs}) == 4


def test_a_sampler_whose_package_is_missing_says_what_to_install(
    search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    monkeypatch.setattr(optuna.samplers.CmaEsSampler, "sample_relative", lambda *_: importlib.import_module("cmaes"))
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.sampler needs cmaes: pip install cmaes"):
        search.run(near_a_third, "hydra/sweeper/sampler=cmaes")


def test_a_function_may_suggest_further_parameters(search: Search) -> None:
    name = f"{suggest_z.__module__}.suggest_z"
    search.run(near_a_third, f"hydra.sweeper.custom_search_space={name}", "++w=1")
    assert {trial.params["+z"] for trial in search.trials()} <= {5, 6}
    assert all("w=1" in trial_job for trial_job in search.overrides())


def test_what_is_fixed_cannot_be_suggested(search: Search) -> None:
    name = f"{suggest_z.__module__}.suggest_z"
    with pytest.raises(ConfigError, match=r"custom_search_space=.*suggest_z: suggests \+z, which has a fixed value"):
        search.run(never, f"hydra.sweeper.custom_search_space={name}", "+z=5")


def test_a_study_that_optuna_alone_has_written_goes_on(search: Search) -> None:
    """With the names and attributes that studies have had from the beginning."""
    space = {
        "x": optuna.distributions.FloatDistribution(0.0, 1.0),
        "y": optuna.distributions.CategoricalDistribution(["a", "b"]),
    }
    search.path.mkdir()
    storage = optuna.storages.RDBStorage(f"sqlite:///{search.path}/study.db")
    study = optuna.create_study(study_name="study", storage=storage, direction="maximize")
    for x, value in ((0.25, 0.5), (0.75, None)):
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        trial = optuna.trial.create_trial(
            params={"x": x, "y": "b"}, distributions=space, value=value, state=state, user_attrs={"+w": "1"}
        )
        study.add_trial(trial)
    left = study.ask(space)  # by a command that was killed
    study.set_user_attr("basis", {"settings": ["+w=1"], "code": code_hash()})
    storage.engine.dispose()
    jobs = search.run(near_a_third, "+w=1")
    assert jobs[:2] == [["x=0.75", "y=b"], [f"{name}={value}" for name, value in left.params.items()]]
    assert len(jobs) == 3
    (interrupted,) = [trial for trial in search.trials() if "interrupted" in trial.user_attrs]
    assert interrupted.params == left.params


# --- the ready search ------------------------------------------------------------------------------------------------


def test_whatever_the_ready_search_may_draw_passes_the_check() -> None:
    with hydra.initialize_config_dir(str(CONF)):
        full = hydra.compose("train", ["search=pneumonia_optuna"], return_hydra_config=True)
    space = read_search_space([f"{key}={value}" for key, value in full.hydra.sweeper.params.items()])
    assert (len(space.distributions), space.fixed) == (9, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(3):
        drawn = [f"{name}={value}" for name, value in study.ask(space.distributions).params.items()]
        config = check_training(configuration.compose("train", ["search=pneumonia_optuna", *drawn]))
        assert config["callbacks"]["pruning"]["monitor"] == "val/auroc"
        assert config["test"] is False
