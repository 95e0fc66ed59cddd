"""What all tests share: one thread, no network, outputs out of the way, small phantoms, and real data where it is."""

from __future__ import annotations

import gc
import ipaddress
import logging
import multiprocessing
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies.launchers import multiprocessing as launchers

from medassay.core.fork_server import ForkServer
from medassay.core.processes import FIRST_USED
from medassay.data.modules import LabelledData
from medassay.data.phantoms import blood, chest
from medassay.data.sources import phantom_data
from tests.helpers import Command, Result

ROOT = Path(__file__).parents[1]
Factory = Callable[..., LabelledData]
ROOM = 1_000_000_000  # bytes, several times what is there at once


def pytest_configure(config: pytest.Config) -> None:
    """What tests write lies in memory where there is room: studies and runs are saved a thousand times, and disks are slow."""
    memory = Path("/dev/shm")
    if memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread: the nets are tiny, results do not depend on the machine, and two test runs do not fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries complain of objects that outlive the interpreter


imported = 0  # modules whose objects are no longer searched


@pytest.fixture(autouse=True, scope="module")
def no_garbage_in_modules() -> None:
    """What has been imported is not searched for garbage again and again: a million objects, which stay."""
    global imported
    if len(sys.modules) > imported + 100:
        gc.collect()
        gc.freeze()
        imported = len(sys.modules)


@pytest.fixture(autouse=True)
def defaults_of_the_process() -> None:
    """What a training (also a fixture's) and the command line set for the whole process is as at its start in every test.

    The command line's log handlers write to the terminal and the directory of a test that is over.
    """
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    root = logging.getLogger()
    for handler in [one for one in root.handlers if not type(one).__module__.startswith("_pytest")]:
        root.removeHandler(handler)
        handler.close()
    logging.raiseExceptions = True


def is_local(address: Any) -> bool:
    """Whether a socket's address is on this machine: a Unix socket's path, a loopback number, or ``localhost``."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0]).partition("%")[0]
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that reaches for the network fails, here as on a machine that has none."""

    def guarded(name: str) -> None:
        real = getattr(socket.socket, name)

        def connect(self: socket.socket, address: Any) -> Any:
            if not is_local(address):
                raise ConnectionRefusedError(f"tests use no network, and this one connects to {address}")
            return real(self, address)

        monkeypatch.setattr(socket.socket, name, connect)

    guarded("connect")
    guarded("connect_ex")


@pytest.fixture(autouse=True)
def outputs_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runs and caches go to the test's own folder, not to the repository."""
    monkeypatch.setenv("MEDASSAY_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real MedMNIST files; a test that needs it is skipped where there is none."""
    named = os.environ.get("MEDASSAY_DATA_ROOT")
    path = Path(named).expanduser() if named else ROOT.parent / "shared" / "medmnist"
    if not path.is_dir():
        how = f"MEDASSAY_DATA_ROOT={named}" if named else f"MEDASSAY_DATA_ROOT is not set and {path}"
        pytest.skip(f"no real data: {how} is not a directory")
    return path


@pytest.fixture(scope="session")
def real_file(data_root: Path) -> Callable[[str], Path]:
    """``real_file("pneumoniamnist.npz")``: a file in the data root; the test is skipped where it is missing."""

    def find(name: str) -> Path:
        path = data_root / name
        if not path.is_file():
            pytest.skip(f"no real data: {name} is not in {data_root}")
        return path

    return find


@pytest.fixture
def tiny_chest() -> Factory:
    """``tiny_chest(train=96, batch_size=16, ...)``: chest phantoms, few of them."""

    def make(**changes: Any) -> LabelledData:
        values: dict[str, Any] = {"train": 96, "val": 32, "test": 32, "batch_size": 16, **changes}
        return phantom_data("chest_phantom", "chest", list(chest.CLASSES), 1, **values)

    return make


@pytest.fixture
def tiny_blood() -> Factory:
    """``tiny_blood(train=96, batch_size=16, ...)``: blood-cell phantoms, few of them."""

    def make(**changes: Any) -> LabelledData:
        values: dict[str, Any] = {"train": 96, "val": 32, "test": 32, "batch_size": 16, **changes}
        return phantom_data("blood_phantom", "blood", list(blood.CLASSES), 3, **values)

    return make


TRAINING = ["medassay.training.fit", "medassay.tasks.classification", "medassay.tasks.conditional_gan", *FIRST_USED]


@pytest.fixture
def several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes find the tests' modules, and are forked from one that has imported torch, which takes 5 s of a core.

    All else about them is as where they are spawned.
    """
    monkeypatch.syspath_prepend(str(ROOT))  # they take over sys.path
    for library in ("OMP", "OPENBLAS"):
        monkeypatch.setenv(f"{library}_NUM_THREADS", "1")
    if not ForkServer.is_possible():
        return
    multiprocessing.set_forkserver_preload(TRAINING)
    usual = launchers.mp

    def start_processes(*args: Any, start_method: str, **kwargs: Any) -> Any:
        assert start_method == "spawn"
        return usual.start_processes(*args, start_method="forkserver", **kwargs)

    changed = {"get_context": lambda _: usual.get_context("forkserver"), "start_processes": start_processes}
    monkeypatch.setattr(launchers, "mp", SimpleNamespace(**{**vars(usual), **changed}))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process."""

    def run(name: str, *argv: str) -> Result:
        from medassay import cli

        capsys.readouterr()
        code = cli.main(name, list(argv))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
