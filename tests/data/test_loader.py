"""Which image comes when: orders, shards, casts and augmentation of the resident loader."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages
from medassay.data.augment import BatchAugment
from medassay.data.loader import ResidentLoader, ShardedBatches
from medassay.data.modules import LabelledData

STABLE = [2598789274482403935, 8461649343682384916, 8451317794452653904]  # computed once by splitmix_chain below
SIZES = [(12, 4), (13, 4), (10, 3), (7, 2), (3, 8), (25, 4), (97, 16)]  # (images, batch size), few of them divisible
WORLDS = pytest.mark.parametrize("world_size", [1, 2, 3])
LENGTHS = pytest.mark.parametrize(("n", "batch_size"), SIZES)


def split_of(n: int, channels: int = 1) -> LabelledImages:
    """Random images whose label is their index."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, channels, 6, 6), generator=rng).to(torch.uint8)
    return LabelledImages(pixels, torch.arange(n))


def shards(n: int, batch_size: int, world_size: int, *, epoch: int = 0, shuffle: bool = True) -> list[list[Tensor]]:
    """The batches of every process."""
    found = []
    for rank in range(world_size):
        sampler = ShardedBatches(n, batch_size, shuffle=shuffle, seed=0, rank=rank, world_size=world_size)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


def served(loader: ResidentLoader, epoch: int = 0) -> tuple[Tensor, Tensor]:
    """All images and labels of an epoch, in the order they come."""
    loader.batch_sampler.set_epoch(epoch)
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


# --- sharding --------------------------------------------------------------------------------------------------------


@WORLDS
@LENGTHS
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_image_comes_exactly_once_per_epoch_over_all_processes(
    n: int, batch_size: int, world_size: int, shuffle: bool
) -> None:
    for epoch in (0, 1):
        batches = itertools.chain.from_iterable(shards(n, batch_size, world_size, epoch=epoch, shuffle=shuffle))
        assert sorted(torch.cat(list(batches)).tolist()) == list(range(n))


@WORLDS
@LENGTHS
def test_all_processes_have_the_same_number_of_batches_none_of_them_empty(
    n: int, batch_size: int, world_size: int
) -> None:
    found = shards(n, batch_size, world_size)
    assert len({len(batches) for batches in found}) == 1
    assert all(len(batch) > 0 for batches in found for batch in batches)
    announced = len(ShardedBatches(n, batch_size, shuffle=True, seed=0, world_size=world_size))
    assert announced == len(found[0])


