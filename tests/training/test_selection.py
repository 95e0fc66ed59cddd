"""A generator's epoch chosen by its samples: which one, when it is measured, and that training does not notice."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from medassay.core.errors import ConfigError, Interrupted, TrainingError
from medassay.core.types import Sampler
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.cgan import CGAN
from medassay.tasks.classification import Classification
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.training.checkpoints import read_checkpoint
from medassay.training.epoch_scores import By, EpochScores, Selection
from medassay.training.fit import Fit, fit
from medassay.training.selection import EpochSelection
from medassay.training.settings import TrainerSettings
from tests.helpers import list_differences

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)


def gan_of(seed: int = 0) -> ConditionalGAN:
    torch.manual_seed(seed)
    return ConditionalGAN(CGAN(1, 2, width=2, latent=4))


def run(task: LightningModule, data: LabelledData, directory: Path, *callbacks: Callback, **options: Any) -> Fit:
    options = {"settings": CPU, "log_to": "none", **options}
    return fit(task, data, directory=directory, callbacks=callbacks, **options)


def measure_samples(generator: Sampler) -> Mapping[By, float]:
    """Numbers of the weights alone; it draws from every generator of random numbers, and leaves all switched otherwise."""
    assert not any(module.training for module in generator.modules())  # type: ignore[attr-defined]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    torch.use_deterministic_algorithms(False)
    images = generator.sample(torch.tensor([0, 1]), rng=torch.Generator().manual_seed(0))
    return {"tstr": float(images.std()), "frechet": float(images.mean())}


def selection_of(by: By = "tstr", every_n_epochs: int = 1) -> EpochSelection:
    return EpochSelection(by, lambda data, device: measure_samples, every_n_epochs)


class Scripted:
    """Gives one pair of numbers after the other."""

    def __init__(self, tstr: list[float], frechet: list[float]) -> None:
        self.pairs = list(zip(tstr, frechet, strict=True))

    def __call__(self, generator: Sampler) -> Mapping[By, float]:
        tstr, frechet = self.pairs.pop(0)
        return {"tstr": tstr, "frechet": frechet}

    def select(self, by: By, every_n_epochs: int = 1) -> EpochSelection:
        return EpochSelection(by, lambda data, device: self, every_n_epochs)


class Stop(Callback):
    """Ends training after an epoch, as a pruned run ends: decided after other callbacks."""

    def __init__(self, epoch: int, pruned: str | None = None) -> None:
        self.epoch, self.pruned = epoch, pruned

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epoch:
            trainer.should_stop = True


# --- which epoch -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("by", "best"), [("tstr", 2), ("frechet", 3)])
def test_the_chosen_epochs_averaged_weights_are_the_best_checkpoint(
    by: By, best: int, tiny_chest: Factory, tmp_path: Path
) -> None:
    scripted = Scripted([0.2, 0.5, 0.4, 0.5], [9.0, 8.0, 2.0, 3.0])  # of equal ones the first
    task = gan_of()
    fitted = run(task, tiny_chest(train=32), tmp_path / "a", scripted.select(by), max_epochs=4)
    shorter = run(gan_of(), tiny_chest(train=32), tmp_path / "b", max_epochs=best)
    assert (fitted.epochs, fitted.best_epoch) == (4, best)
    chosen, expected = (read_checkpoint(one)["state_dict"] for one in (fitted.best, shorter.last))
    assert any(name.startswith("ema.") for name in chosen)
    assert list_differences(chosen, expected) == []
    assert list_differences(task.state_dict(), expected) == []  # they are loaded into the task, too


def test_the_values_reported_are_the_chosen_epochs(tiny_chest: Factory, tmp_path: Path) -> None:
    scripted = Scripted([0.2, 0.5, 0.4], [9.0, 8.0, 2.0])
    fitted = run(gan_of(), tiny_chest(train=32), tmp_path, scripted.select("tstr"), max_epochs=3)
    shorter = run(gan_of(), tiny_chest(train=32), tmp_path / "shorter", max_epochs=2)
    chosen = {"val/tstr_balanced_accuracy": 0.5, "val/frechet": 8.0}
    assert fitted.values == {**shorter.values, **chosen}
    assert fitted.selection == Selection(
        "tstr", [EpochScores(1, 0.2, 9.0), EpochScores(2, 0.5, 8.0), EpochScores(3, 0.4, 2.0)]
    )


def test_the_table_has_the_epoch_chosen_the_others_and_the_last() -> None:
    scores = [EpochScores(5, 0.2, 9.0), EpochScores(10, 0.5, 8.0), EpochScores(15, 0.4, 2.0), EpochScores(17, 0.3, 3.0)]
    assert Selection("tstr", scores).to_table().to_text().splitlines() == [
        "                          epoch   TSTR  Fréchet distance",
        "chosen, by TSTR              10  0.500              8.00",
        "best by Fréchet distance     15  0.400              2.00",
        "last                         17  0.300              3.00",
    ]
    assert [name for name, _ in Selection("frechet", scores).list_rows()] == [
        "chosen, by Fréchet distance",
        "best by TSTR",
        "last",
    ]


# --- when it is measured ---------------------------------------------------------------------------------------------


def test_it_is_measured_every_few_epochs_and_after_the_last_and_logged_in_these_alone(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="medassay")
    selection = Scripted([0.25, 0.5, 0.125], [3.0, 2.0, 4.0]).select("tstr", every_n_epochs=2)
    fitted = run(gan_of(), tiny_chest(train=16), tmp_path, selection, max_epochs=5)
    assert [one.epoch for one in selection.scores] == [2, 4, 5]
    assert fitted.best_epoch == 4
    rows = json.loads((tmp_path / "history.json").read_text())["rows"]
    names = ("val/tstr_balanced_accuracy", "val/frechet")
    found = [[row.get(name) for name in names] for row in rows]
    assert found == [[None, None], [0.25, 3.0], [None, None], [0.5, 2.0], [0.125, 4.0]]
    lines = [message for message in caplog.messages if message.startswith("epoch ")]
    assert ["val/tstr_balanced_accuracy" in line for line in lines] == [False, True, False, True, True]
    assert "val/tstr_balanced_accuracy 0.5, val/frechet 2, " in lines[3]


def test_its_curve_is_in_tensorboard(tiny_chest: Factory, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    selection = Scripted([0.25, 0.5], [3.0, 2.0]).select("tstr", every_n_epochs=2)
    run(gan_of(), tiny_chest(train=16), tmp_path, selection, max_epochs=4, log_to="tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = events.Scalars("val/tstr_balanced_accuracy")
    assert [(point.step, point.value) for point in points] == [(32, 0.25), (64, 0.5)]  # images seen


@pytest.mark.parametrize("pruned", [None, "it lags behind"])
def test_an_epoch_that_turns_out_to_be_the_last_is_measured_and_may_be_chosen(
    pruned: str | None, tiny_chest: Factory, tmp_path: Path
) -> None:
    selection = Scripted([0.25, 0.5], [3.0, 2.0]).select("tstr", every_n_epochs=2)
    fitted = run(gan_of(), tiny_chest(train=16), tmp_path, selection, Stop(3, pruned), max_epochs=9)
    assert [one.epoch for one in selection.scores] == [2, 3]
    assert (fitted.epochs, fitted.best_epoch, fitted.pruned) == (3, 3, pruned)
    assert json.loads((tmp_path / "history.json").read_text())["rows"][-1]["val/frechet"] == 2.0
    saved = read_checkpoint(fitted.last)["callbacks"]
    assert saved["History"]["rows"][-1]["val/frechet"] == 2.0
    assert [one["epoch"] for one in saved["EpochSelection"]["scores"]] == [2, 3]


class BreakWeights(Callback):
    """Makes the weights infinite at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epoch:
            next(pl_module.parameters()).data.fill_(math.inf)


