"""What an assay compares: real images, a generator's samples, and images made by any tool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import medassay
from medassay.core.errors import DataError
from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import LabelledData
from medassay.data.npz import read_splits
from medassay.data.sources import memory_data
from medassay.protocols.assay.protocol import make_subjects
from medassay.protocols.assay.subjects import (
    Candidate,
    Real,
    choose_in_proportion,
    fit_in_proportion,
    make_sets,
    take_file_samples,
    take_run_samples,
)
from medassay.runs import samples
from medassay.runs.run import Run

CLASSES = ["small cat", "Dog"]
SIZE = 8


def split_of(n: int, seed: int = 0, channels: int = 1) -> LabelledImages:
    rng = torch.Generator().manual_seed(seed)
    return LabelledImages(
        torch.randint(256, (n, channels, SIZE, SIZE), generator=rng, dtype=torch.uint8), torch.arange(n) % 2
    )


def data_of(train: int = 40, val: int = 20, channels: int = 1) -> LabelledData:
    return memory_data("animals", CLASSES, Splits(split_of(train, 1, channels), split_of(val, 2), split_of(16, 3)))


# --- real images -----------------------------------------------------------------------------------------------------


def test_the_real_images_are_the_data_sets_three_splits() -> None:
    data = data_of()
    real = Real.from_data(data, "test")
    assert real.classes == CLASSES
    for found, split in zip((real.train, real.val, real.test), data.splits, strict=True):
        assert found is split
    assert real.provenance["name"] == "animals"


def test_validation_images_can_stand_in_for_test_images() -> None:
    data = data_of()
    real = Real.from_data(data, "val")
    assert real.test is data.splits.val
    assert real.val is data.splits.val


def test_for_tests_on_validation_images_everything_else_is_the_same() -> None:
    assert Real.from_data(data_of(), "val").train.images.equal(Real.from_data(data_of(), "test").train.images)
    assert Real.from_data(data_of(), "val").digest != Real.from_data(data_of(), "test").digest


@pytest.mark.parametrize(
    ("sizes", "named", "split"),
    [
        ((38, 20, 20), "40 training", "test"),
        ((40, 14, 20), "16 validation", "test"),
        ((40, 14, 20), "16 validation", "val"),
        ((40, 20, 14), "16 test", "test"),
    ],
)
def test_too_few_real_images_are_refused(sizes: tuple[int, int, int], named: str, split: Any) -> None:
    train, val, test = (split_of(n, n) for n in sizes)
    with pytest.raises(DataError, match=f"at least {named} images"):
        Real.from_data(memory_data("animals", CLASSES, Splits(train, val, test)), split)


def test_a_class_without_real_validation_images_is_refused() -> None:
    val = split_of(60)
    data = memory_data("animals", CLASSES, Splits(split_of(40), val[val.labels == 0], split_of(20)))
    with pytest.raises(DataError, match=r"validation images and some of every class.*30, 0 by class"):
        Real.from_data(data, "test")


def real_with(train: LabelledImages) -> Real:
    return Real(CLASSES, train, split_of(4, 2), split_of(4, 3), {})


def test_distances_are_measured_to_each_training_image_once() -> None:
    split = split_of(6)
    real = real_with(split[torch.tensor([0, 1, 2, 1, 3, 0])])
    assert len(real.train) == 6
    assert torch.equal(real.unique.images, split.images[:4])
    assert real.unique.labels.tolist() == [0, 1, 0, 1]


def test_copies_are_images_equal_to_a_training_image() -> None:
    split = split_of(6)
    mixed = torch.cat([split.images[:2], split_of(6, 9).images])
    assert real_with(split).find_copies(mixed).tolist() == [True] * 2 + [False] * 6


# --- in proportion ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 7, 10, 33, 99])
def test_a_part_in_proportion_has_every_class_within_one_image_of_its_share(n: int) -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)[torch.randperm(100, generator=torch.Generator())]
    chosen = choose_in_proportion(labels, n)
    assert len(chosen) == n
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    counts = np.bincount(labels[chosen], minlength=3)
    assert np.abs(counts - n * np.array([0.6, 0.3, 0.1])).max() <= 1


@pytest.mark.parametrize("n", [5, 6, 100])
def test_a_part_as_large_as_the_whole_is_the_whole(n: int) -> None:
    assert choose_in_proportion(torch.tensor([1, 0, 1, 1, 0]), n).tolist() == [0, 1, 2, 3, 4]


def test_a_part_is_a_beginning_of_every_larger_part() -> None:
    labels = torch.arange(50) % 3
    assert set(choose_in_proportion(labels, 10).tolist()) < set(choose_in_proportion(labels, 20).tolist())


@pytest.mark.parametrize(
    ("available", "n"),
    [([60, 30, 10], 100), ([600, 300, 100], 100), ([30, 30, 10], 50), ([60, 30, 1], 14), ([60, 30, 0], 4)],
)
def test_as_many_images_are_compared_as_there_are_in_the_real_proportions(available: list[int], n: int) -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    fitting, short = fit_in_proportion(labels, torch.tensor(available))
    assert fitting == pytest.approx(n, abs=2)
    assert (short is None) == (fitting == 100)
    assert short is None or available[short] < [60, 30, 10][short]
    counts = [torch.bincount(labels[choose_in_proportion(labels, n)], minlength=3) for n in (fitting, fitting + 1)]
    assert (counts[0] <= torch.tensor(available)).all()
    assert fitting == 100 or not (counts[1] <= torch.tensor(available)).all()


def test_sets_are_disjoint_and_hold_the_same_number_of_each_class() -> None:
    labels = torch.arange(3).repeat_interleave(torch.tensor([13, 9, 20]))[torch.randperm(42)]
    counts = torch.tensor([4, 3, 0])
    sets = make_sets(labels, counts, 5)
    assert [torch.bincount(labels[one], minlength=3).tolist() for one in sets] == [[4, 3, 0]] * 3
    assert all(one.tolist() == sorted(one.tolist()) for one in sets)
    assert len(torch.cat(sets).unique()) == 21
    assert len(make_sets(labels, counts, 2)) == 2
    assert make_sets(labels, torch.tensor([14, 1, 1]), 5) == []


def test_images_in_equal_shares_are_compared_in_the_real_proportions() -> None:
    rare = torch.tensor([0] * 38 + [1] * 2)
    val = LabelledImages(split_of(40, 2).images, rare)
    real = Real(CLASSES, split_of(40, 1), val, val, {})
    candidate = Candidate("equal shares", split_of(40, 5), split_of(4, 6), None, {})
    m, short = fit_in_proportion(val.labels, candidate.images.counts(2))
    assert short == 0
    (subject,) = make_subjects(candidate, real, m, 5)
    assert subject.images.counts(2).tolist() == val[choose_in_proportion(val.labels, m)].counts(2).tolist() == [20, 1]


@pytest.mark.parametrize(("m", "subjects"), [(9000, 2), (10_000, 1)])
def test_the_large_set_is_larger_than_those_of_the_comparison(m: int, subjects: int) -> None:
    labels = torch.arange(11_000) % 2
    many = LabelledImages(torch.zeros(11_000, 1, 1, 1, dtype=torch.uint8), labels)
    real = Real(CLASSES, split_of(40), many, many, {})
    found = make_subjects(Candidate("many", many, many[:2], None, {}), real, m, 5)
    assert [len(one.images) for one in found] == [m, 10_000][:subjects]


# --- a generator's run -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A conditional GAN's run of two batches on 40 images."""
    overrides = ("data.train=40", "data.val=24", "data.test=16", "data.batch_size=20", "debug=fast", "trainer.gpus=0")
    path = tmp_path_factory.mktemp("runs") / "generator"
    return medassay.train_run(
        "model=cgan", "data=blood_phantom", *overrides, "model.net.width=2", "logger=none", "seed=2", directory=path
    )


