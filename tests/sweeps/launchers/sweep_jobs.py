"""Jobs for tests of sweeps, without torch: what one does is in its overrides. A module of its own, so that the fresh
process of a job can import it; ``main`` is ``python train.py`` with such jobs.

``+do=`` says how it ends, ``+epochs=`` how many it takes (each leaves a checkpoint, the next start continues there),
``+pause=`` the seconds of one.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from medassay.config import resolve
from medassay.core.errors import DataError
from medassay.core.files import write_json
from medassay.runs.directory import RunDirectory
from medassay.sweeps.directory import SweepDirectory

WITNESSES = "processes.jsonl"  # in the sweep's directory: a line when a job begins and one when it ends


class FakeJob:
    """Stands where the job that trains does; gives a number that depends on its seed and on every epoch."""

    __name__ = "train"

    def __call__(self, cfg: DictConfig) -> float:
        run = RunDirectory(HydraConfig.get().runtime.output_dir)
        witness(run, "begins")
        try:
            if not run.record().get("overrides"):
                overrides = OmegaConf.to_container(HydraConfig.get().overrides.task)
                with mock.patch("medassay.runs.directory.describe_environment", dict):  # which would ask torch
                    run.create(resolve(cfg), [str(text) for text in overrides or []])
            with run.record_ending():
                numbers = work(cfg, run)
            write_json(run.path / "metrics.json", numbers)
        finally:
            witness(run, "ends")
        return self.read_value(cfg, run.path)

    def is_finished(self, cfg: DictConfig, directory: Path) -> bool:
        return RunDirectory(directory).state() == "done"

    def read_value(self, cfg: DictConfig, directory: Path) -> float:
        return float(RunDirectory(directory).metrics()["val"]["auroc"])


def witness(run: RunDirectory, what: str) -> None:
    """Adds a line to what the processes of a sweep have seen; one write, so that lines stay whole."""
    seen: dict[str, Any] = {"what": what, "job": run.path.name, "pid": os.getpid(), "time": time.monotonic()}
    seen |= {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    seen |= {"torch": "torch" in sys.modules}
    with (run.path.parent / WITNESSES).open("a") as file:
        file.write(json.dumps(seen) + "\n")


def work(cfg: DictConfig, run: RunDirectory) -> dict[str, Any]:
    """The epochs that remain; each changes the number as only it can."""
    print(f"this is job {run.path.name}")
    checkpoint = run.path / "checkpoint.json"
    state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"epoch": 0, "number": int(cfg.seed)}
    for epoch in range(state["epoch"], cfg.get("epochs", 1)):
        time.sleep(float(cfg.get("pause", 0.0)))
        state = {"epoch": epoch + 1, "number": (state["number"] * 1103515245 + 12345 + epoch) % 2**31}
        write_json(checkpoint, state)
        with (run.path / "trained.txt").open("a") as file:
            file.write(f"{epoch + 1}\n")
    end(str(cfg.get("do", "succeed")), run)
    return {
        "data": cfg.data.name,
        "epochs": state["epoch"],
        "seed": cfg.seed,
        "val": {"auroc": state["number"] / 2**31},
    }


def end(how: str, run: RunDirectory) -> None:
    deadline = time.monotonic() + 100
    while how == "wait" and not (run.path.parent / "go").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    first = not (run.path / "ended_before").exists()
    (run.path / "ended_before").touch()
    if how == "fail" or (how == "fail_once" and first):
        raise DataError("there are no images of this patient")
    if how == "divide":
        print(1 / 0)
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "leave":
        os._exit(0)


def main(argv: Sequence[str]) -> int:
    """The command line ``train`` with such jobs; of a sweep's end, only what became of each and the exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C
    from medassay import cli
    from medassay.sweeps import multirun  # which the process of a job need not wait for

    def conclude(sweep: SweepDirectory, *_: Any) -> int:
        print("torch is imported:", "torch" in sys.modules)
        states = {job.directory.name: RunDirectory(job.directory).state() for job in sweep.jobs()}
        print("states:", json.dumps(states))
        return int(any(state == "failed" for state in states.values()))

    with (
        mock.patch.object(multirun, "TrainJob", FakeJob),
        mock.patch.object(multirun, "_conclude", conclude),
        mock.patch("medassay.sweeps.directory.code_hash", return_value="0123456789abcdef"),
        mock.patch("medassay.sweeps.launchers.local_parallel.PRELOAD", ["json"]),  # these jobs need no more
        mock.patch("medassay.sweeps.launchers.local_parallel.SUMMARY", "json"),
    ):
        return cli.main("train", argv)
