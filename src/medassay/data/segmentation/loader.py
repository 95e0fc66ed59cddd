"""Resident loaders of segmented images: random patches to learn from, whole images to look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import SegmentedImages
from medassay.data.segmentation.augment import SegmentationAugment

Batch = tuple[Tensor, Tensor, Tensor]


class ResidentPixels:
    """Images of different sizes with their class maps and weights on one device, each kind in one flat tensor.

    Patches of many images are then one indexing, with no loop and no wait for the device.

    Args:
        split: The images and masks.
        weights: The weight of each pixel, ``(H, W) float32`` for each image.
        device: Where they live.
    """

    def __init__(self, split: SegmentedImages, weights: list[Tensor], device: torch.device) -> None:
        self.sizes = torch.tensor([mask.shape for mask in split.masks])
        areas = self.sizes.prod(1)
        self.offsets = areas.cumsum(0) - areas
        self.heights, self.widths = self.sizes.to(device).unbind(1)
        self.starts = self.offsets.to(device)
        self.channels = split.images[0].shape[0]
        self.images = torch.cat([image.flatten() for image in split.images]).to(device)
        self.masks = torch.cat([mask.flatten() for mask in split.masks]).to(device)
        self.weights = torch.cat([one.flatten() for one in weights]).to(device)

    def cut(self, index: Tensor, tops: Tensor, lefts: Tensor, size: int) -> Batch:
        """Square patches of ``size`` pixels a side, mirrored where they leave their image.

        Args:
            index: Which image each patch is cut from, ``(B,) int64``.
            tops, lefts: Place of each patch's first pixel in its image, ``(B,) int64``; may be negative.
            size: Side of the patches in pixels.

        Returns:
            Images ``(B, C, size, size) float32`` in [0, 1], masks ``(B, size, size) int64``, weights of that shape ``float32``.
        """
        along = torch.arange(size, device=self.masks.device)
        heights, widths = self.heights[index, None], self.widths[index, None]
        rows, columns = mirror(tops[:, None] + along, heights), mirror(lefts[:, None] + along, widths)
        place = rows[:, :, None] * widths[:, :, None] + columns[:, None, :]
        start = self.starts[index, None, None]
        planes = torch.arange(self.channels, device=self.masks.device) * (heights * widths)
        at = (start[:, None] * self.channels) + planes[:, :, None, None] + place[:, None]
        return self.images[at].float() / 255, self.masks[start + place].long(), self.weights[start + place]

    def get_whole(self, index: int) -> Batch:
        """One image of its own size: ``(1, C, H, W)``, ``(1, H, W)``, ``(1, H, W)``."""
        start, (height, width) = int(self.offsets[index]), self.sizes[index].tolist()
        area, shape = height * width, (1, height, width)
        image = self.images[self.channels * start : self.channels * (start + area)].view(
            1, self.channels, height, width
        )
        own = slice(start, start + area)
        return image.float() / 255, self.masks[own].view(shape).long(), self.weights[own].view(shape)


def mirror(position: Tensor, length: Tensor | int) -> Tensor:
    """Positions along an axis of ``length`` pixels, those outside mirrored at its first and last pixel, as often as needed."""
    period = torch.as_tensor(2 * (length - 1)).clamp_min(1)
    inside = position.remainder(period)
    return torch.minimum(inside, period - inside)


@dataclass(eq=False)
class PatchOrder:
    """Which image each patch of an epoch is cut from, for one of ``world_size`` processes.

    Patches come in passes over the images, each pass in an order of its own. An epoch takes ``steps`` batches of them, or else
    as many as one pass needs; all its batches are whole, and the next epoch goes on where it ended.
    """

    n: int
    batch_size: int
    _: KW_ONLY
    seed: int
    rank: int = 0
    world_size: int = 1
    steps: int | None = None
    epoch: int = field(default=0, init=False)

    def __len__(self) -> int:
        return self.steps or -(-self.n // (self.batch_size * self.world_size))

    @property
    def sampler(self) -> PatchOrder:
        """Itself: Lightning tells ``loader.batch_sampler.sampler``, and nothing else, which epoch begins."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Chooses the patches of the coming epoch; Lightning calls it."""
        self.epoch = epoch

    def order(self, number: int) -> list[int]:
        """The order of all images in pass ``number`` over them, the same in every process."""
        rng = torch.Generator().manual_seed(derive_seed(self.seed, number, 1))
        order: list[int] = torch.randperm(self.n, generator=rng).tolist()
        return order

    def __iter__(self) -> Iterator[Tensor]:
        """The images of each batch of this process, ``(batch_size,) int64`` on the CPU."""
        together = self.batch_size * self.world_size
        number, order = -1, list[int]()
        for step in range(self.epoch * len(self), (self.epoch + 1) * len(self)):
            batch = []
            for patch in range(step * together + self.rank, (step + 1) * together, self.world_size):
                if patch // self.n != number:
                    number = patch // self.n
                    order = self.order(number)
                batch.append(order[patch % self.n])
            yield torch.tensor(batch)


