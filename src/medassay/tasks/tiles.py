"""Segmentation of an image of any size by overlapping tiles, its border extrapolated by mirroring.

Source: Ronneberger et al. 2015, arXiv:1505.04597, figure 2. Each tile answers for the pixels of its middle. Tiles start at
multiples of the net's alignment, so that pooling meets the same pixels in each tiling: with valid convolutions, in evaluation
mode and without a normalisation over the image, a pixel's logits do not depend on the tiling. With zeros around the maps they
do near a tile's border, the less the wider the overlap that is discarded; from 6 * 2 ** depth pixels on a U-Net's do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.data.segmentation.loader import mirror


class TiledNet(Protocol):
    """A net for tiles: :class:`medassay.nets.unet.UNet` says what its parts mean."""

    @property
    def alignment(self) -> int: ...

    @property
    def margin(self) -> int: ...

    def output_size(self, size: int) -> int: ...

    def eval(self) -> Any: ...

    def __call__(self, images: Tensor, /) -> Any: ...


class Box(NamedTuple):
    """Rows ``top <= y < bottom`` and columns ``left <= x < right`` of an image, in pixels."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Tile:
    """What the net sees at once.

    Attributes:
        seen: The net's input; what lies outside of the image is mirrored.
        answered: The pixels whose logits are taken from this tile, all inside of the image.
    """

    seen: Box
    answered: Box


def list_tiles(net: TiledNet, height: int, width: int, tile: int, overlap: int = 0) -> list[Tile]:
    """The tiles of an image, row by row; each pixel is answered by exactly one.

    Args:
        net: The net.
        height, width: Size of the image in pixels.
        tile: Side in pixels of the net's input, one that the net accepts.
        overlap: Pixels of a tile's output that are discarded on each side, beyond the net's margin; a multiple of
            its alignment.

    Raises:
        ConfigError: The net takes no such tile, the overlap is no such multiple, or it leaves less than one step of a tile.
    """
    aligned = net.alignment
    if overlap < 0 or overlap % aligned:
        raise ConfigError(f"overlap={overlap}: must be 0 or a multiple of {aligned} pixels for this net")
    kept = net.output_size(tile) - 2 * overlap
    step = kept if kept >= max(height, width) else kept // aligned * aligned  # a single tile starts at 0
    if step < 1:
        raise ConfigError(
            f"tile={tile}: of its output {max(0, kept)} pixels a side are left, fewer than the {aligned} of one step; take a "
            "larger tile or a smaller overlap"
        )
    border = net.margin + overlap
    return [
        Tile(
            Box(y - border, x - border, y - border + tile, x - border + tile),
            Box(y, x, min(y + step, height), min(x + step, width)),
        )
        for y in range(0, height, step)
        for x in range(0, width, step)
    ]


@torch.no_grad()
def predict_tiled(net: TiledNet, image: Tensor, tile: int, overlap: int = 0, batch: int = 4) -> Tensor:
    """Logits of every pixel, ``(C, H, W) float32 in [0, 1] -> (K, H, W) float32``, on the image's device.

    Args:
        net: The net, on the image's device; it is left in evaluation mode.
        image: The image.
        tile: As in :func:`list_tiles`.
        overlap: As in :func:`list_tiles`.
        batch: Number of tiles that the net sees at a time.

    Raises:
        ConfigError: As in :func:`list_tiles`.
    """
    net.eval()
    _, height, width = image.shape
    tiles = list_tiles(net, height, width, tile, overlap)
    logits: Tensor | None = None
    for start in range(0, len(tiles), batch):
        part = tiles[start : start + batch]
        outputs = net(torch.stack([cut_box(image, tile.seen) for tile in part])).float()
        if logits is None:
            logits = outputs.new_empty(outputs.shape[1], height, width)
        for output, (top, left, bottom, right) in zip(outputs, (tile.answered for tile in part), strict=True):
            middle = output[:, overlap : overlap + bottom - top, overlap : overlap + right - left]
            logits[:, top:bottom, left:right] = middle
    assert logits is not None
    return logits


def cut_box(image: Tensor, box: Box) -> Tensor:
    """The pixels of ``box``, ``(C, H, W) -> (C, h, w)``; those outside of the image are mirrored, as often as it takes."""
    _, height, width = image.shape
    rows = mirror(torch.arange(box.top, box.bottom, device=image.device), height)
    columns = mirror(torch.arange(box.left, box.right, device=image.device), width)
    return image[:, rows[:, None], columns]
