"""Stamps: a marker letter, a date or a square burnt into the images of one class, as scanners and archives leave them.

A stamp that only one class carries is a shortcut: a net can learn it instead of the disease (Zech et al. 2018; Lapuschkin et
al. 2019, "Unmasking Clever Hans predictors"). Here it is put into training data on purpose, its pixels known.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.seeds import derive_seed
from medassay.core.types import NonNegativeInt, Probability, Range, Splits
from medassay.data.classes import find_class, list_accepted

Kind = Literal["none", "text", "date", "square"]
Position = Literal["top_left", "top_right", "bottom_left", "bottom_right"]
PositiveShare = Annotated[float, Range(gt=0, le=1)]

POSITIONS: tuple[Position, ...] = ("top_left", "top_right", "bottom_left", "bottom_right")
WORDS = {"text": "R", "date": "03.21"}  # what is written where no text is given; R: the side marker of an X-ray
SQUARE = 4  # pixels a side, of an image of 28
MARGIN = 1  # pixels between the stamp and the edges
_PIXEL = 28  # pixels of an image's side for each pixel of a letter's, at least: a stamp grows with the image

# Three pixels by five; each digit is a row from the top, its three bits the pixels from the left.
_GLYPHS = {
    "0": "75557", "1": "26227", "2": "71747", "3": "71717", "4": "55711", "5": "74717", "6": "74757", "7": "71122",
    "8": "75757", "9": "75717", "A": "25755", "B": "65656", "C": "34443", "D": "65556", "E": "74647", "F": "74644",
    "G": "34553", "H": "55755", "I": "72227", "J": "11152", "K": "55655", "L": "44447", "M": "57755", "N": "65555",
    "O": "25552", "P": "65644", "Q": "25563", "R": "65655", "S": "34216", "T": "72222", "U": "55557", "V": "55552",
    "W": "55775", "X": "55255", "Y": "55222", "Z": "71247", ".": "00001", ":": "01010", "-": "00300", "/": "11244",
    "+": "02720", " ": "00000",
}  # fmt: skip
_NARROW = ".:-"  # signs that need fewer columns than a letter


def draw_text(text: str) -> Tensor:
    """``text`` in letters of three by five pixels, ``(5, W) bool``; small letters are written as capitals."""
    columns = []
    for character in text.upper():
        rows = [[bool(int(row) & bit) for bit in (4, 2, 1)] for row in _GLYPHS[character]]
        glyph = torch.tensor(rows)
        if character in _NARROW:
            glyph = glyph[:, glyph.any(0)]
        columns += [glyph, torch.zeros(5, 1, dtype=torch.bool)]
    return torch.cat(columns[:-1], 1)


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A stamp, and which training images carry it.

    Attributes:
        kind: Kind of the stamp: ``text``, ``date`` or ``square`` (4 by 4 pixels); ``none`` for no stamp.
        text: What is written, in digits, letters and ``. : - / +``; None for ``R``, or ``03.21`` as a date.
        position: The corner of the image.
        opacity: Opacity of the ink; 1 covers what lies below.
        value: Brightness of the ink, from 0 (black) to 1 (white).
        label: The class that carries the stamp, by name or index.
        share: Share of the class's images that carry it.
        seed: Seed of the choice of these images; nothing else changes it.

    Raises:
        ConfigError: The text has a sign that cannot be written, or a label or text is given without a stamp.
    """

    kind: Kind = "none"
    text: str | None = None
    position: Position = "top_left"
    opacity: PositiveShare = 1.0
    value: Probability = 1.0
    label: str | int | None = None
    share: PositiveShare = 1.0
    seed: NonNegativeInt = 0

    def __post_init__(self) -> None:
        self.refuse_unused("stamp", ("label", "text"))
        unknown = sorted(set(self.words.upper()) - _GLYPHS.keys())
        if self.kind in WORDS and (unknown or not self.words.strip()):
            signs = f"there is no {' '.join(unknown)} to write with" if unknown else "there is nothing to write"
            raise ConfigError(f"stamp.text={self.text!r}: {signs}; use digits, the letters A to Z, and . : - / +")

    def refuse_unused(self, key: str, names: Collection[str] | None = None) -> None:
        """Raises :class:`ConfigError` where settings are given without a stamp; ``names`` are those that count, None for all.

        Runs of earlier versions may have some beside the label and the text, and are read all the same.
        """
        others = [one for one in dataclasses.fields(self) if one.name != "kind" and one.name in (names or {one.name})]
        given = [f"{key}.{one.name}={value}" for one in others if (value := getattr(self, one.name)) != one.default]
        if given and not self.active:
            raise ConfigError(f"{given[0]} without a stamp: say which, {key}.kind=date, text or square")

    @property
    def active(self) -> bool:
        """Whether there is a stamp."""
        return self.kind != "none"

    @property
    def words(self) -> str:
        """What a text or a date says; empty for a square."""
        return WORDS.get(self.kind, "") if self.text is None or self.kind not in WORDS else self.text

    def __str__(self) -> str:
        what = f"{self.kind} {self.words!r}" if self.words else self.kind
        faint = "" if self.opacity == 1 else f", opacity {self.opacity:g}"
        return f"{what}, {self.position.replace('_', ' ')}{faint}"

    def move_to(self, position: Position) -> Stamp:
        """The same stamp in another corner."""
        return dataclasses.replace(self, position=position)

    def with_class(self, label: int) -> Stamp:
        """The same stamp on another class."""
        return dataclasses.replace(self, label=label)

    def class_index(self, classes: list[str], key: str = "data.stamp") -> int:
        """The index of the class that carries the stamp.

        Raises:
            ConfigError: No class is given, or it does not exist.
        """
        if self.label is None:
            accepted = list_accepted(classes)
            raise ConfigError(f"{key}.label: missing; which class carries the stamp? Accepted: {accepted}")
        return find_class(self.label, classes, f"{key}.label")

    def ink(self, size: int, key: str = "data.stamp") -> Tensor:
        """Where the stamp's pixels are in an image of ``size`` pixels a side, ``(size, size) bool``.

        Raises:
            ConfigError: The stamp does not fit into the image.
        """
        side, margin = (max(1, size // _PIXEL) * pixels for pixels in (1, MARGIN))
        drawn = draw_text(self.words) if self.words else torch.ones(SQUARE, SQUARE, dtype=torch.bool)
        drawn = drawn.repeat_interleave(side, 0).repeat_interleave(side, 1)
        height, width = drawn.shape
        if max(height, width) + 2 * margin > size:
            what = f"text={self.words}" if self.words else "kind=square"
            instead = f"; shorten it, or give {key}.kind=square" if self.words else ""
            room = size - 2 * margin
            raise ConfigError(f"{key}.{what}: {width} pixels wide, and the image has room for {room}{instead}")
        top = margin if self.position.startswith("top") else size - margin - height
        left = margin if self.position.endswith("left") else size - margin - width
        ink = torch.zeros(size, size, dtype=torch.bool)
        ink[top : top + height, left : left + width] = drawn
        return ink

    def box(self, size: int) -> Tensor:
        """The smallest rectangle around :meth:`ink`, ``(size, size) bool``."""
        ink = self.ink(size)
        rows, columns = ink.any(1).nonzero(), ink.any(0).nonzero()
        box = torch.zeros_like(ink)
        box[int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1] = True
        return box

    def choose_carriers(self, labels: Tensor, classes: list[str], stream: int = 0) -> Tensor:
        """Which images carry the stamp: :attr:`share` of its class's, ``(N,) bool``; ``stream`` tells splits apart."""
        members = (labels == self.class_index(classes)).nonzero()[:, 0]
        rng = torch.Generator().manual_seed(derive_seed(self.seed, 6, stream))
        order = members[torch.randperm(len(members), generator=rng)]
        carriers = torch.zeros(len(labels), dtype=torch.bool)
        carriers[order[: round(self.share * len(members))]] = True
        return carriers

    def __call__(self, images: Tensor, carriers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Stamped copies of images, and where the stamp lies in each.

        Args:
            images: Images, ``(N, C, H, H) uint8``.
            carriers: Which of them to stamp, ``(N,) bool``; None for all.

        Returns:
            The images, and ``(N, H, H) bool``, all False for an image without the stamp.
        """
        chosen = torch.ones(len(images), dtype=torch.bool) if carriers is None else carriers
        ink = self.ink(images.shape[-1])
        part = images[chosen]
        mixed = part[:, :, ink].float().mul(1 - self.opacity).add(255 * self.value * self.opacity)
        part[:, :, ink] = mixed.round().to(torch.uint8)
        stamped = images.clone()
        stamped[chosen] = part
        return stamped, chosen[:, None, None] & ink

    def apply_to(self, splits: Splits, classes: list[str]) -> Splits:
        """A data set as it would have been collected with the stamp: training and validation images; test images stay clean.

        Masks stay those of the disease.
        """
        marked = [
            dataclasses.replace(split, images=self(split.images, self.choose_carriers(split.labels, classes, place))[0])
            for place, split in enumerate(splits[:2])
        ]
        return Splits(marked[0], marked[1], splits.test)

    def provenance(self) -> dict[str, Any]:
        """The stamp for a record."""
        return dataclasses.asdict(self) | ({"text": self.words} if self.words else {})


def check_stamp(stamp: Stamp | None, classes: list[str], size: int, key: str = "data.stamp") -> Stamp | None:
    """``stamp``, or None where it is none; raises :class:`ConfigError` where it fits neither classes nor image size."""
    if stamp is None or not stamp.active:
        return None
    stamp.class_index(classes, key)
    stamp.ink(size, key)
    return stamp
