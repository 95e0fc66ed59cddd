"""What chooses a generator's epoch in training: a quick TSTR or a Fréchet distance on validation images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.core.errors import ConfigError, DataError
from medassay.core.results import to_json
from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import LabelledData
from medassay.data.phantoms import blood
from medassay.data.sources import memory_data, phantom_data
from medassay.evaluation.protocol import ComputeContext
from medassay.protocols.assay.performance import Trainer, measure_performance
from medassay.protocols.assay.selection import PrepareQuickScores, select_epoch
from medassay.protocols.assay.subjects import Real, take_run_samples
from medassay.runs.load import load_run
from medassay.training.epoch_scores import By
from medassay.training.selection import EpochSelection
from tests.helpers import Command, assert_one_line

CPU = torch.device("cpu")
BLOOD = ("data=blood_phantom", "data.train=48", "data.val=40", "data.test=40")
CGAN = ("model=cgan", "model.net.width=2", "debug=fast", "logger=none", "trainer.gpus=0")


class Album:
    """A generator that shows given images, those of a class one after the other."""

    image_shape = (3, 12, 12)
    num_classes = 8

    def __init__(self, images: LabelledImages) -> None:
        self.images = images

    def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
        places = {int(k): torch.nonzero(self.images.labels == k)[:, 0].tolist() for k in labels.unique()}
        chosen = []
        for label in labels.tolist():
            chosen.append(places[label][0])
            places[label] = places[label][1:] + places[label][:1]
        return self.images.images[chosen].float() / 255


def data_of(**changes: Any) -> LabelledData:
    return phantom_data(
        "b", "blood", list(blood.CLASSES), 3, **{"train": 64, "val": 32, "test": 16, "size": 12, **changes}
    )


def scores_of(generator: Any, data: LabelledData, cache: Path, samples: int | None = None) -> dict[By, float]:
    return dict(PrepareQuickScores(samples, 20, 0, cache)(data, CPU)(generator))


# --- the numbers -----------------------------------------------------------------------------------------------------


def test_validation_images_themselves_are_at_distance_zero_and_others_are_not(tmp_path: Path) -> None:
    data = data_of()
    train, val, _ = data.splits
    same = scores_of(Album(val), data, tmp_path, samples=32)["frechet"]  # each of them once
    assert same == pytest.approx(0, abs=1e-6)  # square roots of rounding errors
    dark = Album(LabelledImages(train.images // 4, train.labels))
    assert scores_of(dark, data, tmp_path)["frechet"] > 10 * scores_of(Album(train), data, tmp_path)["frechet"] > 0


def test_test_images_change_nothing(tmp_path: Path) -> None:
    data = data_of()
    train, val, test = data.splits
    blank = Splits(train, val, replace(test, images=torch.zeros_like(test.images)))
    other = memory_data("b", list(blood.CLASSES), blank)
    assert scores_of(Album(train), data, tmp_path) == scores_of(Album(train), other, tmp_path)


def test_fewer_samples_can_be_drawn_and_too_few_are_refused(tmp_path: Path) -> None:
    drawn: list[int] = []

    class Counting(Album):
        def sample(self, labels: Tensor, *, rng: torch.Generator) -> Tensor:
            drawn.append(len(labels))
            return super().sample(labels, rng=rng)

    data = data_of()
    scores_of(Counting(data.splits.train), data, tmp_path, samples=40)
    assert drawn == [40 + 32]  # to learn from, and to choose the look by
    with pytest.raises(ConfigError, match=r"callbacks\.tstr_selection\.samples=7: too few .* null for 64"):
        PrepareQuickScores(7, 20, 0, tmp_path)(data, CPU)


def test_validation_images_too_few_for_a_rare_class_are_said_as_that(tmp_path: Path) -> None:
    images = {"train": 80, "val": 20, "test": 20}
    rare = {name: torch.zeros(n, dtype=torch.int64) for name, n in images.items()}
    for labels in rare.values():
        labels[0] = 1  # one image of the second class in each split: 0.25 of 20 are none
    parts = [LabelledImages(torch.randint(256, (n, 3, 12, 12)).byte(), rare[name]) for name, n in images.items()]
    data = memory_data("b", ["common", "rare"], Splits(*parts))
    with pytest.raises(ConfigError, match=r"validation images, 20: too few .*callbacks\.tstr_selection\.by=null"):
        PrepareQuickScores(None, 20, 0, tmp_path)(data, CPU)


def test_too_few_real_images_are_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 16 validation images"):
        PrepareQuickScores(None, 20, 0, tmp_path)(data_of(val=8), CPU)


# --- the configuration's node ----------------------------------------------------------------------------------------


def test_it_is_off_unless_it_is_said_what_chooses() -> None:
    assert select_epoch(None) is None
    chosen = select_epoch("frechet", every_n_epochs=3)
    assert isinstance(chosen, EpochSelection)
    assert (chosen.by, chosen.every_n_epochs) == ("frechet", 3)


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["callbacks.tstr_selection.by=fid"], ["callbacks.tstr_selection.by=fid", "tstr, frechet"]),
        (["callbacks.tstr_selection.steps=310"], ["callbacks.tstr_selection.steps=310", "multiple of 20", "300"]),
        (["callbacks.tstr_selection.steps=10"], ["callbacks.tstr_selection.steps=10", ">= 20"]),
        (["callbacks.tstr_selection.every_n_epochs=0"], ["callbacks.tstr_selection.every_n_epochs=0", ">= 1"]),
        (["recipe.monitor=train/d_loss"], ["callbacks.tstr_selection.by=tstr", "recipe.monitor=train/d_loss"]),
        (["model=pneumonia_cnn"], ["callbacks.tstr_selection.by=tstr", "makes no images", "model=cgan"]),
    ],
)
def test_wrong_settings_are_refused_in_one_line(
    argv: list[str], facts: list[str], command: Command, tmp_path: Path
) -> None:
    first = (
        ["callbacks.tstr_selection.by=tstr", *CGAN, *BLOOD]
        if "model=" not in argv[0]
        else ["callbacks.tstr_selection.by=tstr", "data=chest_phantom", "debug=fast", "trainer.gpus=0"]
    )
    assert_one_line(command("train", *first, *argv, f"hydra.run.dir={tmp_path}/run"), *facts)


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_says_which_epoch_was_chosen_by_what_and_a_quick_assay_finds_the_same_tstr(
    command: Command, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    own = ("trainer.max_epochs=3", "callbacks.tstr_selection.by=tstr", "callbacks.tstr_selection.every_n_epochs=2")
    result = command("train", *CGAN, *BLOOD, *own, "callbacks.tstr_selection.steps=20", f"hydra.run.dir={run}")
    assert result.code == 0, result.err
    numbers = json.loads((run / "metrics.json").read_text())
    scores = {one["epoch"]: one for one in numbers["selection"]["scores"]}
    assert list(scores) == [2, 3]
    best = max(scores, key=lambda epoch: (scores[epoch]["tstr"], -epoch))
    assert (numbers["best_epoch"], numbers["chosen_by"]) == (best, "val/tstr_balanced_accuracy")
    assert numbers["val"] == {"tstr_balanced_accuracy": scores[best]["tstr"], "frechet": scores[best]["frechet"]}
    assert f"epoch {best} of 3 chosen by TSTR on validation images:" in result.out

    # the quick assay draws the same samples from the chosen weights, and trains the same classifier on them
    loaded = load_run(run)
    candidate = take_run_samples(loaded, tmp_path / "outputs" / ".cache", 0)
    assert to_json(candidate.selection) == numbers["selection"]
    trainer = Trainer(ComputeContext(CPU, 0, tmp_path / "outputs" / ".cache"), jobs=1)
    real = Real.from_data(loaded.data, "val")
    learned = measure_performance(real, candidate, trainer, seeds=1, steps=20, full=False)
    assert learned.tstr.balanced_accuracy.value == scores[best]["tstr"]
    assert take_run_samples(load_run(run, checkpoint="last"), tmp_path, 0).selection is None  # its epoch was not chosen
