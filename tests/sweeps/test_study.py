"""What a stored study leaves: a table, and pictures of its course and of what mattered."""

from __future__ import annotations

import csv
import json
import math
import sqlite3
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from PIL import Image

from medassay.core.errors import CheckpointError
from medassay.sweeps import study as studies

SPACE = {
    "model.optimizer.lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
    "model.net.dropout": optuna.distributions.FloatDistribution(0.0, 0.5),
    "data.batch_size": optuna.distributions.CategoricalDistribution(["32", "64"]),
}


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def learning_rate_matters(params: dict[str, Any]) -> float:
    return 1 - abs(math.log10(params["model.optimizer.lr"]) + 2) / 4 + 0.01 * params["model.net.dropout"]


def stored(
    path: Path, count: int, *, failed: int = 0, space: dict[str, Any] = SPACE, value: Any = None, **attributes: str
) -> None:
    """A study of ``count`` finished and ``failed`` failed trials in ``path``, drawn at random."""
    path.mkdir(exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path / 'study.db'}")
    study = optuna.create_study(study_name="study", storage=storage, direction="maximize")
    rng = np.random.default_rng(0)
    for number in range(count + failed):
        params = {
            "model.optimizer.lr": float(10 ** rng.uniform(-4, -1)),
            "model.net.dropout": float(rng.uniform(0, 0.5)),
            "data.batch_size": str(rng.choice(["32", "64"])),
        }
        drawn = {name: params[name] for name in space}
        result = value if value is not None else learning_rate_matters(params)
        state = optuna.trial.TrialState.COMPLETE if number < count else optuna.trial.TrialState.FAIL
        trial = optuna.trial.create_trial(
            state=state,
            value=result if number < count else None,
            params=drawn,
            distributions=space,
            user_attrs=attributes,
        )
        study.add_trial(trial)
    storage.remove_session()
    storage.engine.dispose()


def run(path: Path, name: str, overrides: list[str], status: str = "done") -> None:
    (path / name).mkdir()
    (path / name / "run.json").write_text(json.dumps({"status": status, "overrides": overrides}))


def overrides_of(path: Path, number: int) -> list[str]:
    with studies.open_study(path) as study:
        assert study is not None
        return [f"{name}={value}" for name, value in study.trials[number].params.items()]


