"""Which groups images belong to: a scanner, a hospital, an age band, a sex; one attribute or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # seconds, which what only declares types need not wait for
    import torch
    from torch import Tensor

CROSS = " × "  # between the attributes, and the levels, of an intersection


@dataclass(frozen=True)
class Groups:
    """The groups of some images, by each of one or several attributes; every image has one group of each.

    Attributes:
        levels: Names of the groups by attribute, ``{"scanner": ("A", "B")}``; the same in all splits of a data set.
        indices: For each image and attribute the position of its group in ``levels``, ``(N, A) int64``.

    Raises:
        ValueError: Shape, dtype or an index do not fit.
    """

    levels: Mapping[str, tuple[str, ...]]
    indices: Tensor

    def __post_init__(self) -> None:
        import torch

        n, wanted = len(self.indices), len(self.levels)
        if self.indices.shape != (n, wanted) or self.indices.dtype != torch.int64:
            found = f"{tuple(self.indices.shape)} {self.indices.dtype}"
            raise ValueError(f"groups must be (N, {wanted}) int64, not {found}")
        for place, (name, levels) in enumerate(self.levels.items()):
            column = self.indices[:, place]
            if n and not 0 <= int(column.min()) <= int(column.max()) < len(levels):
                span = f"{int(column.min())}..{int(column.max())}"
                raise ValueError(f"groups of {name} must lie in 0..{len(levels) - 1}, not {span}")

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Tensor | slice) -> Groups:
        """The groups of the chosen images, ``index`` an integer or boolean tensor or a slice."""
        return Groups(self.levels, self.indices[index])

    def to(self, device: torch.device | str) -> Groups:
        """The same groups on ``device``."""
        return Groups(self.levels, self.indices.to(device))

    def join(self, other: Groups) -> Groups:
        """These attributes and those of ``other``, of the same images."""
        import torch

        return Groups({**self.levels, **other.levels}, torch.cat([self.indices, other.indices], 1))

    def cross(self, attributes: Sequence[str]) -> Groups:
        """One attribute: the intersection of ``attributes``, its levels the combinations that occur, in their order."""
        import torch

        places = [list(self.levels).index(name) for name in attributes]
        combinations, inverse = torch.unique(self.indices[:, places], dim=0, return_inverse=True)
        names = tuple(
            CROSS.join(self.levels[name][index] for name, index in zip(attributes, row, strict=True))
            for row in combinations.tolist()
        )
        return Groups({CROSS.join(attributes): names}, inverse.reshape(-1, 1))

    def number_cells(self, labels: Tensor) -> Tensor:
        """For each image the number of its class × group (all attributes crossed), from 0, ``(N,) int64``."""
        import torch

        rows = torch.cat([labels[:, None].cpu(), self.indices.cpu()], 1)
        _, cells = torch.unique(rows, dim=0, return_inverse=True)
        numbers: Tensor = cells.reshape(-1)
        return numbers


def sort_levels(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once, sorted: by their numbers where all are numbers, else as text."""
    distinct = sorted(set(names))
    try:
        return tuple(sorted(distinct, key=float))
    except ValueError:
        return tuple(distinct)


def make_groups(values: Mapping[str, Sequence[str]], levels: Mapping[str, tuple[str, ...]]) -> Groups:
    """Groups from their names: for each attribute a name for every image."""
    import torch

    columns = []
    for name, names in values.items():
        numbers = {level: index for index, level in enumerate(levels[name])}
        columns.append(torch.tensor([numbers[one] for one in names], dtype=torch.int64))
    return Groups(dict(levels), torch.stack(columns, 1))
