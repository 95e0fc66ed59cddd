"""Nearly identical images, such as one image saved twice, by a perceptual hash."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

NEAR = 2  # bits of 64
MOST_PAIRS = 100_000  # beyond that, one look at the data is worth more than the rest of the list
_SIDE, _WAVES = 32, 8  # pixels that are transformed, frequencies kept along each side
_CHUNK = 1024

Hashes = npt.NDArray[np.uint64]


class NearPair(NamedTuple):
    """Two images by their indices, and the number of bits in which their hashes differ."""

    first: int
    second: int
    distance: int


def hash_perceptually(images: Tensor) -> Hashes:
    """64 bits for each of ``images (N, C, H, W) uint8``, ``(N,) uint64``, nearly the same for images that look the same.

    The image in grey at 32x32, its discrete cosine transform, the 8x8 lowest frequencies along both sides but the constant
    ones; a bit says whether a coefficient is above their median. Zauner, "Implementation and benchmarking of perceptual
    image hash functions", 2010, section 3.2.1.
    """
    place, frequency = torch.arange(_SIDE) + 0.5, torch.arange(1, _WAVES + 1)
    waves = torch.cos(math.pi / _SIDE * frequency[:, None] * place)  # DCT-II, up to a factor
    parts = [np.zeros(0, np.uint64)]
    for start in range(0, len(images), _CHUNK):
        grey = images[start : start + _CHUNK].float().mean(1, keepdim=True)
        small = F.interpolate(grey, (_SIDE, _SIDE), mode="bilinear", antialias=True)[:, 0]
        coefficients = (waves @ small @ waves.T).flatten(1)
        above = coefficients > coefficients.quantile(0.5, dim=1, keepdim=True)
        parts.append(np.packbits(above.numpy(), axis=1).view(np.uint64)[:, 0])
    return np.concatenate(parts)


def find_near_pairs(hashes: Hashes, distance: int = NEAR, most: float = MOST_PAIRS) -> list[NearPair]:
    """All pairs of ``hashes (N,)`` that differ in at most ``distance`` bits; the search ends at ``most`` pairs or a few more.

    Hashes so near have at least one of ``distance + 1`` sets of bits in common, so that only those need be compared.
    """
    pairs: set[NearPair] = set()
    for start in range(distance + 1):
        mask = np.uint64(sum(1 << bit for bit in range(start, 64, distance + 1)))
        order = np.argsort(hashes & mask, kind="stable")
        cuts = np.nonzero(np.diff((hashes & mask)[order]))[0] + 1
        for group in np.split(order, cuts):
            if len(group) > 1:
                pairs.update(_compare(hashes, np.sort(group), distance, most))
            if len(pairs) >= most:
                return sorted(pairs)
    return sorted(pairs)


def _compare(hashes: Hashes, group: npt.NDArray[np.intp], distance: int, most: float) -> list[NearPair]:
    """The near pairs of the images ``group``, sorted indices."""
    pairs: list[NearPair] = []
    for start in range(0, len(group), _CHUNK):
        bits = np.bitwise_count(hashes[group[start : start + _CHUNK], None] ^ hashes[group])
        rows, columns = np.nonzero(bits <= distance)
        later = columns > rows + start
        for row, column in zip(rows[later], columns[later], strict=True):
            pairs.append(NearPair(int(group[start + row]), int(group[column]), int(bits[row, column])))
        if len(pairs) >= most:
            break
    return pairs