def table(path: Path) -> list[dict[str, str]]:
    with (path / "study.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_has_a_picture_of_its_course_and_one_of_what_mattered(tmp_path: Path) -> None:
    stored(tmp_path, 12)
    found = studies.draw_study(tmp_path)
    assert [title for title, _ in found] == ["Optimization history", "Parameter importance"]
    for _, path in found:
        assert path.parent == tmp_path / "figures"
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_a_sweep_without_a_study_has_no_pictures_and_gets_no_study(tmp_path: Path) -> None:
    assert studies.draw_study(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_one_finished_trial_is_a_table_but_no_picture(tmp_path: Path) -> None:
    stored(tmp_path, 1, failed=3)
    assert studies.draw_study(tmp_path) == []
    assert [row["state"] for row in table(tmp_path)] == ["done", "failed", "failed", "failed"]


def test_the_parameter_that_makes_the_difference_is_the_most_important(tmp_path: Path) -> None:
    stored(tmp_path, 40)
    with studies.open_study(tmp_path) as study:
        assert study is not None
        shares = studies.measure_importances(study)
    assert next(iter(shares)) == "model.optimizer.lr"
    assert shares["model.optimizer.lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("space", "value"),
    [
        ({"model.net.dropout": SPACE["model.net.dropout"]}, None),  # one parameter has all there is
        (SPACE, 0.5),  # nothing makes a difference
    ],
)
def test_importance_is_left_out_where_it_says_nothing(space: dict[str, Any], value: Any, tmp_path: Path) -> None:
    stored(tmp_path, 5, space=space, value=value)
    assert [title for title, _ in studies.draw_study(tmp_path)] == ["Optimization history"]


def test_the_table_has_every_trial_with_its_parameters_and_its_run(tmp_path: Path) -> None:
    stored(tmp_path, 3)
    run(tmp_path, "job_b", ["search=x", *overrides_of(tmp_path, 1)])
    studies.draw_study(tmp_path)
    rows = table(tmp_path)
    assert [row["trial"] for row in rows] == ["1", "2", "3"]
    assert [row["run"] for row in rows] == ["", "job_b", ""]
    expected = dict(text.split("=") for text in overrides_of(tmp_path, 1))
    assert {name: rows[1][name] for name in expected} == expected
    params: dict[str, Any] = {**expected, **{k: float(v) for k, v in expected.items() if "model" in k}}
    assert float(rows[1]["value"]) == pytest.approx(learning_rate_matters(params))


def test_a_pruned_run_is_said_to_be_pruned(tmp_path: Path) -> None:
    stored(tmp_path, 3)
    run(tmp_path, "job_a", overrides_of(tmp_path, 0), status="pruned")
    run(tmp_path, "job_b", overrides_of(tmp_path, 1))
    studies.draw_study(tmp_path)
    assert [row["state"] for row in table(tmp_path)] == ["pruned", "done", "done"]


def test_a_trials_run_is_not_mistaken_for_a_further_seed_of_it(tmp_path: Path) -> None:
    stored(tmp_path, 2)
    run(tmp_path, "a_further_seed", [*overrides_of(tmp_path, 0), "seed=1"])
    run(tmp_path, "the_trial", overrides_of(tmp_path, 0))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    studies.draw_study(tmp_path)
    assert table(tmp_path)[0]["run"] == "the_trial"


def test_a_further_seed_is_not_mistaken_for_a_trial_whose_own_seed_the_command_line_gave(tmp_path: Path) -> None:
    stored(tmp_path, 2, seed="5")
    run(tmp_path, "a_further_seed", [*overrides_of(tmp_path, 0), "seed=1"])
    run(tmp_path, "the_trial", [*overrides_of(tmp_path, 0), "seed=5"])
    studies.draw_study(tmp_path)
    assert table(tmp_path)[0]["run"] == "the_trial"


@pytest.mark.parametrize(("own", "expected"), [("the_trial", "the_trial"), ("deleted", "")])
def test_a_trial_has_the_run_in_the_directory_that_it_names_and_no_other(
    own: str, expected: str, tmp_path: Path
) -> None:
    stored(tmp_path, 1, directory=own)
    run(tmp_path, "a_further_seed", overrides_of(tmp_path, 0))
    run(tmp_path, "the_trial", [*overrides_of(tmp_path, 0), "seed=5"])
    studies.draw_study(tmp_path)
    assert table(tmp_path)[0]["run"] == expected


def refusal_of(path: Path) -> str:
    with pytest.raises(CheckpointError, match=r"study\.db cannot be read") as raised:
        studies.draw_study(path)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("what", ["no database", "malformed"])
def test_a_damaged_study_is_refused_in_one_line(what: str, tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    if what == "malformed":
        stored(tmp_path, 1)
        whole = file.read_bytes()
        file.write_bytes(whole[:100] + b"\xff" * 4900 + whole[5000:])
    else:
        file.write_text("this is no database, and never was one")
    assert "restore it from a copy, or delete it to start anew" in refusal_of(tmp_path)


def test_of_a_study_that_is_whole_nobody_is_told_to_delete_it(tmp_path: Path) -> None:
    stored(tmp_path, 1)
    with closing(sqlite3.connect(tmp_path / "study.db")) as newer:
        newer.execute("update version_info set schema_version = 99")
        newer.execute("update alembic_version set version_num = 'v9.9.9.a'")
        newer.commit()
    message = refusal_of(tmp_path)
    assert "no longer compatible" in message
    assert message.endswith("move it elsewhere to do without its pictures")


def test_a_study_that_is_in_use_is_to_be_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(tmp_path, 1)
    impatient = partial(optuna.storages.RDBStorage, engine_kwargs={"connect_args": {"timeout": 0}})
    monkeypatch.setattr(optuna.storages, "RDBStorage", impatient)
    with closing(sqlite3.connect(tmp_path / "study.db")) as other:
        other.execute("begin exclusive")
        message = refusal_of(tmp_path)
    assert "locked): another command is using it: wait until that has ended" in message
    assert "delete" not in message
