"""The resident loader of curves: all points of a split on the training device; a batch is an index."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from medassay.core.types import Curve
from medassay.data.loader import ShardedBatches


class CurveLoader:
    """Batches ``(x (B, 1) float32, y (B, 1) float32)`` of points that live on ``device``.

    Args:
        curve: The points.
        batches: Which points make which batch.
        device: The device where the points live.
    """

    def __init__(self, curve: Curve, batches: ShardedBatches, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.x, self.y = curve.x.to(self.device), curve.y.to(self.device)
        self.batch_sampler = batches

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batch_sampler:
            index = batch.to(self.device)
            yield self.x[index], self.y[index]
