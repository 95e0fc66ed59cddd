"""Sampling from a generator: which classes, how many, and what is left in the directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import LabelledImages, Splits
from medassay.data.sources import memory_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.protocols.sample.protocol import Sample, find_class_indices
from medassay.reporting import figures
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.training.settings import TrainerSettings

CLASSES = ["basophil", "Eosinophil", "red cell", "a/b"]


class Flat:
    """A generator whose images of class k are of grey level 10 k + the first noise drawn."""

    num_classes = 4
    image_shape = (1, 6, 6)

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        noise = torch.rand(len(labels), generator=rng)
        return ((10 * labels + 9 * noise) / 255)[:, None, None, None].expand(-1, *self.image_shape)


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ([0], [0]),
        ([3, 0], [0, 3]),
        (["basophil"], [0]),
        (["BASOPHIL", "eosinophil"], [0, 1]),
        (["red cell", 0, "basophil", 2], [0, 2]),
        (["a/b", 1], [1, 3]),
    ],
)
def test_classes_are_asked_for_by_name_or_number_in_any_order(
    asked: list[str | int] | None, indices: list[int]
) -> None:
    assert find_class_indices(asked, CLASSES) == indices


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([4], r"labels=4: no such class\. Accepted: 0\.\.3 or basophil, Eosinophil, red cell, a/b"),
        ([-1], r"labels=-1: no such class\."),
        (["basofil"], r"labels=basofil: no such class\. Did you mean 'basophil'\?"),
        (["BASOFIL"], r"labels=BASOFIL: no such class\. Did you mean 'basophil'\?"),
        (["basophil", ""], r"labels=: no such class\."),
        ([], r"protocol\.labels"),
    ],
    ids=str,
)
def test_a_class_that_there_is_not_is_one_line(asked: list[str | int], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        find_class_indices(asked, CLASSES)
    assert str(error.value).startswith("protocol.labels")
    assert "\n" not in str(error.value)


# --- sampling --------------------------------------------------------------------------------------------------------


def drawn(directory: Path, **settings: Any) -> list[Path]:
    """The files that the protocol leaves of a generator's run."""
    nothing = LabelledImages(torch.empty(0, 1, 28, 28, dtype=torch.uint8), torch.empty(0, dtype=torch.int64))
    data = memory_data("a_set", CLASSES, Splits(nothing, nothing, nothing))  # of which no image is needed
    config: dict[str, Any] = {"recipe": {"name": "cgan"}, "seed": 2}
    task: Any = Flat()
    run = Run(RunDirectory("outputs/cgan/run"), config, data, task, TrainerSettings(gpus=0))
    report = Sample(**settings).run(run, ComputeContext.from_settings(run.settings, directory))
    record = {"run": "outputs/cgan/run", "status": "done", "protocol": {"name": "sample"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return [directory / name for name in report.files]


def test_each_class_asked_for_gets_as_many_images(tmp_path: Path) -> None:
    drawn(tmp_path, n=5, labels=["a/b", 1], seed=3)
    with np.load(tmp_path / "samples.npz") as file:
        assert set(file.files) == {"train_images", "train_labels", "provenance"}
        assert file["train_labels"][:, 0].tolist() == [1] * 5 + [3] * 5
        noise = torch.rand(10, generator=torch.Generator().manual_seed(3)).numpy()
        levels = np.rint(10 * file["train_labels"][:, 0] + 9 * noise)
        assert np.array_equal(file["train_images"], np.broadcast_to(levels[:, None, None], (10, 6, 6)))
        assert json.loads(str(file["provenance"])) == {"run": "outputs/cgan/run", "seed": 3}


def test_without_a_choice_every_class_is_drawn(tmp_path: Path) -> None:
    drawn(tmp_path, n=2)
    with np.load(tmp_path / "samples.npz") as file:
        assert file["train_labels"][:, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_files_are_one_overview_and_one_grid_per_class_under_safe_names(tmp_path: Path) -> None:
    paths = drawn(tmp_path, n=3)
    names = [
        "samples.npz",
        "overview.png",
        "class_0_basophil.png",
        "class_1_Eosinophil.png",
        "class_2_red_cell.png",
        "class_3_a_b.png",
    ]
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "sample.json"])
    record = json.loads((tmp_path / "sample.json").read_text())
    assert record["files"] == names
    assert (record["run"], record["model"], record["classes"]) == ("outputs/cgan/run", "cgan", CLASSES)
    for path in paths[1:]:
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_grids_show_at_most_64_images_in_rows_of_8_and_the_overview_8_of_each_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, shown = figures.draw_image_grid, []

    def spy(images: Tensor, **options: Any) -> Any:
        shown.append((len(images), options["columns"], options.get("row_labels"), options.get("title")))
        return real(images, **options)

    monkeypatch.setattr(figures, "draw_image_grid", spy)
    drawn(tmp_path / "many", n=70, labels=[0, 2])
    assert shown == [
        (16, 8, ["basophil", "red cell"], None),
        (64, 8, None, "basophil"),
        (64, 8, None, "red cell"),
    ]
    shown.clear()
    drawn(tmp_path / "one", n=1, labels=[0])
    assert shown == [(1, 1, ["basophil"], None), (1, 1, None, "basophil")]


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(tmp_path: Path) -> None:
    images = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        drawn(tmp_path / name, n=4, seed=seed)
        with np.load(tmp_path / name / "samples.npz") as file:
            images.append(file["train_images"])
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
