"""The shared types: labelled images, a generator's interface, ranges of arguments."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medassay.core.types import LabelledImages, Range, Sampler

N, C, H, W = 6, 3, 4, 5


def images_of(n: int = N) -> Tensor:
    """Image i holds the value i alone, so that it can be told where it went."""
    return torch.arange(n, dtype=torch.uint8)[:, None, None, None].expand(n, C, H, W).clone()


def masks_of(n: int = N) -> Tensor:
    """Mask i has its first i pixels set."""
    return torch.arange(H * W).view(1, H, W) < torch.arange(n).view(n, 1, 1)


def labelled(*, masked: bool = True) -> LabelledImages:
    return LabelledImages(images_of(), torch.tensor([0, 1, 2, 0, 1, 0]), masks_of() if masked else None)


# --- labelled images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "masks", "message"),
    [
        (images_of().float(), torch.zeros(N, dtype=torch.int64), None, r"images .* torch\.float32"),
        (images_of()[:, 0], torch.zeros(N, dtype=torch.int64), None, r"images must be \(N, C, H, W\)"),
        (images_of(), torch.zeros(N, dtype=torch.int32), None, r"labels .* torch\.int32"),
        (images_of(), torch.zeros(N, 1, dtype=torch.int64), None, r"labels must be \(6,\)"),
        (images_of(), torch.zeros(N - 1, dtype=torch.int64), None, r"labels must be \(6,\) int64, not \(5,\)"),
        (images_of(), torch.zeros(N, dtype=torch.int64), masks_of().byte(), r"masks .* torch\.uint8"),
        (images_of(), torch.zeros(N, dtype=torch.int64), masks_of()[:, None], r"masks must be \(6, 4, 5\)"),
        (images_of(), torch.zeros(N, dtype=torch.int64), masks_of(N - 1), r"masks must be \(6, 4, 5\) bool"),
        (images_of(), torch.zeros(N, dtype=torch.int64), masks_of().mT, r"masks .* not \(6, 5, 4\)"),
    ],
    ids=[
        "float images",
        "images without channels",
        "short labels",
        "labels in a column",
        "too few labels",
        "masks of bytes",
        "masks with channels",
        "too few masks",
        "masks turned",
    ],
)
def test_what_does_not_fit_together_is_refused(
    images: Tensor, labels: Tensor, masks: Tensor | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LabelledImages(images, labels, masks)


def test_a_split_without_images_is_one() -> None:
    empty = LabelledImages(images_of(0), torch.zeros(0, dtype=torch.int64))
    assert len(empty) == 0
    assert empty.counts(3).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, 2), [0, 2, 4]),
        (slice(0, 0), []),
        (torch.tensor([5, 0, 0]), [5, 0, 0]),
        (torch.tensor([], dtype=torch.int64), []),
        (torch.tensor([True, False, False, True, False, True]), [0, 3, 5]),
    ],
    ids=["slice", "steps", "empty slice", "tensor with repeats", "empty tensor", "boolean tensor"],
)
def test_choosing_images_takes_their_labels_and_masks_along(index: Tensor | slice, chosen: list[int]) -> None:
    whole = labelled()
    part = whole[index]
    assert len(part) == len(chosen)
    assert part.images[:, 0, 0, 0].tolist() == chosen
    assert part.labels.tolist() == [whole.labels.tolist()[i] for i in chosen]
    assert part.masks is not None
    assert part.masks.sum((1, 2)).tolist() == chosen


def test_choosing_from_images_without_masks_gives_none() -> None:
    assert labelled(masked=False)[torch.tensor([1, 2])].masks is None


def test_a_single_number_is_no_choice_of_images() -> None:
    with pytest.raises(ValueError, match="images must be"):
        labelled()[0]  # type: ignore[index]


def test_moving_images_keeps_labels_and_masks() -> None:
    moved = labelled().to("meta")  # a device that every machine has
    assert moved.masks is not None
    assert {moved.images.device.type, moved.labels.device.type, moved.masks.device.type} == {"meta"}
    assert labelled(masked=False).to("cpu").masks is None


def test_classes_are_counted_those_without_images_too() -> None:
    assert labelled().counts(5).tolist() == [3, 2, 1, 0, 0]


# --- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "inside", "outside"),
    [
        (Range(gt=0), [1e-300, 1, math.inf], [0, -0.0, -1]),
        (Range(ge=0), [0, -0.0, 5], [-1e-300]),
        (Range(lt=1), [0.999, -math.inf], [1, 1.5]),
        (Range(le=1), [1, 0.5], [1.0001]),
        (Range(ge=0, lt=1), [0, 0.5], [-0.1, 1]),
        (Range(gt=0, le=1), [1, 0.5], [0, 1.5]),
        (Range(), [-math.inf, 0, 10**30], []),
    ],
)
def test_a_range_accepts_what_lies_between_its_bounds(limits: Range, inside: list[float], outside: list[float]) -> None:
    assert [limits.accepts(value) for value in inside] == [True] * len(inside)
    assert [limits.accepts(value) for value in outside] == [False] * len(outside)


@pytest.mark.parametrize("limits", [Range(gt=0), Range(ge=0), Range(lt=0), Range(le=0), Range(ge=-1, le=1)])
def test_what_is_no_number_lies_in_no_range(limits: Range) -> None:
    assert not limits.accepts(math.nan)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Range(gt=0), "> 0"),
        (Range(ge=0, lt=1), ">= 0 and < 1"),
        (Range(gt=0.5, le=2), "> 0.5 and <= 2"),
        (Range(), ""),
    ],
)
def test_a_range_says_its_bounds_in_signs(limits: Range, words: str) -> None:
    assert str(limits) == words


# --- generators ------------------------------------------------------------------------------------------------------


class Grey:
    """Another tool's generator, with no class of ours above it."""

    num_classes = 2
    image_shape = (1, 4, 4)

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        return torch.rand(len(labels), *self.image_shape, generator=rng)


class Shapeless:
    num_classes = 2

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        return torch.rand(len(labels), 1, 4, 4, generator=rng)


class Silent:
    num_classes = 2
    image_shape = (1, 4, 4)


def test_anything_with_a_generators_interface_is_a_sampler() -> None:
    assert isinstance(Grey(), Sampler)


@pytest.mark.parametrize("lacking", [Shapeless(), Silent(), torch.nn.Linear(1, 1)])
def test_what_lacks_a_part_of_the_interface_is_no_sampler(lacking: object) -> None:
    assert not isinstance(lacking, Sampler)
