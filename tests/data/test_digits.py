"""Digits: scikit-learn's split by a seed, MNIST as torchvision leaves it or from a file, letters; mistakes in one line."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from medassay.core.errors import ConfigError, DataError
from medassay.data import digits
from medassay.data.digits import CLASSES, SMALL_MD5, compute_md5, mnist_data, small_digits_data
from medassay.data.letters import FONTS, LETTERS, render_letters
from medassay.data.modules import LabelledData

TEN = list(CLASSES)


def small(**changes: Any) -> LabelledData:
    return small_digits_data("digits", TEN, 1, **{"size": 8, **changes})


# --- scikit-learn's --------------------------------------------------------------------------------------------------


def test_every_digit_is_in_one_split_white_is_255_and_the_splits_have_their_shares() -> None:
    splits = small().splits
    assert [len(split) for split in splits] == [1079, 359, 359]
    images, labels = (torch.cat([getattr(split, name) for split in splits]) for name in ("images", "labels"))
    read = load_digits()
    expected = np.rint(read.images * 255 / 16).astype(np.uint8).reshape(1797, -1)
    pairs = sorted([*row, label] for row, label in zip(expected.tolist(), read.target.tolist(), strict=True))
    assert pairs == sorted(
        [*row, label] for row, label in zip(images.flatten(1).tolist(), labels.tolist(), strict=True)
    )
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert splits.test.counts(10).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_the_seed_of_the_split_decides_and_is_recorded() -> None:
    one, two, other = small(seed=0), small(seed=5), small(split_seed=1)
    assert torch.equal(one.splits.test.images, two.splits.test.images)
    assert not torch.equal(one.splits.test.images, other.splits.test.images)
    found = other.provenance()
    assert found == {
        "name": "digits", "set": "digits", "md5": SMALL_MD5, "published": True, "split": [0.6, 0.2, 0.2], "split_seed": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 28}, "data.size=28: these digits are 8 pixels a side; choose data=mnist for 28"),
        ({"split": (0.5, 0.5, 0.5)}, "three positive shares"),
    ],
)
def test_another_size_or_a_wrong_split_is_refused_before_anything_is_read(changes: Any, message: str) -> None:
    with pytest.raises((ConfigError, DataError), match=message.replace("[", r"\[")):
        small(**changes)


def test_other_class_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="digits are grey and of the classes 0 1 2"):
        small_digits_data("digits", ["zero", "one"], 1, size=8)


# --- MNIST -----------------------------------------------------------------------------------------------------------


def write_raw(root: Path, monkeypatch: pytest.MonkeyPatch, train: int = 8, test: int = 5) -> None:
    """Files as torchvision unpacks them, with few images; image i is i + 1 all over, of class i modulo 10."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        pixels = np.repeat(np.arange(1, count + 1, dtype=np.uint8), 784).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">iiii", 2051, count, 28, 28) + pixels)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">ii", 2049, count) + labels)
    monkeypatch.setattr(digits, "OFFICIAL", (train, test))


def test_the_first_images_are_for_training_and_those_after_them_for_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path, monkeypatch)
    data = mnist_data("mnist", TEN, 1, root=str(tmp_path), train=4, val=3, test=2)
    values = [split.images[:, 0, 5, 5].tolist() for split in data.splits]
    assert values == [[1, 2, 3, 4], [5, 6, 7], [1, 2]]
    assert data.splits.val.labels.tolist() == [4, 5, 6]
    found = data.provenance()
    assert (found["set"], found["path"], found["published"]) == ("mnist", str(tmp_path / "MNIST"), False)
    assert len(found["md5"]) == 32


def pack_raw(root: Path) -> list[tuple[str, str]]:
    """Puts the packed files beside the unpacked ones; their names and md5."""
    from torchvision.datasets import MNIST

    known = []
    for name, _ in MNIST.resources:
        packed = gzip.compress((root / "MNIST" / "raw" / name.removesuffix(".gz")).read_bytes(), mtime=0)
        (root / "MNIST" / "raw" / name).write_bytes(packed)
        known.append((name, compute_md5(torch.frombuffer(bytearray(packed), dtype=torch.uint8))))
    return known


