"""Jobs in processes of their own: how many at a time, with which threads and GPUs, and what ends each."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from medassay.core.errors import ConfigError
from medassay.core.processes import Place
from medassay.sweeps.launchers import local_parallel
from medassay.sweeps.launchers.local_parallel import LocalParallelLauncher, list_places, list_visible_gpus

Launch = Callable[..., Any]


class Sweep(NamedTuple):
    """A sweep run once and looked at by many tests."""

    directory: Path
    launched: Any

    def record(self, how: str) -> dict[str, Any]:
        """``run.json`` of the job that ended so."""
        (run,) = self.directory.glob(f"do-{how}_*")
        values: dict[str, Any] = json.loads((run / "run.json").read_text())
        return values


ENDINGS = ("succeed", "fail", "divide", "die", "leave", "well")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, launch: Launch) -> Sweep:
    """Six jobs, two at a time with three threads each; two succeed."""
    directory = tmp_path_factory.mktemp("sweeps") / "endings"
    options = ["hydra.launcher.jobs=2", "hydra.launcher.threads=3", "hydra.launcher.gpus=[]", "+pause=0.1"]
    return Sweep(directory, launch(directory, f"+do={','.join(ENDINGS)}", "seed=7", *options))


def counts(seen: list[dict[str, Any]]) -> list[int]:
    """How many jobs were at work after each of what their processes saw."""
    changes = [1 if line["what"] == "begins" else -1 for line in sorted(seen, key=lambda line: line["time"])]
    return list(itertools.accumulate(changes))


def test_as_many_jobs_as_asked_for_run_at_a_time_and_never_more(
    tmp_path: Path, launch: Launch, fake_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"

    def go(*_: Any) -> None:  # jobs wait for it: a second one must be there before any ends
        seen = sweep / fake_jobs.WITNESSES
        if seen.exists() and seen.read_text().count("begins") == 2:
            (sweep / "go").touch()

    monkeypatch.setattr(local_parallel.Progress, "report_running", go)
    seen = launch(sweep, "seed=0,1,2", "+do=wait", "+pause=0.2", "hydra.launcher.jobs=2").seen
    assert len(seen) == 6
    assert max(counts(seen)) == 2


def test_every_job_has_a_process_of_its_own(sweep: Sweep) -> None:
    pids = [line["pid"] for line in sweep.launched.seen if line["what"] == "begins"]
    assert len(set(pids)) == len(pids) == len(ENDINGS)
    assert os.getpid() not in pids


def test_every_job_has_the_threads_asked_for(sweep: Sweep) -> None:
    assert {(line["OMP_NUM_THREADS"], line["MKL_NUM_THREADS"]) for line in sweep.launched.seen} == {("3", "3")}


def test_with_an_empty_list_of_gpus_the_jobs_see_none(sweep: Sweep) -> None:
    assert {line["CUDA_VISIBLE_DEVICES"] for line in sweep.launched.seen} == {""}


@pytest.mark.parametrize(("fork", "preloaded"), [("true", ["json"]), ("false", [])])
def test_jobs_are_forked_from_a_process_with_all_they_import_unless_told_otherwise(
    fork: str, preloaded: list[str], tmp_path: Path, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    run = local_parallel.run_in_processes
    monkeypatch.setattr(
        local_parallel,
        "run_in_processes",
        lambda *a, preload, **k: asked.append(list(preload)) or run(*a, preload=preload, **k),
    )
    (number,) = launch(tmp_path / "sweep", "seed=0", f"hydra.launcher.fork={fork}").values
    assert number is not None
    assert asked == [preloaded]


def test_a_job_that_fails_or_is_killed_does_not_stop_the_others(sweep: Sweep) -> None:
    states = {how: sweep.record(how)["status"] for how in ENDINGS}
    assert states == {"succeed": "done", "well": "done"} | dict.fromkeys(("fail", "divide", "die", "leave"), "failed")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("fail", "there are no images of this patient"),
        ("divide", "ZeroDivisionError: division by zero"),
        ("die", "its process ended with signal 9; see "),
        ("leave", "its process ended with exit code 0; see "),
    ],
)
def test_every_failure_has_its_reason_on_record(how: str, reason: str, sweep: Sweep) -> None:
    assert sweep.record(how)["reason"].startswith(reason)


def test_a_killed_jobs_reason_names_the_file_with_what_it_wrote(sweep: Sweep) -> None:
    (run,) = sweep.directory.glob("do-die_*")
    assert sweep.record("die")["reason"].endswith(str(run / "output.log"))


def test_what_a_job_prints_is_in_its_directory_and_not_on_the_terminal(sweep: Sweep) -> None:
    for run in sweep.directory.glob("do-*"):
        assert f"this is job {run.name}\n" in (run / "output.log").read_text()
    assert not any("this is job" in line for line in sweep.launched.lines)


def test_the_sweeper_gets_the_numbers_of_those_that_finished_and_nothing_of_the_others(sweep: Sweep) -> None:
    number = json.loads(next(sweep.directory.glob("do-well_*/metrics.json")).read_text())["val"]["auroc"]
    assert sweep.launched.values == [number, None, None, None, None, number]


def test_where_there_is_no_terminal_each_job_is_one_line_when_it_has_ended(sweep: Sweep) -> None:
    lines = sweep.launched.lines
    assert [line.partition("]")[0] for line in lines] == [f"[{n}/6" for n in range(1, 7)]
    assert Counter(line.split()[1].rstrip(":") for line in lines) == Counter(
        p.name for p in sweep.directory.glob("do-*")
    )
    assert sweep.launched.err == ""


def test_started_again_only_what_failed_is_given_a_process(sweep: Sweep, launch: Launch, tmp_path: Path) -> None:
    again = launch(sweep.directory, "+do=succeed,well", "seed=7", "+pause=0.1")
    assert again.began() == sweep.launched.began()
    assert again.values == [sweep.launched.values[0], sweep.launched.values[-1]]
    assert again.lines == ["2 of 2 jobs were finished before"]


def test_every_gpu_has_one_job_at_a_time(launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_parallel, "list_visible_gpus", lambda: ["3", "GPU-7f"])
    seen = launch(tmp_path / "sweep", "seed=0,1,2", "+pause=0.3").seen
    for gpu in ("3", "GPU-7f"):
        assert max(counts([line for line in seen if line["CUDA_VISIBLE_DEVICES"] == gpu])) == 1
    assert len(seen) == 6


def test_an_interruption_while_jobs_run_waits_until_each_has_recorded_it(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = tmp_path / "sweep"

    def interrupt(*_: Any) -> None:
        if len(list(sweep.glob("*/trained.txt"))) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(local_parallel.Progress, "report_running", interrupt)
    with pytest.raises(KeyboardInterrupt):
        launch(sweep, "seed=0,1", "+epochs=1000", "+pause=0.1", "hydra.launcher.jobs=2")
    records = [json.loads(file.read_text()) for file in sweep.glob("*/run.json")]
    assert [record["status"] for record in records] == ["interrupted"] * 2
    assert all(record["reason"].startswith("SIGTERM") for record in records)
    for record in records:
        with pytest.raises(ProcessLookupError):
            os.kill(record["process"]["pid"], 0)


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpus_present", "cores", "asked", "threads", "gpus"),
    [
        ([], 4, {}, [1, 1, 1, 1], [None] * 4),
        ([], 4, {"jobs": 2}, [2, 2], [None] * 2),
        ([], 4, {"jobs": 3}, [1, 1, 1], [None] * 3),
        ([], 2, {"jobs": 8}, [1] * 8, [None] * 8),
        ([], 8, {"jobs": 2, "threads": 3}, [3, 3], [None] * 2),
        ([], 8, {"gpus": [], "jobs": 2}, [4, 4], ["", ""]),
        (["0", "1"], 8, {}, [4, 4], ["0", "1"]),
        (["0", "1"], 8, {"jobs": 1}, [8], ["0"]),
        (["0", "1"], 8, {"per_gpu": 2}, [2] * 4, ["0", "1", "0", "1"]),
        (["0", "1"], 8, {"per_gpu": 2, "jobs": 3}, [2] * 3, ["0", "1", "0"]),
        (["0", "1", "2"], 8, {"gpus": [2, 0]}, [4, 4], ["2", "0"]),
        (["4", "6"], 8, {"gpus": [1]}, [8], ["6"]),  # the second of those that CUDA_VISIBLE_DEVICES leaves
        (["0", "1"], 3, {"gpus": [], "jobs": 2}, [1, 1], ["", ""]),
        (["0"], 16, {"threads": 2}, [2], ["0"]),
    ],
)
def test_places_for_jobs(
    gpus_present: list[str], cores: int, asked: dict[str, Any], threads: list[int], gpus: list[str | None]
) -> None:
    wanted = {"jobs": None, "threads": None, "gpus": None, "per_gpu": 1} | asked
    found = list_places(gpus_present, cores, wanted["jobs"], wanted["threads"], wanted["gpus"], wanted["per_gpu"])
    assert found == [Place(t, g) for t, g in zip(threads, gpus, strict=True)]


@pytest.mark.parametrize(
    ("gpus_present", "jobs", "gpus", "message"),
    [
        (["0"], 2, None, r"hydra\.launcher\.jobs=2: .*jobs_per_gpu.*gpus=\[\]"),
        (["0", "1"], None, [2], "there is no GPU 2, this machine has GPUs 0 to 1"),
        ([], None, [0], "there is no GPU 0, this machine has no GPU"),
        (["0", "1"], None, [-1], "there is no GPU -1"),
    ],
)
def test_what_does_not_fit_the_machine_is_refused_with_the_next_step(
    gpus_present: list[str], jobs: int | None, gpus: list[int] | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        list_places(gpus_present, 4, jobs, None, gpus, 1)


@pytest.mark.parametrize("name", ["jobs", "threads", "jobs_per_gpu"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "two"])
def test_a_number_that_is_none_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"hydra\.launcher\.{name}={value}: expected a whole number of 1 or more"):
        LocalParallelLauncher(**{name: value})


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("0", ["0"]),
        ("1,3", ["1", "3"]),
        (" 0 , 2", ["0", "2"]),
        ("", []),
        ("-1", []),
        ("GPU-aa,MIG-bb", ["GPU-aa", "MIG-bb"]),
    ],
)
def test_only_the_gpus_that_the_process_may_see_are_there(
    given: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert list_visible_gpus() == names


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for nvidia-smi")
@pytest.mark.parametrize(
    ("script", "names"), [("echo 0; echo 1", ["0", "1"]), ("echo no driver; exit 9", []), (None, [])]
)
def test_without_that_variable_nvidia_smi_says_which_gpus_there_are(
    script: str | None, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    if script is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    assert list_visible_gpus() == names
