"""Reading samples made by any tool from an ``.npz``: which splits, which sizes, and what is refused."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import DataError
from medassay.core.types import LabelledImages
from medassay.data.npz import read_samples, read_shape, read_splits
from tests.helpers import write_lying_npz


def arrays(n: int = 4, size: int = 8, channels: int = 1, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    shape = (n, size, size) if channels == 1 else (n, size, size, channels)
    return rng.integers(0, 256, shape, dtype=np.uint8), (np.arange(n) % 2)[:, None]


def written(path: Path, **splits: tuple[Any, Any]) -> Path:
    """A file of ``split=(images, labels)``."""
    content: dict[str, Any] = {}
    for name, (images, labels) in splits.items():
        content |= {f"{name}_images": images, f"{name}_labels": labels}
    np.savez(path, **content)
    return path


def read(path: Path, *, resize: bool = False, channels: int = 1) -> list[LabelledImages]:
    return read_samples(path, channels=channels, size=8, num_classes=2, resize=resize)


def error_of_reading(path: Path, *, resize: bool = False, channels: int = 1) -> str:
    with pytest.raises(DataError) as caught:
        read(path, resize=resize, channels=channels)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("channels", [1, 3])
def test_training_images_alone_are_one_split(channels: int, tmp_path: Path) -> None:
    images, labels = arrays(channels=channels)
    (train,) = read(written(tmp_path / "a.npz", train=(images, labels)), channels=channels)
    assert np.array_equal(train.images.numpy(), images.reshape(4, 8, 8, channels).transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [0, 1, 0, 1]


def test_validation_images_are_a_second_split_and_test_images_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays(4), val=arrays(3, seed=1), test=arrays(2))
    train, val = read(path)
    assert (len(train), len(val)) == (4, 3)
    assert np.array_equal(val.images[:, 0].numpy(), arrays(3, seed=1)[0])


def test_images_of_another_size_are_refused_and_resizing_offered(tmp_path: Path) -> None:
    message = error_of_reading(written(tmp_path / "a.npz", train=arrays(size=12)))
    assert "12x12, the data set 8x8" in message
    assert "resize=true" in message


@pytest.mark.parametrize("size", [16, 12, 5])
def test_resizing_is_pillows_bicubic_one_rounded_once(size: int, tmp_path: Path) -> None:
    images, labels = arrays(size=size)
    (train,) = read(written(tmp_path / "a.npz", train=(images, labels)), resize=True)
    scaled = [Image.fromarray(i.astype(np.float32)).resize((8, 8), Image.Resampling.BICUBIC) for i in images]
    expected = np.stack([np.array(image) for image in scaled]).round().clip(0, 255)
    assert train.images.dtype == torch.uint8
    assert np.abs(train.images[:, 0].numpy().astype(float) - expected).max() <= 1


def test_resizing_does_not_wrap_round_at_black_and_white(tmp_path: Path) -> None:
    edges = np.zeros((1, 16, 16), dtype=np.uint8)
    edges[:, :, 8:] = 255  # bicubic interpolation overshoots at an edge
    (train,) = read(written(tmp_path / "a.npz", train=(edges, np.array([[0]]))), resize=True)
    rows = train.images[0, 0].int()
    assert rows[:, :3].max() < 64
    assert rows[:, 5:].min() > 192


def test_resizing_holds_for_validation_images_too(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays(4, 12, 3), val=arrays(3, 12, 3))
    assert [tuple(split.images.shape) for split in read(path, resize=True, channels=3)] == [(4, 3, 8, 8), (3, 3, 8, 8)]


def test_images_of_the_right_size_are_the_same_with_resize(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays(), val=arrays(3))
    for one, other in zip(read(path), read(path, resize=True), strict=True):
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize(
    ("images", "fact"),
    [
        (np.zeros((4, 8, 8), dtype=np.float32), "float32"),
        (np.zeros((4, 8, 9), dtype=np.uint8), "(4, 8, 9)"),
        (np.zeros((4, 8, 8, 3), dtype=np.uint8), "(4, 8, 8, 3)"),
        (np.zeros((0, 8, 8), dtype=np.uint8), "empty"),
        (np.zeros((4,), dtype=np.uint8), "(4,)"),
    ],
)
def test_images_that_are_no_grey_bytes_are_refused(images: Any, fact: str, resize: bool, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=(images, np.zeros((len(images), 1), dtype=np.uint8)))
    assert fact in error_of_reading(path, resize=resize)


def test_other_numbers_than_bytes_are_refused_before_they_are_resized(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=(np.zeros((2, 16, 16)), np.zeros((2, 1), dtype=np.uint8)))
    assert "float64" in error_of_reading(path, resize=True)


def test_grey_samples_of_a_colour_data_set_are_refused(tmp_path: Path) -> None:
    assert "(4, 8, 8)" in error_of_reading(written(tmp_path / "a.npz", train=arrays()), channels=3)


def test_validation_images_of_another_size_than_training_ones_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays(), val=arrays(size=12))
    assert "'val_images'" in error_of_reading(path, resize=True)


def test_as_many_labels_as_images_are_wanted(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=(arrays(4)[0], arrays(3)[1]))
    assert "4 'train_images', but 3 'train_labels'" in error_of_reading(path)


def test_a_label_of_no_class_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=(arrays(4)[0], np.array([[0], [1], [2], [0]])))
    assert "0..1" in error_of_reading(path)


def test_a_file_without_training_images_is_refused(tmp_path: Path) -> None:
    message = error_of_reading(written(tmp_path / "a.npz", val=arrays()))
    assert "has no train_images, train_labels" in message


def test_validation_images_without_labels_are_refused(tmp_path: Path) -> None:
    images, labels = arrays()
    np.savez(tmp_path / "a.npz", train_images=images, train_labels=labels, val_images=images)
    assert "has no val_labels" in error_of_reading(tmp_path / "a.npz")


@pytest.mark.parametrize("resize", [True, False])
def test_objects_are_not_unpickled(resize: bool, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", train_images=np.array([{"a": 1}], dtype=object), train_labels=np.zeros((1, 1), int))
    assert "'train_images' cannot be read" in error_of_reading(tmp_path / "a.npz", resize=resize)


@pytest.mark.parametrize("content", [b"", b"no archive", None], ids=["empty", "text", "cut short"])
def test_a_damaged_file_is_one_line(content: bytes | None, tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays())
    path.write_bytes(path.read_bytes()[:300] if content is None else content)
    assert "is not an .npz file" in error_of_reading(path)


# --- headers come first ----------------------------------------------------------------------------------------------


def store(path: Path, **members: tuple[tuple[int, ...], str, int]) -> Path:
    """A compressed file whose arrays are ``(shape, dtype, bytes of zeros)``: what a header says need not be true."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (shape, dtype, size) in members.items():
            head = io.BytesIO()
            np.lib.format.write_array_header_1_0(head, {"shape": shape, "fortran_order": False, "descr": dtype})
            archive.writestr(f"{name}.npy", head.getvalue() + bytes(size))
    return path


