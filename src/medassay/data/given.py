"""Images in memory: their digest, and their exact duplicates."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from medassay.core.types import LabelledImages


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
