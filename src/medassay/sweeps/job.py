"""One job of a sweep: started, continued or skipped by what is in its directory. Importing this imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from medassay.config.messages import explain
from medassay.core.errors import ConfigError, UserError, advise
from medassay.core.files import read_json
from medassay.runs.directory import RunDirectory, describe_failure
from medassay.runs.groups import is_place
from medassay.runs.table import DATA_PLACES, TRAINER_PLACES, map_overrides
from medassay.sweeps.directory import Job, SweepDirectory
from medassay.sweeps.objective import choose_objective, read_value

logger = logging.getLogger(__name__)

unrecorded: dict[Path, str] = {}  # why jobs of this process failed whose directory takes no record: the disk is full


class TrainJob:
    """What Hydra calls for each job; gives the number that ranks it, None where there is none.

    A job that is finished is not done again, one that was interrupted or failed continues from its last checkpoint, and
    one that fails says so in its ``run.json`` before the error goes on.
    """

    __name__ = "train"

    def __call__(self, cfg: DictConfig) -> float | None:
        directory = Path(HydraConfig.get().runtime.output_dir)
        overrides = [
            str(text) for text in OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False) or []
        ]
        if self.is_finished(cfg, directory):
            return self.read_value(cfg, directory)
        again = "then start the sweep's command again"
        try:
            with advise(full=f"free some space, {again}", refused=f"make it writable, {again}"):
                _train(cfg, RunDirectory(directory), overrides)
        except Exception as error:
            if explain(error) is None:  # no mistake of the user's: whoever looks into it needs the traceback
                logger.exception("unexpected error")
            record_failure(RunDirectory(directory), cfg, overrides, explain(error) or describe_failure(error))
            raise
        return self.read_value(cfg, directory)

    def is_finished(self, cfg: DictConfig, directory: Path) -> bool:
        """Whether the job in ``directory`` needs nothing more."""
        run = RunDirectory(directory)
        state = run.state()
        if run.record().get("assay_failed"):  # its assay is to be tried again
            return False
        if state in ("done", "pruned") and not run.metrics():  # deleted, being damaged: nothing would rank the job
            return False
        if state == "done" and OmegaConf.select(cfg, "assay", default="none") != "none":
            return _is_judged(run, cfg.assay, "test" if cfg.test else "val")
        return state in ("done", "pruned")

    def read_value(self, cfg: DictConfig, directory: Path) -> float | None:
        """The number that ranks the finished job."""
        return read_value(
            directory, choose_objective(RunDirectory(directory).config(), cfg.sweep.metric, cfg.sweep.mode).name
        )


def _is_judged(run: RunDirectory, budget: str, split: str) -> bool:
    """Whether the finished run has an assay of this budget, or a full one, on these images.

    It has none where it was interrupted while being judged, or where another one was asked for then; but where
    ``sweep.keep=none`` has removed the weights, no other can be made.
    """
    assays = [read_json(one / "assay.json") for one in run.evaluations() if one.name.startswith("assay_")]
    if assays and not run.best.exists():
        return True
    return any(assay.get("budget") in (budget, "full") and assay.get("split") == split for assay in assays)


def _train(cfg: DictConfig, run: RunDirectory, overrides: list[str]) -> None:
    from medassay.runs.check import check_training  # torch and Lightning take seconds to import
    from medassay.runs.recording import SweepPart
    from medassay.runs.train import resume, train

    config = check_training(cfg)
    config["test"] = bool(config["test"])
    refuse_several_devices(config["trainer"])
    jobs = SweepDirectory(run.path.parent).jobs()
    searched = getattr(HydraConfig.get().sweeper, "params", None) or {}
    part = SweepPart(
        find_swept(jobs, overrides, searched), bool(jobs) and jobs[0].directory.resolve() == run.path.resolve()
    )
    state = run.state()
    if state == "waiting" or not (run.path / ".hydra" / "config.yaml").is_file():
        (run.path / "run.json").unlink(missing_ok=True)  # of a job that failed before it began
        train(config, run.path, overrides, part, resume=True)  # or one whose record was damaged, and removed
    elif state != "done" or not run.metrics():
        if state == "done":  # its numbers are gone; a finished run could only be resumed for more epochs
            run.update(status="interrupted")
        # where it trains may be what has to be mended: a missing file, a GPU that there is not
        where = {f"trainer.{key}": config["trainer"][key] for key in TRAINER_PLACES}
        where |= {f"data.{key}": config["data"][key] for key in DATA_PLACES if key in config["data"]}
        resume(run.path, where, part)
    if config["assay"] != "none":
        from medassay.evaluation.evaluate import assay_after_training

        assay_after_training(run.path, config["assay"], test=config["test"])
        if run.record().get("assay_failed"):
            run.update(assay_failed=None)
    if cfg.sweep.keep != "all" and run.state() in ("done", "pruned"):
        run.last.unlink(missing_ok=True)


def find_swept(jobs: Sequence[Job], overrides: Sequence[str], searched: Iterable[str] = ()) -> dict[str, str]:
    """Those of a job's ``overrides``, value by key, that ``jobs`` do not all have alike; places are left out.

    Keys that a study has ``searched`` are among them even where its first jobs are alike.
    """
    keys = {str(key) for key in searched}
    given = [map_overrides(job.overrides) for job in jobs]
    return {
        key: value
        for key, value in map_overrides(overrides).items()
        if key in keys or ((key == "seed" or not is_place(key)) and any(other.get(key) != value for other in given))
    }


def record_failure(run: RunDirectory, cfg: DictConfig, overrides: list[str], reason: str) -> None:
    """Says in ``run.json`` why the job failed, where the run itself keeps no record of it.

    That is before it begins, once it is done and a generator is being judged, and where it had no time to.
    """
    try:
        state = run.state()
        if state in ("interrupted", "waiting"):
            run.reserve.unlink(missing_ok=True)
            run.update(status="failed", reason=reason, overrides=overrides)
        elif state == "done" and OmegaConf.select(cfg, "assay", default="none") != "none":
            run.update(assay_failed=reason)
    except (UserError, OSError):
        unrecorded[run.path] = reason


def refuse_several_devices(trainer: dict[str, Any]) -> None:
    """Raises :class:`ConfigError` where one job of a sweep asks for several devices."""
    gpus = trainer["gpus"]
    if (len(gpus) if isinstance(gpus, list) else gpus or 0) > 1 or (trainer["devices"] or 1) > 1:
        raise ConfigError(
            "several devices in one job of a multirun: give each job one device (trainer.gpus=1), or start the jobs one by one"
        )
