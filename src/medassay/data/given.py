"""Images that are in memory already: as a data module, their digest, and their exact duplicates."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor

from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import Channels, ImageDataModule


@dataclass(eq=False, repr=False)
class GivenData(ImageDataModule):
    """Splits that the caller has, ``given``; one that is not needed may be empty."""

    name: str = field()
    classes: list[str]
    given: Splits
    size: int = field(init=False)
    steps: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _, channels, self.size, _ = self.given.train.images.shape
        self.channels = cast(Channels, channels)
        super().__post_init__()

    def load(self) -> Splits:
        return self.given


def digest(*splits: LabelledImages) -> str:
    """16 hexadecimal digits of the images, labels and shapes of ``splits``, in their order."""
    total = hashlib.sha256()
    for split in splits:
        total.update(str(tuple(split.images.shape)).encode())
        total.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
        total.update(np.ascontiguousarray(split.labels.cpu().numpy()).data)
    return total.hexdigest()[:16]


def _view_rows(images: Tensor) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Each image of ``images (N, C, H, W) uint8`` as one opaque value, to be sorted and compared."""
    flat = np.ascontiguousarray(images.cpu().flatten(1).numpy())
    return flat.view(np.dtype((np.void, flat.shape[1])))[:, 0]


def drop_duplicates(split: LabelledImages) -> LabelledImages:
    """``split`` with every image once, in the old order; of equal images the first stays."""
    _, first = np.unique(_view_rows(split.images), return_index=True)
    return split[torch.from_numpy(np.sort(first))]


def find_copies(images: Tensor, of: Tensor) -> Tensor:
    """Which of ``images (M, C, H, W) uint8`` are equal to one of ``of (N, C, H, W)``, pixel by pixel; ``(M,) bool``."""
    return torch.from_numpy(np.isin(_view_rows(images), _view_rows(of)))
