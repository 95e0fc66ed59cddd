"""The keys of train.yaml that belong to a run or a sweep as a whole."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt


@dataclass(frozen=True)
class SweepSettings:
    """What belongs to a sweep and not to any of its jobs; see conf/train.yaml.

    Attributes:
        name: Name of the sweep and its directory; None for a new directory each time.
        force: Whether to do finished jobs again.
        keep: Which checkpoints of finished jobs to keep: ``all``; ``best`` alone; or ``none``, but those of the chosen
            configuration.
        metric: The number that ranks configurations, ``val/<name>`` or ``assay/<name>``; None for the model's own.
        mode: Whether a larger (``max``) or smaller (``min``) value is better; None for the model's own.
        final: Whether to test the configuration that validation data chose, once no job is left to run.
        final_seeds: Seeds that this configuration is trained with before it is tested, besides those of the sweep.
    """

    name: str | int | None = None
    force: bool = False
    keep: Literal["best", "none", "all"] = "all"
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    final: bool = False
    final_seeds: list[NonNegativeInt] | None = None

    def __post_init__(self) -> None:
        if self.name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", str(self.name)):
            raise ConfigError(f"sweep.name={self.name}: it names a directory; use letters, digits and . _ - only")
        if self.metric is not None and self.metric.startswith("test/"):
            raise ConfigError(f"sweep.metric={self.metric}: configurations are chosen on validation data; use val/…")
        if (self.metric is None) != (self.mode is None):
            raise ConfigError("sweep.metric and sweep.mode belong together: give both, or leave both to the model")


@dataclass(frozen=True)
class RunSettings:
    """The keys at the top of train.yaml; see there."""

    seed: NonNegativeInt
    test: bool | None
    outputs: str
    resume: str | None = None
    tags: list[str | int] = field(default_factory=list)
    notes: str | None = None
    assay: Literal["none", "quick", "full"] = "none"
    sweep: SweepSettings | None = None
