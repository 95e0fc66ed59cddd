"""Work in fresh processes: what they are handed, where they run, how they end, and that none is left."""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest

from medassay.core.processes import Call, Place, run_in_processes

WORKER = """
import json, os, sys, time
from pathlib import Path
from medassay.core.processes import answer_call

def work(payload):
    order = json.loads(payload)
    with open(order["journal"], "a") as file:
        file.write(f"{order['name']} begins\\n")
    try:
        print(f"{order['name']} prints")
        print("and complains", file=sys.stderr, flush=True)
        if order["do"] == "wait":
            time.sleep(60)
        if order["do"] == "rest":
            time.sleep(0.3)
        while order["do"] == "raise when a has begun" and "a begins" not in Path(order["journal"]).read_text():
            time.sleep(0.01)
        if order["do"].startswith("raise"):
            raise ValueError("no such luck")
        if order["do"] == "leave":
            os._exit(3)
        if order["do"] == "die":
            os.close(2)
            os.kill(os.getpid(), 9)
    finally:
        with open(order["journal"], "a") as file:
            file.write(f"{order['name']} ends\\n")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES", "CUDA_VISIBLE_DEVICES", "EXTRA")
    return json.dumps({"pid": os.getpid(), "cwd": os.getcwd(), **{name: os.environ.get(name) for name in names}}).encode()

if __name__ == "__main__":
    sys.exit(answer_call(work))
"""

ORDERS = {"a": "wait", "b": "raise when a has begun"}


class Workshop:
    """Makes calls of a worker that keeps a journal."""

    def __init__(self, folder: Path) -> None:
        (folder / "worker_module.py").write_text(WORKER)
        self.path = folder / "journal"

    def call(self, name: str, do: str = "nothing", **options: object) -> Call:
        payload = json.dumps({"name": name, "do": do, "journal": str(self.path)}).encode()
        return Call("worker_module", payload, **options)  # type: ignore[arg-type]

    def journal(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.syspath_prepend(tmp_path)
    return Workshop(tmp_path)


def ending_of(call: Call, place: Place | None = None) -> tuple[int, dict[str, object], str]:
    """Exit code, what the worker gave back and its last words."""
    ((_, ending),) = run_in_processes([call], [place or Place()], lambda call: call)
    return ending.code, json.loads(ending.result or b"{}"), ending.reason


def test_a_process_gives_back_what_its_work_returned(workshop: Workshop) -> None:
    code, result, _ = ending_of(workshop.call("a"))
    assert code == 0
    assert result["pid"] != os.getpid()
    assert result["cwd"] == os.getcwd()


def test_a_place_says_how_many_threads_and_which_gpu(workshop: Workshop) -> None:
    _, result, _ = ending_of(workshop.call("a"), Place(threads=3, gpu="5"))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES", "CUDA_VISIBLE_DEVICES")
    assert [result[name] for name in names] == ["3", "3", "3", "5"]


def test_a_place_without_a_gpu_of_its_own_leaves_the_choice(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert ending_of(workshop.call("a"))[1]["CUDA_VISIBLE_DEVICES"] == "7"
    assert ending_of(workshop.call("b"), Place(gpu=""))[1]["CUDA_VISIBLE_DEVICES"] == ""


def test_the_variables_and_the_directory_of_a_call_win(workshop: Workshop, tmp_path: Path) -> None:
    call = workshop.call("a", environment={"EXTRA": "yes", "OMP_NUM_THREADS": "9"}, directory=tmp_path / "tmp")
    _, result, _ = ending_of(call, Place(threads=2))
    assert (result["EXTRA"], result["OMP_NUM_THREADS"], result["MKL_NUM_THREADS"]) == ("yes", "9", "2")
    assert result["cwd"] == str(tmp_path / "tmp")


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "code", "reason"),
    [("raise", 1, "ValueError: no such luck"), ("leave", 3, "and complains"), ("die", -9, "and complains")],
)
def test_a_failure_has_the_last_line_on_standard_error_for_its_reason(
    do: str, code: int, reason: str, workshop: Workshop
) -> None:
    assert ending_of(workshop.call("a", do)) == (code, {}, reason)


@pytest.mark.parametrize(
    ("do", "reason"), [("leave", "its process ended with exit code 3"), ("die", "its process ended with signal 9")]
)
def test_with_a_log_the_reason_is_how_the_process_ended(
    do: str, reason: str, workshop: Workshop, tmp_path: Path
) -> None:
    assert ending_of(workshop.call("a", do, log=tmp_path / "log"))[2] == reason


def test_a_log_gets_all_that_is_printed_after_what_was_there(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("a", "b"):
        ending_of(workshop.call(name, log=tmp_path / "new" / "log"))
    lines = (tmp_path / "new" / "log").read_text().splitlines()
    assert sorted(lines[:2]) == ["a prints", "and complains"]
    assert sorted(lines[2:]) == ["and complains", "b prints"]


# --- several ---------------------------------------------------------------------------------------------------------


def test_jobs_begin_in_their_order_and_never_more_than_there_are_places(workshop: Workshop) -> None:
    made: list[str] = []

    def make_call(name: str) -> Call:
        made.append(name)
        ended = sum(line.endswith("ends") for line in workshop.journal())
        assert len(made) - ended <= 2  # a call is made when there is a place for it
        return workshop.call(name, "rest")

    endings = dict(run_in_processes("abcde", [Place(), Place()], make_call))
    assert sorted(endings) == made == list("abcde")
    assert all(ending.code == 0 for ending in endings.values())
    running = itertools.accumulate(1 if line.endswith("begins") else -1 for line in workshop.journal())
    assert max(running) <= 2


def test_a_running_job_is_watched(workshop: Workshop) -> None:
    watched: list[str] = []
    list(run_in_processes("a", [Place()], lambda name: workshop.call(name, "rest"), watched.append))
    assert len(watched) > 1
    assert set(watched) == {"a"}


def test_no_jobs_start_nothing(workshop: Workshop) -> None:
    assert list(run_in_processes([], [Place()], workshop.call)) == []


def test_closed_after_a_failure_it_ends_the_others(workshop: Workshop) -> None:
    with closing(run_in_processes("ab", [Place(), Place()], lambda name: workshop.call(name, ORDERS[name]))) as endings:
        name, ending = next(endings)
    assert (name, ending.code) == ("b", 1)
    assert {"a ends", "b ends"} <= set(workshop.journal())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process on SIGTERM without asking it")
def test_left_early_it_lets_the_others_record_that_they_were_interrupted(workshop: Workshop) -> None:
    begun = time.monotonic()

    def watch(name: str) -> None:
        if len(workshop.journal()) == 2:
            raise KeyboardInterrupt

    calls = run_in_processes("abc", [Place(), Place()], lambda name: workshop.call(name, "wait"), watch)
    with pytest.raises(KeyboardInterrupt):
        list(calls)
    assert sorted(workshop.journal()) == ["a begins", "a ends", "b begins", "b ends"]
    assert time.monotonic() - begun < 30


def test_nothing_is_left_among_the_temporary_files(workshop: Workshop, tmp_path: Path) -> None:
    ending_of(workshop.call("a", "raise"))
    assert list((tmp_path / "tmp").iterdir()) == []
