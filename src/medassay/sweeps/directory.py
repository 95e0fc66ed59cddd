"""A sweep's directory: which jobs belong to it, what became of them, and the lock that keeps two commands apart."""

from __future__ import annotations

import hashlib
import os
import platform
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.core.errors import OutputError, UserError
from medassay.core.files import file_lock, read_json, write_json
from medassay.runs import compose
from medassay.runs.table import hash_configuration

_writing = threading.Lock()


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        directory: The run directory.
        overrides: Its overrides, as on the command line.
    """

    directory: Path
    overrides: list[str]


class SweepDirectory:
    """The directory of one sweep.

    Args:
        path: The directory; it need not exist yet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps every other command out of the directory until left; a killed command holds it no longer.

        Raises:
            OutputError: Another command runs this sweep.
        """
        with file_lock(self.path / ".lock", wait=1.0) as acquired:
            if not acquired:
                process = self.record().get("process", {})
                who = f"process {process.get('pid', 'unknown')} on {process.get('host', 'this machine')}"
                raise OutputError(
                    f"{self.path}: this sweep is being run by {who}; wait for it, or give this one another sweep.name"
                )
            self.update(process={"pid": os.getpid(), "host": platform.node()})
            yield

    def begin(self, **fields: Any) -> None:
        """Starts or continues the sweep: with the first job listed the earlier list ends, and what was chosen then."""
        started = self.record().get("started", now())
        self.update(**fields, code=code_hash(), started=started, ended=None, relist=True)

    def choose(self, **chosen: Any) -> None:
        """Records what validation data chose; jobs added from now on are further seeds of it and take no part in the choice."""
        self.update(chosen=chosen)

    def add(self, jobs: Iterable[Job]) -> None:
        """Lists jobs, each directory once."""
        record = self.record()
        if record.get("relist"):
            record |= {"relist": False, "jobs": [], "final_jobs": [], "chosen": None}
        listed = {entry["directory"] for key in ("jobs", "final_jobs") for entry in record.get(key, [])}
        new = {job.directory.name: job.overrides for job in jobs if job.directory.name not in listed}
        key = "final_jobs" if record.get("chosen") else "jobs"
        entries = [{"directory": name, "overrides": overrides} for name, overrides in new.items()]
        self.update(**{**record, key: [*record.get(key, []), *entries]})

    def jobs(self, *, final: bool = False) -> list[Job]:
        """The jobs listed, in their order."""
        entries = self.record().get("final_jobs" if final else "jobs", [])
        return [Job(self.path / entry["directory"], list(entry["overrides"])) for entry in entries]

    def record(self) -> dict[str, Any]:
        """What ``sweep.json`` says; empty if there is none.

        Raises:
            CheckpointError: It cannot be read.
        """
        return read_json(self.path / "sweep.json")

    def update(self, **fields: Any) -> None:
        """Adds ``fields`` to ``sweep.json``."""
        with _writing:
            write_json(self.path / "sweep.json", {**self.record(), **fields})


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def code_hash() -> str:
    """16 hexadecimal digits of the package's source, templates and configuration files: equal code, equal hash."""
    digest = hashlib.sha256()
    source, conf = Path(__file__).parents[1], configuration.find_conf_directory()
    for top in (source, conf):
        for file in sorted(top.rglob("*")):
            inside = file.relative_to(top)
            if top == conf and inside.parts[0] == "hydra":
                continue  # how jobs are started, not what they compute
            if file.suffix in (".py", ".j2", ".css", ".yaml") and (top == conf or inside.parts[0] != "conf"):
                digest.update(str(inside).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def job_name(overrides: str, _root_: DictConfig) -> str:
    """The name of a job's directory: its overrides, shortened, and a hash of configuration, seed and code.

    So the same job finds its directory again however the sweep was started, and another job never gets it.
    """
    plain = OmegaConf.to_container(_root_, resolve=False)
    assert isinstance(plain, dict)
    try:
        config = configuration.resolve(OmegaConf.create({k: v for k, v in plain.items() if k != "hydra"}))
        identity = f"{hash_configuration(config)} {config['seed']}"
    except (UserError, KeyError):  # the job itself will say what is wrong
        identity = overrides
    digest = hashlib.sha256(f"{identity} {code_hash()}".encode()).hexdigest()[:8]
    return "_".join(filter(None, [configuration.make_slug(overrides), digest]))


@cache
def register_resolvers() -> None:
    """Makes the names of sweeps and jobs known to OmegaConf, once per process."""
    compose.register_resolvers()
    OmegaConf.register_resolver("medassay.job_name", job_name)
    OmegaConf.register_resolver("medassay.either", lambda first, second: second if first is None else first)
