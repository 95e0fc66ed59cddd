"""The few types that every room shares: labelled and segmented images, curves, interfaces of tasks, declared ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol, runtime_checkable

from medassay.core.groups import Groups

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
        groups: Groups of each image, by one attribute or several; None where they are not known.

    Raises:
        ValueError: Shapes, dtypes or lengths do not fit.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    groups: Groups | None = None

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
        if self.groups is not None and len(self.groups) != n:
            raise ValueError(f"groups must be of {n} images, not of {len(self.groups)}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> LabelledImages:
        """The chosen images, ``index`` an integer or boolean tensor or a slice."""
        masks = None if self.masks is None else self.masks[index]
        groups = None if self.groups is None else self.groups[index]
        return LabelledImages(self.images[index], self.labels[index], masks, groups)

    def to(self, device: torch.device | str) -> LabelledImages:
        """The same images on ``device``."""
        masks = None if self.masks is None else self.masks.to(device)
        groups = None if self.groups is None else self.groups.to(device)
        return LabelledImages(self.images.to(device), self.labels.to(device), masks, groups)

    def counts(self, num_classes: int) -> Tensor:
        """Images per class, ``(num_classes,) int64``."""
        import torch

        return torch.bincount(self.labels, minlength=num_classes)


class Splits(NamedTuple):
    """A data set: what is learned from, what is chosen by, and what is looked at once."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages


@dataclass(frozen=True)
class SegmentedImages:
    """One split of a data set whose images have a class for each pixel; sizes may differ from image to image.

    Attributes:
        images: Images, each ``(C, H, W) uint8``, all of one C.
        masks: Class indices from 0 (background), each ``(H, W) uint8``.
        instances: Numbers of the objects, each ``(H, W) int32``, 0 for background; None where objects are not told apart.

    Raises:
        ValueError: Shapes, dtypes or lengths do not fit.
    """

    images: list[Tensor]
    masks: list[Tensor]
    instances: list[Tensor] | None = None

    def __post_init__(self) -> None:
        import torch

        channels = {image.shape[0] for image in self.images if image.ndim == 3}
        if len(channels) > 1:
            raise ValueError(f"images must have one number of channels, not {sorted(channels)}")
        for index, image in enumerate(self.images):
            if image.ndim != 3 or image.dtype != torch.uint8:
                raise ValueError(f"image {index} must be (C, H, W) uint8, not {tuple(image.shape)} {image.dtype}")
        self._check_maps("masks", self.masks, torch.uint8)
        if self.instances is not None:
            self._check_maps("instances", self.instances, torch.int32)

    def _check_maps(self, name: str, maps: list[Tensor], dtype: torch.dtype) -> None:
        if len(maps) != len(self.images):
            raise ValueError(f"{name} must be {len(self.images)}, one for each image, not {len(maps)}")
        for index, (image, one) in enumerate(zip(self.images, maps, strict=True)):
            if one.shape != image.shape[1:] or one.dtype != dtype:
                expected = f"{tuple(image.shape[1:])} {dtype}"
                raise ValueError(f"{name}[{index}] must be {expected}, not {tuple(one.shape)} {one.dtype}")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor | slice) -> SegmentedImages:
        """The chosen images, ``index`` an integer or boolean tensor or a slice."""
        import torch

        chosen: list[int] = torch.arange(len(self))[index].tolist()
        instances = None if self.instances is None else [self.instances[i] for i in chosen]
        return SegmentedImages([self.images[i] for i in chosen], [self.masks[i] for i in chosen], instances)

    def to(self, device: torch.device | str) -> SegmentedImages:
        """The same images on ``device``."""
        instances = None if self.instances is None else [one.to(device) for one in self.instances]
        return SegmentedImages([i.to(device) for i in self.images], [m.to(device) for m in self.masks], instances)

    def counts(self, num_classes: int) -> Tensor:
        """Pixels per class, ``(num_classes,) int64``."""
        import torch

        counts = torch.zeros(num_classes, dtype=torch.int64)
        for mask in self.masks:
            counts += torch.bincount(mask.flatten(), minlength=num_classes).cpu()
        return counts


class SegmentedSplits(NamedTuple):
    """A segmentation data set: what is learned from, what is chosen by, and what is looked at once."""

    train: SegmentedImages
    val: SegmentedImages
    test: SegmentedImages


@dataclass(frozen=True)
class Curve:
    """One split of a data set of one variable measured against another, by repetitions: an ECG's beats.

    Attributes:
        x: Where it was measured, ``(N, 1) float32``.
        y: What was measured there, ``(N, 1) float32``.
        beats: Number of the repetition that each point belongs to, ``(N,) int64``.

    Raises:
        ValueError: Shapes or dtypes do not fit.
    """

    x: Tensor
    y: Tensor
    beats: Tensor

    def __post_init__(self) -> None:
        import torch

        n = len(self.x)
        for name, values in (("x", self.x), ("y", self.y)):
            if values.shape != (n, 1) or values.dtype != torch.float32:
                raise ValueError(f"{name} must be ({n}, 1) float32, not {tuple(values.shape)} {values.dtype}")
        if self.beats.shape != (n,) or self.beats.dtype != torch.int64:
            raise ValueError(f"beats must be ({n},) int64, not {tuple(self.beats.shape)} {self.beats.dtype}")

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Tensor | slice) -> Curve:
        """The chosen points, ``index`` an integer or boolean tensor or a slice."""
        return Curve(self.x[index], self.y[index], self.beats[index])

    def list_beats(self) -> list[int]:
        """The numbers of the repetitions, sorted."""
        return sorted(set(self.beats.tolist()))


class CurveSplits(NamedTuple):
    """Repetitions of one curve: what is learned from, what is chosen by, and what is looked at once."""

    train: Curve
    val: Curve
    test: Curve


@runtime_checkable
class Regressor(Protocol):
    """Anything that gives a number for a number."""

    def regress(self, x: Tensor) -> Tensor:
        """Answers ``(N, 1) float32`` at ``x (N, 1) float32``, both in the units of the data; keeps no gradient."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Anything that gives each pixel of an image a class."""

    @property
    def num_classes(self) -> int: ...

    def segment(self, image: Tensor) -> Tensor:
        """Probabilities ``(num_classes, H, W) float32`` of an image of any size, ``(C, H, W) float32`` in [0, 1]."""
        ...


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
