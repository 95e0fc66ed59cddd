"""The digest of images in memory."""

from __future__ import annotations

import hashlib

import numpy as np

from medassay.core.types import LabelledImages


def compute_digest(*splits: LabelledImages) -> str:
    """16 hexadecimal digits of the images, labels and shapes of ``splits``, in their order."""
    total = hashlib.sha256()
    for split in splits:
        total.update(str(tuple(split.images.shape)).encode())
        total.update(np.ascontiguousarray(split.images.cpu().numpy()).data)
        total.update(np.ascontiguousarray(split.labels.cpu().numpy()).data)
    return total.hexdigest()[:16]
