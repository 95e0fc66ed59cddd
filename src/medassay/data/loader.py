"""The resident loader: the images of a split as one tensor on the training device; a batch is an index and a cast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages
from medassay.data.augment import BatchAugment
from medassay.data.balance import draw_balanced_order


@dataclass(eq=False)
class ShardedBatches:
    """Which images make which batch of an epoch, for one of ``world_size`` processes.

    Over all processes every image comes once per epoch, and all processes have the same number of batches: a last
    batch that would leave a process without an image, or in training (``shuffle``) with a single one, of which batch
    normalisation has no statistics, is added to the batch before it. With ``steps`` an epoch is so many batches
    instead, and the next one goes on where it ended: the same batches in the same order, cut elsewhere. With ``cells``, the
    number of each image's cell, a shuffled order holds every cell equally often instead of every image once.
    """

    n: int
    batch_size: int
    _: KW_ONLY
    shuffle: bool
    seed: int
    rank: int = 0
    world_size: int = 1
    steps: int | None = None
    cells: Tensor | None = None
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.n < self.world_size:
            raise ConfigError(f"{self.n} images for {self.world_size} processes: use fewer devices")
        starts = list(range(0, self.n, self.batch_size * self.world_size))
        least = min(2, self.batch_size) if self.shuffle else 1  # of each process
        if len(starts) > 1 and self.n - starts[-1] < self.world_size * least:
            starts.pop()
        self.bounds = [*starts, self.n]

    def __len__(self) -> int:
        return self.steps or len(self.bounds) - 1

    @property
    def sampler(self) -> ShardedBatches:
        """Itself: Lightning tells ``loader.batch_sampler.sampler``, and nothing else, which epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of the coming epoch; Lightning calls it."""
        self.epoch = epoch

    def order(self, number: int) -> Tensor:
        """The order of all images in pass ``number`` over them, ``(n,) int64`` on the CPU, the same in every process."""
        if not self.shuffle:
            return torch.arange(self.n)
        rng = torch.Generator().manual_seed(derive_seed(self.seed, number, 1))
        return torch.randperm(self.n, generator=rng) if self.cells is None else draw_balanced_order(self.cells, rng)

    def __iter__(self) -> Iterator[Tensor]:
        batches = list(pairwise(self.bounds))
        current, order = -1, torch.empty(0, dtype=torch.int64)
        for step in range(self.epoch * len(self), (self.epoch + 1) * len(self)):
            number, place = divmod(step, len(batches))
            if number != current:
                current, order = number, self.order(number)
            start, stop = batches[place]
            yield order[start:stop][self.rank :: self.world_size]


class ResidentLoader:
    """Batches ``(images (B, C, H, W) float32 in [0, 1], labels (B,) int64)`` of a split that lives on ``device``.

    Args:
        split: The images and labels.
        batch_size: Number of images per batch and process.
        device: The device where the images live and the batches are made.
        shuffle: Whether every epoch has a new order, by ``seed`` and epoch alone.
        seed: Seed of the order and of the augmentation.
        augment: Random changes of a batch, made on the device; None for none.
        rank, world_size: Number of this process, from 0, and the number of processes.
        steps: Number of batches in an epoch; None for one pass over the images.
        cells: Number of each image's cell, ``(N,) int64``, to serve all cells equally often; None for each image once.
    """

    def __init__(
        self,
        split: LabelledImages,
        batch_size: int,
        *,
        device: torch.device | str = "cpu",
        shuffle: bool = False,
        seed: int = 0,
        augment: BatchAugment | None = None,
        rank: int = 0,
        world_size: int = 1,
        steps: int | None = None,
        cells: Tensor | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.images = split.images.to(self.device)
        self.labels = split.labels.to(self.device)
        self.augment = augment if augment is not None and augment.active else None
        self.batch_sampler = ShardedBatches(
            len(split),
            batch_size,
            shuffle=shuffle,
            seed=seed,
            rank=rank,
            world_size=world_size,
            steps=steps,
            cells=cells,
        )

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        s = self.batch_sampler
        rng = torch.Generator(self.device).manual_seed(derive_seed(s.seed, s.epoch, 2, s.rank))
        for batch in s:
            index = batch.to(self.device)
            images = self.images[index].float() / 255
            if self.augment is not None:
                images = self.augment(images, rng=rng)
            yield images, self.labels[index]
