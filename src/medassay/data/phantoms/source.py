"""Phantoms as a source of labelled images, with planted groups where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import Splits
from medassay.data.modules import ImageFormat, Source
from medassay.data.phantoms import blood, chest, knee, oct
from medassay.data.phantoms.groups import PlantedGroup

PhantomKind = Literal["chest", "blood", "oct", "knee"]
PHANTOMS = {
    "chest": (1, len(chest.CLASSES)),
    "blood": (3, len(blood.CLASSES)),
    "oct": (1, len(oct.CLASSES)),
    "knee": (1, len(knee.CLASSES)),
}  # channels, classes
RENDER = {"chest": chest.render, "blood": blood.render, "oct": oct.render, "knee": knee.render}
SMALLEST_PHANTOM = 8  # pixels a side
GROUP_KEYS = ("data.group", "data.second_group")


@dataclass
class Phantom(Source):
    """Images rendered on the fly, with masks of what makes their class: test objects with known ground truth.

    Attributes:
        kind: ``chest`` (grey, 2 classes), ``blood`` (RGB, 8 classes), ``oct`` (grey, 4 classes) or ``knee`` (grey, 2
            classes).
        lengths: Numbers of images in train, val and test, classes in equal numbers.
        phantom_seed: Seed of the rendering.
        groups: Groups planted into all splits, one attribute each, in this order; those of kind ``none`` are none.
    """

    kind: PhantomKind
    lengths: tuple[int, int, int]
    phantom_seed: int = 0
    groups: tuple[PlantedGroup | None, ...] = ()

    @property
    def planted(self) -> list[PlantedGroup]:
        """The groups that there are."""
        return [group for group in self.groups if group is not None and group.active]

    def check(self, declared: ImageFormat) -> None:
        channels, classes = PHANTOMS[self.kind]
        if (declared.channels, len(declared.classes)) != (channels, classes):
            raise ConfigError(
                f"data.channels={declared.channels} with {len(declared.classes)} data.classes: the {self.kind} phantom has "
                f"{channels} and {classes}; leave them out"
            )
        if declared.size < SMALLEST_PHANTOM:
            raise ConfigError(f"data.size={declared.size}: expected an integer >= {SMALLEST_PHANTOM}")
        for key, group in zip(GROUP_KEYS, self.groups, strict=False):
            if group is not None:
                group.check(classes, key)
        names = [group.attribute for group in self.planted]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"data.group and data.second_group: both are called {names[0]}; give data.second_group.name=…"
            )

    def read(self, declared: ImageFormat) -> Splits:
        render = RENDER[self.kind]
        parts = []
        for position, length in enumerate(self.lengths):
            rng = torch.Generator().manual_seed(derive_seed(self.phantom_seed, 5, position))
            labels = torch.arange(length) % len(declared.classes)
            split = render(labels[torch.randperm(length, generator=rng)], rng=rng, size=declared.size)
            for number, group in enumerate(self.planted):
                split = group.apply_to(split, stream=position + 3 * number)
            parts.append(split)
        return Splits(*parts)

    def provenance(self) -> dict[str, Any]:
        planted = {group.attribute: group.provenance() for group in self.planted}
        groups = {"planted_groups": planted} if planted else {}
        return {"phantom": True, "phantom_seed": self.phantom_seed, "published": False, **groups}
