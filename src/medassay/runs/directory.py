"""One run's directory: its saved configuration, its record ``run.json`` and its final numbers ``metrics.json``."""

from __future__ import annotations

import os
import platform
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from omegaconf import OmegaConf

from medassay import config as configuration
from medassay.config.command_line import format_shell_override
from medassay.core.errors import CheckpointError, Interrupted, OutputError, UserError, advise
from medassay.core.files import (
    atomic_write,
    describe_zip_damage,
    file_lock,
    read_json,
    sha256,
    write_json,
)
from medassay.core.interrupts import uninterrupted
from medassay.core.paths import expand_home, find_kind

RESERVE = 64 * 1024  # bytes: a record and its file system's blocks, with room to spare
PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "omegaconf", "medmnist", "torchmetrics", "numpy")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def describe_failure(error: BaseException) -> str:
    """Why work failed, for the record."""
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


@cache
def describe_code_version() -> str:
    """The package's version, and the commit where it runs from a clone (``+changes`` if files differ from it)."""
    version = metadata.version("medassay")
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return version
    try:
        git = ["git", "-C", str(root)]
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return version
    return f"{version} commit {commit.stdout.strip()}{'+changes' if changes.stdout.strip() else ''}"


def describe_environment() -> dict[str, Any]:
    """Versions and hardware, for the record."""
    import torch  # seconds: reading a run's files needs none of it

    return {
        "code": describe_code_version(),
        "python": sys.version.split()[0],
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "gpus": torch.cuda.device_count()},
        "threads": torch.get_num_threads(),
    }


@dataclass
class Ending:
    """How work that raised nothing ended: ``done``, or ``pruned`` with its reason."""

    status: Literal["done", "pruned"] = "done"
    reason: str | None = None


def is_current(path: Path) -> bool:
    """Whether a run in a sweep's directory is one of the jobs that the sweep lists; runs elsewhere always are.

    Earlier code and settings leave runs of their own beside them, which comparisons must not mix in.
    """
    try:
        sweep = read_json(path.parent / "sweep.json")
    except CheckpointError:  # it says nothing
        return True
    return not sweep or path.name in [e["directory"] for key in ("jobs", "final_jobs") for e in sweep.get(key, [])]