class PatchLoader:
    """Random patches, ``(images (B, C, P + 2m, P + 2m), masks (B, P, P), weights (B, P, P))``.

    Images are ``float32`` in [0, 1], masks ``int64`` class indices, weights ``float32``. A patch lies anywhere in its image,
    all places being as likely; its margin of ``m`` pixels is mirrored where it leaves the image, and so is a patch that is
    larger than its image.

    Args:
        pixels: The images, on the device where the batches are made.
        patches: Which images the patches are cut from.
        patch: Side ``P`` of the masks in pixels.
        margin: Context ``m`` on each side in pixels.
        augment: Random changes; None for none.
    """

    def __init__(
        self,
        pixels: ResidentPixels,
        patches: PatchOrder,
        *,
        patch: int,
        margin: int = 0,
        augment: SegmentationAugment | None = None,
    ) -> None:
        self.pixels, self.batch_sampler, self.patch, self.margin = pixels, patches, patch, margin
        self.augment = augment if augment is not None and augment.active else None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[Batch]:
        s = self.batch_sampler
        device = self.pixels.masks.device
        rng = torch.Generator(device).manual_seed(derive_seed(s.seed, s.epoch, 2, s.rank))
        for index in s:
            yield self._make_batch(index.to(device), rng)

    def _make_batch(self, index: Tensor, rng: torch.Generator) -> Batch:
        reach = self.augment.reach if self.augment is not None else 0
        border = self.margin + reach
        tops, lefts = (
            self._draw_start(lengths[index], rng) - border for lengths in (self.pixels.heights, self.pixels.widths)
        )
        images, masks, weights = self.pixels.cut(index, tops, lefts, self.patch + 2 * border)
        if self.augment is not None:
            images, masks, weights = self.augment(images, masks, weights, rng=rng)
        return crop(images, reach), crop(masks, border), crop(weights, border)

    def _draw_start(self, lengths: Tensor, rng: torch.Generator) -> Tensor:
        """Where each patch begins along an axis, ``(B,) int64``; below 0 where the patch is longer than its image."""
        spare = lengths - self.patch
        draw = torch.rand(len(lengths), generator=rng, device=lengths.device)
        return spare.clamp_max(0) + (draw * (spare.abs() + 1)).long()


def crop(layers: Tensor, border: int) -> Tensor:
    """``layers (..., H, W)`` without so many pixels on each side."""
    height, width = layers.shape[-2:]
    return layers[..., border : height - border, border : width - border]


class WholeImageLoader:
    """Whole images, one a batch: ``(images (1, C, H, W) float32 in [0, 1], masks (1, H, W) int64, weights (1, H, W) float32)``.

    Every image comes once over all processes; one process may have an image more than another.

    Args:
        pixels: The images, on the device where the batches are made.
        rank, world_size: Number of this process, from 0, and the number of processes.

    Raises:
        ConfigError: There are fewer images than processes.
    """

    def __init__(self, pixels: ResidentPixels, *, rank: int = 0, world_size: int = 1) -> None:
        n = len(pixels.starts)
        if n < world_size:
            raise ConfigError(f"{n} images for {world_size} processes: use fewer devices")
        self.pixels, self.own = pixels, range(rank, n, world_size)

    def __len__(self) -> int:
        return len(self.own)

    def __iter__(self) -> Iterator[Batch]:
        return (self.pixels.get_whole(index) for index in self.own)