def test_a_generator_is_judged_by_as_many_images_as_there_are_real_ones(run: Run, tmp_path: Path) -> None:
    candidate = take_run_samples(run, tmp_path, seed=0)
    assert candidate.images.counts(8).tolist() == [5] * 8
    assert candidate.held_out.counts(8).tolist() == [3] * 8
    assert candidate.images.labels.tolist() != sorted(candidate.images.labels.tolist())  # any part has every class


def test_a_generators_candidate_is_the_samples_that_tstr_trains_on(run: Run, tmp_path: Path) -> None:
    candidate = take_run_samples(run, tmp_path, seed=5)
    file = samples.write_training_samples(str(run.directory.path), tmp_path, 5, {})
    train, val = read_splits(file, ("train", "val"), channels=3, size=28, num_classes=8)
    assert torch.equal(candidate.images.images, train.images)
    assert torch.equal(candidate.held_out.images, val.images)
    assert len(list((tmp_path / "samples").iterdir())) == 1


def test_further_samples_are_others_of_the_same_generator_and_drawn_on_demand(run: Run, tmp_path: Path) -> None:
    candidate = take_run_samples(run, tmp_path, seed=0)
    assert len(list((tmp_path / "samples").iterdir())) == 1
    assert candidate.more is not None
    more = candidate.more(80)
    assert more.counts(8).tolist() == [10] * 8
    seen = {image.numpy().tobytes() for image in (*candidate.images.images, *candidate.held_out.images)}
    assert not seen & {image.numpy().tobytes() for image in more.images}
    assert torch.equal(candidate.more(80).images, more.images)


