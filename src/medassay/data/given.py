"""Images that are in memory already: as a data module, their digest, and their exact duplicates."""

from __future__ import annotations

import hashlib
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import ImageDataModule


class GivenData(ImageDataModule):
    """Splits that the caller has.

    Args:
        name: what they are called in records.
        classes: class names, by label.
        splits: the images; a split that is not needed may be empty.
        batch_size: images per batch.
        seed: of the order.
        steps: batches of a training epoch; None for one pass over the images.
    """

    def __init__(
        self,
        name: str,
        classes: list[str],
        splits: Splits,
        *,
        batch_size: int = 64,
        seed: int = 0,
        steps: int | None = None,
    ) -> None:
        _, channels, size, _ = splits.train.images.shape
        super().__init__(name, classes, cast(Literal[1, 3], channels), size, batch_size, None, seed)
        self.steps = steps
        self._given = splits

    def load(self) -> Splits:
        return self._given


def digest(*splits: LabelledImages) -> str:
    """16 hexadecimal digits of the images, labels and shapes of ``splits``, in their order."""
    total = hashlib.sha256()
    for split in splits:
        total.update(str(tuple(split.images.shape)).encode())
        total.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
        total.update(np.ascontiguousarray(split.labels.cpu().numpy()).data)
    return total.hexdigest()[:16]


def _rows(images: Tensor) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Each image of ``images (N, C, H, W) uint8`` as one opaque value, to be sorted and compared."""
    flat = np.ascontiguousarray(images.cpu().flatten(1).numpy())
    return flat.view(np.dtype((np.void, flat.shape[1])))[:, 0]


def without_duplicates(split: LabelledImages) -> LabelledImages:
    """``split`` with every image once, in the old order; of equal images the first stays."""
    _, first = np.unique(_rows(split.images), return_index=True)
    return split[torch.from_numpy(np.sort(first))]


def copies(images: Tensor, of: Tensor) -> Tensor:
    """Which of ``images (M, C, H, W) uint8`` are equal to one of ``of (N, C, H, W)``, pixel by pixel; ``(M,) bool``."""
    return torch.from_numpy(np.isin(_rows(images), _rows(of)))
