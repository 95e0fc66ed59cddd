"""One job of a sweep: started, continued or skipped by what is in its directory. Importing this imports no torch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from medassay.config.messages import explain
from medassay.core.errors import ConfigError
from medassay.runs.directory import RunDirectory
from medassay.runs.table import DATA_PLACES, TRAINER_PLACES
from medassay.sweeps.objective import objective, value

logger = logging.getLogger(__name__)


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
        if self.finished(cfg, directory):
            return self.value(cfg, directory)
        try:
            _train(cfg, RunDirectory(directory), overrides)
        except Exception as error:
            if explain(error) is None:  # no mistake of the user's: whoever looks into it needs the traceback
                logger.exception("unexpected error")
            _record_failure(RunDirectory(directory), error, overrides)
            raise
        return self.value(cfg, directory)

    def finished(self, cfg: DictConfig, directory: Path) -> bool:
        """Whether the job in ``directory`` needs nothing more."""
        state = RunDirectory(directory).state()
        if state == "done" and OmegaConf.select(cfg, "assay", default="none") != "none":
            return any(directory.glob("eval/assay_*/metrics.json"))  # else it was interrupted while being judged
        return state in ("done", "pruned")

    def value(self, cfg: DictConfig, directory: Path) -> float | None:
        """The number that ranks the finished job."""
        return value(directory, objective(RunDirectory(directory).config(), cfg.sweep.metric, cfg.sweep.mode).name)


def _train(cfg: DictConfig, run: RunDirectory, overrides: list[str]) -> None:
    from medassay.runs import train as jobs  # torch and Lightning take seconds to import
    from medassay.runs.check import checked

    config = checked(cfg, overrides)
    refuse_several_devices(config["trainer"])
    state = run.state()
    if state == "waiting" or not (run.path / ".hydra" / "config.yaml").is_file():
        (run.path / "run.json").unlink(missing_ok=True)  # of a job that failed before it began
        jobs.train(config, run.path, overrides, test=bool(config["test"]))
    elif state == "done":
        jobs.assay_again(run.path, config["assay"])
        run.update(assay_failed=None)
    else:
        # where it trains may be what has to be mended: a missing file, a GPU that there is not
        here = {f"trainer.{key}": config["trainer"][key] for key in TRAINER_PLACES}
        jobs.resume(
            run.path, here | {f"data.{key}": config["data"][key] for key in DATA_PLACES if key in config["data"]}
        )
    if cfg.sweep.keep != "all" and run.state() in ("done", "pruned"):
        run.last.unlink(missing_ok=True)


def _record_failure(run: RunDirectory, error: Exception, overrides: list[str]) -> None:
    """Says in ``run.json`` why the job failed, where the run itself keeps no record: before it begins and once it is done."""
    reason, state = explain(error) or f"{type(error).__name__}: {error}", run.state()
    if state == "waiting":
        run.update(status="failed", reason=reason, overrides=overrides)
    elif state == "done":
        run.update(assay_failed=reason)


def refuse_several_devices(trainer: dict[str, Any]) -> None:
    """Raises :class:`ConfigError` where one job of a sweep asks for several devices."""
    gpus = trainer["gpus"]
    if (len(gpus) if isinstance(gpus, list) else gpus or 0) > 1 or (trainer["devices"] or 1) > 1:
        raise ConfigError(
            "several devices in one job of a multirun: give each job one device (trainer.gpus=1), or start the jobs one by one"
        )
