"""What could be read of the images that a user names, and what could not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

logger = logging.getLogger(__name__)

LISTED = 20  # unreadable files named on the terminal; the page and predict.json name all


class Unreadable(NamedTuple):
    """An image that could not be read, and why."""

    name: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return self._asdict()


class Part(NamedTuple):
    """Some images of one size, ``(n, C, H, W) uint8``, and their names."""

    names: list[str]
    images: Tensor


@dataclass
class Reading:
    """What could be read so far, and how.

    Attributes:
        names: Names of the images: paths below the folder, or ``<array>/<index>``.
        converted: By conversion, the number of images that it was done to.
        unreadable: What could not be read.
        left_out: Number of files that are not read, by kind.
    """

    names: list[str] = field(default_factory=list)
    converted: Counter[str] = field(default_factory=Counter)
    unreadable: list[Unreadable] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, names: list[str], images: Tensor, steps: tuple[str, ...]) -> Part:
        """Images that were all brought here by the same steps."""
        self.names += names
        self.converted.update(dict.fromkeys(steps, len(names)))
        return Part(names, images)


def warn_of_unreadable(unreadable: Sequence[Unreadable]) -> list[str]:
    """Names the images on the terminal; the page's warning says how many they are."""
    missing = len(unreadable)
    for entry in unreadable[:LISTED]:
        logger.warning("not read: %s (%s)", entry.name, entry.reason)
    if missing > LISTED:
        logger.warning("not read: %d more, see predict.json", missing - LISTED)
    count = f"{missing} {'image' if missing == 1 else 'images'} could not be read; see below which."
    return [count] if missing else []
