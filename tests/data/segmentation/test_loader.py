"""Patches and whole images: where they lie, how they are mirrored, which come in which epoch and process."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import SegmentedImages
from medassay.data.segmentation.augment import SegmentationAugment
from medassay.data.segmentation.loader import Batch, PatchLoader, PatchOrder, ResidentPixels, WholeImageLoader, mirror

SIZES = [(9, 14), (16, 7), (12, 12)]
CPU = torch.device("cpu")


def split_of(channels: int = 3, sizes: list[tuple[int, int]] = SIZES) -> SegmentedImages:
    """Images of random pixels; the mask of each is its red channel modulo 5."""
    rng = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (channels, *size), generator=rng).to(torch.uint8) for size in sizes]
    return SegmentedImages(images, [image[0] % 5 for image in images])


def resident(split: SegmentedImages) -> ResidentPixels:
    """Weights are the mask plus a half."""
    return ResidentPixels(split, [mask + 0.5 for mask in split.masks], CPU)


def loader(
    split: SegmentedImages, *, batch_size: int = 4, patch: int = 5, margin: int = 0, rank: int = 0, world_size: int = 1,
    seed: int = 0, steps: int | None = 3, augment: SegmentationAugment | None = None,
) -> PatchLoader:  # fmt: skip
    order = PatchOrder(len(split), batch_size, seed=seed, rank=rank, world_size=world_size, steps=steps)
    return PatchLoader(resident(split), order, patch=patch, margin=margin, augment=augment)


def served(patches: PatchLoader, epoch: int = 0) -> list[Batch]:
    patches.batch_sampler.set_epoch(epoch)
    return list(patches)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
def test_positions_are_mirrored_as_numpy_reflects_them_repeatedly(length: int) -> None:
    expected = np.pad(np.arange(length), 13, mode="reflect")
    assert mirror(torch.arange(-13, length + 13), length).tolist() == expected.tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("top", "left", "size"), [(2, 3, 4), (-3, 4, 10), (-20, -30, 60)])
def test_a_patch_is_what_numpy_cuts_from_the_mirrored_image(channels: int, top: int, left: int, size: int) -> None:
    split = split_of(channels)
    index = torch.tensor([1, 0, 2])
    images, masks, weights = resident(split).cut(index, torch.full((3,), top), torch.full((3,), left), size)
    for place, source in enumerate(index.tolist()):
        border = 80
        padded = np.pad(split.images[source].numpy(), ((0, 0), (border, border), (border, border)), mode="reflect")
        expected = padded[:, top + border : top + border + size, left + border : left + border + size]
        np.testing.assert_array_equal((images[place] * 255).round().numpy(), expected)
        np.testing.assert_array_equal(masks[place].numpy(), expected[0] % 5)
        np.testing.assert_array_equal(weights[place].numpy(), expected[0] % 5 + 0.5)


def test_batches_have_the_shapes_and_types_that_are_said() -> None:
    for images, masks, weights in served(loader(split_of(), patch=6, margin=4)):
        assert (images.shape, images.dtype) == ((4, 3, 14, 14), torch.float32)
        assert (masks.shape, masks.dtype) == ((4, 6, 6), torch.int64)
        assert (weights.shape, weights.dtype) == ((4, 6, 6), torch.float32)
        assert (float(images.min()) >= 0, float(images.max()) <= 1) == (True, True)


@pytest.mark.parametrize("augment", [None, SegmentationAugment(horizontal_flip=1.0, quarter_turn=0.5)])
def test_masks_and_weights_lie_in_the_middle_of_their_images(augment: SegmentationAugment | None) -> None:
    for images, masks, weights in served(loader(split_of(), patch=6, margin=4, augment=augment)):
        middle = (images[:, 0, 4:-4, 4:-4] * 255).round().long()
        assert torch.equal(middle % 5, masks)
        assert torch.equal(weights, masks + 0.5)


def test_patches_lie_everywhere_in_their_image_and_nowhere_else() -> None:
    size = (7, 9)
    image = torch.arange(63, dtype=torch.uint8).view(1, *size)
    split = SegmentedImages([image], [image[0]])
    (batch,) = served(loader(split, batch_size=600, patch=5, steps=1))
    assert set(batch[1][:, 0, 0].tolist()) == {9 * top + left for top in range(3) for left in range(5)}


def test_a_patch_larger_than_its_image_holds_all_of_it_mirrored() -> None:
    (batch, *_) = served(loader(split_of(sizes=[(4, 3)]), patch=8))
    image = split_of(sizes=[(4, 3)]).images[0][0]
    for patch in (batch[0][:, 0] * 255).round():
        assert set(patch.flatten().tolist()) == set(image.flatten().tolist())


def test_a_deformation_sees_real_pixels_around_the_patch() -> None:
    """A ramp over the whole image: pixels that a patch fetches from beyond its edge go on with the ramp."""
    ramp = torch.arange(60, dtype=torch.uint8).expand(1, 60, 60).contiguous()
    split = SegmentedImages([ramp], [ramp[0]])
    augment = SegmentationAugment(elastic=2.0)
    patches = loader(split, batch_size=64, patch=8, margin=2, steps=1, augment=augment)
    ((images, masks, _),) = served(patches)
    inside = (masks > 14) & (masks < 46)
    assert int(inside.sum()) > 1000
    assert float((images[:, 0, 2:-2, 2:-2] * 255 - masks)[inside].abs().max()) <= 0.51


# --- order -----------------------------------------------------------------------------------------------------------


def test_every_batch_is_whole_and_passes_hold_each_image_once() -> None:
    order = PatchOrder(5, 4, seed=3)
    assert len(order) == 2
    taken: list[int] = []
    for epoch in range(5):
        order.set_epoch(epoch)
        batches = list(order)
        assert [len(batch) for batch in batches] == [4, 4]
        taken += torch.cat(batches).tolist()
    passes = [taken[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == list(range(5)) for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_processes_share_the_patches_that_one_would_have_taken() -> None:
    alone = [batch.tolist() for batch in PatchOrder(7, 6, seed=1, steps=4)]
    shared = [list(PatchOrder(7, 2, seed=1, rank=rank, world_size=3, steps=4)) for rank in range(3)]
    assert {len(batches) for batches in shared} == {4}
    together = [sorted(torch.cat(parts).tolist()) for parts in zip(*shared, strict=True)]
    assert together == [sorted(batch) for batch in alone]


def test_a_pass_is_as_many_batches_as_it_takes_and_steps_are_what_is_asked_for() -> None:
    lengths = [(n, size, PatchOrder(n, size, seed=0).__len__()) for n, size in ((8, 4), (9, 4), (2, 16))]
    assert lengths == [(8, 4, 2), (9, 4, 3), (2, 16, 1)]
    assert len(PatchOrder(8, 4, seed=0, world_size=2)) == 1
    assert len(PatchOrder(8, 4, seed=0, steps=11)) == len(list(PatchOrder(8, 4, seed=0, steps=11))) == 11


def test_seed_and_epoch_alone_decide_the_batches_as_in_a_resumed_run() -> None:
    augment = SegmentationAugment(elastic=1.0, noise=0.1, horizontal_flip=0.5)
    through = loader(split_of(), margin=2, augment=augment)
    first, second = served(through, 0), served(through, 1)
    resumed = loader(split_of(), margin=2, augment=augment)
    torch.rand(3)
    assert same(served(resumed, 1), second)
    assert not same(first, second)
    assert not same(served(loader(split_of(), margin=2, augment=augment, seed=1), 1), second)


def test_processes_draw_places_of_their_own() -> None:
    single = split_of(sizes=[(40, 40)])
    one, other = (served(loader(single, rank=rank, world_size=2)) for rank in (0, 1))
    assert not same(one, other)


# --- whole images ----------------------------------------------------------------------------------------------------


def test_whole_images_come_one_at_a_time_in_their_own_sizes() -> None:
    split = split_of()
    batches = list(WholeImageLoader(resident(split)))
    assert len(batches) == 3
    for (images, masks, weights), image, mask in zip(batches, split.images, split.masks, strict=True):
        assert torch.equal(images, image[None].float() / 255)
        assert torch.equal(masks, mask[None].long())
        assert torch.equal(weights, mask[None] + 0.5)


def test_every_image_is_looked_at_once_over_all_processes() -> None:
    pixels = resident(split_of(sizes=[(2, 2 + i) for i in range(5)]))
    shards = [list(WholeImageLoader(pixels, rank=rank, world_size=2)) for rank in (0, 1)]
    widths: list[Tensor | int] = [batch[0].shape[3] for shard in shards for batch in shard]
    assert widths == [2, 4, 6, 3, 5]


def test_fewer_images_than_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 images for 4 processes: use fewer devices"):
        WholeImageLoader(resident(split_of()), world_size=4)