def test_it_is_published_where_the_packed_files_are_torchvision_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path, monkeypatch)
    known = pack_raw(tmp_path)
    assert not digits.is_published(tmp_path)
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", known)
    assert digits.is_published(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\0\0\x08", None])
def test_what_an_interrupted_unpacking_left_is_unpacked_anew(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path, monkeypatch)
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", pack_raw(tmp_path))
    damaged, raw = [tmp_path / "MNIST" / "raw" / f"train-{name}-ubyte" for name in ("images-idx3", "labels-idx1")], []
    for file in damaged:
        raw.append(file.read_bytes())
        file.unlink()
        if content is not None:
            file.write_bytes(content)
    data = mnist_data("mnist", TEN, 1, root=str(tmp_path), train=4, val=3, test=2)
    assert data.splits.train.labels.tolist() == [0, 1, 2, 3]
    assert [file.read_bytes() for file in damaged] == raw
    assert len(list((tmp_path / "MNIST" / "raw").iterdir())) == 8  # packed and unpacked, nothing else


def test_damaged_files_that_cannot_be_downloaded_anew_stay_and_are_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_raw(tmp_path, monkeypatch)
    damaged = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"not in .* as a whole and could not be downloaded .*the four packed files"
    ) as caught:
        _ = mnist_data("mnist", TEN, 1, root=str(tmp_path), train=4, val=3, test=2).splits
    assert "\n" not in str(caught.value)
    assert len(list(damaged.parent.iterdir())) == 4


def test_without_a_network_one_line_names_a_file_and_nothing_is_left_behind(tmp_path: Path) -> None:
    data = mnist_data("mnist", TEN, 1, root=str(tmp_path / "new"))
    with pytest.raises(
        DataError, match=r"MNIST is not in .*new as a whole and could not be downloaded .*data\.file=<npz>.*data=digits"
    ):
        _ = data.splits
    assert not (tmp_path / "new").exists()


def save(path: Path, side: int = 28) -> str:
    arrays: dict[str, Any] = {}
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        arrays[f"{split}_images"] = np.random.default_rng(0).integers(0, 256, (count, side, side), dtype=np.uint8)
        arrays[f"{split}_labels"] = np.arange(count, dtype=np.uint8)[:, None]
    np.savez(path, **arrays)
    return str(path)


def test_a_file_has_its_own_splits_and_may_be_resized(tmp_path: Path) -> None:
    data = mnist_data("mnist", TEN, 1, file=save(tmp_path / "a.npz"))
    assert [len(split) for split in data.splits] == [6, 3, 2]
    assert data.provenance()["published"] is False
    resized = mnist_data("mnist", TEN, 1, file=save(tmp_path / "b.npz", side=14), resize=True)
    assert resized.splits.train.images.shape == (6, 1, 28, 28)
    assert resized.provenance()["resized_from"] == 14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": "x.npz", "train": 10}, r"data\.train chooses from the downloaded MNIST"),
        ({"resize": True}, r"data\.resize=true is for data\.file"),
        ({"train": 59_000, "val": 2_000}, r"data\.train=59000 data\.val=2000 data\.test=2000: MNIST has 60,000"),
        ({"size": 32}, r"data\.size=32: these digits are 28"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mnist_data("mnist", TEN, 1, **changes)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.file=.*none\.npz is no file"):
        _ = mnist_data("mnist", TEN, 1, file=str(tmp_path / "none.npz")).splits


# --- letters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 28, 64])
def test_letters_are_white_on_black_in_the_middle_and_as_large_as_digits(size: int) -> None:
    images, names = render_letters(size)
    assert images.shape == (26 * 12, 1, size, size)
    assert names[:: len(FONTS)] == list(LETTERS)
    inked = images[:, 0] > 0
    rows, columns = inked.any(2), inked.any(1)
    longer = torch.maximum(rows.sum(1), columns.sum(1))
    assert (longer - round(size * 20 / 28)).abs().max() <= 1
    for filled in (rows, columns):
        first, last = filled.long().argmax(1), size - 1 - filled.flip(1).long().argmax(1)
        assert (first - (size - 1 - last)).abs().max() <= 1  # as far from one edge as from the other
    assert images.amax((1, 2, 3)).min() > 60  # a thin stroke of few pixels is grey


def test_no_two_letters_look_the_same_and_colour_images_have_three_channels() -> None:
    images, names = render_letters(28, channels=3)
    assert images.shape[1] == 3
    assert torch.equal(images[:, 0], images[:, 2])
    sans = images[:: len(FONTS), 0].flatten(1)
    assert len(names) == len(images)
    assert len(sans.unique(dim=0)) == 26
