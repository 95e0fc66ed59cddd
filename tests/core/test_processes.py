"""Work in fresh processes: what they are handed, where they run, how they end, and that none is left."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medassay.core.fork_server import ForkServer
from medassay.core.processes import Call, Ending, Place, run_in_processes

Endings = Generator[tuple[str, Ending], None, None]

WORKER = """
import atexit, json, os, sys, threading, time
from pathlib import Path

def work(payload):
    order = json.loads(payload)
    try:  # whoever reads that it began may stop it at once
        Path(order["journal"] + ".parent").write_text(str(os.getppid()))
        with open(order["journal"], "a") as file:
            file.write(f"{order['name']} begins\\n")
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
        if order["do"] == "end late":
            note = lambda text: open(order["journal"], "a").write(text)
            atexit.register(note, "exit handler\\n")
            threading.Timer(0.2, note, ["thread\\n"]).start()
        if order["do"] == "leave":
            os._exit(3)
        if order["do"] == "die":
            os.close(2)
            os.kill(os.getpid(), 9)
    finally:
        with open(order["journal"], "a") as file:
            file.write(f"{order['name']} ends\\n")
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES", "CUDA_VISIBLE_DEVICES", "EXTRA")
    result = {"pid": os.getpid(), "parent": os.getppid(), "cwd": os.getcwd()}
    if "torch" in sys.modules:
        result["threads"] = sys.modules["torch"].get_num_threads()
    return json.dumps(result | {name: os.environ.get(name) for name in names}).encode()
"""

ORDERS = {"a": "wait", "b": "raise when a has begun"}


class Workshop:
    """Makes calls of a worker that keeps a journal."""

    def __init__(self, folder: Path, preload: Sequence[str]) -> None:
        self.preload = preload
        (folder / "worker_module.py").write_text(WORKER)
        self.path = folder / "journal"

    def call(self, name: str, do: str = "nothing", **options: object) -> Call:
        payload = json.dumps({"name": name, "do": do, "journal": str(self.path)}).encode()
        return Call("worker_module:work", payload, **options)  # type: ignore[arg-type]

    def run(self, jobs: Iterable[str], make_call: Callable[[str], Call], **options: Any) -> Endings:
        places = options.pop("places", [Place(), Place()])
        return run_in_processes(jobs, places, make_call, preload=self.preload, **options)

    def end(self, call: Call, place: Place | None = None) -> tuple[int, dict[str, Any], str]:
        """Exit code, what the worker gave back and its last words."""
        ((_, ending),) = self.run("x", lambda _: call, places=[place or Place()])
        return ending.code, json.loads(ending.result or b"{}"), ending.reason

    def journal(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


@pytest.fixture(params=["fresh", "forked"])
def workshop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.syspath_prepend(tmp_path)
    if request.param == "forked" and not ForkServer.is_possible():
        pytest.skip("this system forks no process that has imported torch")
    return Workshop(tmp_path, ["json"] if request.param == "forked" else [])


def test_a_process_gives_back_what_its_work_returned(workshop: Workshop) -> None:
    code, result, _ = workshop.end(workshop.call("a"))
    assert code == 0
    assert result["pid"] != os.getpid()
    assert result["cwd"] == os.getcwd()


def test_a_place_says_how_many_threads_and_which_gpu(workshop: Workshop) -> None:
    _, result, _ = workshop.end(workshop.call("a"), Place(threads=3, gpu="5"))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "MEDASSAY_CORES", "CUDA_VISIBLE_DEVICES")
    assert [result[name] for name in names] == ["3", "3", "3", "5"]


def test_a_place_without_a_gpu_of_its_own_leaves_the_choice(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert workshop.end(workshop.call("a"))[1]["CUDA_VISIBLE_DEVICES"] == "7"
    assert workshop.end(workshop.call("b"), Place(gpu=""))[1]["CUDA_VISIBLE_DEVICES"] == ""


def test_the_variables_and_the_directory_of_a_call_win(workshop: Workshop, tmp_path: Path) -> None:
    call = workshop.call("a", environment={"EXTRA": "yes", "OMP_NUM_THREADS": "9"}, directory=tmp_path / "tmp")
    _, result, _ = workshop.end(call, Place(threads=2))
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
    assert workshop.end(workshop.call("a", do)) == (code, {}, reason)


@pytest.mark.parametrize(
    ("do", "reason"), [("leave", "its process ended with exit code 3"), ("die", "its process ended with signal 9")]
)
def test_with_a_log_the_reason_is_how_the_process_ended(
    do: str, reason: str, workshop: Workshop, tmp_path: Path
) -> None:
    assert workshop.end(workshop.call("a", do, log=tmp_path / "log"))[2] == reason


def test_threads_and_exit_handlers_are_not_cut_off(workshop: Workshop) -> None:
    code, result, _ = workshop.end(workshop.call("a", "end late"))
    assert (code, result["pid"] > 0) == (0, True)
    assert workshop.journal() == ["a begins", "a ends", "thread", "exit handler"]


def test_a_log_gets_all_that_is_printed_after_what_was_there(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("a", "b"):
        workshop.end(workshop.call(name, log=tmp_path / "new" / "log"))
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

    endings = dict(workshop.run("abcde", make_call))
    assert sorted(endings) == made == list("abcde")
    assert all(ending.code == 0 for ending in endings.values())
    running = itertools.accumulate(1 if line.endswith("begins") else -1 for line in workshop.journal())
    assert max(running) <= 2


def test_a_running_job_is_watched(workshop: Workshop) -> None:
    watched: list[str] = []
    list(workshop.run("a", lambda name: workshop.call(name, "rest"), watch=watched.append))
    assert len(watched) > 1
    assert set(watched) == {"a"}


def test_no_jobs_start_nothing(workshop: Workshop) -> None:
    assert list(workshop.run([], workshop.call)) == []


def test_closed_after_a_failure_it_ends_the_others(workshop: Workshop) -> None:
    with closing(workshop.run("ab", lambda name: workshop.call(name, ORDERS[name]))) as endings:
        name, ending = next(endings)
    assert (name, ending.code) == ("b", 1)
    assert {"a ends", "b ends"} <= set(workshop.journal())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process on SIGTERM without asking it")
def test_left_early_it_lets_the_others_record_that_they_were_interrupted(workshop: Workshop) -> None:
    begun = time.monotonic()

    def watch(name: str) -> None:
        if len(workshop.journal()) == 2:
            raise KeyboardInterrupt

    calls = workshop.run("abc", lambda name: workshop.call(name, "wait"), watch=watch)
    with pytest.raises(KeyboardInterrupt):
        list(calls)
    assert sorted(workshop.journal()) == ["a begins", "a ends", "b begins", "b ends"]
    assert time.monotonic() - begun < 30


def test_nothing_is_left_among_the_temporary_files(workshop: Workshop, tmp_path: Path) -> None:
    workshop.end(workshop.call("a", "raise"))
    assert list((tmp_path / "tmp").iterdir()) == []


# --- the server that forks them --------------------------------------------------------------------------------------

forked = pytest.mark.parametrize("workshop", ["forked"], indirect=True)


@forked
def test_all_processes_come_from_one_that_has_imported_the_modules_once(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = tmp_path / "imports"
    (tmp_path / "slow_module.py").write_text(f"open({str(imports)!r}, 'a').write('imported\\n')")
    workshop.preload = ["slow_module"]
    results = [json.loads(ending.result) for _, ending in workshop.run("abc", workshop.call)]
    assert imports.read_text() == "imported\n"
    assert len({result["pid"] for result in results}) == 3
    (server,) = {result["parent"] for result in results}
    assert server != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)


class Orders:
    """Takes a server's orders, and answers each as one that forks a process of always the same number."""

    def __init__(self, answers: int) -> None:
        self.answers = answers

    def write(self, line: bytes) -> None:
        os.write(self.answers, b'{"pid": 7}\n')

    def flush(self) -> None:
        """Everything is written."""


