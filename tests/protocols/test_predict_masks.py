"""Masks of images that a user names, by a run that segments: every size, every file, and what the table says of them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from medassay import cli
from medassay.core.errors import ConfigError, DataError
from medassay.core.types import Segmenter
from medassay.data.segmentation.folder import ImageMaskFolders
from medassay.data.segmentation.modules import SegmentationData
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.protocols.predict.mask_files import choose_file_name
from medassay.protocols.predict.protocol import Predict
from medassay.reporting.regions import CLASS_COLOURS, draw_class_outlines
from medassay.runs.directory import RunDirectory
from medassay.runs.load import load_run
from medassay.runs.run import Run
from tests.helpers import Command, assert_one_line

TINY = (
    "model=unet model.net.width=2 model.net.depth=1 model.net.padding=same model.tile=16 data.patch=16 data.margin=0 "
    "data.size=32 data.train=4 data.val=2 data.test=2 trainer.max_epochs=1 trainer.gpus=0 logger=none test=false"
)
_Array = np.ndarray[Any, np.dtype[Any]]
GREY: _Array = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
COLOUR: _Array = np.random.default_rng(1).integers(0, 256, (17, 29, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def unet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt for one batch."""
    directory = tmp_path_factory.mktemp("runs") / "unet"
    assert cli.main("train", [*TINY.split(), f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture(scope="module")
def left(unet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves for a folder with a grey image, one in colour, and a damaged file."""
    place = tmp_path_factory.mktemp("given")
    (place / "in" / "deep").mkdir(parents=True)
    Image.fromarray(GREY).save(place / "in" / "grey.png")
    Image.fromarray(COLOUR).save(place / "in" / "deep" / "colour.tif")
    (place / "in" / "damaged.png").write_bytes(b"no image")
    argv = [f"run={unet}", "trainer.gpus=0", "protocol=predict", f"protocol.images={place / 'in'}"]
    assert cli.main("evaluate", [*argv, f"eval_dir={place / 'out'}", f"outputs={place / 'outputs'}"]) == 0
    assert list((place / "outputs" / ".cache").iterdir()) == []
    (directory,) = (place / "out").iterdir()
    return directory


@pytest.fixture(scope="module")
def run(unet: Path) -> Run:
    return load_run(unet)


def predict(run: Run, images: Path, place: Path, **settings: Any) -> Path:
    """What the protocol leaves, without a command line."""
    report = Predict(images=str(images), **settings).run(run, make_context(place))
    write_report(report, describe_run(run, report.split), {"protocol": {"name": "predict"}}, place / "out")
    del report
    assert list((place / "cache").iterdir()) == []
    return place / "out"


def make_context(place: Path) -> ComputeContext:
    return ComputeContext(torch.device("cpu"), 0, place / "cache")


def segment(run: Run, pixels: _Array) -> Tensor:
    """What the task itself says of an image ``(H, W) uint8``."""
    assert isinstance(run.task, Segmenter)
    return run.task.segment(torch.from_numpy(pixels.copy())[None].float() / 255)


def read_rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def read_picture(path: Path) -> _Array:
    with Image.open(path) as picture:
        return np.array(picture)


def to_grey(pixels: _Array) -> _Array:
    return np.array(Image.fromarray(pixels).convert("L"))


GIVEN = {"grey.png": GREY, "deep/colour.tif": to_grey(COLOUR)}


# --- what is left ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GIVEN)
def test_a_mask_has_the_size_of_its_image_and_the_most_probable_class_of_each_pixel(
    name: str, left: Path, run: Run
) -> None:
    with Image.open((left / "masks" / name).with_suffix(".png")) as mask:
        assert mask.mode == "L"
        values = np.array(mask)
    assert np.array_equal(values, segment(run, GIVEN[name]).argmax(0).numpy())


def test_the_net_finds_something_and_not_everything_so_that_these_tests_can_fail(left: Path) -> None:
    assert all(0 < int(row["pixels cell"]) < int(row["height"]) * int(row["width"]) for row in read_rows(left))


@pytest.mark.parametrize("name", GIVEN)
def test_probabilities_are_those_of_the_net_under_the_images_name_and_sum_to_1(name: str, left: Path, run: Run) -> None:
    with np.load(left / "probabilities.npz") as archive:
        assert set(archive.files) == {"classes", *GIVEN}
        assert archive["classes"].tolist() == ["background", "cell"]
        values = archive[name]
    assert values.dtype == np.float16
    np.testing.assert_allclose(values.astype(float).sum(0), 1, atol=1e-3)
    np.testing.assert_allclose(values, segment(run, GIVEN[name]).numpy(), atol=2.5e-4)


def test_the_table_counts_pixels_and_regions_of_every_image_in_order(left: Path) -> None:
    rows = read_rows(left)
    assert [row["image"] for row in rows] == ["deep/colour.tif", "grey.png"]
    assert list(rows[0]) == [
        "image", "mask", "height", "width", "pixels background", "pixels cell", "share background", "share cell",
        "regions cell",
    ]  # fmt: skip
    for row in rows:
        mask = read_picture(left / row["mask"])
        assert (int(row["height"]), int(row["width"])) == mask.shape == GIVEN[row["image"]].shape
        assert [int(row["pixels background"]), int(row["pixels cell"])] == [(mask == 0).sum(), (mask == 1).sum()]
        assert float(row["share cell"]) == pytest.approx((mask == 1).mean())
        assert int(row["regions cell"]) == ndimage.label(mask == 1)[1]


def test_outlines_lie_on_the_image_in_its_own_size(left: Path) -> None:
    mask = read_picture(left / "masks" / "grey.png")
    overlay = read_picture(left / "overlays" / "grey.png")
    inner = ndimage.binary_erosion(mask == 1) | (mask == 0)
    assert (overlay[inner] == GREY[inner][:, None]).all()
    assert (overlay[~inner] == (213, 94, 0)).all()
    assert (left / "overlays" / "deep" / "colour.png").is_file()


def test_the_page_shows_the_images_and_names_what_was_not_read_and_what_was_converted(left: Path) -> None:
    page = (left / "report.html").read_text()
    assert page.count('src="data:image/png') == 4
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "<code>damaged.png</code>: cannot be read as an image" in page
    assert "1 image could not be read" in page
    assert "RGB to grey: 1 of 2 images" in page
    assert "deep/colour.tif, 29×17 pixels" in page
    assert "learnt from rendered phantoms" in page
    found = json.loads((left / "predict.json").read_text())
    assert (found["n"], found["unreadable"][0]["name"]) == (2, "damaged.png")
    assert sum(found["pixels"]) == GREY.size + COLOUR[..., 0].size
    assert not (left / "metrics.json").exists()


@pytest.mark.parametrize(
    ("arrays", "names"),
    [
        ({"images": np.stack([GREY, GREY[::-1]]), "labels": np.zeros((2, 24, 32))}, ["images/0", "images/1"]),
        ({"images": np.stack([COLOUR, COLOUR])}, ["images/0", "images/1"]),
        ({"test_images": GREY[None], "test_labels": np.zeros((1, 1))}, ["test_images/0"]),
    ],
)
def test_an_npz_is_read_image_by_image(arrays: dict[str, _Array], names: list[str], run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", allow_pickle=True, **arrays)
    left = predict(run, tmp_path / "in.npz", tmp_path, show=1)
    assert [row["image"] for row in read_rows(left)] == names
    page = (left / "report.html").read_text()
    assert page.count('src="data:image/png') == 2
    assert (f"The first 1 of {len(names)} images" in page) == (len(names) > 1)
    for name, image in zip(names, arrays[names[0].partition("/")[0]], strict=True):
        mask = read_picture(left / "masks" / f"{name}.png")
        grey = image if image.ndim == 2 else to_grey(image)
        assert np.array_equal(mask, segment(run, grey).argmax(0).numpy())


def test_an_image_of_a_single_pixel_has_a_mask(run: Run, tmp_path: Path) -> None:
    Image.fromarray(GREY[:1, :1]).save(tmp_path / "dot.png")
    left = predict(run, tmp_path / "dot.png", tmp_path, show=0)
    assert read_picture(left / "masks" / "dot.png").shape == (1, 1)
    assert "data:image/png" not in (left / "report.html").read_text()


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("setting", [{"method": "scorecam"}, {"layer": "net"}])
def test_settings_of_heat_maps_are_refused(setting: dict[str, Any], run: Run, tmp_path: Path) -> None:
    ((key, value),) = setting.items()
    with pytest.raises(ConfigError, match=rf"protocol\.{key}={value} .* this run segments images: leave it out"):
        Predict(images=str(tmp_path), **setting).run(run, make_context(tmp_path))


def test_a_run_that_segments_needs_images_too(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.images is missing"):
        Predict().run(run, make_context(tmp_path))


def test_without_a_readable_image_nothing_is_left(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"x\.png: x\.png: cannot be read as an image"):
        Predict(images=str(tmp_path / "x.png")).run(run, make_context(tmp_path))
    assert list((tmp_path / "cache").iterdir()) == []


def test_another_protocol_is_refused_with_the_ones_that_fit(unet: Path, command: Command) -> None:
    result = command("evaluate", f"run={unet}", "trainer.gpus=0", "protocol=gradcam")
    assert_one_line(result, "is a segmentation's run (model=unet); use protocol=segmentation or predict")


# --- more classes, more names ----------------------------------------------------------------------------------------


class Thirds(nn.Module):
    """Gives the pixels of an image that is dark, of middle grey and bright the classes 0, 1 and 2."""

    num_classes = 3

    def segment(self, image: Tensor) -> Tensor:
        darkness = (image[0] - torch.tensor([0.0, 0.5, 1.0])[:, None, None]).abs()
        return (-50 * darkness).softmax(0)


def test_each_class_has_its_own_columns_and_colour(tmp_path: Path) -> None:
    pixels = np.zeros((6, 9), dtype=np.uint8)
    pixels[1:3, 1:3], pixels[4, 1], pixels[1:5, 5:8] = 128, 128, 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    data = SegmentationData("mine", ["none", "grey", "white"], 1, ImageMaskFolders(None))
    config = {"recipe": {"name": "m"}, "seed": 0}
    run = Run(RunDirectory(tmp_path / "run"), config, data, Thirds())  # type: ignore[arg-type]
    report = Predict(images=str(tmp_path / "x.png")).run(run, make_context(tmp_path))
    table = report.files["predictions.csv"]
    assert isinstance(table, str)
    head, line = csv.reader(table.splitlines())
    row = dict(zip(head, line, strict=True))
    assert [row[f"pixels {name}"] for name in data.classes] == ["37", "5", "12"]
    assert (row["regions grey"], row["regions white"]) == ("2", "1")
    colours = draw_class_outlines(torch.from_numpy(pixels)[None], torch.from_numpy(pixels // 127))
    assert CLASS_COLOURS[:2] == ("#D55E00", "#0072B2")
    assert colours[:, 1, 1].tolist() == [0xD5, 0x5E, 0x00]
    assert colours[:, 1, 5].tolist() == [0x00, 0x72, 0xB2]
    assert colours[:, 2, 6].tolist() == [255, 255, 255]


def test_files_of_images_do_not_meet_and_stay_inside_of_their_folder() -> None:
    taken: set[str] = set()
    names = ["a.png", "a.tif", "A.jpg", "A.JPG", "deep/a.png", "../../x/0", "/etc/y/0"]
    chosen = [choose_file_name(name, taken) for name in names]
    assert chosen == ["a", "a.tif", "A.jpg", "A.JPG_2", "deep/a", "x/0", "etc/y/0"]