MEGA = 2**18


@pytest.mark.parametrize("resize", [True, False])
@pytest.mark.parametrize(
    ("images", "labels", "fact"),
    [
        (((64, MEGA), "|u1", 64 * MEGA), ((4, 1), "|u1", 4), "shape (64, 262144)"),
        (((MEGA, 8, 8), "|u1", 64 * MEGA), ((4, 1), "|u1", 4), "262144 'train_images', but 4 'train_labels'"),
        (((8 * MEGA, 8), "|u1", 64 * MEGA), ((4, 1), "|u1", 4), "shape (2097152, 8)"),
        (((4, 8, 8), "|u1", 256), ((4, 16 * MEGA), "|u1", 64 * MEGA), "shape (4, 4194304)"),
        (((4, 8, 8), "|u1", 64 * MEGA), ((4, 1), "|u1", 4), "'train_images' is damaged (16,777,216 bytes"),
        (((10**7, 8, 8), "|u1", 256), ((10**7, 1), "|u1", 4), "is damaged (256 bytes, its header says 640,000,000)"),
    ],
)
def test_what_a_header_refuses_is_never_unpacked(
    images: Any, labels: Any, fact: str, resize: bool, tmp_path: Path
) -> None:
    path = store(tmp_path / "a.npz", train_images=images, train_labels=labels)
    tracemalloc.start()
    try:
        assert fact in error_of_reading(path, resize=resize)
        assert tracemalloc.get_traced_memory()[1] < 8 * MEGA
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("images", "labels", "advice"),
    [
        (arrays()[0][..., None], arrays()[1], "save train_images[..., 0]"),
        (arrays()[0][:, None], arrays()[1], "save train_images[:, 0]"),
        (arrays()[0], np.eye(2, dtype=np.uint8)[[0, 1, 0, 1]], "save train_labels.argmax(1)"),
        (arrays()[0], arrays()[1] + 1, "save train_labels - 1"),
        (arrays()[0] % 2, arrays()[1], "save them from 0 to 255"),
    ],
)
def test_common_layouts_are_told_the_line_of_numpy_that_mends_them(
    images: Any, labels: Any, advice: str, tmp_path: Path
) -> None:
    message = error_of_reading(written(tmp_path / "a.npz", train=(images, labels)))
    assert advice in message
    if advice.startswith("save train_"):
        line = advice.removeprefix("save ")
        mended = {"train_images": images, "train_labels": labels}
        mended[line[:12].rstrip(" .[-")] = eval(line, dict(mended))
        np.savez(tmp_path / "b.npz", **mended)
        assert read(tmp_path / "b.npz")[0].labels.tolist() == [0, 1, 0, 1]


