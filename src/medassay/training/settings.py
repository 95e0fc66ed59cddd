"""What can be set about training: how long, on which devices, in which arithmetic; and what that means on a machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegative, NonNegativeInt, PositiveInt, Range

Accelerator = Literal["cpu", "cuda", "gpu", "mps", "auto"] | None
Gpus = Annotated[int, Range(ge=0)] | list[NonNegativeInt] | None
Precision = Literal["32-true", "bf16-mixed", "16-mixed", "64-true"]


@dataclass(frozen=True)
class Recipe:
    """What a model brings along for its training; data, trainer and callbacks read it.

    Attributes:
        name: Name of the model in directories and records.
        max_epochs: Number of passes over the training images.
        batch_size: Number of images per batch and device.
        monitor: The logged value that chooses the epoch; None chooses the last.
        mode: Whether a larger (``max``) or smaller (``min``) value is better.
        patience: Number of epochs without a better value after which training stops; None never stops early.
    """

    name: str
    max_epochs: PositiveInt
    batch_size: PositiveInt
    monitor: str | None = None
    mode: Literal["min", "max"] = "max"
    patience: PositiveInt | None = None


@dataclass(frozen=True)
class TrainerSettings:
    """How to train, on what, and for how long.

    Attributes:
        max_epochs: Number of passes over the training images.
        max_time: Longest time of training, ``DD:HH:MM:SS``; None for no limit.
        gpus: None for one GPU if there is one, else the CPU; 0 for the CPU; n for the first n GPUs; a list for the GPUs of
            these numbers.
        accelerator, devices: Lightning's own pair of settings, instead of ``gpus``.
        strategy: ``auto``, or ``ddp`` for one process per device.
        precision: Precision of the arithmetic.
        deterministic: Whether to use only algorithms that give the same result every time; None means on the CPU alone.
        accumulate: Number of batches per optimizer step.
        gradient_clip: Largest Euclidean norm of the gradient; None for no limit.
        compile: Whether to compile the net first (pays off on long GPU runs only).
        threads: Number of torch's threads on the CPU; None leaves torch's choice.
        limit_batches: Largest number of batches of each split per epoch; None for all.
        profiler: Lightning's ``simple`` or ``advanced`` profile, written to the run directory; None for none.
        loop: Loop over an epoch's batches: ``lean`` skips the hooks that nobody has overridden, ``lightning`` is Lightning's
            own; the results are the same, bit for bit.
        progress: Whether to show progress bars instead of a line for each epoch; None shows them where standard error is a
            terminal.
    """

    max_epochs: PositiveInt = 30
    max_time: str | None = None
    gpus: Gpus = None
    accelerator: Accelerator = None
    devices: PositiveInt | None = None
    strategy: Literal["auto", "ddp"] = "auto"
    precision: Precision = "32-true"
    deterministic: bool | None = None
    accumulate: PositiveInt = 1
    gradient_clip: NonNegative | None = None
    compile: bool = False
    threads: PositiveInt | None = None
    limit_batches: PositiveInt | None = None
    profiler: Literal["simple", "advanced"] | None = None
    loop: Literal["lean", "lightning"] = "lean"
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.max_time is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", self.max_time):
            raise ConfigError(f"trainer.max_time={self.max_time}: expected DD:HH:MM:SS, e.g. 00:01:30:00")


def choose_devices(settings: TrainerSettings, gpus_present: int, mps: bool = False) -> tuple[str, int | list[int]]:
    """Lightning's ``(accelerator, devices)`` for the settings on a machine with so many CUDA GPUs.

    Raises:
        ConfigError: ``gpus`` together with ``accelerator`` or ``devices``, or more GPUs than there are.
    """
    gpus = settings.gpus
    if gpus is None:
        if settings.accelerator is not None or settings.devices is not None:
            accelerator = settings.accelerator or "auto"
            if accelerator in ("cuda", "gpu") and (settings.devices or 1) > gpus_present:
                request = f"trainer.accelerator={accelerator}"
                if settings.devices is not None:
                    request += f" trainer.devices={settings.devices}"
                raise ConfigError(_explain_absent(request, gpus_present, "trainer.accelerator=cpu"))
            if accelerator == "mps" and not mps:
                raise ConfigError(
                    "trainer.accelerator=mps: this machine has none; use trainer.accelerator=cpu for the CPU"
                )
            return accelerator, settings.devices or 1
        return ("cuda" if gpus_present else "mps" if mps else "cpu"), 1
    if settings.accelerator is not None or settings.devices is not None:
        other_key = "trainer.accelerator" if settings.accelerator is not None else "trainer.devices"
        raise ConfigError(f"trainer.gpus={gpus} and {other_key} both say where to train: give one of them")
    if gpus in (0, []):
        return "cpu", 1
    chosen = list(range(gpus)) if isinstance(gpus, int) else list(gpus)
    if len(set(chosen)) < len(chosen):
        raise ConfigError(f"trainer.gpus={gpus} names a GPU twice: name each once")
    if max(chosen) >= gpus_present or min(chosen) < 0:
        raise ConfigError(_explain_absent(f"trainer.gpus={gpus}", gpus_present))
    return "cuda", chosen


def _explain_absent(request: str, present: int, instead: str = "trainer.gpus=0") -> str:
    have = "no CUDA GPU" if present == 0 else f"{present} CUDA GPU{'s' if present > 1 else ''} (numbered from 0)"
    return f"{request}: this machine has {have}; use {instead} for the CPU, or leave it out for what is there"
