"""Jobs one after the other in this process."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig

from medassay.core.errors import Interrupted

Launch = Callable[..., Any]


def test_jobs_run_in_this_process_one_after_the_other(tmp_path: Path, launch: Launch) -> None:
    seen = launch(tmp_path / "sweep", "seed=2,0,1", launcher="serial").seen
    assert {line["pid"] for line in seen} == {os.getpid()}
    assert [line["what"] for line in seen] == ["begins", "ends"] * 3
    assert [line["job"].rpartition("_")[0] for line in seen[::2]] == ["seed-2", "seed-0", "seed-1"]


def test_a_job_that_fails_does_not_stop_the_next(tmp_path: Path, launch: Launch) -> None:
    launched = launch(tmp_path / "sweep", "+do=divide,fail,succeed", launcher="serial")
    assert launched.values[:2] == [None, None]
    assert isinstance(launched.values[2], float)
    shown = [line for line in launched.lines if line.startswith("[")]
    assert "failed" in shown[0]
    assert "ZeroDivisionError: division by zero" in shown[0]
    assert "failed" in shown[1]
    assert "there are no images of this patient" in shown[1]
    assert "done" in shown[2]
    assert "Traceback" not in launched.err + "".join(launched.lines)


class Stops:
    """A job during which somebody presses Ctrl-C."""

    __name__ = "train"

    def __call__(self, cfg: Any) -> None:
        (Path(HydraConfig.get().runtime.output_dir) / "begun").touch()
        raise Interrupted

    def is_finished(self, cfg: Any, directory: Path) -> bool:
        return False

    def read_value(self, cfg: Any, directory: Path) -> None:
        return None


def test_an_interruption_stops_the_sweep_with_the_job(tmp_path: Path, launch: Launch) -> None:
    with pytest.raises(Interrupted):
        launch(tmp_path / "sweep", "seed=0,1", launcher="serial", job=Stops())
    assert len(list((tmp_path / "sweep").glob("*/begun"))) == 1
    listed = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    assert len(listed) == 2  # the one that never began belongs to the sweep, too
