"""The data modules: splits, subsets, provenance, and loaders as training sees them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from medassay.core.errors import ConfigError, DataError
from medassay.data import npz
from medassay.data.medmnist_files import choose_size
from medassay.data.modules import LabelledData
from medassay.data.order import make_stratified_order
from medassay.data.sources import GeneratedSamples, folder_data, medmnist_data, phantom_data

CELLS = [
    "basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte", "neutrophil", "platelet",
]  # fmt: skip
Factory = Callable[..., LabelledData]


def file_md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def doctored(
    path: Path, *, channels: int, classes: int, seed: int = 0, splits: tuple[str, ...] = ("train", "val", "test")
) -> Path:
    """A small file in MedMNIST's layout, random but for its labels."""
    rng = np.random.default_rng(seed)
    shape = (28, 28) if channels == 1 else (28, 28, channels)
    arrays = {}
    for split, n in zip(splits, (40, 16, 24), strict=False):
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % classes)[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path


# --- subsets ---------------------------------------------------------------------------------------------------------


def test_a_stratified_order_is_an_order() -> None:
    labels = torch.tensor([0] * 30 + [1] * 10 + [2])
    assert sorted(make_stratified_order(labels, seed=1).tolist()) == list(range(41))


@pytest.mark.parametrize("length", [8, 20, 50, 100, 199])
def test_every_beginning_of_a_stratified_order_keeps_the_proportions(length: int) -> None:
    labels = torch.tensor([0] * 120 + [1] * 60 + [2] * 20)
    beginning = labels[make_stratified_order(labels, seed=1)[:length]].numpy()
    expected = np.array([0.6, 0.3, 0.1]) * length
    assert np.abs(np.bincount(beginning, minlength=3) - expected).max() <= 1


def test_a_stratified_order_depends_on_its_seed_alone() -> None:
    labels = torch.arange(40) % 4
    first = make_stratified_order(labels, seed=1)
    torch.rand(3)
    assert torch.equal(make_stratified_order(labels, seed=1), first)
    assert not torch.equal(make_stratified_order(labels, seed=2), first)


def test_a_subset_shortens_training_alone_and_keeps_proportions(tiny_blood: Factory) -> None:
    whole, part = tiny_blood(), tiny_blood(subset=24)
    assert [len(split) for split in part.splits] == [24, 32, 32]
    assert part.class_counts().tolist() == [3] * 8
    assert torch.equal(part.splits.val.images, whole.splits.val.images)
    known = {image.numpy().tobytes() for image in whole.splits.train.images}
    assert all(image.numpy().tobytes() in known for image in part.splits.train.images)


def test_a_smaller_subset_is_part_of_a_larger_one_whatever_the_runs_seed(tiny_blood: Factory) -> None:
    large = {image.numpy().tobytes() for image in tiny_blood(subset=48, seed=1).splits.train.images}
    small = {image.numpy().tobytes() for image in tiny_blood(subset=16, seed=2).splits.train.images}
    assert len(small) == 16
    assert small < large


def test_a_subset_keeps_masks_with_their_images(tiny_chest: Factory) -> None:
    whole, part = tiny_chest().splits.train, tiny_chest(subset=20).splits.train
    masks = {image.numpy().tobytes(): mask for image, mask in zip(whole.images, whole.masks, strict=True)}
    for image, mask in zip(part.images, part.masks, strict=True):
        assert torch.equal(mask, masks[image.numpy().tobytes()])


# --- phantoms --------------------------------------------------------------------------------------------------------


def test_phantoms_come_in_the_numbers_asked_for_with_classes_in_equal_numbers(tiny_blood: Factory) -> None:
    data = tiny_blood(train=40, val=16, test=24)
    assert [len(split) for split in data.splits] == [40, 16, 24]
    assert [split.counts(8).tolist() for split in data.splits] == [[5] * 8, [2] * 8, [3] * 8]
    assert data.splits.train.images.shape == (40, 3, 28, 28)
    assert data.image_shape == (3, 28, 28)
    assert data.num_classes == 8


def test_phantom_splits_share_no_image(tiny_chest: Factory) -> None:
    splits = tiny_chest().splits
    images = torch.cat([split.images.flatten(1) for split in splits])
    assert len(images.unique(dim=0)) == 96 + 32 + 32


def test_the_runs_seed_changes_the_order_but_not_the_phantoms(tiny_chest: Factory) -> None:
    first, second = tiny_chest(seed=0), tiny_chest(seed=1)
    assert torch.equal(first.splits.train.images, second.splits.train.images)
    assert not torch.equal(
        first.train_dataloader().batch_sampler.order(0), second.train_dataloader().batch_sampler.order(0)
    )


def test_another_phantom_seed_gives_other_phantoms(tiny_chest: Factory) -> None:
    first, second = tiny_chest(phantom_seed=0), tiny_chest(phantom_seed=1)
    assert (first.splits.test.images != second.splits.test.images).flatten(1).any(1).all()


def test_phantoms_say_in_their_provenance_that_they_are(tiny_chest: Factory) -> None:
    assert tiny_chest(phantom_seed=7).provenance() == {
        "name": "chest_phantom", "phantom": True, "phantom_seed": 7, "published": False,
    }  # fmt: skip


def test_class_counts_are_those_of_the_training_images(tiny_chest: Factory) -> None:
    data = tiny_chest(train=9)
    assert data.class_counts().dtype == torch.int64
    assert data.class_counts().tolist() == np.bincount(data.splits.train.labels.numpy(), minlength=2).tolist() == [5, 4]


def test_with_steps_an_epoch_has_so_many_batches_however_few_images_there_are(tiny_chest: Factory) -> None:
    data = tiny_chest(train=20, batch_size=8, steps=10)
    batches = list(data.train_dataloader())
    assert len(batches) == 10
    seen = torch.cat([labels for _, labels in batches])
    assert len(seen) == 68  # three passes of 8, 8 and 4 images, and 8 more
    assert len(list(data.val_dataloader())) == 4


# --- loaders ---------------------------------------------------------------------------------------------------------


def test_training_batches_are_shuffled_and_validation_batches_in_order(tiny_chest: Factory) -> None:
    data = tiny_chest()
    val = torch.cat([labels for _, labels in data.val_dataloader()])
    assert torch.equal(val, data.splits.val.labels)
    train = torch.cat([images for images, _ in data.train_dataloader()])
    assert not torch.equal(train, data.splits.train.images.float() / 255)
    assert torch.equal(
        train.flatten(1).sum(1).sort().values, (data.splits.train.images.float() / 255).flatten(1).sum(1).sort().values
    )


def test_only_training_batches_are_augmented(tiny_chest: Factory) -> None:
    from medassay.data.augment import BatchAugment

    data = tiny_chest(augment=BatchAugment(brightness=0.5))
    assert data.train_dataloader().augment is not None
    assert data.val_dataloader().augment is None


def test_one_class_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"data\.classes=\['only'\]: at least two classes"):
        phantom_data("x", "chest", ["only"], 1)


