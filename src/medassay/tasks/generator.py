"""What the generators share: samples of the classes asked for, and a fixed grid of them that shows progress."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from medassay.nets.cgan import CGAN
from medassay.nets.cvae import CVAE
from medassay.nets.diffusion import DenoisingUNet
from medassay.nets.residual_cgan import ResidualCGAN

CHUNK = 512  # images drawn at a time: bounds the memory of a large draw
Batch = tuple[Tensor, Tensor]  # images (B, C, H, W) float32 in [0, 1], labels (B,) int64


class ConditionalGenerator(LightningModule):
    """A net from whose latent vectors images of requested classes can be drawn.

    Args:
        net: A net that knows its ``num_classes`` and ``image_shape``.
        latent: Length of the latent vectors.
        grid: Name of the buffer that keeps the grid's vectors, ``(classes * rows, latent)``, row by row of one class.
        rows: Number of images per class of the grid.

    Attributes:
        sampling_settings: Arguments that say how images are drawn and nothing of the training: a finished run may change them.
    """

    sampling_settings: ClassVar[tuple[str, ...]] = ()

    def __init__(self, net: CGAN | ResidualCGAN | CVAE | DenoisingUNet, latent: int, grid: str, rows: int) -> None:
        super().__init__()
        self.net = net
        self.latent = latent
        self._grid = grid
        rng = torch.Generator().manual_seed(0)
        self.register_buffer(grid, torch.randn(net.num_classes * rows, latent, generator=rng))

    @property
    def num_classes(self) -> int:
        return self.net.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of samples."""
        return self.net.image_shape

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        """Images ``(N, C, H, W) float32 in [0, 1]`` of classes ``labels (N,) int64``, for latent vectors z ~ N(0, I).

        These are drawn on ``rng``'s device, so that a CPU generator gives the same for every device.
        """
        return self.decode(torch.randn(len(labels), self.latent, generator=rng, device=rng.device), labels)

    def fixed_samples(self) -> tuple[Tensor, Tensor]:
        """The progress grid: the same vectors every time; images ``(K * rows, C, H, W)`` and their labels."""
        vectors = self.get_buffer(self._grid)
        labels = torch.arange(self.num_classes, device=self.device)
        labels = labels.repeat_interleave(len(vectors) // self.num_classes)
        return self.decode(vectors, labels), labels

    @torch.no_grad()
    def decode(self, latent: Tensor, labels: Tensor) -> Tensor:
        """Images ``(N, C, H, W) float32 in [0, 1]`` of ``latent (N, L)`` and ``labels (N,)``."""
        chunks = zip(torch.split(latent, CHUNK), torch.split(labels, CHUNK), strict=True)
        return self.finish(
            torch.cat([self.draw(self.cast_like_weights(z), y.to(self.device)) for z, y in chunks]).float()
        )

    def cast_like_weights(self, values: Tensor) -> Tensor:
        """``values`` on the device and in the precision of the weights: a buffer is in double precision where they are."""
        return values.to(self.device, self.get_buffer(self._grid).dtype)

    @abstractmethod
    def draw(self, latent: Tensor, labels: Tensor) -> Tensor:
        """What the net makes of some latent vectors."""

    @abstractmethod
    def finish(self, drawn: Tensor) -> Tensor:
        """Images in [0, 1] from that."""