@pytest.mark.parametrize(
    ("n", "batch_size", "world_size"),
    [(17, 4, 1), (17, 4, 2), (19, 4, 2), (25, 4, 3), (26, 4, 3), (29, 4, 3)],
)
def test_a_rest_that_leaves_a_process_with_fewer_than_two_images_joins_the_batch_before(
    n: int, batch_size: int, world_size: int
) -> None:
    found = shards(n, batch_size, world_size)
    step = batch_size * world_size
    assert 0 < n % step < 2 * world_size
    assert [len(batches) for batches in found] == [n // step] * world_size
    assert sum(len(batches[-1]) for batches in found) == step + n % step


def test_validation_has_no_more_images_in_a_batch_than_asked_for() -> None:
    assert [len(batch) for batch in shards(9, 4, 1, shuffle=False)[0]] == [4, 4, 1]


def test_batches_of_one_image_are_served_where_they_are_asked_for() -> None:
    assert [len(batch) for batch in shards(5, 1, 1)[0]] == [1] * 5


@WORLDS
def test_a_batch_over_all_processes_holds_the_images_one_process_would_have_taken(world_size: int) -> None:
    alone = shards(48, 4 * world_size, 1)[0]
    together = zip(*shards(48, 4, world_size), strict=True)
    for batch, parts in zip(alone, together, strict=True):
        assert sorted(torch.cat(parts).tolist()) == sorted(batch.tolist())


def test_no_batch_but_the_last_exceeds_the_batch_size() -> None:
    assert [len(batch) for batch in shards(98, 16, 1)[0]] == [16] * 6 + [2]
    assert [len(batch) for batch in shards(97, 16, 1)[0]] == [16] * 5 + [17]


# --- order -----------------------------------------------------------------------------------------------------------


def order(seed: int, epoch: int, *, shuffle: bool = True) -> list[int]:
    sampler = ShardedBatches(50, 8, shuffle=shuffle, seed=seed)
    sampler.set_epoch(epoch)
    return torch.cat(list(sampler)).tolist()


def test_the_same_seed_and_epoch_give_the_same_order_whatever_was_drawn_before() -> None:
    first = order(seed=3, epoch=2)
    torch.rand(7)
    assert order(seed=3, epoch=2) == first


def test_another_epoch_has_another_order() -> None:
    orders = [tuple(order(seed=3, epoch=epoch)) for epoch in range(5)]
    assert len(set(orders)) == 5


def test_another_seed_has_another_order() -> None:
    orders = [tuple(order(seed=seed, epoch=0)) for seed in range(5)]
    assert len(set(orders)) == 5


@pytest.mark.parametrize("epoch", [0, 1])
def test_without_shuffling_images_come_in_order(epoch: int) -> None:
    assert order(seed=3, epoch=epoch, shuffle=False) == list(range(50))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_one_order(world_size: int) -> None:
    orders = [
        ShardedBatches(20, 2, shuffle=True, seed=5, rank=rank, world_size=world_size).order(0).tolist()
        for rank in range(world_size)
    ]
    assert all(other == orders[0] for other in orders)


# --- steps -----------------------------------------------------------------------------------------------------------


def stepped(steps: int | None, epochs: int, *, n: int = 25, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """The batches of the first epochs, one after the other."""
    sampler = ShardedBatches(n, 4, shuffle=True, seed=3, rank=rank, world_size=world_size, steps=steps)
    found = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        found += [batch.tolist() for batch in sampler]
    return found


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 7, 11, 30])
def test_epochs_of_so_many_steps_are_the_passes_cut_elsewhere(steps: int, rank: int, world_size: int) -> None:
    epochs = -(-60 // steps)
    passes = stepped(None, 60, rank=rank, world_size=world_size)
    assert stepped(steps, epochs, rank=rank, world_size=world_size) == passes[: steps * epochs]


@pytest.mark.parametrize("world_size", [1, 2])
@LENGTHS
def test_as_many_steps_as_a_pass_has_are_the_passes_themselves(n: int, batch_size: int, world_size: int) -> None:
    passes = ShardedBatches(n, batch_size, shuffle=True, seed=3, world_size=world_size)
    steps = ShardedBatches(n, batch_size, shuffle=True, seed=3, world_size=world_size, steps=len(passes))
    for epoch in range(3):
        passes.set_epoch(epoch)
        steps.set_epoch(epoch)
        for one, other in zip(passes, steps, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_an_epoch_announces_its_steps_and_has_them(steps: int) -> None:
    loader = ResidentLoader(split_of(25), 4, shuffle=True, steps=steps)
    assert len(loader) == steps
    assert len(list(loader)) == steps


def test_an_epoch_can_be_entered_without_those_before_it() -> None:
    sampler = ShardedBatches(25, 4, shuffle=True, seed=3, steps=5)
    sampler.set_epoch(4)
    assert [batch.tolist() for batch in sampler] == stepped(5, 5)[20:]


def test_steps_over_several_passes_still_serve_every_image_equally_often() -> None:
    sampler = ShardedBatches(26, 4, shuffle=True, seed=3, steps=3 * 7)
    assert sorted(torch.cat(list(sampler)).tolist()) == sorted([*range(26)] * 3)


def test_two_processes_together_take_the_batches_of_one_with_twice_the_size() -> None:
    alone = ShardedBatches(48, 8, shuffle=True, seed=3, steps=10)
    alone.set_epoch(2)
    parts = [ShardedBatches(48, 4, shuffle=True, seed=3, rank=r, world_size=2, steps=10) for r in (0, 1)]
    for part in parts:
        part.set_epoch(2)
    for batch, first, second in zip(alone, *parts, strict=True):
        assert sorted([*first.tolist(), *second.tolist()]) == sorted(batch.tolist())


@pytest.mark.parametrize("steps", [None, 3])
def test_a_data_modules_steps_are_those_of_its_training_epochs_alone(
    steps: int | None, tiny_chest: Callable[..., LabelledData]
) -> None:
    data = tiny_chest(train=40, val=32, batch_size=8)
    data.steps = steps
    assert len(data.train_dataloader()) == (steps or 5)
    assert len(data.val_dataloader()) == 4


# --- values ----------------------------------------------------------------------------------------------------------


def test_values_are_the_bytes_divided_by_255_in_float32() -> None:
    split = split_of(20, channels=3)
    images, labels = served(ResidentLoader(split, 6))
    assert images.dtype == torch.float32
    assert np.array_equal(images.numpy(), split.images.numpy().astype(np.float32) / np.float32(255))
    assert labels.dtype == torch.int64
    assert labels.tolist() == list(range(20))


def test_labels_stay_with_their_images_when_shuffled() -> None:
    split = split_of(20)
    images, labels = served(ResidentLoader(split, 6, shuffle=True))
    assert labels.tolist() != list(range(20))
    assert np.array_equal((images * 255).round().to(torch.uint8).numpy(), split.images.numpy()[labels.numpy()])


def test_serving_leaves_the_resident_images_unchanged() -> None:
    split = split_of(20)
    before = split.images.clone()
    served(ResidentLoader(split, 6, shuffle=True, augment=BatchAugment(horizontal_flip=0.5, brightness=0.3)))
    assert torch.equal(split.images, before)


# --- augmentation ----------------------------------------------------------------------------------------------------


def augmented(*, epoch: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> tuple[Tensor, Tensor]:
    loader = ResidentLoader(
        split_of(24), 4, shuffle=True, seed=seed, augment=BatchAugment(brightness=0.3), rank=rank, world_size=world_size
    )
    return served(loader, epoch)


@pytest.mark.parametrize(("rank", "world_size"), [(0, 1), (1, 2)])
def test_augmentation_is_the_same_for_the_same_seed_epoch_and_process(rank: int, world_size: int) -> None:
    first = augmented(epoch=1, rank=rank, world_size=world_size)
    torch.rand(5)
    again = augmented(epoch=1, rank=rank, world_size=world_size)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def shifts(images: Tensor, labels: Tensor) -> Tensor:
    """How much brighter each image became, by index; the middle value, since brightness is cut off at 0 and 1."""
    original = split_of(24).images[labels].float() / 255
    return (images - original).flatten(1).median(dim=1).values[labels.argsort()]


def test_augmentation_differs_between_epochs_and_seeds() -> None:
    found = [shifts(*augmented(epoch=epoch, seed=seed)) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    for one, other in itertools.combinations(found, 2):
        assert not torch.isclose(one, other, atol=1e-4).any()


def test_two_processes_do_not_draw_the_same_augmentation() -> None:
    drawn = [(images - split_of(24).images[labels].float() / 255) for images, labels in
             (augmented(epoch=0, rank=rank, world_size=2) for rank in (0, 1))]  # fmt: skip
    first, second = (d.flatten(1).median(dim=1).values for d in drawn)
    assert not torch.isclose(first, second, atol=1e-4).any()


def test_augmentation_that_changes_nothing_is_left_out() -> None:
    assert ResidentLoader(split_of(4), 2, augment=BatchAugment()).augment is None


# --- seeds -----------------------------------------------------------------------------------------------------------


def splitmix_chain(*parts: int) -> int:
    """The documented mixing, written anew in numpy's wrapping 64-bit arithmetic."""
    with np.errstate(over="ignore"):
        state = np.uint64(0x9E3779B97F4A7C15)
        for part in parts:
            state = np.uint64(state ^ np.array([part], dtype=np.int64).view(np.uint64)[0])
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
            state = state ^ (state >> np.uint64(31))
        return int(state >> np.uint64(1))


@pytest.mark.parametrize("parts", [(), (0,), (0, 0), (1, 2, 3), (-1,), (2**63 - 1, 5), (42, 7, 1, 0)])
def test_a_derived_seed_is_splitmix64_over_its_parts(parts: tuple[int, ...]) -> None:
    assert derive_seed(*parts) == splitmix_chain(*parts)


def test_derived_seeds_never_change_between_versions_and_machines() -> None:
    assert [derive_seed(0, 0), derive_seed(1, 2, 3), derive_seed(42, 7, 1, 0)] == STABLE


def test_derived_seeds_are_63_bits_and_do_not_collide_on_small_numbers() -> None:
    seeds = {derive_seed(*parts) for parts in itertools.product(range(20), range(20), range(4))}
    assert len(seeds) == 1600
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_the_order_of_the_parts_matters() -> None:
    assert derive_seed(1, 2) != derive_seed(2, 1)