# --- files in MedMNIST's layout --------------------------------------------------------------------------------------


def make_medmnist(file: Path | None, **changes: Any) -> LabelledData:
    return medmnist_data("bloodmnist", "bloodmnist", CELLS, 3, file=None if file is None else str(file), **changes)


def test_a_file_named_by_the_user_is_read_and_recorded_as_not_published(tmp_path: Path) -> None:
    path = doctored(tmp_path / "mine.npz", channels=3, classes=8)
    data = make_medmnist(path)
    raw = np.load(path)
    for name, split in zip(("train", "val", "test"), data.splits, strict=True):
        assert np.array_equal(split.images.numpy().transpose(0, 2, 3, 1), raw[f"{name}_images"])
        assert split.labels.tolist() == raw[f"{name}_labels"][:, 0].tolist()
    assert data.provenance() == {"name": "bloodmnist", "file": str(path), "md5": file_md5(path), "published": False}


@pytest.mark.parametrize("size", [20, 64])
def test_images_of_another_size_are_resized_once_where_that_is_asked_for_and_the_record_says_so(
    size: int, tmp_path: Path
) -> None:
    path = doctored(tmp_path / "mine.npz", channels=3, classes=8)
    with pytest.raises(DataError, match=r"expected \(N, \d+, \d+, 3\): give data.resize=true, set data.size"):
        _ = make_medmnist(path, size=size).splits
    data, plain = make_medmnist(path, size=size, resize=True), make_medmnist(path, resize=True)
    for split, original in zip(data.splits, plain.splits, strict=True):
        expected = F.interpolate(original.images.float(), (size, size), mode="bicubic", antialias=True)
        assert torch.equal(split.images, expected.round().clamp(0, 255).byte())
        assert torch.equal(split.labels, original.labels)
    assert data.provenance()["resized_from"] == 28
    assert "resized_from" not in plain.provenance()


def test_many_images_are_resized_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = doctored(tmp_path / "mine.npz", channels=3, classes=8)
    whole = make_medmnist(path, size=20, resize=True).splits.train.images
    monkeypatch.setattr(npz, "BLOCK", 7)
    assert torch.equal(make_medmnist(path, size=20, resize=True).splits.train.images, whole)


@pytest.mark.parametrize(("size", "stored"), [(20, 28), (28, 28), (32, 64), (128, 128), (300, 224)])
def test_a_published_file_of_the_same_or_the_next_larger_size_is_resized(size: int, stored: int) -> None:
    assert choose_size(size) == stored


def test_a_file_of_other_channels_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected \(N, 28, 28, 3\)"):
        _ = make_medmnist(doctored(tmp_path / "grey.npz", channels=1, classes=8)).splits


def test_a_file_with_a_label_too_many_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels 0\.\.8, expected 0\.\.7"):
        _ = make_medmnist(doctored(tmp_path / "nine.npz", channels=3, classes=9)).splits


def test_a_doctored_file_under_the_official_name_is_refused(tmp_path: Path) -> None:
    doctored(tmp_path / "bloodmnist.npz", channels=3, classes=8)
    with pytest.raises(DataError, match="is not the published bloodmnist file"):
        _ = make_medmnist(None, root=str(tmp_path)).splits