class RunDirectory:
    """The directory of one run.

    Args:
        path: The directory, which need not exist yet. A ``~`` at its beginning is the home directory.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expand_home(path)

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def lock(self) -> Path:
        """Held by the process that trains the run; free as soon as that process is gone, however it ended."""
        return self.path / ".lock"

    @property
    def reserve(self) -> Path:
        """Takes up space while the run trains, and is removed before its ending is recorded: a full disk has room for that."""
        return self.path / ".reserve"

    def new_evaluation(self, protocol: str, eval_dir: Path | None = None) -> Path:
        """A directory for what ``protocol`` leaves, not there yet, in ``eval_dir``; None for the run's own ``eval/``."""
        return (eval_dir or self.path / "eval") / f"{protocol}_{secrets.token_hex(3)}"

    def evaluations(self) -> list[Path]:
        """The directories of its finished evaluations as it was trained, the latest last.

        Those of other weights than training chose, of images drawn in another way, or of other data are left out.
        """
        files = sorted(self.path.glob("eval/*/metrics.json"), key=lambda file: file.stat().st_mtime)
        records = [(file.parent, read_json(file)) for file in files]
        return [place for place, one in records if one.get("checkpoint", "best") == "best" and not one.get("changes")]

    # --- writing ---

    def create(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Writes the configuration as trained.

        Raises:
            OutputError: The directory already holds a run, or cannot be written.
        """
        with file_lock(self.lock) as mine:
            if not mine or (self.path / "run.json").exists():
                again = format_shell_override("resume", self.path)
                raise OutputError(
                    f"{self.path} already holds a run: continue it with {again}, or choose another hydra.run.dir"
                )
            for name, values in (("config.yaml", config), ("overrides.yaml", overrides)):
                with atomic_write(self.path / ".hydra" / name) as partial:
                    OmegaConf.save(OmegaConf.create(values), partial)
            self._take_reserve()
            about = {"tags": [str(tag) for tag in config.get("tags") or ()], "notes": config.get("notes")}
            begun = {"status": "running", "started": _now(), "overrides": overrides, "seed": config["seed"]}
            self.update(**begun, **about, **describe_environment())

    def _take_reserve(self) -> None:
        with atomic_write(self.reserve) as partial:
            partial.write_bytes(os.urandom(RESERVE))  # random: some file systems store zeros in no space

    def update(self, **fields: Any) -> None:
        """Adds ``fields`` to ``run.json``."""
        write_json(self.path / "run.json", {**read_json(self.path / "run.json"), **fields})

    def refuse_if_alive(self) -> None:
        """Raises :class:`OutputError` where a process is still training the run, and is not about to end."""
        if self.state() == "running":
            with file_lock(self.lock) as free:
                if not free:
                    raise OutputError(self._in_use())

    def _in_use(self) -> str:
        process = self.record().get("process", {})
        who = f"process {process.get('pid', 'unknown')} on {process.get('host', 'this machine')}"
        return f"{self.path} is being trained by {who}: wait for it, or stop it first"

    @contextmanager
    def record_ending(self) -> Iterator[Ending]:
        """Records how the work inside ended: done, pruned, interrupted, or failed with its reason; the exception goes on.

        The digests of the checkpoints are recorded with it. Nobody else can record the same run meanwhile.

        Raises:
            OutputError: Another process is training the run.
        """
        with file_lock(self.lock) as mine:
            if not mine:
                raise OutputError(self._in_use())
            yield from self._record_ending()

    def _record_ending(self) -> Iterator[Ending]:
        begun = time.monotonic()
        here = {"pid": os.getpid(), "host": platform.node()}
        spent = float(read_json(self.path / "run.json").get("seconds", 0.0))
        self._take_reserve()
        ending = Ending()

        @uninterrupted()
        def end(status: str, reason: str | None = None) -> None:
            if not (self.path / "run.json").exists():
                raise OutputError(f"{self.path} was deleted while the run was training: start it again")
            self.reserve.unlink(missing_ok=True)
            digests = {file.name: sha256(file) for file in (self.best, self.last) if file.exists()}
            seconds = round(spent + time.monotonic() - begun, 1)
            self.update(status=status, reason=reason, ended=_now(), seconds=seconds, sha256=digests)

        try:
            # without digests: they are those of the last ending, and a run that is killed leaves other checkpoints
            self.update(status="running", reason=None, process=here, sha256=None)
            again = f"continue with: python train.py {format_shell_override('resume', self.path)}"
            with advise(full=f"free some space, then {again}", refused=f"make it writable, then {again}"):
                yield ending
        except KeyboardInterrupt as error:
            signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
            name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
            with suppress(UserError, OSError):  # the directory is gone, say: an interruption it is still
                end("interrupted", f"{name}; continue with {format_shell_override('resume', self.path)}")
            raise Interrupted(signum, self.path) from error
        except BaseException as error:
            try:
                end("failed", describe_failure(error))
            except (UserError, OSError):  # the directory is gone, say: the reason still reaches the terminal
                raise error from None
            raise
        end(ending.status, ending.reason)

    # --- reading ---

    def config(self) -> dict[str, Any]:
        """The configuration as trained, plain values.

        Raises:
            CheckpointError: The path is no run directory.
        """
        file = self.path / ".hydra" / "config.yaml"
        if find_kind(file, CheckpointError) != "file":
            hint = (
                "it does not exist" if find_kind(self.path, CheckpointError) is None else "it has no .hydra/config.yaml"
            )
            raise CheckpointError(
                f"{self.path} is no run directory ({hint}): give one that train.py made, outputs/<model>/<run>"
            )
        try:
            values = OmegaConf.to_container(OmegaConf.load(file))
        except Exception as error:  # YAML's own errors, wrong encoding, wrong top level: nothing there to go on from
            raise CheckpointError(f"{file} cannot be read ({str(error).splitlines()[0]})") from error
        groups = [values.get(name) for name in ("data", "model", "trainer")] if isinstance(values, dict) else [None]
        if not isinstance(values, dict) or not all(isinstance(g, dict) and "_target_" in g for g in groups):
            raise CheckpointError(f"{file} is no configuration of a run: it lacks data, model or trainer")
        try:
            return configuration.update_config({str(key): value for key, value in values.items()})
        except KeyError as error:
            raise CheckpointError(f"{file} is no configuration of a run: it lacks {error}") from error

    def config_at_end(self) -> dict[str, Any]:
        """:meth:`config` with what was changed when the run was resumed: what its last epochs were trained with.

        Where the same data lie now is no change; of other data it has the ``md5``, of a generator's that of the real ones.

        Raises:
            CheckpointError: The path is no run directory.
        """
        config, record = self.config(), self.record()
        compared = record.get("other_data") is not None  # a resume of before that was recorded did not compare them
        for key, value in (record.get("resumed_with") or {}).items():
            group, _, name = key.partition(".")
            if not (compared and key in ("data.file", "data.path")):
                config[group] = {**config[group], name: value}
        if record.get("other_data"):
            data, known = config["data"], record.get("data", {})
            real = {"real": {**data["real"], "md5": known["real"].get("md5")}} if "real" in known else {}
            config["data"] = {**data, **(real or {"md5": known.get("md5")})}
        return config

    def record(self) -> dict[str, Any]:
        """What ``run.json`` says; empty if there is none."""
        return read_json(self.path / "run.json")

    def refuse_damaged(self, checkpoint: Path) -> None:
        """Compares a checkpoint with the digest that the run's ending recorded; one that is missing passes.

        Where none is recorded (the run is older, was killed, or is still training, or the file lies elsewhere), the checksums
        inside are compared.

        Raises:
            CheckpointError: The checkpoint is damaged, or another file.
        """
        if find_kind(checkpoint, CheckpointError) is None:
            return
        own = checkpoint.parent.resolve() == self.best.parent.resolve()  # a file elsewhere may have the name of one
        recorded = (self.record().get("sha256") or {}).get(checkpoint.name) if own else None
        try:
            if recorded is None:
                damage = describe_zip_damage(checkpoint)
            else:
                damage = None if sha256(checkpoint) == recorded else "it is not the file that training left"
        except OSError as error:
            raise CheckpointError(f"{checkpoint} cannot be read ({error.strerror}): make it readable") from error
        if damage is not None:
            raise CheckpointError(
                f"{checkpoint} is damaged ({damage}): restore it from a copy, or {self.explain_new_start()}"
            )

    def explain_new_start(self) -> str:
        """How to train the run again where its checkpoints are of no use any more."""
        record = self.record()
        if record.get("status") != "done":
            return f"start over: delete {self.best.parent}, then python train.py {format_shell_override('resume', self.path)}"
        overrides = [
            text for text in record.get("overrides") or [] if not text.startswith(("hydra.run.dir=", "sweep."))
        ]
        return f"train anew: python train.py {shlex.join(overrides)}"

    def state(self) -> str:
        """The status that ``run.json`` says, but ``interrupted`` where it says running and no process is at it.

        ``waiting`` where there is no ``run.json``.
        """
        status = str(self.record().get("status", "waiting"))
        if status != "running":
            return status
        try:
            with file_lock(self.lock, wait=0.1) as free:
                return "interrupted" if free else "running"
        except OutputError:  # somebody else's directory: nothing can be locked there, or known
            return status

    def history(self) -> list[dict[str, float]]:
        """The logged values of each epoch trained, ``epoch`` counting from 1; empty if there are none."""
        return list(read_json(self.path / "history.json").get("rows", []))

    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` says; empty if there is none."""
        return read_json(self.path / "metrics.json")
