"""A net, the images it is attacked on, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medassay.attacks.gradient import fgsm, pgd
from medassay.attacks.norms import Norm, draw_noise, scale_epsilon
from medassay.core.types import LabelledImages
from medassay.protocols.adversarial.verdict import JUDGED
from medassay.tasks.predictions import BATCH


@dataclass(frozen=True)
class Settings:
    """How a net is attacked.

    Attributes:
        split: Name of the split that the images are from.
        epsilons: Distances in grey levels of 255.
        norms: What distances are, L-infinity first.
        steps, restarts: Of PGD.
        shown: Number of examples, at most.
        seed: Seed of all that is random.
    """

    split: str
    epsilons: Sequence[float]
    norms: Sequence[Norm]
    steps: int
    restarts: int
    shown: int
    seed: int

    @property
    def levels(self) -> list[float]:
        """All distances, rising; the one that is judged is among them."""
        return sorted({*map(float, self.epsilons), JUDGED})


@dataclass(frozen=True)
class Subject:
    """A net and the images it is attacked on; batches go to the device, all else is on the CPU.

    Attributes:
        net: What gives logits, in evaluation mode on ``device``.
        data: The images.
        positions: Their positions in the split, ``(N,) int64``.
        settings: How it is attacked.
        device: Device to compute on.
    """

    net: nn.Module
    data: LabelledImages
    positions: Tensor
    settings: Settings
    device: torch.device

    @property
    def pixels(self) -> Tensor:
        """The plain images, ``(N, C, H, W) float32 in [0, 1]``."""
        return self.data.images.float() / 255

    @property
    def shape(self) -> list[int]:
        """Channels, height and width."""
        return list(self.data.images.shape[1:])

    def scale(self, levels: float, norm: Norm) -> float:
        """Grey levels as a distance in pixel values."""
        return scale_epsilon(levels, norm, self.shape)

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Probabilities ``(N, K) float32`` of images in [0, 1], at least one."""
        logits = [self.net(part.to(self.device)).cpu() for part in torch.split(images, BATCH)]
        return torch.cat(logits).softmax(1, dtype=torch.float32)

    def add_noise(self, norm: Norm, levels: float) -> Tensor:
        """All images under noise of so many grey levels, ``(N, C, H, W) float32``."""
        rng = torch.Generator().manual_seed(self.settings.seed)
        return draw_noise(self.pixels, self.scale(levels, norm), norm, rng)

    def attack_once(self, norm: Norm, index: Tensor, levels: float) -> Tensor:
        """The images at the places ``index (M,)`` after FGSM of so many grey levels, ``(M, C, H, W) float32``."""
        epsilon = self.scale(levels, norm)
        parts = [torch.empty(0, *self.shape)]
        for members in torch.split(index, BATCH) if len(index) else ():
            images, labels = self._load(members)
            parts.append(fgsm(self.net, images, labels, epsilon, norm=norm).cpu())
        return torch.cat(parts)

    def attack(
        self,
        norm: Norm,
        index: Tensor,
        levels: float | Tensor,
        *,
        net: nn.Module | None = None,
        steps: int | None = None,
        restarts: int | None = None,
    ) -> Tensor:
        """The images at the places ``index (M,)`` after PGD, ``(M, C, H, W) float32``.

        The starts are drawn anew from the seed: attacks of different sizes start alike.

        Args:
            norm: What a distance is.
            index: Places among the images.
            levels: Distance in grey levels, one for all or ``(M,)``.
            net: The net that is attacked; None for its own.
            steps, restarts: Of PGD; None for those of the settings.
        """
        rng = torch.Generator().manual_seed(self.settings.seed)
        epsilon = torch.as_tensor(levels, dtype=torch.float64).expand(len(index)) * self.scale(1, norm)
        parts = [torch.empty(0, *self.shape)]
        for members, sizes in (
            zip(torch.split(index, BATCH), torch.split(epsilon, BATCH), strict=True) if len(index) else ()
        ):
            images, labels = self._load(members)
            attacked = pgd(
                net or self.net,
                images,
                labels,
                sizes.to(images),
                norm=norm,
                steps=steps or self.settings.steps,
                restarts=restarts or self.settings.restarts,
                rng=rng,
            )
            parts.append(attacked.cpu())
        return torch.cat(parts)

    def mark_right(self, images: Tensor, index: Tensor) -> Tensor:
        """Which of all images are at ``index (M,)`` and, as ``images (M, C, H, W)``, get their true class: ``(N,) bool``."""
        marks = torch.zeros(len(self.data), dtype=torch.bool)
        if len(index):
            marks[index] = self.classify(images).argmax(1) == self.data.labels[index]
        return marks

    def _load(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and their labels, on the device."""
        images = self.data.images[members].to(self.device).float() / 255
        return images, self.data.labels[members].to(self.device)