def test_a_run_that_fails_keeps_the_best_epoch_measured(tiny_chest: Factory, tmp_path: Path) -> None:
    selection = Scripted([0.5, 0.25, 0.75], [1.0, 1.0, 1.0]).select("tstr")
    with pytest.raises(TrainingError, match="not finite"):
        run(gan_of(), tiny_chest(train=16), tmp_path, selection, BreakWeights(3), max_epochs=4)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_until_something_is_measured_the_last_epoch_is_the_best(tiny_chest: Factory, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="not finite"):
        run(gan_of(), tiny_chest(train=16), tmp_path, selection_of(every_n_epochs=9), BreakWeights(3), max_epochs=4)
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["epoch"] == 1


# --- training does not notice ----------------------------------------------------------------------------------------


class StateAfterEpochs(Callback):
    """Notes what the next epoch would start from."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        modes = [module.training for module in pl_module.modules()]
        allowed = torch.are_deterministic_algorithms_enabled()
        numpy = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
        self.states.append([torch.get_rng_state().tolist(), numpy, random.getstate(), allowed, modes])


def test_training_is_the_same_with_and_without_it_bit_for_bit(tiny_chest: Factory, tmp_path: Path) -> None:
    found, states = [], []
    for name, callbacks in (("without", []), ("with", [selection_of()])):
        np.random.seed(7)
        random.seed(7)
        watching = StateAfterEpochs()
        fitted = run(gan_of(), tiny_chest(train=40), tmp_path / name, *callbacks, watching, max_epochs=3, seed=5)
        found.append(read_checkpoint(fitted.last))
        states.append(watching.states)
        assert (fitted.selection is None) == (name == "without")
    for part in ("state_dict", "optimizer_states", "epoch", "global_step", "images_seen"):
        assert list_differences(found[0][part], found[1][part], part) == []
    assert states[0] == states[1]


class PowerCutError(Exception):
    """What ends a run from outside."""


class PowerCut(Callback):
    """Ends the run in the middle of the third epoch."""

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2:
            raise PowerCutError


def interrupted_in(measurement: int) -> EpochSelection:
    """A selection in whose so-manieth measurement the user presses Ctrl-C."""
    count = 0

    def measure(generator: Sampler) -> Mapping[By, float]:
        nonlocal count
        count += 1
        if count == measurement:
            raise KeyboardInterrupt
        return measure_samples(generator)

    return EpochSelection("tstr", lambda data, device: measure, 1)


@pytest.mark.parametrize("between", ["an epoch", "a measurement"])
def test_a_resumed_run_chooses_among_all_its_epochs_bit_for_bit(
    between: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_epochs": 4, "seed": 7}
    whole = run(gan_of(), tiny_chest(train=40), tmp_path / "whole", selection_of(), **options)
    cut = tmp_path / "cut"
    if between == "an epoch":
        with pytest.raises(PowerCutError):
            run(gan_of(), tiny_chest(train=40), cut, selection_of(), PowerCut(), **options)
    else:
        with pytest.raises(Interrupted):
            run(gan_of(), tiny_chest(train=40), cut, interrupted_in(3), **options)
    assert read_checkpoint(cut / "checkpoints" / "last.ckpt")["epoch"] == 1
    again = run(gan_of(seed=1), tiny_chest(train=40), cut, selection_of(), resume=True, **options)
    assert whole.selection is not None
    assert len(whole.selection.scores) == 4
    assert again.selection == whole.selection
    assert (again.best_epoch, again.values) == (whole.best_epoch, whole.values)
    for first, second in ((whole.best, again.best), (whole.last, again.last)):
        assert list_differences(read_checkpoint(first)["state_dict"], read_checkpoint(second)["state_dict"]) == []
    assert (cut / "history.json").read_text() == (tmp_path / "whole" / "history.json").read_text()


def test_a_finished_run_given_more_epochs_still_knows_the_earlier_scores(tiny_chest: Factory, tmp_path: Path) -> None:
    run(gan_of(), tiny_chest(train=16), tmp_path, Scripted([0.5], [1.0]).select("tstr", 2), max_epochs=2)
    longer = Scripted([0.25], [0.5]).select("tstr", 2)
    fitted = run(gan_of(), tiny_chest(train=16), tmp_path, longer, max_epochs=4, resume=True)
    assert [one.epoch for one in longer.scores] == [2, 4]
    assert fitted.best_epoch == 2


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_a_task_that_makes_no_images_is_refused(tiny_chest: Factory, tmp_path: Path) -> None:
    task = Classification(BlockCNN(1, 2, width=2), 2)
    with pytest.raises(ConfigError, match=r"callbacks\.tstr_selection\.by=tstr: Classification makes no images"):
        run(task, tiny_chest(train=16), tmp_path, selection_of(), max_epochs=1)


def test_two_ways_to_choose_an_epoch_are_refused(tiny_chest: Factory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"chosen by train/g_loss already; give recipe\.monitor=null"):
        run(gan_of(), tiny_chest(train=16), tmp_path, selection_of(), max_epochs=1, monitor="train/g_loss")


def test_several_devices_are_refused(tiny_chest: Factory, tmp_path: Path) -> None:
    two = TrainerSettings(accelerator="cpu", devices=2)
    with pytest.raises(ConfigError, match=r"one device; give trainer\.gpus=1"):
        run(gan_of(), tiny_chest(train=16), tmp_path, selection_of(), max_epochs=1, settings=two)