def test_a_generators_provenance_names_run_model_and_seeds(run: Run, tmp_path: Path) -> None:
    candidate = take_run_samples(run, tmp_path, seed=4)
    wanted = {"run": str(run.directory.path), "model": "cgan", "epochs": 1, "seed": 2, "samples_seed": 4}
    assert {key: candidate.provenance[key] for key in wanted} == wanted
    assert "code" in candidate.provenance
    assert candidate.name == "cgan, seed 2"


# --- images made by any tool -----------------------------------------------------------------------------------------


def as_arrays(split: LabelledImages) -> tuple[Any, Any]:
    images = split.images.permute(0, 2, 3, 1).numpy()
    return images[..., 0] if images.shape[-1] == 1 else images, split.labels.numpy()[:, None]


def written(path: Path, **splits: tuple[Any, Any]) -> Path:
    content: dict[str, Any] = {}
    for name, (images, labels) in splits.items():
        content |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(path, **content)
    return path


def class_folders(path: Path, n: int = 12, size: int = SIZE, names: tuple[str, str] = ("small_cat", "dog")) -> Path:
    """``n`` PNGs of one grey value in each class folder; all values differ."""
    for label, name in enumerate(names):
        (path / name).mkdir(parents=True)
        for number in range(n):
            Image.new("L", (size, size), 100 * label + number).save(path / name / f"{number:03d}.png")
    return path


def error_of(path: Path, data: LabelledData | None = None, *, resize: bool = False) -> str:
    with pytest.raises(DataError) as caught:
        take_file_samples(path, data or data_of(), resize=resize)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def pixels(*splits: LabelledImages) -> list[tuple[bytes, int]]:
    """All images with their labels, in an order of their own."""
    return sorted((i.numpy().tobytes(), int(k)) for s in splits for i, k in zip(s.images, s.labels, strict=True))


def test_with_validation_images_all_training_images_are_judged_in_random_order(tmp_path: Path) -> None:
    train, val = split_of(24), split_of(10, 5)
    ordered = train[train.labels.argsort(stable=True)]
    candidate = take_file_samples(
        written(tmp_path / "a.npz", train=as_arrays(ordered), val=as_arrays(val)), data_of(), resize=False
    )
    assert pixels(candidate.images) == pixels(train)
    assert torch.equal(candidate.held_out.images, val.images)
    assert candidate.images.labels.tolist() != sorted(candidate.images.labels.tolist())
    assert candidate.more is None


