"""Predictions for images that a user names: what is read, how it is converted, and what is left behind."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import ConfigError, DataError
from medassay.data.folder import read_class_folders
from medassay.data.phantoms import blood, chest
from medassay.data.sources import phantom_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.predict import given_images
from medassay.protocols.predict.protocol import Predict
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.training.settings import TrainerSettings
from tests.helpers import write_lying_npz


def grey(height: int = 28, width: int = 28, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def colour(height: int = 28, width: int = 28, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, pixels: np.ndarray[Any, Any], mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A classifier of grey images that has learnt nothing."""
    data = phantom_data("chest_phantom", "chest", list(chest.CLASSES), 1, 16, 8, 8)
    torch.manual_seed(1)
    task = Classification(BlockCNN(1, 2, width=4, blocks=2), 2).eval()
    return Run(
        RunDirectory(tmp_path / "run"), {"recipe": {"name": "m"}, "seed": 0}, data, task, TrainerSettings(gpus=0)
    )


def predicted(run: Run, images: Path, directory: Path, **settings: Any) -> tuple[list[list[str]], dict[str, Any], str]:
    """The lines of the CSV, ``predict.json`` and the page."""
    report = Predict(images=str(images), **settings).run(run, ComputeContext.from_settings(run.settings, directory))
    protocol = {"name": "predict", "images": str(images)}
    record = {"run": "outputs/x", "status": "done", "protocol": protocol, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    with (directory / "predictions.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    found = json.loads((directory / "predict.json").read_text())
    return lines, found, (directory / "report.html").read_text()


# --- predicting ------------------------------------------------------------------------------------------------------


def test_the_csv_has_the_softmax_of_every_image_by_name_and_the_likeliest_class(run: Run, tmp_path: Path) -> None:
    for place, name in enumerate(("b.png", "deep/er/a.png", "deep/c.PNG")):
        write(tmp_path / "in" / name, grey(seed=place))
    lines, found, _ = predicted(run, tmp_path / "in", tmp_path / "out", show=0)
    assert lines[0] == ["image", "predicted", "normal", "pneumonia"]
    assert [line[0] for line in lines[1:]] == ["b.png", "deep/c.PNG", "deep/er/a.png"]
    for line, place in zip(lines[1:], (0, 2, 1), strict=True):
        with torch.no_grad():
            logits = run.task(torch.from_numpy(grey(seed=place))[None, None].float() / 255)[0].double().numpy()
        expected = np.exp(logits) / np.exp(logits).sum()
        assert [float(value) for value in line[2:]] == pytest.approx(expected, rel=1e-5)
        assert line[1] == ("normal", "pneumonia")[int(expected.argmax())]
    assert found["n"] == 3
    assert found["converted"] == {}


def test_the_first_images_are_shown_beside_the_heat_map_of_the_predicted_class(run: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", images=np.stack([grey(seed=i) for i in range(5)]))
    lines, _, page = predicted(run, tmp_path / "in.npz", tmp_path / "out", show=3)
    assert len(lines) == 6
    assert page.count("data:image/png") == 3
    assert "The first 3 of 5" in page
    for name, decision, *_ in lines[1:4]:
        assert f"{name}, and its heat map for {decision}" in page
    with Image.open(tmp_path / "out" / "predictions.png") as sheet:
        assert sheet.width > 3 * 2 * 84


def test_no_heat_map_is_made_where_none_is_to_be_shown(run: Run, tmp_path: Path) -> None:
    _, _, page = predicted(run, write(tmp_path / "one.png", grey()), tmp_path / "out", show=0)
    assert "data:image/png" not in page
    assert not (tmp_path / "out" / "predictions.png").exists()


def test_the_page_asks_for_nothing_from_outside_and_warns_of_a_model_of_phantoms(run: Run, tmp_path: Path) -> None:
    run.directory.update(status="done", data={"name": "chest_phantom", "phantom": True})
    _, _, page = predicted(run, write(tmp_path / "<b>.png", grey()), tmp_path / "out", show=1)
    assert "learnt from rendered phantoms" in page
    assert "&lt;b&gt;.png" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_where_the_model_learnt_from_no_published_file_nothing_is_said_of_the_images_shown(
    run: Run, tmp_path: Path
) -> None:
    run.directory.update(status="done", data={"name": "mine", "published": False})
    _, _, page = predicted(run, write(tmp_path / "one.png", grey()), tmp_path / "out", show=0)
    assert "Read this first" not in page
    assert "trained on mine" in page


def test_the_command_that_repeats_it_is_on_the_page(run: Run, tmp_path: Path) -> None:
    _, _, page = predicted(run, write(tmp_path / "one.png", grey()), tmp_path / "out", show=0)
    assert f"python evaluate.py run=outputs/x protocol=predict protocol.images={tmp_path}/one.png" in page


def test_a_missing_key_is_one_line(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.images is missing: protocol\.images=<path>; give a png"):
        Predict().run(run, ComputeContext.from_settings(run.settings, tmp_path))


# --- reading and converting ------------------------------------------------------------------------------------------


def test_unreadable_images_are_named_on_terminal_and_page_and_the_rest_goes_on(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "in" / "good.png", grey())
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    (tmp_path / "in" / "cut.png").write_bytes((tmp_path / "in" / "good.png").read_bytes()[:200])
    write(tmp_path / "in" / "deep.png", grey().astype(np.uint16) * 200)
    (tmp_path / "in" / "notes.txt").write_text("no image and not meant to be one")
    (tmp_path / "in" / "._good.png").write_bytes(b"what a Mac leaves")
    with caplog.at_level(logging.INFO):
        lines, found, page = predicted(run, tmp_path / "in", tmp_path / "out", show=0)
    assert [line[0] for line in lines[1:]] == ["good.png"]
    assert [entry["name"] for entry in found["unreadable"]] == ["broken.png", "cut.png", "deep.png"]
    assert found["left_out"] == {".txt": 1, "hidden": 1}
    for name in ("broken.png", "cut.png", "deep.png"):
        assert f"not read: {name} (" in caplog.text
        assert f"<code>{name}</code>" in page
    assert "more than 8 bits" in page
    assert "3 images could not be read" in page


@pytest.mark.parametrize(
    ("pixels", "mode", "said"),
    [
        (grey(), None, {}),
        (colour(), None, {"RGB to grey"}),
        (colour(), "RGBA", {"RGB with transparency to grey (transparency dropped)"}),
        (grey(), "1", {"black and white to grey"}),
        (colour(), "P", {"palette to grey"}),
        (grey(40, 40), None, {"reduced to 28×28 (bicubic, antialiased)"}),
        (grey(12, 12), None, {"enlarged to 28×28 (bicubic, antialiased)"}),
        (grey(28, 35), None, {"largest centred square cut out"}),
        (
            colour(60, 50),
            None,
            {"RGB to grey", "largest centred square cut out", "reduced to 28×28 (bicubic, antialiased)"},
        ),
    ],
)
def test_the_conversion_is_that_of_a_data_set_of_files_and_is_said(
    pixels: np.ndarray[Any, Any], mode: str | None, said: set[str], tmp_path: Path
) -> None:
    write(tmp_path / "in" / "a" / "x.png", pixels, mode)
    found = given_images.read(tmp_path / "in", size=28, channels=1)
    expected = read_class_folders(tmp_path / "in", ["a"], size=28, channels=1, resize=True)
    assert torch.equal(found.images, expected.images)
    assert set(found.converted) == set(said)


def test_a_photograph_taken_sideways_is_turned_upright_and_that_is_said(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(grey()).save(tmp_path / "x.png", exif=exif)
    found = given_images.read(tmp_path / "x.png", size=28, channels=1)
    assert torch.equal(found.images[0, 0], torch.from_numpy(np.rot90(grey(), -1).copy()))
    assert list(found.converted) == ["turned upright, as its orientation tag says"]


def test_a_file_name_that_is_no_text_is_shown_as_far_as_it_can_be(run: Run, tmp_path: Path) -> None:
    odd = tmp_path / "in" / os.fsdecode(b"x\xff.png")
    try:
        write(odd, grey())
    except OSError:
        pytest.skip("this file system wants text")
    lines, _, _ = predicted(run, tmp_path / "in", tmp_path / "out", show=1)
    assert lines[1][0] == "x\N{REPLACEMENT CHARACTER}.png"


def test_linked_folders_are_searched_and_loops_and_lost_links_are_named(tmp_path: Path) -> None:
    write(tmp_path / "store" / "a.webp", colour())
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nothing")
    found = given_images.read(tmp_path / "in", size=28, channels=3)
    assert found.names == ["linked/a.webp"]
    assert [(name, reason[:16]) for name, reason in found.unreadable] == [
        ("gone.png", "is a link that l"), ("loop", "is a link to " + str(tmp_path)[:3]),
    ]  # fmt: skip


def test_a_file_with_a_damaged_exif_block_is_read_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(colour()).save(tmp_path / "in" / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01")
    write(tmp_path / "in" / "b.png", colour())
    assert given_images.read(tmp_path / "in", size=28, channels=3).names == ["a.jpg", "b.png"]


def test_deep_images_are_shown_by_the_window_asked_for(tmp_path: Path) -> None:
    deep = grey().astype(np.uint16) * 10
    write(tmp_path / "a.png", deep)
    np.savez(tmp_path / "a.npz", deep)
    for name in ("a.png", "a.npz"):
        found = given_images.read(tmp_path / name, size=28, channels=1, window=(0, 2550))
        assert torch.equal(found.images[0, 0], torch.from_numpy(grey()))
        assert list(found.converted) == ["more than 8 bits: values from 0 to 2550 scaled to 8 bits"]
        with pytest.raises(DataError, match=r"protocol\.window=\[low,high\]"):
            given_images.read(tmp_path / name, size=28, channels=1)


def test_images_of_0_and_1_alone_are_named_as_a_lost_scaling(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", grey() % 2)
    write(tmp_path / "in" / "b.png", grey())
    np.savez(tmp_path / "in.npz", train_images=grey()[None] % 2, test_images=grey()[None])
    for path, lost in ((tmp_path / "in", "a.png"), (tmp_path / "in.npz", "train_images")):
        found = given_images.read(path, size=28, channels=1)
        assert len(found.images) == 1
        ((name, reason),) = found.unreadable
        assert name == lost
        assert "holds 0 and 1 only" in reason


def test_an_array_that_its_header_refuses_is_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "in.npz", test_images=np.zeros((2**18, 64), dtype=np.complex64)[None, None, None])
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="has shape"):
            given_images.read(tmp_path / "in.npz", size=28, channels=1)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3), (33, 40), (33, 40, 3), (16, 16, 4)])
def test_arrays_are_converted_as_files_of_the_same_pixels(
    shape: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    np.savez(tmp_path / "in.npz", test_images=array)
    for index, pixels in enumerate(array):
        write(tmp_path / "files" / f"{index}.png", pixels)
    ours = given_images.read(tmp_path / "in.npz", size=28, channels=channels)
    files = given_images.read(tmp_path / "files", size=28, channels=channels)
    assert torch.equal(ours.images, files.images)
    assert ours.converted == files.converted
    assert ours.names == [f"test_images/{index}" for index in range(4)]


def test_every_split_of_a_medmnist_file_is_read_in_order_and_labels_are_left_alone(tmp_path: Path) -> None:
    parts = {f"{name}_images": np.stack([grey(seed=i)] * n) for i, (name, n) in enumerate((("test", 1), ("train", 3)))}
    np.savez(tmp_path / "in.npz", **parts, test_labels=np.zeros((1, 1)), train_labels=np.zeros((3, 1)))
    found = given_images.read(tmp_path / "in.npz", size=28, channels=1)
    assert found.names == ["train_images/0", "train_images/1", "train_images/2", "test_images/0"]
    assert torch.equal(found.images[3, 0], torch.from_numpy(grey(seed=0)))


@pytest.mark.parametrize(
    ("array", "images", "said"),
    [
        (grey(), 1, set()),
        (grey()[None, :, :, None], 1, set()),
        (colour(30, 30), 1, {"RGB to grey", "reduced to 28×28 (bicubic, antialiased)"}),
        (grey()[None, None], 1, {"channels put last"}),
        (grey()[None] / 255, 1, {"values from 0 to 1 scaled to 8 bits"}),
        (grey()[None] > 99, 1, {"values from 0 to 1 scaled to 8 bits"}),
    ],
)
def test_a_single_array_may_have_other_layouts_and_values(
    array: np.ndarray[Any, Any], images: int, said: set[str], tmp_path: Path
) -> None:
    np.savez(tmp_path / "in.npz", array)
    found = given_images.read(tmp_path / "in.npz", size=28, channels=1)
    assert len(found.images) == images
    assert set(found.converted) == said
    if array.size == 28 * 28 and array.dtype != np.bool_:
        assert torch.equal(found.images[0, 0], torch.from_numpy(grey()))


def test_an_array_that_is_no_images_is_named_and_the_other_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", train_images=grey()[None].astype(np.int64), test_images=grey()[None])
    found = given_images.read(tmp_path / "in.npz", size=28, channels=1)
    assert found.names == ["test_images/0"]
    ((name, reason),) = found.unreadable
    assert name == "train_images"
    assert "int64, expected uint8" in reason


def nothing(path: Path) -> None: ...


def broken(path: Path) -> None:
    path.write_bytes(b"no image")


def objects(path: Path) -> None:
    np.savez(path, test_images=np.array([{}]), allow_pickle=True)


def several(path: Path) -> None:
    np.savez(path, a=grey(), b=grey())


@pytest.mark.parametrize(
    ("name", "make", "fact"),
    [
        ("none.png", nothing, "does not exist"),
        ("x.png", broken, "cannot be read as an image"),
        ("x.npz", broken, "cannot be read as npz"),
        ("x.npz", objects, "save it anew, or name another with protocol.images=<path>"),
        ("x.npz", several, "holds a, b"),
        ("x.gif", broken, "a .gif is not read"),
        ("folder", Path.mkdir, "no image in it"),
    ],
)
def test_nothing_that_can_be_read_is_one_line_that_says_what_is_accepted(
    name: str, make: Any, fact: str, tmp_path: Path
) -> None:
    make(tmp_path / name)
    with pytest.raises(DataError) as caught:
        given_images.read(tmp_path / name, size=28, channels=1)
    message = str(caught.value)
    assert message.startswith(f"protocol.images={tmp_path / name}")
    assert fact in message
    assert "\n" not in message


def test_a_folder_without_readable_images_names_the_first(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 2 images can be read, the first being a\.png"):
        given_images.read(tmp_path, size=28, channels=1)


def test_probabilities_of_many_classes_are_all_in_the_csv_and_the_largest_three_on_the_page(tmp_path: Path) -> None:
    data = phantom_data("blood_phantom", "blood", list(blood.CLASSES), 3, 16, 8, 8)
    torch.manual_seed(0)
    task = Classification(BlockCNN(3, 8, width=2, blocks=2), 8).eval()
    config = {"recipe": {"name": "m"}, "seed": 0}
    run = Run(RunDirectory(tmp_path / "run"), config, data, task, TrainerSettings(gpus=0))
    lines, _, page = predicted(run, write(tmp_path / "x.png", grey()), tmp_path / "out", show=1)
    assert lines[0] == ["image", "predicted", *blood.CLASSES]
    values = [float(value) for value in lines[1][2:]]
    assert sum(values) == pytest.approx(1, abs=1e-5)
    likeliest = [blood.CLASSES[i] for i in np.argsort(values)[::-1][:3]]
    assert re.findall(r"<dt>(?:<strong>)?([^<]+?)(?:</strong>)?</dt><dd>(?:<strong>)?0\.\d{3}<", page) == likeliest
    assert "grey to RGB" in page


def test_an_array_whose_header_promises_more_than_the_file_holds_is_left_out_as_damaged(tmp_path: Path) -> None:
    path = tmp_path / "lying.npz"
    write_lying_npz(path, "train_images")
    found = given_images.read(path, size=28, channels=1)
    assert [entry.name for entry in found.unreadable] == ["train_images"]
    assert found.unreadable[0].reason.startswith("is damaged (4 bytes, its header says")
    assert len(found.images) == 8
