"""Lightning's trainer for our settings, and which of Lightning's messages are kept from the user."""

from __future__ import annotations

import logging
import multiprocessing
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden

from medassay.core.errors import ConfigError
from medassay.training.callbacks import TimeLimit
from medassay.training.checkpoints import AtomicCheckpointIO
from medassay.training.epoch_loop import LeanEpochLoop
from medassay.training.progress import EpochBar
from medassay.training.settings import TrainerSettings, choose_devices

logger = logging.getLogger(__name__)


def make_trainer(
    task: LightningModule,
    directory: Path,
    settings: TrainerSettings,
    callbacks: list[Callback],
    loggers: Sequence[Logger],
    max_epochs: int | None = None,
    *,
    starts_anew: bool = False,
) -> Trainer:
    """Lightning's trainer for the settings; nothing is trained yet.

    Args:
        task: The task that will be trained.
        directory: The run directory.
        settings: The trainer settings.
        callbacks: All callbacks.
        loggers: All loggers.
        max_epochs: Number of epochs; None takes the one of ``settings``.
        starts_anew: Whether a limit of time leaves out that of the training that is continued.

    Raises:
        ConfigError: A setting does not fit the machine or the task.
    """
    accelerator, devices = choose_devices(settings, torch.cuda.device_count(), torch.backends.mps.is_available())
    _refuse_unfitting(task, settings, accelerator)
    if settings.precision == "bf16-mixed" and lacks_bfloat16(accelerator):
        logger.warning(
            "trainer.precision=bf16-mixed: this CPU has no instructions for bfloat16, and training takes many times as long as "
            "with trainer.precision=32-true"
        )
    several = (devices if isinstance(devices, int) else len(devices)) > 1
    validates = is_overridden("validation_step", task)
    limit: float | int = 1.0 if settings.limit_batches is None else settings.limit_batches
    deterministic = (accelerator == "cpu") if settings.deterministic is None else settings.deterministic
    limit_time = [] if settings.max_time is None else [TimeLimit(settings.max_time, starts_anew=starts_anew)]
    try:
        trainer = Trainer(
            accelerator=accelerator,
            devices=devices,
            strategy=_make_ddp_strategy(task) if several or settings.strategy == "ddp" else "auto",
            precision=settings.precision,
            max_epochs=settings.max_epochs if max_epochs is None else max_epochs,
            deterministic=deterministic,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip,
            limit_train_batches=limit,
            limit_val_batches=limit if validates else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            use_distributed_sampler=False,  # the loader shards by itself
            enable_checkpointing=True,
            enable_model_summary=False,
            enable_progress_bar=any(isinstance(callback, EpochBar) for callback in callbacks),
            profiler=_make_profiler(settings.profiler, directory),
            callbacks=[*callbacks, *limit_time],
            logger=list(loggers),
            default_root_dir=directory,
            plugins=[AtomicCheckpointIO()],
        )
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(f"trainer: {error}") from error
    if settings.loop == "lean":
        trainer.fit_loop.epoch_loop = LeanEpochLoop(trainer)
    return trainer


def _refuse_unfitting(task: LightningModule, settings: TrainerSettings, accelerator: str) -> None:
    """Raises :class:`ConfigError` for a setting that does not fit the machine or the task."""
    if settings.precision == "16-mixed" and (accelerator == "cpu" or not torch.cuda.is_available()):
        raise ConfigError(
            "trainer.precision=16-mixed: half precision needs a GPU; on the CPU use bf16-mixed or 32-true"
        )
    if settings.compile and getattr(task, "differentiates_twice", False):
        raise ConfigError(
            "trainer.compile=true: compiled nets have no second derivatives, which the gradient penalties need; use false, "
            "or model.gradient_penalty=0"
        )
    if settings.accumulate > 1 and not task.automatic_optimization:
        raise ConfigError(
            f"trainer.accumulate={settings.accumulate}: this model steps its optimizers itself; raise data.batch_size instead"
        )
    if settings.gradient_clip is not None and not task.automatic_optimization:
        raise ConfigError(
            f"trainer.gradient_clip={settings.gradient_clip}: this model steps its optimizers itself; use null"
        )


def lacks_bfloat16(accelerator: str) -> bool:
    """Whether the training runs on a CPU that can only emulate bfloat16; asked of the library that multiplies there."""
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())
    if not on_cpu or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    supported: bool = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return not supported


def _make_ddp_strategy(task: LightningModule) -> DDPStrategy:
    # Spawned, not launched by repeating the command line: the same from a script, a test or train.py, and the run
    # directory stays the parent's (in a notebook Lightning allows one device only). A GAN's two players leave each
    # other's weights without gradient in each step, frozen layers have none.
    without_gradient = not task.automatic_optimization or getattr(task, "freezes_for_a_time", False)
    return DDPStrategy(start_method="spawn", find_unused_parameters=without_gradient)


def _make_profiler(name: str | None, directory: Path) -> Any:
    if name is None:
        return None
    from pytorch_lightning.profilers import AdvancedProfiler, SimpleProfiler

    return {"simple": SimpleProfiler, "advanced": AdvancedProfiler}[name](dirpath=directory, filename="profile")


def quiet_lightning() -> None:
    """Lightning's notes on devices and its tips are not ours to pass on; its warnings and errors are."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)


def filter_warnings() -> None:
    # Lightning 2.6 on torch 2.15 uses a class that torch has deprecated
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    # a GAN has nothing to validate, and its averaged generator is in evaluation mode by intention
    warnings.filterwarnings("ignore", message="You passed in a `val_dataloader` but have no")
    warnings.filterwarnings("ignore", message="Found .* module.* in eval mode")
    # a run that goes on without its time limit; every other callback is the configuration's
    warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`.*'Timer'")
    # on a machine with Slurm; its jobs are started by the launcher, not by srun inside of one
    warnings.filterwarnings("ignore", message="The `srun` command is available")


def _log_to_terminal() -> None:
    """Sends our messages to standard output."""
    ours = logging.getLogger("medassay")
    ours.addHandler(logging.StreamHandler(sys.stdout))
    ours.setLevel(logging.INFO)


# One process of several has this module, but not what its parent set. (It has a name of its own already while this module
# is imported, but no parent process yet.)
if multiprocessing.current_process().name != "MainProcess":
    quiet_lightning()
    filter_warnings()
    _log_to_terminal()