def test_a_number_that_the_system_gives_again_is_another_process(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    server = ForkServer.__new__(ForkServer)
    server._answers, server._rest, server._pids, server._codes = reading, b"", [], []
    server._popen = SimpleNamespace(stdin=Orders(writing))  # type: ignore[assignment]
    first = server.start([], tmp_path / "log", False, None, {})
    os.write(writing, b'{"pid": 7, "code": 3}\n')
    second = server.start([], tmp_path / "log", False, None, {})
    assert first is not None
    assert second is not None
    assert (first.poll(), second.poll()) == (3, None)
    os.write(writing, b'{"pid": 7, "code": 0}\n')
    assert (first.poll(), second.poll()) == (3, 0)
    os.close(reading)
    os.close(writing)


@forked
def test_a_process_that_finds_torch_imported_computes_with_the_threads_of_its_place(workshop: Workshop) -> None:
    workshop.preload = ["torch"]
    places = [Place(threads=2), Place(threads=1)]
    results = [json.loads(ending.result) for _, ending in workshop.run("ab", workshop.call, places=places)]
    assert sorted(result["threads"] for result in results) == [1, 2]


def test_something_is_done_while_a_server_imports_and_not_without_one(workshop: Workshop) -> None:
    done: list[bool] = []
    list(workshop.run("ab", workshop.call, meanwhile=lambda: done.append(workshop.path.exists())))
    assert done == [False] * bool(workshop.preload)


@forked
def test_where_the_server_cannot_import_each_process_does(
    workshop: Workshop, capfd: pytest.CaptureFixture[str]
) -> None:
    workshop.preload = ["there_is_no_such_module"]
    codes = [ending.code for _, ending in workshop.run("abc", workshop.call, places=[Place()])]
    assert codes == [0, 0, 0]
    assert "there_is_no_such_module" in capfd.readouterr().err


ORPHAN = """
import sys
from medassay.core.processes import Call, Place, run_in_processes
call = Call("worker_module:work", sys.argv[1].encode())
run = run_in_processes("a", [Place()], lambda _: call, preload=["json"])
next(run)
"""


@forked
def test_a_process_whose_starter_was_killed_is_interrupted(tmp_path: Path, workshop: Workshop) -> None:
    call = workshop.call("a", "wait")
    code = ORPHAN.replace("sys.argv[1].encode()", repr(call.payload))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment)
    wait_until(lambda: workshop.journal() == ["a begins"])
    starter.kill()
    starter.communicate()
    wait_until(lambda: workshop.journal() == ["a begins", "a ends"])


@forked
def test_a_server_that_was_killed_ends_its_processes_and_is_said(workshop: Workshop) -> None:
    def kill_server(name: str) -> None:
        if workshop.journal() == ["a begins"]:
            os.kill(int(Path(f"{workshop.path}.parent").read_text() or 0), 9)

    workshop.preload = ["json"]
    ((_, ending),) = workshop.run("a", lambda name: workshop.call(name, "wait"), watch=kill_server)
    assert (ending.code, ending.result) == (-9, b"")


def wait_until(happened: Callable[[], bool]) -> None:
    last = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < last
        time.sleep(0.05)
