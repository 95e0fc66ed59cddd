"""Decoding one image file: damaged orientation tags, more than 8 bits, DICOM, and what cannot be read."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import ConfigError, DataError
from medassay.data import decoding, image_files
from medassay.data.decoding import ImageReader
from medassay.data.window import Window, apply_window, check_window

Array = np.ndarray[Any, np.dtype[Any]]


def pixels(*shape: int, high: int = 256, dtype: Any = np.uint8) -> Array:
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def write_png_16(file: Path, values: Array, colour_type: int) -> Path:
    """A 16-bit PNG by its specification (ISO/IEC 15948), since Pillow writes grey ones only."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values.reshape(height, -1))
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


def write_tiff_16(file: Path, values: Array, order: str) -> Path:
    """An uncompressed 16-bit RGB TIFF (revision 6.0), ``order`` being ``<`` or ``>``."""
    height, width, _ = values.shape
    data = values.astype(f"{order}u2").tobytes()
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2)]
    entries += [(273, 4, 1, 14), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(data))]
    start = 14 + len(data)
    directory = struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += (
            struct.pack(f"{order}HH", value, 0) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    file.write_bytes(head + struct.pack(f"{order}3H", 16, 16, 16) + data + directory + b"\0" * 4)
    return file


# --- orientation -----------------------------------------------------------------------------------------------------

TURN = b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 1, 6) + b"\0\0\0\0"
DAMAGED = {
    "cut inside an entry": TURN[:20],
    "offset outside": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "a list": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 3, 9, 400) + b"\0" * 4,
    "a fraction by zero": b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 5, 1, 26) + b"\0" * 12,
    "nothing": b"Exif\0\0",
    "one letter": b"Exif\0\0I",
}


def write_jpeg(file: Path, exif: bytes) -> Path:
    Image.fromarray(pixels(8, 12, 3)).save(file, exif=exif, quality=95)
    return file