def test_colour_with_channels_first_is_told_to_put_them_last(tmp_path: Path) -> None:
    images, labels = arrays(channels=3)
    path = written(tmp_path / "a.npz", train=(images.transpose(0, 3, 1, 2), labels))
    assert "save train_images.transpose(0, 2, 3, 1)" in error_of_reading(path, channels=3)


def test_a_member_that_is_no_array_is_one_line(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("train_images", "train_labels.npy"):
            archive.writestr(name, b"no array")
    assert "cannot be read" in error_of_reading(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "header", [b"{'descr': '|u1', 'shape': (4,", b"  {'descr': 1,\n 'a'", b"{'descr': '|u1' 1}", b"\x00"]
)
def test_a_member_whose_header_is_damaged_is_one_line(header: bytes, tmp_path: Path) -> None:
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("train_images.npy", "train_labels.npy"):
            archive.writestr(name, member)
    assert "'train_images' cannot be read" in error_of_reading(tmp_path / "a.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_cannot_be_unpacked_is_one_line(compression: int, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in ("train_images.npy", "train_labels.npy"):
            archive.writestr(name, bytes(range(256)) * 4)
    content = bytearray(path.read_bytes())
    content[60:120] = b"\xff" * 60
    path.write_bytes(content)
    assert "cannot be read" in error_of_reading(path)


def test_a_header_that_promises_more_than_the_file_holds_is_damage_and_no_lack_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "lying.npz"
    write_lying_npz(path, "train_images")
    with pytest.raises(DataError, match=r"'train_images' is damaged .*its header says") as caught:
        read_splits(path, ("train",), channels=1, size=28, num_classes=2)
    assert "data.size" not in str(caught.value)


def test_a_shape_is_read_by_name_and_empty_where_there_is_no_such_array(tmp_path: Path) -> None:
    path = written(tmp_path / "a.npz", train=arrays(4, channels=3))
    assert read_shape(path, "train_images") == (4, 8, 8, 3)
    assert read_shape(path, "val_images") == ()
