"""Whether data are those that a run has on record, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from medassay.runs import train
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.recorded_data import is_other_data
from medassay.runs.table import hash_configuration
from medassay.training.settings import TrainerSettings


def data_of(**known: Any) -> Any:
    one = SimpleNamespace(splits=None, provenance=lambda: known)
    return SimpleNamespace(data_of=lambda split: one)


@pytest.mark.parametrize(
    ("recorded", "now", "other"),
    [
        ({"md5": "a", "path": "x"}, {"md5": "a", "path": "y"}, False),
        ({"md5": "a"}, {"md5": "a", "left_out": {".txt": 1}}, False),
        ({"md5": "a", "left_out": {".txt": 2}}, {"md5": "a", "left_out": {".txt": 1}}, False),
        ({"md5": "a"}, {"md5": "b"}, True),
        ({"md5": "a", "size": 28}, {"md5": "a", "size": 64}, True),
        ({"real": {"md5": "a"}, "md5": "drawn"}, {"md5": "a"}, False),
        ({}, {"md5": "a"}, True),
        ({"name": "folder"}, {"name": "folder", "md5": "a"}, True),
    ],
)
def test_data_are_others_where_what_is_known_of_both_differs(
    recorded: dict[str, Any], now: dict[str, Any], other: bool
) -> None:
    assert is_other_data(data_of(**now), recorded) is other


def test_the_same_images_elsewhere_are_the_same_experiment_and_other_images_are_another(tmp_path: Path) -> None:
    config = check_training(compose_training(["data=pneumoniamnist"]))
    hashes = []
    for name, record in (
        ("plain", {}),
        ("moved", {"resumed_with": {"data.file": "/b.npz"}, "data": {"md5": "a"}, "other_data": False}),
        ("not compared", {"resumed_with": {"data.file": "/b.npz"}, "data": {"md5": "a"}}),
        ("other", {"resumed_with": {"data.file": "/b.npz"}, "data": {"md5": "b"}, "other_data": True}),
    ):
        run = RunDirectory(tmp_path / name)
        run.create(config, [])
        run.update(**record)
        hashes.append(hash_configuration(run.config_at_end()))
    assert hashes[0] == hashes[1]
    assert len({*hashes}) == 3


@pytest.mark.parametrize(("learnt", "said"), [("drawn", 0), ("drawn before", 1)])
def test_a_run_that_goes_on_with_other_images_of_its_generator_says_so(
    learnt: str,
    said: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = SimpleNamespace(splits=None, provenance=lambda: {"md5": "real"})
    now = {"md5": "drawn", "real": {"md5": "real"}}
    data = SimpleNamespace(splits=None, data_of=lambda split: real, provenance=lambda: now)
    monkeypatch.setattr(train, "build_any_data", lambda config: data)
    monkeypatch.setattr(train, "build_task", lambda config, seed: nn.Identity())
    run = RunDirectory(tmp_path)
    run.update(data={**now, "md5": learnt})
    run.last.parent.mkdir()
    run.last.touch()
    train._prepare(run, {"seed": 0}, TrainerSettings(gpus=0), resume=True, named=[])
    lines = [line for line in caplog.messages if "the generator's images are other ones" in line]
    assert len(lines) == said
    assert run.record()["other_data"] is False  # which is said of the images that judge