def test_without_validation_images_a_fifth_of_each_class_is_held_out(tmp_path: Path) -> None:
    train = split_of(50)
    candidate = take_file_samples(written(tmp_path / "a.npz", train=as_arrays(train)), data_of(), resize=False)
    assert candidate.held_out.counts(2).tolist() == [5, 5]
    assert candidate.images.counts(2).tolist() == [20, 20]
    assert pixels(candidate.images, candidate.held_out) == pixels(train)
    assert candidate.images.labels.tolist() != sorted(candidate.images.labels.tolist())


def test_no_more_are_held_out_than_there_are_real_validation_images(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=as_arrays(split_of(200)))
    candidate = take_file_samples(path, data_of(val=8), resize=False)
    assert (len(candidate.images), len(candidate.held_out)) == (192, 8)


def test_a_small_class_is_held_out_too(tmp_path: Path) -> None:
    split = split_of(200)
    labels = torch.tensor([1] * 190 + [0] * 10)
    path = written(tmp_path / "a.npz", train=as_arrays(LabelledImages(split.images, labels)))
    candidate = take_file_samples(path, data_of(val=100), resize=False)
    assert candidate.held_out.counts(2).tolist() == [2, 38]


def test_a_rare_class_is_held_out_where_few_images_are(tmp_path: Path) -> None:
    split = split_of(2000)
    labels = torch.tensor([1] * 1990 + [0] * 10)
    path = written(tmp_path / "a.npz", train=as_arrays(LabelledImages(split.images, labels)))
    candidate = take_file_samples(path, data_of(val=20), resize=False)
    assert (candidate.held_out.counts(2) > 0).all()


def test_validation_images_without_one_of_the_classes_are_refused(tmp_path: Path) -> None:
    val = split_of(20, 5)
    path = written(tmp_path / "a.npz", train=as_arrays(split_of(24)), val=as_arrays(val[val.labels == 0]))
    assert "lack a class" in error_of(path)


def test_the_same_file_is_always_judged_in_the_same_order(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=as_arrays(split_of(50)))
    first = take_file_samples(path, data_of(), resize=False)
    torch.rand(3)
    again = take_file_samples(path, data_of(), resize=False)
    assert torch.equal(first.images.images, again.images.images)
    assert torch.equal(first.held_out.images, again.held_out.images)


@pytest.mark.parametrize("below", ["", "train"])
@pytest.mark.parametrize(
    "names", [("small_cat", "dog"), ("Small Cat", "DOG")], ids=["underscore", "upper and lower case"]
)
def test_class_folders_are_found_by_their_names(names: tuple[str, str], below: str, tmp_path: Path) -> None:
    class_folders(tmp_path / "made" / below, n=20, names=names)
    candidate = take_file_samples(tmp_path / "made", data_of(), resize=False)
    both = torch.cat([candidate.images.images, candidate.held_out.images])[:, 0, 0, 0]
    labels = torch.cat([candidate.images.labels, candidate.held_out.labels])
    assert sorted(both.tolist()) == [*range(20), *range(100, 120)]
    assert torch.equal(labels, (both >= 100).long())
    assert len(candidate.held_out) == 8


def test_grey_files_are_judged_beside_colour_images(tmp_path: Path) -> None:
    candidate = take_file_samples(class_folders(tmp_path / "made"), data_of(channels=3), resize=False)
    assert candidate.images.images.shape[1:] == (3, SIZE, SIZE)


def test_provenance_names_the_files_their_md5_and_numbers(tmp_path: Path) -> None:
    path = written(tmp_path / "made.npz", train=as_arrays(split_of(50)))
    candidate = take_file_samples(path, data_of(), resize=False)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    assert candidate.provenance == {"samples": str(path), "md5": md5, "images": 40, "held_out": 10}
    assert candidate.name == "made.npz"


def test_a_folders_provenance_changes_with_an_image(tmp_path: Path) -> None:
    path = class_folders(tmp_path / "made")
    before = take_file_samples(path, data_of(), resize=False).provenance["md5"]
    Image.new("L", (SIZE, SIZE), 99).save(path / "dog" / "000.png")
    assert take_file_samples(path, data_of(), resize=False).provenance["md5"] != before


