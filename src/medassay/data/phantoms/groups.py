"""Groups planted into phantoms: a share of the images as a second scanner would show them, or smaller; the effect is known.

An audit of fairness can be tested on nothing else: of real images nobody knows by how much a group is at a disadvantage.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.groups import Groups
from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages, NonNegativeInt, Probability
from medassay.data.phantoms.shapes import blur

Kind = Literal["none", "contrast", "noise", "blur", "size"]

# What strength 1 does to the second group
CONTRAST = 0.7  # share of the contrast that is lost
NOISE = 0.25  # standard deviation, in units of the full range
BLUR = 0.14  # standard deviation in half widths of the image: 2 pixels of 28
SIZE = 0.4  # share by which everything is smaller

SCANNER = ("scanner", ("A", "B"))
ATTRIBUTES = {"contrast": SCANNER, "noise": SCANNER, "blur": SCANNER, "size": ("body_size", ("normal", "small"))}


@dataclass(frozen=True, kw_only=True)
class PlantedGroup:
    """An attribute of two groups, of which the second one's images are changed.

    Attributes:
        kind: What is changed: ``contrast``, ``noise`` and ``blur`` of a second scanner, or ``size``; ``none`` for no groups.
        name: Name of the attribute; None for ``scanner``, or ``body_size`` where the size is changed.
        strength: Strength of the change; 0 leaves the images as they are, and the groups differ by name alone.
        share: Share of each class's images that are in the second group, one for all classes or one for each.
        seed: Seed of the choice of these images, and of the noise.

    Raises:
        ConfigError: A name is given without a kind.
    """

    kind: Kind = "none"
    name: str | None = None
    strength: Probability = 1.0
    share: Probability | list[Probability] = 0.5
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if not self.active and self.name is not None:
            raise ConfigError(
                f"group.name={self.name} without a group: say which, group.kind=contrast, noise, blur or size"
            )

    @property
    def active(self) -> bool:
        """Whether there are groups."""
        return self.kind != "none"

    @property
    def attribute(self) -> str:
        return self.name or ATTRIBUTES[self.kind][0]

    def check(self, num_classes: int, key: str) -> None:
        """Raises :class:`ConfigError` where the shares do not fit the classes."""
        if isinstance(self.share, list) and len(self.share) != num_classes:
            raise ConfigError(
                f"{key}.share={self.share}: {len(self.share)} shares for {num_classes} classes; give one for all, "
                "or one for each"
            )

    def choose_members(self, labels: Tensor, stream: int) -> Tensor:
        """Which images are in the second group, ``(N,) bool``; ``stream`` tells splits apart."""
        rng = torch.Generator().manual_seed(derive_seed(self.seed, 7, stream))
        members = torch.zeros(len(labels), dtype=torch.bool)
        for label in range(int(labels.max()) + 1):
            own = (labels == label).nonzero()[:, 0]
            share = self.share[label] if isinstance(self.share, list) else self.share
            members[own[torch.randperm(len(own), generator=rng)][: round(share * len(own))]] = True
        return members

    def apply_to(self, split: LabelledImages, stream: int) -> LabelledImages:
        """The images with these groups, the second one's changed; masks move with what they mark."""
        members = self.choose_members(split.labels, stream)
        own = Groups({self.attribute: ATTRIBUTES[self.kind][1]}, members.long()[:, None])
        groups = own if split.groups is None else split.groups.join(own)
        images, masks = split.images.clone(), None if split.masks is None else split.masks.clone()
        if self.strength > 0 and members.any():
            rng = torch.Generator().manual_seed(derive_seed(self.seed, 8, stream))
            changed = CHANGES[self.kind](images[members].float() / 255, self.strength, rng)
            images[members] = changed.clamp(0, 1).mul(255).round().to(torch.uint8)
            if masks is not None and self.kind == "size":
                masks[members] = _shrink(masks[members][:, None].float(), self.strength, "zeros")[:, 0] > 0.5
        return LabelledImages(images, split.labels, masks, groups)

    def provenance(self) -> dict[str, Any]:
        """The groups for a record."""
        return {**dataclasses.asdict(self), "name": self.attribute}


# --- changes: images (N, C, H, W) float32 in [0, 1] and a strength to images ------------------------------------------


def _reduce_contrast(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return mean + (1 - CONTRAST * strength) * (images - mean)


def _add_noise(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    return images + NOISE * strength * torch.randn(images.shape, generator=rng)


def _blur(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    return blur(images, torch.full((len(images), 1, 1), BLUR * strength))


def _shrink_images(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    return _shrink(images, strength, "border")


def _shrink(images: Tensor, strength: float, beyond: str) -> Tensor:
    """Everything smaller about the centre; ``border``: what lies beyond the old edge is as the edge was, ``zeros``: 0."""
    zoom = 1 / (1 - SIZE * strength)
    theta = (torch.eye(2, 3) * zoom).expand(len(images), 2, 3)
    points = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, points, padding_mode=beyond, align_corners=False)


CHANGES: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "contrast": _reduce_contrast,
    "noise": _add_noise,
    "blur": _blur,
    "size": _shrink_images,
}
