"""What a look at all images of a data set finds."""

from __future__ import annotations

import torch

from medassay.core.types import LabelledImages, Splits
from medassay.data.inspection import Finding, Inspection, Pair, Place, inspect_splits
from medassay.data.phantoms import chest

CLASSES = ["normal", "pneumonia"]


def phantoms(*lengths: int) -> Splits:
    rng = torch.Generator().manual_seed(0)
    train, val, test = (chest.render(torch.arange(length) % 2, rng=rng) for length in lengths)
    return Splits(train, val, test)


def finding(inspection: Inspection, check: str) -> Finding:
    (found,) = [one for one in inspection.findings if one.check == check]
    return found


def relabel(split: LabelledImages, labels: list[int]) -> LabelledImages:
    return LabelledImages(split.images, torch.tensor(labels))


def test_a_sound_data_set_has_no_faults() -> None:
    inspection = inspect_splits(phantoms(40, 20, 20), CLASSES)
    assert {found.level for found in inspection.findings} == {"good"}
    assert inspection.counts == {"train": [20, 20], "val": [10, 10], "test": [10, 10]}
    assert (inspection.duplicates, inspection.identical, inspection.near, inspection.constant) == ({}, [], [], [])


def test_values_are_counted_and_classes_averaged() -> None:
    images = torch.tensor([[0, 10], [20, 30], [255, 255]], dtype=torch.uint8).reshape(3, 1, 1, 2)
    split = LabelledImages(images, torch.tensor([0, 0, 1]))
    inspection = inspect_splits(Splits(split, split[:2], split[2:]), ["a", "b", "c"])
    histogram = inspection.histograms["train"]
    assert histogram.shape == (1, 256)
    assert {v: int(n) for v, n in enumerate(histogram[0]) if n} == {0: 1, 10: 1, 20: 1, 30: 1, 255: 2}
    assert inspection.means["train"].flatten(1).tolist() == [[10, 20], [255, 255], [0, 0]]


def test_a_class_missing_in_a_split_is_a_fault_and_few_images_are_to_be_looked_at() -> None:
    splits = phantoms(40, 20, 20)
    splits = splits._replace(val=splits.val[splits.val.labels == 0], test=splits.test[:12])
    inspection = inspect_splits(splits, CLASSES)
    assert finding(inspection, "Classes") == Finding("Classes", "fault", "val has no image of pneumonia")
    few = finding(inspection, "Images of a class")
    assert few.level == "look"
    assert few.text.endswith(": test normal 6, pneumonia 6")


def test_images_of_zeros_and_ones_are_a_fault() -> None:
    splits = Splits(*(LabelledImages(split.images // 128, split.labels) for split in phantoms(40, 20, 20)))
    found = finding(inspect_splits(splits, CLASSES), "Values")
    assert found.level == "fault"
    assert "largest value is 1" in found.text


def test_images_of_one_value_are_named_and_not_near_to_one_another() -> None:
    splits = phantoms(40, 20, 20)
    splits.train.images[3], splits.train.images[4], splits.val.images[0] = 7, 8, 0
    inspection = inspect_splits(splits, CLASSES)
    assert inspection.constant == [Place("train", 3, 1), Place("train", 4, 0), Place("val", 0, 0)]
    assert finding(inspection, "Constant images").text == "the same value everywhere: 2 in train, 1 in val"
    assert inspection.near == []


def test_identical_images_are_grouped_with_contradicting_labels_first_then_those_in_several_splits() -> None:
    splits = phantoms(40, 20, 20)
    train, val, test = (split.images for split in splits)
    train[9], test[4], train[21] = train[1], train[2], train[12]  # same class, other split, other class
    val[6] = train[12]
    inspection = inspect_splits(splits, CLASSES)
    assert inspection.identical == [
        [Place("train", 12, 0), Place("train", 21, 1), Place("val", 6, 0)],
        [Place("train", 2, 0), Place("test", 4, 0)],
        [Place("train", 1, 1), Place("train", 9, 1)],
    ]
    assert inspection.duplicates == {"train": 2, "train/val": 1, "train/test": 1}
    assert finding(inspection, "Labels") == Finding("Labels", "fault", "1 image occurs under different labels")
    assert finding(inspection, "Identical images").level == "fault"


def test_repeats_within_a_split_are_to_be_looked_at() -> None:
    splits = phantoms(40, 20, 20)
    splits.train.images[9] = splits.train.images[1]
    found = finding(inspect_splits(splits, CLASSES), "Identical images")
    assert found == Finding("Identical images", "look", "1 repeated within train")


def test_nearly_identical_images_are_paired_once_those_in_different_splits_first() -> None:
    splits = phantoms(40, 20, 20)
    train, val, test = (split.images for split in splits)
    train[5] = train[4]
    train[5, 0, 0, 0] += 1
    test[8] = (train[7].float() * 0.9).round().to(torch.uint8)
    val[2] = train[4]  # identical: no second pair of its own
    inspection = inspect_splits(splits, CLASSES)
    assert [(pair.first, pair.second) for pair in inspection.near] == [
        (Place("train", 7, 1), Place("test", 8, 0)),
        (Place("train", 4, 0), Place("train", 5, 1)),
    ]
    assert all(isinstance(pair, Pair) and pair.distance <= 2 for pair in inspection.near)
    text = finding(inspection, "Nearly identical images").text
    assert "1 in train/test, 1 in train" in text


def test_an_empty_split_is_looked_at_too() -> None:
    splits = phantoms(40, 20, 20)
    inspection = inspect_splits(splits._replace(test=splits.test[:0]), CLASSES)
    assert finding(inspection, "Classes").text == "test has no image of normal, pneumonia"