# --- refused ---------------------------------------------------------------------------------------------------------


def test_a_path_that_does_not_exist_says_what_may_be_given(tmp_path: Path) -> None:
    message = error_of(tmp_path / "none")
    assert "does not exist" in message
    assert "train_images" in message


def test_a_missing_class_of_an_npz_is_named_with_the_number_needed(tmp_path: Path) -> None:
    split = split_of(40)
    message = error_of(written(tmp_path / "a.npz", train=as_arrays(split[split.labels == 1])))
    assert "0 images of class 'small cat'" in message
    assert "at least 10" in message


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_a_class_with_too_few_images_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "npz":
        labels = torch.tensor([0] * 15 + [1] * 9)
        path = written(tmp_path / "a.npz", train=as_arrays(LabelledImages(split_of(24).images, labels)))
    else:
        path = class_folders(tmp_path / "made")
        for number in range(3):
            (path / "dog" / f"{number:03d}.png").unlink()
    assert "9 images of class 'Dog'" in error_of(path)


def test_ten_images_of_every_class_are_enough(tmp_path: Path) -> None:
    candidate = take_file_samples(class_folders(tmp_path / "made", n=10), data_of(), resize=False)
    assert candidate.held_out.counts(2).tolist() == [2, 2]
    assert len(candidate.images) == 16


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_another_size_is_refused_with_the_way_out_and_accepted_when_asked_for(kind: str, tmp_path: Path) -> None:
    if kind == "npz":
        images = np.random.default_rng(0).integers(0, 256, (24, 16, 16), dtype=np.uint8)
        path = written(tmp_path / "a.npz", train=(images, np.arange(24)[:, None] % 2))
    else:
        path = class_folders(tmp_path / "made", size=16)
    assert "resize=true" in error_of(path)
    assert "16x16, the data set 8x8" in error_of(path)
    candidate = take_file_samples(path, data_of(), resize=True)
    assert candidate.images.images.shape[1:] == (1, SIZE, SIZE)


def test_numbers_other_than_bytes_are_refused(tmp_path: Path) -> None:
    images, labels = as_arrays(split_of(24))
    assert "float32, expected uint8" in error_of(written(tmp_path / "a.npz", train=(images.astype("f4"), labels)))


def test_colour_images_are_no_grey_ones(tmp_path: Path) -> None:
    message = error_of(written(tmp_path / "a.npz", train=as_arrays(split_of(24, channels=3))))
    assert "(24, 8, 8, 3)" in message


def test_advice_about_samples_does_not_send_the_reader_to_the_data_set(tmp_path: Path) -> None:
    assert "data." not in error_of(written(tmp_path / "a.npz", train=as_arrays(split_of(24, channels=3))))


def test_an_image_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = class_folders(tmp_path / "made") / "dog" / "003.png"
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read") as caught:
        take_file_samples(tmp_path / "made", data_of(), resize=False)
    assert str(file) in str(caught.value)


def test_a_folder_of_no_known_class_is_named(tmp_path: Path) -> None:
    path = class_folders(tmp_path / "made", names=("small_cat", "horse"))
    message = error_of(path)
    assert "no folder of class dog" in message
    assert "no known class: horse" in message


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "samples.txt"
    path.write_text("not images")
    assert "not an .npz file" in error_of(path)


def test_refusing_for_the_samples_alone_reads_no_real_images(
    tmp_path: Path, tiny_chest: Callable[..., LabelledData], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_chest()
    monkeypatch.setattr(data.source, "read", lambda declared: pytest.fail("rendered"))
    with pytest.raises(DataError):
        take_file_samples(tmp_path / "none", data, resize=False)


def test_a_candidate_is_what_the_assay_gets_and_nothing_more() -> None:
    assert set(Candidate.__dataclass_fields__) == {"name", "images", "held_out", "more", "provenance", "selection"}