def test_the_published_file_is_recorded_as_published(real_file: Callable[[str], Path]) -> None:
    path = real_file("pneumoniamnist.npz")
    data = medmnist_data("pneumoniamnist", "pneumoniamnist", ["normal", "pneumonia"], 1, root=str(path.parent))
    assert [len(split) for split in data.splits] == [4708, 524, 624]
    assert data.class_counts().tolist() == [1214, 3494]
    assert data.provenance()["published"] is True
    assert data.provenance()["md5"] == file_md5(path)


# --- folders ---------------------------------------------------------------------------------------------------------


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((28, 28), value, dtype=np.uint8)).save(path)


def make_folder(path: Path, **changes: Any) -> LabelledData:
    return folder_data("mine", str(path), **{"classes": ["cat", "dog"], "channels": 1, "batch_size": 4, **changes})


def test_split_folders_become_the_three_splits(tmp_path: Path) -> None:
    for position, part in enumerate(("train", "val", "test")):
        for label, name in enumerate(("cat", "dog")):
            for number in range(3 - position):
                paint(tmp_path / part / name / f"{number}.png", 100 * label + 10 * position + number)
    data = make_folder(tmp_path)
    assert [len(split) for split in data.splits] == [6, 4, 2]
    assert data.splits.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 100, 101, 102]
    assert data.splits.test.images[:, 0, 0, 0].tolist() == [20, 120]
    assert data.class_counts().tolist() == [3, 3]


def test_plain_class_folders_are_split_by_the_shares(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        for number in range(20):
            paint(tmp_path / name / f"{number:02d}.png", 100 * label + number)
    data = make_folder(tmp_path, split=(0.5, 0.25, 0.25))
    assert [split.counts(2).tolist() for split in data.splits] == [[10, 10], [5, 5], [5, 5]]
    every = torch.cat([split.images[:, 0, 0, 0] for split in data.splits])
    assert sorted(every.tolist()) == [*range(20), *range(100, 120)]


def test_a_folders_provenance_changes_with_any_pixel(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        for name in ("cat", "dog"):
            paint(tmp_path / part / name / "0.png", 5)
    before = make_folder(tmp_path).provenance()
    assert (before["name"], before["path"], before["published"]) == ("mine", str(tmp_path), False)
    paint(tmp_path / "test" / "dog" / "0.png", 6)
    assert make_folder(tmp_path).provenance()["md5"] != before["md5"]


# --- synthetic data --------------------------------------------------------------------------------------------------


def synthetic(find_file: Callable[[], Path], real: LabelledData, **options: Any) -> LabelledData:
    return LabelledData("synthetic_blood", real.classes, real.channels, GeneratedSamples(find_file, real), **options)


def test_synthetic_data_learn_from_the_samples_and_are_tested_on_real_images(
    tmp_path: Path, tiny_blood: Factory
) -> None:
    path = doctored(tmp_path / "samples.npz", channels=3, classes=8, splits=("train", "val"))
    real = tiny_blood()
    data = synthetic(lambda: path, real, batch_size=8)
    raw = np.load(path)
    assert np.array_equal(data.splits.train.images.numpy().transpose(0, 2, 3, 1), raw["train_images"])
    assert np.array_equal(data.splits.val.images.numpy().transpose(0, 2, 3, 1), raw["val_images"])
    assert torch.equal(data.splits.test.images, real.splits.test.images)
    assert torch.equal(data.splits.test.labels, real.splits.test.labels)


def test_the_test_split_of_synthetic_data_needs_no_samples(tiny_blood: Factory) -> None:
    def unwanted() -> Path:
        raise AssertionError("samples were asked for")

    real = tiny_blood()
    data = synthetic(unwanted, real)
    assert torch.equal(data.split("test").images, real.splits.test.images)


def test_images_do_not_travel_to_another_process(tiny_blood: Factory) -> None:
    data = tiny_blood()
    images = data.splits.train.images
    sent = pickle.dumps(data)
    assert len(sent) < 10_000 < images.numel()
    assert torch.equal(pickle.loads(sent).splits.train.images, images)


def test_synthetic_data_take_classes_and_shape_from_the_real_ones_and_record_both(
    tmp_path: Path, tiny_blood: Factory
) -> None:
    path = doctored(tmp_path / "samples.npz", channels=3, classes=8, splits=("train", "val"))
    real = tiny_blood()
    data = synthetic(lambda: path, real, batch_size=8)
    assert (data.classes, data.image_shape, data.batch_size) == (real.classes, (3, 28, 28), 8)
    assert data.provenance() == {
        "name": "synthetic_blood", "file": str(path), "md5": file_md5(path), "published": False, "real": real.provenance(),
    }  # fmt: skip


def test_a_samples_file_without_validation_images_is_refused(tmp_path: Path, tiny_blood: Factory) -> None:
    path = doctored(tmp_path / "samples.npz", channels=3, classes=8, splits=("train",))
    with pytest.raises(DataError, match="has no val_images, val_labels"):
        _ = synthetic(lambda: path, tiny_blood()).splits
