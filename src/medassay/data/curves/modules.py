"""The LightningDataModule of curves measured several times, and what it asks of a source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import Curve, CurveSplits, NonNegativeInt, Positive, PositiveInt
from medassay.data.curves.loader import CurveLoader
from medassay.data.loader import ShardedBatches
from medassay.data.modules import ResidentData


@dataclass(frozen=True)
class Axis:
    """What an axis shows: its name, its unit, and how many of that unit are 1 in the data.

    Attributes:
        name: The variable.
        unit: The unit; None where it is not known.
        scale: The data are what was measured, divided by this.
    """

    name: str
    unit: str | None = None
    scale: float = 1.0

    @property
    def label(self) -> str:
        """Name and unit, e.g. ``time (ms)`` or ``time (27.8 ms)``."""
        number = "" if self.scale == 1 else f"{self.scale:.4g}"
        unit = " ".join(filter(None, [number, self.unit]))
        return f"{self.name} ({unit})" if unit else self.name


@dataclass(frozen=True)
class Repetitions:
    """A curve measured several times at the same places.

    Attributes:
        x: The places, ``(P,) float64``.
        y: What was measured, ``(R, P) float64``, a row for each repetition.
        x_axis, y_axis: What the two are.
    """

    x: Tensor
    y: Tensor
    x_axis: Axis
    y_axis: Axis


class CurveSource(ABC):
    """What reads or makes the repetitions of a curve; one of your own does the same."""

    @abstractmethod
    def read(self) -> Repetitions:
        """All repetitions, in their order.

        Raises:
            DataError: They are not there, or cannot be read.
        """

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Where they came from, for a run's record; called after :meth:`read`."""

    def compute_truth(self, x: Tensor) -> Tensor | None:
        """What is true at ``x (P,) float64``, before noise and differences, ``(P,) float64``; None where that is unknown."""
        return None


class CurveOptions(TypedDict, total=False):
    """How a curve is split and served, by name; :class:`CurveData` says what each is."""

    val: PositiveInt
    test: PositiveInt
    x_scale: Positive
    y_scale: Positive
    batch_size: PositiveInt
    seed: NonNegativeInt
    subset: PositiveInt | None
    steps: PositiveInt | None


class CurveData(ResidentData):
    """Repetitions of one curve, split by repetition, and their resident loaders.

    Whole repetitions are held out, never single points of one: neighbouring points of a beat are alike. The last ``test`` ones
    in the source's order are for the test, the ``val`` ones before them for validation, the first ones to learn from.

    Args:
        name: Name of the data set in records.
        source: Source of the repetitions.
        val: Number of repetitions for validation.
        test: Number of repetitions for the test.
        x_scale, y_scale: Numbers that the source's values are divided by.
        batch_size: Number of points per batch and device.
        seed: Seed of the order of the points.
        subset: Number of repetitions to learn from, the first ones; None for all.
        steps: Batches of a training epoch; None for one pass over the points.
    """

    source: CurveSource
    counted = "points"

    def __init__(
        self,
        name: str,
        source: CurveSource,
        *,
        val: PositiveInt = 2,
        test: PositiveInt = 2,
        x_scale: Positive = 1.0,
        y_scale: Positive = 1.0,
        batch_size: PositiveInt = 128,
        seed: NonNegativeInt = 0,
        subset: PositiveInt | None = None,
        steps: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        self.name, self.source, self.classes = name, source, []
        self.val, self.test, self.x_scale, self.y_scale = val, test, x_scale, y_scale
        self.batch_size, self.seed, self.subset, self.steps = batch_size, seed, subset, steps
        self._splits: CurveSplits | None = None

    @property
    def input_shape(self) -> tuple[int]:
        """``(1,)``: one x is what a net is given at a time."""
        return (1,)

    @property
    def splits(self) -> CurveSplits:
        """The three splits, loaded on first use."""
        if self._splits is None:
            repetitions = self.source.read()
            count = len(repetitions.y)
            learned = count - self.val - self.test
            if learned < 1:
                raise ConfigError(
                    f"data.val={self.val} data.test={self.test}: of {count} beats none is left to learn from; give fewer"
                )
            self.x_axis = Axis(repetitions.x_axis.name, repetitions.x_axis.unit, self.x_scale)
            self.y_axis = Axis(repetitions.y_axis.name, repetitions.y_axis.unit, self.y_scale)
            order = list(range(count))
            train, val, test = order[:learned], order[learned : learned + self.val], order[learned + self.val :]
            self._splits = CurveSplits(*(self._take(repetitions, part) for part in (train[: self.subset], val, test)))
        return self._splits

    def _take(self, repetitions: Repetitions, chosen: list[int]) -> Curve:
        """The points of the ``chosen`` repetitions, one repetition after the other."""
        places = len(repetitions.x)
        times = (repetitions.x / self.x_scale).float()
        if len(set(times.tolist())) < places:
            low, high = float(repetitions.x.min()), float(repetitions.x.max())
            raise DataError(
                f"data={self.name}: the first column, {low:.10g} to {high:.10g}, lies too far from 0 for the single precision "
                "that nets compute in, where some of its values are the same: subtract its first value from all"
            )
        x = times.repeat(len(chosen))[:, None]
        y = (repetitions.y[chosen] / self.y_scale).float().reshape(-1, 1)
        return Curve(x, y, torch.tensor(chosen).repeat_interleave(places))

    def split(self, name: str) -> Curve:
        """The split called ``train``, ``val`` or ``test``."""
        curve: Curve = getattr(self.splits, name)
        return curve

    def data_of(self, split: str) -> CurveData:
        """The data set that a split belongs to: this one."""
        return self

    def compute_truth(self, x: Tensor) -> Tensor | None:
        """What is true at ``x (N, 1) float32``, in the units of the data, ``(N, 1) float32``; None where that is unknown."""
        truth = self.source.compute_truth(x[:, 0].double() * self.x_scale)
        return None if truth is None else (truth / self.y_scale).float()[:, None]

    def provenance(self) -> dict[str, Any]:
        """Where the points came from, for the run's record; call after the splits are loaded."""
        beats = {name: [beat + 1 for beat in curve.list_beats()] for name, curve in self.splits._asdict().items()}
        return {"name": self.name, "of": "beats", **self.source.provenance(), "split": beats}

    def train_dataloader(self) -> CurveLoader:
        return self._make_loader(self.splits.train, shuffle=True, steps=self.steps)

    def val_dataloader(self) -> CurveLoader:
        return self._make_loader(self.splits.val)

    def _make_loader(self, curve: Curve, shuffle: bool = False, steps: int | None = None) -> CurveLoader:
        trainer = self.trainer
        rank, world_size = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        batches = ShardedBatches(
            len(curve),
            self.batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=rank,
            world_size=world_size,
            steps=steps,
        )
        return CurveLoader(curve, batches, trainer.strategy.root_device if trainer else "cpu")