@pytest.mark.parametrize("exif", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_exif_block_says_nothing_of_the_pixels(exif: bytes, tmp_path: Path) -> None:
    picture, steps = ImageReader(8, 3).decode(write_jpeg(tmp_path / "a.jpg", exif))
    expected = np.asarray(Image.open(write_jpeg(tmp_path / "b.jpg", b"")))
    assert np.array_equal(np.asarray(picture.convert("RGB")), expected)
    assert steps == ()


def test_an_orientation_tag_that_can_be_read_is_obeyed(tmp_path: Path) -> None:
    picture, steps = ImageReader(8, 3).decode(write_jpeg(tmp_path / "a.jpg", TURN))
    expected = np.asarray(Image.open(write_jpeg(tmp_path / "b.jpg", b"")))
    assert np.array_equal(np.asarray(picture), np.rot90(expected, -1))
    assert steps == ("turned upright, as its orientation tag says",)


@pytest.mark.parametrize(
    "error", [struct.error("cut"), TypeError("x"), ZeroDivisionError(), MemoryError("big"), KeyError(1)]
)
def test_whatever_a_decoder_raises_is_an_error_that_names_the_file(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(DataError, match=rf"^{tmp_path}/a\.png cannot be read as an image \(.+\): replace it"):
        ImageReader(8, 1).read(tmp_path / "a.png")


# --- kinds of files --------------------------------------------------------------------------------------------------


def test_webp_is_read(tmp_path: Path) -> None:
    Image.fromarray(pixels(8, 8, 3)).save(tmp_path / "a.webp", lossless=True)
    found = ImageReader(8, 3).read(tmp_path / "a.webp")
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels(8, 8, 3))


def test_a_film_is_not_its_first_picture(tmp_path: Path) -> None:
    first, second = (Image.fromarray(pixels(8, 8, 3) // n) for n in (1, 2))
    first.save(tmp_path / "a.webp", save_all=True, append_images=[second])
    with pytest.raises(DataError, match="stack of 2 images"):
        ImageReader(8, 3).read(tmp_path / "a.webp")


# --- more than 8 bits ------------------------------------------------------------------------------------------------


def deep_files(folder: Path, high: int) -> dict[str, tuple[Path, Array]]:
    """Files of 16 bits of every kind, and their values without transparency."""
    grey, colour, pair, four = (pixels(9, 9, n, high=high, dtype=np.uint16) for n in (1, 3, 2, 4))
    Image.fromarray(grey[..., 0]).save(folder / "grey.tif")
    Image.fromarray(grey[..., 0].astype(np.float32)).save(folder / "float.tif")
    return {
        "grey png": (write_png_16(folder / "grey.png", grey, 0), grey[..., 0]),
        "grey tif": (folder / "grey.tif", grey[..., 0]),
        "float tif": (folder / "float.tif", grey[..., 0]),
        "la png": (write_png_16(folder / "la.png", pair, 4), pair[..., 0]),
        "rgb png": (write_png_16(folder / "rgb.png", colour, 2), colour),
        "rgba png": (write_png_16(folder / "rgba.png", four, 6), four[..., :3]),
        "rgb tif <": (write_tiff_16(folder / "little.tif", colour, "<"), colour),
        "rgb tif >": (write_tiff_16(folder / "big.tif", colour, ">"), colour),
    }


KINDS = ["grey png", "grey tif", "float tif", "la png", "rgb png", "rgba png", "rgb tif <", "rgb tif >"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_bit_depth_decides_and_not_the_decoders_mode(kind: str, tmp_path: Path) -> None:
    file, values = deep_files(tmp_path, 4096)[kind]
    with pytest.raises(DataError, match=rf"more than 8 bits per channel \(values {values.min()} to {values.max()}\)"):
        ImageReader(9, 3).read(file)
    found = ImageReader(9, 3, window=(0, 4095)).read(file).permute(1, 2, 0).numpy()
    expected = np.round(values / 4095 * 255)
    assert np.array_equal(found, expected if expected.ndim == 3 else np.stack([expected] * 3, -1))


def test_images_of_8_bits_are_the_same_with_any_window(tmp_path: Path) -> None:
    Image.fromarray(pixels(8, 8)).save(tmp_path / "a.png")
    for window in (None, (0.0, 4095.0), "percentile"):
        assert np.array_equal(ImageReader(8, 1, window=window).read(tmp_path / "a.png")[0].numpy(), pixels(8, 8))  # type: ignore[arg-type]


def test_a_tiff_of_16_bits_is_a_negative_where_it_says_so(tmp_path: Path) -> None:
    values = pixels(8, 8, high=65536, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif")
    found = ImageReader(8, 1, window=(0, 65535)).read(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    black_is_zero, white_is_zero = (struct.pack("<HHIHH", 262, 3, 1, kind, 0) for kind in (1, 0))
    assert content.count(black_is_zero) == 1
    (tmp_path / "b.tif").write_bytes(content.replace(black_is_zero, white_is_zero))
    assert torch.equal(ImageReader(8, 1, window=(0, 65535)).read(tmp_path / "b.tif"), 255 - found)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tiff_in_lab_is_read(channels: Literal[1, 3], tmp_path: Path) -> None:
    Image.new("LAB", (8, 8), (200, 128, 128)).save(tmp_path / "a.tif")
    found = ImageReader(8, channels).read(tmp_path / "a.tif")
    assert found.shape == (channels, 8, 8)
    assert 180 < float(found.float().mean()) < 210


def test_a_range_is_linear_and_clips_what_lies_outside() -> None:
    values = np.array([-2000.0, -160, 40, 240, 3000, np.nan, np.inf, -np.inf])
    assert apply_window(values, (-160, 240)).tolist() == [0, 0, 128, 255, 255, 0, 255, 0]


def test_percentiles_are_those_of_the_image() -> None:
    values = np.arange(1001, dtype=np.uint16)
    shown = apply_window(values, "percentile")
    assert (shown[5], shown[995]) == (0, 255)
    assert abs(int(shown[500]) - 128) <= 1
    assert apply_window(np.full((3, 3), 700, dtype=np.uint16), "percentile").max() == 0


@pytest.mark.parametrize("window", [(5, 5), (4095, 0)])
def test_a_range_the_wrong_way_round_is_refused(window: Window) -> None:
    with pytest.raises(ConfigError, match=r"data\.window=\[.*lower value first"):
        check_window(window, "data.window")


# --- DICOM -----------------------------------------------------------------------------------------------------------


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(DataError, match=r"is a DICOM file: pip install 'medassay\[dicom\]'.*convert"):
        ImageReader(8, 1).read(tmp_path / "a.dcm")


def test_a_broken_pydicom_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pydicom", "pydicom.pixels"):
        monkeypatch.setitem(__import__("sys").modules, name, ModuleType(name))
    with pytest.raises(
        DataError, match=r"a\.dcm is a DICOM file: the package pydicom cannot be imported \(cannot import"
    ):
        ImageReader(8, 1).read(tmp_path / "a.dcm")


def write_dicom(file: Path, values: Array, **tags: Any) -> Path:
    pydicom = pytest.importorskip("pydicom")
    dataset = pydicom.dataset.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *values.shape[:2], 1
    dataset.BitsAllocated = dataset.BitsStored = values.dtype.itemsize * 8
    dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, int(values.dtype.kind == "i")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes()
    dataset.save_as(file, enforce_file_format=True)
    return file


def test_rescaling_and_window_of_a_dicom_file_are_obeyed(tmp_path: Path) -> None:
    values = pixels(8, 8, high=4096, dtype=np.int16)
    tags = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": [40, 600], "WindowWidth": [400, 1500]}
    found = ImageReader(8, 1).read(write_dicom(tmp_path / "a.dcm", values, **tags))[0].numpy()
    units = values.astype(float) - 1024
    expected = ((units - (40 - 0.5)) / (400 - 1) + 0.5) * 255  # PS3.3 C.11.2.1.2.1
    assert np.abs(found - expected.clip(0, 255)).max() <= 0.51
    other = ImageReader(8, 1, window=(-1000, 1000)).read(tmp_path / "a.dcm")[0].numpy()
    assert np.array_equal(other, apply_window(units, (-1000, 1000)))


def test_a_window_of_ones_own_takes_the_place_of_the_files_table(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    values = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
    table = pydicom.dataset.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.LUTData = (np.linspace(0, 1, 4096) ** 3 * 65535).astype(np.uint16).tobytes()
    plain = write_dicom(tmp_path / "plain.dcm", values, BitsStored=12, HighBit=11)
    tabled = write_dicom(tmp_path / "tabled.dcm", values, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    window = (1000.0, 2000.0)
    shown = [ImageReader(8, 1, window=window).read(file)[0].numpy() for file in (plain, tabled)]
    assert np.array_equal(shown[0], apply_window(values.astype(float), window))
    assert np.array_equal(shown[1], shown[0])
    by_table = ImageReader(8, 1).read(tabled)[0].numpy()
    assert np.abs(by_table - (values / 4095.0) ** 3 * 255).max() <= 1.5


def test_monochrome1_is_white_where_values_are_low(tmp_path: Path) -> None:
    values = pixels(8, 8)
    file = write_dicom(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(ImageReader(8, 1).read(file)[0].numpy(), 255 - values)


def test_a_deep_dicom_file_without_a_window_asks_for_one(tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "a.dcm", pixels(8, 8, high=4096, dtype=np.uint16))
    with pytest.raises(DataError, match=r"data\.window=\[low,high\]"):
        ImageReader(8, 1).read(file)


@pytest.mark.parametrize(
    ("length", "fact"), [(100, "cannot be read as an image"), (200, "without an image"), (-50, "cannot be read")]
)
def test_a_dicom_file_cut_short_is_named(length: int, fact: str, tmp_path: Path) -> None:
    file = write_dicom(tmp_path / "a.dcm", pixels(8, 8))
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(DataError, match=rf"a\.dcm (is a DICOM file )?{fact}"):
        ImageReader(8, 1).read(file)


# --- a lost scaling --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "lost"),
    [
        (torch.tensor([[0, 1], [1, 0]]), True),
        (torch.zeros(2, 2), False),
        (torch.ones(2, 2), False),
        (torch.tensor([[0, 2]]), False),
        (torch.zeros(0, 2), False),
    ],
)
def test_images_of_0_and_1_alone_are_a_lost_scaling(images: torch.Tensor, lost: bool) -> None:
    assert decoding.has_lost_scaling(images) is lost
    assert decoding.has_lost_scaling(images.numpy()) is lost


def test_dicom_kinds_are_read_only_with_pydicom(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(image_files.importlib.util, "find_spec", lambda name, there=there: there or None)
        assert image_files.is_readable(".dcm") is there
        assert image_files.is_readable(".png")
