"""The few types that every room shares: labelled images, a generator's interface, and declared ranges of arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # seconds, which what only declares ranges need not wait for
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set.

    Attributes:
        images: Images, ``(N, C, H, W) uint8``.
        labels: Class indices from 0, ``(N,) int64``.
        masks: Pixels that make the class, ``(N, H, W) bool``, all False for an image without such pixels; None where they are
            not known.

    Raises:
        ValueError: Shapes, dtypes or lengths do not fit.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __post_init__(self) -> None:
        import torch

        if self.images.ndim != 4 or self.images.dtype != torch.uint8:
            raise ValueError(f"images must be (N, C, H, W) uint8, not {tuple(self.images.shape)} {self.images.dtype}")
        n, _, height, width = self.images.shape
        if self.labels.shape != (n,) or self.labels.dtype != torch.int64:
            raise ValueError(f"labels must be ({n},) int64, not {tuple(self.labels.shape)} {self.labels.dtype}")
        if self.masks is not None and (self.masks.shape != (n, height, width) or self.masks.dtype != torch.bool):
            raise ValueError(
                f"masks must be ({n}, {height}, {width}) bool, not {tuple(self.masks.shape)} {self.masks.dtype}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> LabelledImages:
        """The chosen images, ``index`` an integer or boolean tensor or a slice."""
        masks = None if self.masks is None else self.masks[index]
        return LabelledImages(self.images[index], self.labels[index], masks)

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same images on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        return LabelledImages(self.images.to(device), self.labels.to(device), masks)

    def counts(self, num_classes: int) -> Tensor:
        """Images per class, ``(num_classes,) int64``."""
        import torch

        return torch.bincount(self.labels, minlength=num_classes)


class Splits(NamedTuple):
    """A data set: what is learned from, what is chosen by, and what is looked at once."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages


@runtime_checkable
class Sampler(Protocol):
    """Anything that draws images of requested classes: a GAN, a VAE, another tool's model behind a small wrapper."""

    @property
    def num_classes(self) -> int: ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of the images drawn."""
        ...

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        """Images ``(N, C, H, W) float32 in [0, 1]`` of the classes ``labels (N,) int64``, drawn with ``rng``."""
        ...


@dataclass(frozen=True)
class Range:
    """The numbers an argument accepts, declared beside it: ``lr: Annotated[float, Range(gt=0)]``."""

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None

    def __str__(self) -> str:
        bounds = (("> ", self.gt), (">= ", self.ge), ("< ", self.lt), ("<= ", self.le))
        return " and ".join(f"{sign}{bound:g}" for sign, bound in bounds if bound is not None)

    def accepts(self, value: float) -> bool:
        """Whether ``value`` lies in the range (NaN never does)."""
        return (
            (self.gt is None or value > self.gt)
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt)
            and (self.le is None or value <= self.le)
        )


Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Probability = Annotated[float, Range(ge=0, le=1)]
PositiveInt = Annotated[int, Range(ge=1)]
NonNegativeInt = Annotated[int, Range(ge=0)]
