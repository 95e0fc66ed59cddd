"""Fitting: resuming bit for bit, devices, checkpoints, interruptions, precision, several processes."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessRaisedException

from medassay.config.messages import explain
from medassay.core.errors import CheckpointError, ConfigError, Interrupted, OutputError, TrainingError, UserError
from medassay.data.augment import BatchAugment
from medassay.data.modules import LabelledData
from medassay.data.sources import phantom_data
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.cgan import CGAN
from medassay.nets.diffusion import DenoisingUNet
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.runs.directory import RunDirectory
from medassay.tasks.classification import Classification
from medassay.tasks.conditional_diffusion import ConditionalDiffusion
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.tasks.optim import adam, cosine, sgd
from medassay.tasks.regularised_gan import RegularisedGAN
from medassay.training.callbacks import DeletedDirectory, Patience, SampleGrid, early_stopping
from medassay.training.checkpoints import AtomicCheckpointIO, Checkpoints, load_weights, read_checkpoint
from medassay.training.fit import Fit, _run, fit
from medassay.training.settings import TrainerSettings, choose_devices
from tests.helpers import flip_byte, list_differences

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)


def classifier_of(*, seed: int = 0, **options: Any) -> Classification:
    torch.manual_seed(seed)
    net = {"width": options.pop("width", 2), "dropout": options.pop("dropout", 0.0)}
    return Classification(BlockCNN(1, 2, normalisation=options.pop("normalisation", "batch"), **net), 2, **options)


def gan_of(*, seed: int = 0, width: int = 2, **options: Any) -> ConditionalGAN:
    torch.manual_seed(seed)
    return ConditionalGAN(CGAN(1, 2, width=width, latent=4), **options)


def run(task: LightningModule, data: LabelledData, directory: Path, **options: Any) -> Fit:
    return fit(task, data, directory=directory, **{"settings": CPU, "log_to": "none", **options})


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


class PowerCutError(Exception):
    """What ends a run from outside."""


class PowerCut(Callback):
    """Ends the run in the middle of an epoch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.when = (epoch, batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.when:
            raise PowerCutError


@dataclass
class Case:
    """A task with everything random or stateful switched on, and the options of its run."""

    task: Callable[..., LightningModule]
    options: dict[str, Any]


CASES = {
    "classifier": Case(
        partial(classifier_of, dropout=0.3, optimizer=adam(lr=3e-3), scheduler=cosine(warmup_steps=2)),
        {"monitor": "val/auroc"},
    ),
    "gan": Case(partial(gan_of, optimizer=adam(lr=2e-3, betas=(0.5, 0.999))), {}),
}
EPOCHS = 4


@pytest.fixture(scope="module", params=[*CASES, pytest.param("gan, same object", marks=pytest.mark.long)])
def both_ways(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The same run without and with a power cut, continued by a new task or by the one it hit: tasks and fits.

    The new task has other weights at its start: a training that starts over ends elsewhere. Tests only read what is given.
    """
    name, _, same = request.param.partition(", ")
    case, directory = CASES[name], tmp_path_factory.mktemp("both_ways")

    def data() -> LabelledData:
        options: dict[str, Any] = {"train": 75, "val": 32, "test": 32, "batch_size": 16, "seed": 3}  # 5 batches
        augment = BatchAugment(horizontal_flip=0.5, brightness=0.1)
        return phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, augment=augment, **options)

    def options() -> dict[str, Any]:
        stop = early_stopping(case.options.get("monitor"), patience=10)
        return {"max_epochs": EPOCHS, "seed": 7, "callbacks": [] if stop is None else [stop], **case.options}

    straight = case.task()
    whole = run(straight, data(), directory / "whole", **options())
    cut = options()
    cut["callbacks"] = [*cut["callbacks"], PowerCut(epoch=2, batch=1)]
    broken = case.task()
    with pytest.raises(PowerCutError):
        run(broken, data(), directory / "cut", **cut)
    assert read_checkpoint(directory / "cut" / "checkpoints" / "last.ckpt")["epoch"] == 1
    resumed = broken if same else case.task(seed=1)
    torch.manual_seed(999)  # nothing of the first process's state is left
    again = run(resumed, data(), directory / "cut", resume=True, **options())
    return straight, whole, resumed, again


def test_a_resumed_run_ends_in_the_same_place_as_an_uninterrupted_one_bit_for_bit(both_ways: tuple[Any, ...]) -> None:
    _, whole, _, again = both_ways
    first, second = (torch.load(f.last, weights_only=True) for f in (whole, again))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
        assert list_differences(first[part], second[part], part) == []
    for part in ("images_seen", "collapsed_for"):
        assert first.get(part) == second.get(part)
    assert {"EarlyStopping" in key for key in first["callbacks"]} == {
        "EarlyStopping" in key for key in second["callbacks"]
    }
    for key, state in first["callbacks"].items():
        if "PowerCut" not in key:
            assert list_differences(state, second["callbacks"][key], key) == []


def test_a_resumed_run_chooses_the_same_epoch_with_the_same_weights(both_ways: tuple[Any, ...]) -> None:
    straight, whole, resumed, again = both_ways
    assert (whole.epochs, whole.best_epoch) == (again.epochs, again.best_epoch)
    assert whole.epochs == EPOCHS
    assert whole.values == again.values
    best = [torch.load(f.best, weights_only=True)["state_dict"] for f in (whole, again)]
    assert list_differences(*best) == []
    assert list_differences(dict(straight.state_dict()), dict(resumed.state_dict())) == []


def test_a_resumed_gan_has_seen_as_many_images_and_averaged_as_often(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of()
    with pytest.raises(PowerCutError):
        run(task, tiny_chest(train=40), tmp_path, max_epochs=3, callbacks=[PowerCut(1, 1)])
    resumed = gan_of(seed=1)
    run(resumed, tiny_chest(train=40), tmp_path, max_epochs=3, resume=True)
    assert resumed.images_seen == 120
    assert resumed.ema.updates == 9


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(tiny_chest: Factory, tmp_path: Path) -> None:
    found = []
    for position, seed in enumerate((5, 5, 6)):
        torch.rand(position)  # what was drawn before does not matter
        task = gan_of()
        run(task, tiny_chest(train=32), tmp_path / str(position), max_epochs=1, seed=seed)
        found.append(dict(task.net.state_dict()))
    assert list_differences(found[0], found[1]) == []
    assert list_differences(found[0], found[2]) != []


def test_a_directory_with_a_training_in_it_is_refused_and_stays_as_it_was(tiny_chest: Factory, tmp_path: Path) -> None:
    run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match=r"holds a training already: .*resume=True.*overwrite=True") as caught:
        run(classifier_of(seed=1), tiny_chest(train=32), tmp_path, max_epochs=1)
    one_line(caught)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_directory_is_refused_before_its_first_epoch_too(tiny_chest: Factory, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(OutputError, match="holds a training already"):
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1)


def test_overwriting_leaves_nothing_of_the_earlier_training(tiny_chest: Factory, tmp_path: Path) -> None:
    run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=2, log_to="csv")
    other = classifier_of(seed=1)
    again = run(other, tiny_chest(train=32), tmp_path, max_epochs=1, log_to="csv", overwrite=True)
    assert again.epochs == 1
    assert read_checkpoint(again.last)["epoch"] == 0
    assert len(RunDirectory(tmp_path).history()) == 1
    assert len((tmp_path / "csv" / "metrics.csv").read_text().splitlines()) == 2 + 1


def test_to_continue_and_to_replace_a_training_exclude_each_other(tiny_chest: Factory, tmp_path: Path) -> None:
    run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1)
    with pytest.raises(ConfigError, match=r"resume=True .* overwrite=True .*: give one of them"):
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=2, resume=True, overwrite=True)
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_fewer_epochs_than_are_trained_are_refused_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=2)
    with pytest.raises(ConfigError, match=r"^trainer\.max_epochs=1: 2 epochs are trained already; give 2 or more$"):
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1, resume=True)


def test_resuming_where_nothing_was_saved_starts_over(tiny_chest: Factory, tmp_path: Path) -> None:
    assert run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1, resume=True).epochs == 1


def test_a_finished_run_can_be_given_more_epochs(tiny_chest: Factory, tmp_path: Path) -> None:
    whole, parts = classifier_of(dropout=0.3), classifier_of(dropout=0.3)
    run(whole, tiny_chest(train=32), tmp_path / "whole", max_epochs=3)
    run(parts, tiny_chest(train=32), tmp_path / "parts", max_epochs=2)
    longer = classifier_of(seed=1, dropout=0.3)
    assert run(longer, tiny_chest(train=32), tmp_path / "parts", max_epochs=3, resume=True).epochs == 3
    assert list_differences(dict(whole.state_dict()), dict(longer.state_dict())) == []


def test_resuming_with_another_width_is_refused_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    run(classifier_of(width=2), tiny_chest(train=32), tmp_path, max_epochs=1)
    with pytest.raises(CheckpointError, match=r"last\.ckpt holds the weights of another architecture") as caught:
        run(classifier_of(width=3), tiny_chest(train=32), tmp_path, max_epochs=2, resume=True)
    assert len(one_line(caught)) < 400


# --- early stopping --------------------------------------------------------------------------------------------------


def unmoved(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


def never_better() -> Classification:
    """Its validation score is the same in every epoch."""
    return classifier_of(normalisation="none", optimizer=unmoved)


def test_training_stops_after_patience_epochs_without_a_better_score(tiny_chest: Factory, tmp_path: Path) -> None:
    stop = early_stopping("val/auroc", patience=3)
    found = run(never_better(), tiny_chest(train=32), tmp_path, max_epochs=9, monitor="val/auroc", callbacks=[stop])
    assert (found.epochs, found.best_epoch) == (4, 1)


def test_patience_is_counted_across_a_resumption(tiny_chest: Factory, tmp_path: Path) -> None:
    def options() -> dict[str, Any]:
        return {"max_epochs": 9, "monitor": "val/auroc", "callbacks": [early_stopping("val/auroc", patience=3)]}

    cut = options()
    cut["callbacks"].append(PowerCut(2, 0))
    with pytest.raises(PowerCutError):
        run(never_better(), tiny_chest(train=32), tmp_path, **cut)
    assert run(never_better(), tiny_chest(train=32), tmp_path, resume=True, **options()).epochs == 4


def test_a_training_that_patience_ended_stays_ended_until_other_epochs_are_asked_for(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    def go_on(epochs: int, *, anew: bool = False) -> Fit:
        stop = early_stopping("val/auroc", patience=3)
        assert isinstance(stop, Patience)
        stop.starts_anew = anew
        options: dict[str, Any] = {"max_epochs": epochs, "monitor": "val/auroc", "callbacks": [stop]}
        return run(never_better(), tiny_chest(train=32), tmp_path, resume=True, **options)

    first, again = go_on(9), go_on(9)  # interrupted before its end was recorded
    assert (
        (again.epochs, again.best_epoch, again.values)
        == (first.epochs, first.best_epoch, first.values)
        == (4, 1, first.values)
    )
    assert go_on(12).epochs == 7
    assert go_on(12).epochs == 7
    assert go_on(12, anew=True).epochs == 10


def test_what_was_left_to_do_after_the_last_epoch_is_done_when_resumed(tiny_chest: Factory, tmp_path: Path) -> None:
    data = tiny_chest(train=16)
    first = run(gan_of(), data, tmp_path, max_epochs=3, callbacks=[SampleGrid(2)])
    last = tmp_path / "figures" / "samples_epoch_0003.png"
    drawn = last.read_bytes()
    last.unlink()
    again = run(gan_of(seed=1), data, tmp_path, max_epochs=3, callbacks=[SampleGrid(2)], resume=True)
    assert again.values == first.values
    assert "train/spread" in again.values
    assert last.read_bytes() == drawn


def test_after_a_time_limit_the_last_picture_is_of_the_last_epoch_also_when_it_is_drawn_later(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    limited = TrainerSettings(gpus=0, max_time="00:00:00:01")
    names, epochs = [], []
    for resume in (False, True):
        options: dict[str, Any] = {"max_epochs": 9999, "settings": limited, "callbacks": [SampleGrid(10**6)]}
        epochs.append(run(gan_of(), tiny_chest(train=16), tmp_path, resume=resume, **options).epochs)
        (picture,) = (tmp_path / "figures").iterdir()
        names.append(picture.name)
        picture.unlink()
    assert names == [f"samples_epoch_{trained:04d}.png" for trained in epochs]
    assert epochs[0] == epochs[1]


def test_there_is_no_early_stopping_without_something_to_watch_or_patience() -> None:
    assert early_stopping(None) is None
    assert early_stopping("val/auroc", patience=None) is None


# --- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "present", "mps", "expected"),
    [
        ({}, 0, False, ("cpu", 1)),
        ({}, 0, True, ("mps", 1)),
        ({}, 1, False, ("cuda", 1)),
        ({}, 4, True, ("cuda", 1)),
        ({"gpus": 0}, 0, False, ("cpu", 1)),
        ({"gpus": 0}, 2, True, ("cpu", 1)),
        ({"gpus": []}, 2, False, ("cpu", 1)),
        ({"gpus": 1}, 1, False, ("cuda", [0])),
        ({"gpus": 2}, 4, False, ("cuda", [0, 1])),
        ({"gpus": [3]}, 4, False, ("cuda", [3])),
        ({"gpus": [2, 0]}, 4, False, ("cuda", [2, 0])),
        ({"accelerator": "cpu"}, 2, False, ("cpu", 1)),
        ({"accelerator": "cpu", "devices": 2}, 0, False, ("cpu", 2)),
        ({"accelerator": "cuda"}, 1, False, ("cuda", 1)),
        ({"accelerator": "gpu", "devices": 2}, 2, False, ("gpu", 2)),
        ({"devices": 2}, 0, False, ("auto", 2)),
    ],
)
def test_devices_follow_from_the_settings_and_the_machine(
    asked: dict[str, Any], present: int, mps: bool, expected: tuple[str, Any]
) -> None:
    assert choose_devices(TrainerSettings(**asked), present, mps) == expected


@pytest.mark.parametrize(
    ("asked", "present", "message"),
    [
        ({"gpus": 1}, 0, r"trainer\.gpus=1: this machine has no CUDA GPU; use trainer\.gpus=0"),
        ({"gpus": 2}, 1, r"trainer\.gpus=2: this machine has 1 CUDA GPU \(numbered from 0\)"),
        ({"gpus": [0, 5]}, 2, r"trainer\.gpus=\[0, 5\]: this machine has 2 CUDA GPUs \(numbered from 0\)"),
        ({"gpus": [1]}, 1, r"trainer\.gpus=\[1\]: this machine has 1 CUDA GPU "),
        ({"gpus": [1, 1]}, 2, r"trainer\.gpus=\[1, 1\] names a GPU twice"),
        ({"gpus": 1, "accelerator": "cuda"}, 1, r"trainer\.gpus=1 and trainer\.accelerator both say where to train"),
        ({"gpus": 0, "accelerator": "cpu"}, 0, r"trainer\.gpus=0 and trainer\.accelerator both say"),
        ({"gpus": 2, "devices": 2}, 2, r"trainer\.gpus=2 and trainer\.devices both say"),
        (
            {"accelerator": "cuda"},
            0,
            r"^trainer\.accelerator=cuda: this machine has no CUDA GPU.*trainer\.accelerator=cpu",
        ),
        ({"accelerator": "gpu"}, 0, r"^trainer\.accelerator=gpu: this machine has no CUDA GPU"),
        (
            {"accelerator": "gpu", "devices": 3},
            2,
            r"^trainer\.accelerator=gpu trainer\.devices=3: this machine has 2 CUDA GPUs",
        ),
    ],
)
def test_devices_that_cannot_be_had_are_refused_in_one_line(asked: dict[str, Any], present: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        choose_devices(TrainerSettings(**asked), present)
    one_line(caught)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1:30", "01:30:00", "1h", "00:00:90", "00:1:00:00", ""])
def test_a_time_limit_in_another_form_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_time=.*: expected DD:HH:MM:SS, e\.g\. 00:01:30:00") as caught:
        TrainerSettings(max_time=text)
    one_line(caught)


def test_a_time_limit_ends_training_at_the_end_of_an_epoch(tiny_chest: Factory, tmp_path: Path) -> None:
    settings = TrainerSettings(gpus=0, max_time="00:00:00:01")
    found = run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=10_000, settings=settings)
    last = read_checkpoint(found.last)
    assert 1 <= found.epochs < 10_000
    assert last["global_step"] == 2 * found.epochs


@pytest.mark.parametrize("text", ["00:01:30:00", "10:00:00:00"])
def test_a_time_limit_in_days_hours_minutes_and_seconds_is_taken(text: str) -> None:
    assert TrainerSettings(max_time=text).max_time == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 2}, r"trainer\.accumulate=2: .*raise data\.batch_size instead"),
        ({"gradient_clip": 1.0}, r"trainer\.gradient_clip=1\.0: .*use null"),
    ],
)
def test_what_a_gan_does_by_itself_is_refused_in_one_line(
    changes: dict[str, Any], message: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        run(gan_of(), tiny_chest(train=32), tmp_path, max_epochs=1, settings=TrainerSettings(gpus=0, **changes))
    one_line(caught)


def test_accumulating_two_batches_equals_one_batch_of_twice_the_size(tiny_chest: Factory, tmp_path: Path) -> None:
    def trained(name: str, batch_size: int, accumulate: int) -> dict[str, Tensor]:
        task = classifier_of(normalisation="none", optimizer=sgd(lr=0.1, momentum=0.0), class_weights="none")
        settings = TrainerSettings(gpus=0, accumulate=accumulate)
        run(task, tiny_chest(train=64, batch_size=batch_size), tmp_path / name, max_epochs=2, settings=settings)
        return dict(task.net.state_dict())

    twice, once = trained("twice", 8, 2), trained("once", 16, 1)
    for name, value in once.items():
        torch.testing.assert_close(twice[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [classifier_of, gan_of])
def test_mixed_precision_trains_and_stays_finite(
    make: Callable[[], LightningModule], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = make()
    before = [p.detach().clone() for p in task.net.parameters()]
    seen: set[torch.dtype] = set()
    for module in task.net.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda _m, _i, out: seen.add(out.dtype))
    settings = TrainerSettings(gpus=0, precision="bf16-mixed")
    values = run(task, tiny_chest(train=32), tmp_path, max_epochs=1, settings=settings).values
    assert torch.bfloat16 in seen
    assert np.isfinite([value for name, value in values.items()]).all()
    after = list(task.net.parameters())
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_at_most_so_many_batches_of_each_split_are_used(tiny_chest: Factory, tmp_path: Path) -> None:
    settings = TrainerSettings(gpus=0, limit_batches=2)
    task = gan_of()
    run(task, tiny_chest(train=96), tmp_path, max_epochs=1, settings=settings)
    assert task.images_seen == 32


@pytest.mark.parametrize("make", [classifier_of, gan_of])
def test_a_task_left_in_evaluation_mode_is_trained_in_training_mode(
    make: Callable[[], LightningModule], tiny_chest: Factory, tmp_path: Path
) -> None:
    """A notebook looks at predictions first (``task.eval()``) and trains then."""
    fresh, looked_at = make(), make().eval()
    run(fresh, tiny_chest(train=32), tmp_path / "fresh", max_epochs=1)
    run(looked_at, tiny_chest(train=32), tmp_path / "looked_at", max_epochs=1)
    assert list_differences(dict(fresh.state_dict()), dict(looked_at.state_dict())) == []


# --- which epoch is kept ---------------------------------------------------------------------------------------------


def kept(values: list[float], mode: str, directory: Path) -> tuple[Checkpoints, list[int]]:
    """The callback after epochs with these values, and the epochs at which it saved ``best``."""
    checkpoints = Checkpoints(directory, "score", mode)  # type: ignore[arg-type]
    saved: list[int] = []
    for epoch, value in enumerate(values):
        trainer: Any = SimpleNamespace(
            callback_metrics={"score": torch.tensor(value, dtype=torch.float64)},
            current_epoch=epoch,
            save_checkpoint=lambda path, weights_only=None, epoch=epoch: (
                saved.append(epoch) if path.name == "best.ckpt" else None
            ),
        )
        checkpoints.on_train_epoch_end(trainer, nn.Module())  # type: ignore[arg-type]
    return checkpoints, saved


NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "mode", "saved"),
    [
        ([0.5, 0.7, 0.6, 0.8], "max", [0, 1, 3]),
        ([0.5, 0.7, 0.6, 0.4], "min", [0, 3]),
        ([0.5, 0.7, 0.7, 0.7], "max", [0, 1]),  # of equal ones the first stays
        ([0.5, 0.4, 0.4, 0.6], "min", [0, 1]),
        ([0.0, -1.0, 0.0], "max", [0]),
        ([NAN, 0.2, NAN, 0.1], "max", [0, 1]),  # something is kept from the first epoch on, but any number beats none
        ([NAN, NAN], "min", [0, 1]),  # without any number the last epoch
    ],
)
def test_the_best_epoch_is_the_first_with_the_best_value(
    values: list[float], mode: str, saved: list[int], tmp_path: Path
) -> None:
    checkpoints, found = kept(values, mode, tmp_path)
    assert found == saved
    assert checkpoints.best_epoch == saved[-1]


def test_the_best_epochs_state_survives_saving() -> None:
    first, _ = kept([0.5, 0.7], "max", Path())
    other = Checkpoints(Path(), "score", "max")
    other.load_state_dict(first.state_dict())
    assert (other.best_epoch, other.best_value) == (1, 0.7)


class ValueByEpoch(Callback):
    """Logs a score that a test chose, and remembers the weights at the end of each epoch."""

    def __init__(self, scores: list[float]) -> None:
        self.scores = scores
        self.weights: list[Tensor] = []

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("score", self.scores[trainer.current_epoch])
        self.weights.append(pl_module.net.head.weight.detach().clone())  # type: ignore[union-attr]


@pytest.mark.parametrize(("mode", "best"), [("max", 2), ("min", 1), (None, 3)])
def test_after_training_the_task_holds_the_chosen_epochs_weights(
    mode: str | None, best: int, tiny_chest: Factory, tmp_path: Path
) -> None:
    scores = ValueByEpoch([0.25, 0.75, 0.5])
    task = classifier_of(optimizer=adam(lr=1e-2))
    options: dict[str, Any] = {} if mode is None else {"monitor": "score", "mode": mode}
    found = run(task, tiny_chest(train=32), tmp_path, max_epochs=3, callbacks=[scores], **options)
    assert found.best_epoch == best
    assert found.epochs == 3
    assert torch.equal(task.net.head.weight, scores.weights[best - 1])
    assert found.values["score"] == (scores.scores[best - 1] if mode is not None else 0.5)


# --- checkpoint files ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["classifier", "gan"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LightningModule, Fit]:
    case = CASES[request.param]
    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=32, val=16, test=8, batch_size=16)
    task = case.task()
    return task, run(task, data, tmp_path_factory.mktemp("finished"), max_epochs=1, **case.options)


def plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(plain(k) and plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(plain(v) for v in value)
    return value is None or isinstance(value, (Tensor, str, int, float, bool))


def test_checkpoints_hold_tensors_and_plain_values_alone(finished: tuple[LightningModule, Fit]) -> None:
    _, fitted = finished
    for path in (fitted.best, fitted.last):
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
        assert plain(torch.load(path, weights_only=True))


def test_the_best_checkpoint_holds_no_optimizer_and_the_last_one_does(finished: tuple[LightningModule, Fit]) -> None:
    _, fitted = finished
    assert "optimizer_states" not in read_checkpoint(fitted.best)
    assert read_checkpoint(fitted.last)["optimizer_states"]


def test_weights_come_back_as_they_were_saved(finished: tuple[LightningModule, Fit]) -> None:
    task, fitted = finished
    other = classifier_of(seed=1, dropout=0.3) if isinstance(task, Classification) else gan_of(seed=1)
    assert list_differences(dict(task.state_dict()), dict(other.state_dict())) != []
    load_weights(other, fitted.best)
    assert list_differences(dict(task.state_dict()), dict(other.state_dict())) == []
    assert getattr(other, "images_seen", None) == getattr(task, "images_seen", None)


def test_weights_of_another_width_are_refused_in_one_line(finished: tuple[LightningModule, Fit]) -> None:
    task, fitted = finished
    other = classifier_of(width=3) if isinstance(task, Classification) else gan_of(width=3)
    with pytest.raises(CheckpointError, match=r"best\.ckpt holds the weights of another architecture") as caught:
        load_weights(other, fitted.best)
    assert len(one_line(caught)) < 400


def test_weights_of_another_kind_of_task_are_refused_in_one_line(finished: tuple[LightningModule, Fit]) -> None:
    task, fitted = finished
    other = gan_of() if isinstance(task, Classification) else classifier_of()
    with pytest.raises(CheckpointError, match="another architecture") as caught:
        load_weights(other, fitted.best)
    one_line(caught)


@pytest.mark.parametrize("length", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused_in_one_line(
    length: float, finished: tuple[LightningModule, Fit], tmp_path: Path
) -> None:
    content = finished[1].last.read_bytes()
    path = tmp_path / "last.ckpt"
    path.write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read") as caught:
        read_checkpoint(path)
    one_line(caught)


class Arbitrary:
    """An object that a checkpoint must not bring along."""


def not_a_checkpoint(path: Path, kind: str) -> Path:
    contents: dict[str, Any] = {
        "objects": {"state_dict": {}, "net": Arbitrary()},
        "list": [torch.zeros(2)],
        "no weights": {"epoch": 3},
    }
    if kind == "text":
        path.write_text("this is no checkpoint\n" * 10)
    elif kind == "directory":
        path.mkdir()
    else:
        torch.save(contents[kind], path)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("text", "cannot be read"),
        ("directory", "cannot be read"),
        ("objects", r"it contains code, tests\.training\.test_fit\.Arbitrary, which is refused"),
        ("list", "holds no weights"),
        ("no weights", "holds no weights"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(kind: str, message: str, tmp_path: Path) -> None:
    path = not_a_checkpoint(tmp_path / "x.ckpt", kind)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(path)
    assert str(path) in one_line(caught)


def test_a_checkpoint_with_a_flipped_byte_is_refused_though_torch_loads_it(
    finished: tuple[LightningModule, Fit], tmp_path: Path
) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(finished[1].best.read_bytes())
    flip_byte(path)
    torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match=r"best\.ckpt cannot be read .*damaged.*restore it from a copy") as caught:
        read_checkpoint(path)
    one_line(caught)


def test_a_missing_checkpoint_is_named_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"best\.ckpt is missing: .*resume=") as caught:
        read_checkpoint(tmp_path / "best.ckpt")
    one_line(caught)


def test_resuming_from_a_damaged_checkpoint_is_refused_before_training(tiny_chest: Factory, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(CheckpointError, match=r"last\.ckpt cannot be read") as caught:
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1, resume=True)
    one_line(caught)


class FullDisk:
    """``torch.save`` that writes so many files and stops in the middle of the next."""

    def __init__(self, files: int, error: Exception) -> None:
        self.files = files
        self.error = error
        self.save = torch.save

    def __call__(self, contents: Any, path: Any) -> None:
        self.files -= 1
        if self.files >= 0:
            self.save(contents, path)
            return
        Path(path).write_bytes(b"half of a checkpoint")
        raise self.error


NO_SPACE = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0; file write failed"),
]


@pytest.mark.parametrize("error", NO_SPACE, ids=["OSError", "RuntimeError"])
def test_a_failed_save_leaves_the_old_file_and_no_remains(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(3)}}, path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", FullDisk(0, error))
    with pytest.raises(OutputError, match=r"no space left while writing .*last\.ckpt.*free some space") as caught:
        AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(3)}}, path)
    one_line(caught)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_disk_that_fills_up_during_training_leaves_the_checkpoints_of_the_epoch_before(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "save", FullDisk(2, NO_SPACE[0]))  # best and last of the first epoch
    with pytest.raises(OutputError, match="no space left while writing"):
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=3)
    monkeypatch.undo()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0
    assert run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=3, resume=True).epochs == 3


class Delete(Callback):
    """Deletes the directory during the second epoch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.mark.parametrize("log_to", ["tensorboard", "none"])
def test_a_directory_deleted_during_training_is_one_line_and_is_not_made_again(
    log_to: str, tiny_chest: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(OutputError, match=f"^{directory} was deleted during training: .*start it again") as caught:
        run(
            classifier_of(), tiny_chest(train=32), directory, max_epochs=3, callbacks=[Delete(directory)], log_to=log_to
        )
    one_line(caught)
    assert not directory.exists()
    assert "Traceback" not in capsys.readouterr().err


# --- interruptions ---------------------------------------------------------------------------------------------------


class Disturb(Callback):
    """Does something in the first batch of an epoch."""

    def __init__(self, act: Callable[[], None], epoch: int) -> None:
        self.act = act
        self.epoch = epoch

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, 0):
            self.act()


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def press_ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def be_terminated() -> None:
    raise Interrupted(signal.SIGTERM)


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """Python's own handler: a shell starts what it puts in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("act", "signum"),
    [
        (raise_keyboard_interrupt, signal.SIGINT),
        (press_ctrl_c, signal.SIGINT),
        (be_terminated, signal.SIGTERM),
    ],
)
def test_an_interruption_says_which_signal_it_was_and_gives_ctrl_c_back(
    act: Callable[[], None], signum: int, heeding_ctrl_c: None, tiny_chest: Factory, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted) as caught:
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=3, callbacks=[Disturb(act, 1)])
    assert caught.value.signum == signum
    assert signal.getsignal(signal.SIGINT) is before
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0


def test_errors_of_ours_and_of_others_pass_through_unchanged(tiny_chest: Factory, tmp_path: Path) -> None:
    for error in (TrainingError("stop: do this"), PowerCutError("x"), RuntimeError("a bug"), KeyError("a bug")):

        def act(error: Exception = error) -> None:
            raise error

        with pytest.raises(type(error)) as caught:
            run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1, callbacks=[Disturb(act, 0)])
        assert caught.value is error


def test_a_logger_that_cannot_be_ended_hides_no_reason(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: BaseException, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("medassay.training.fit._run", partial(fail, Interrupted(signal.SIGINT)))
    monkeypatch.setattr("medassay.training.fit.end_logging", partial(fail, ConnectionError("the server is gone")))
    with pytest.raises(Interrupted):
        run(classifier_of(), tiny_chest(train=32), tmp_path, max_epochs=1)


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_number_of_epochs_that_trains_none_or_without_end_is_refused(
    epochs: int, tiny_chest: Factory, tmp_path: Path
) -> None:
    for given in ({"max_epochs": epochs}, {"settings": TrainerSettings(max_epochs=epochs)}):
        with pytest.raises(ConfigError, match=f"^fit: max_epochs={epochs}: expected an integer >= 1$"):
            run(classifier_of(), tiny_chest(train=32), tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


def ended_by(error: BaseException, directory: Path) -> BaseException:
    """What training in several processes ends with where one of them has ended with ``error``."""

    def fail(*_: Any, **__: Any) -> None:
        trace = "".join(traceback.format_exception(error))
        raise ProcessRaisedException(f"-- Process 1 terminated with the following error:\n{trace}", 1, 99)

    (directory / "checkpoints").mkdir()
    trainer: Any = SimpleNamespace(fit=fail, default_root_dir="outputs/run")
    none: Any = None
    with pytest.raises(Exception) as caught:
        _run(trainer, none, none, None, none, DeletedDirectory(directory))
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (TrainingError("stop: do this"), TrainingError, "stop: do this"),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "the GPU's memory is full"),
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "no space left while writing outputs/run;"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a b/x.png"),
            OutputError,
            "cannot read or write /a b/x.png",
        ),
        (OSError(errno.EXDEV, "x", "a", None, "b"), OutputError, "cannot read or write a (Invalid cross-device link)"),
        (OSError("image file is truncated"), OutputError, "cannot read or write a file (image file is truncated)"),
        (MisconfigurationException("no such strategy"), ConfigError, "trainer: no such strategy"),
    ],
)
def test_the_error_of_one_of_several_processes_is_told_as_that_of_a_single_one(
    error: Exception, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    raised = ended_by(error, tmp_path)
    assert type(raised) is kind
    assert str(explain(raised)).startswith(message)


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyError("a bug"), ValueError("a\nprint: bug"), ValueError()])
def test_a_mistake_in_one_of_several_processes_is_none_of_the_users(error: Exception, tmp_path: Path) -> None:
    assert type(ended_by(error, tmp_path)) is ProcessRaisedException


# --- several processes -----------------------------------------------------------------------------------------------
# The processes import this module by its name, so what they are handed is defined at module level.

TWO = TrainerSettings(accelerator="cpu", devices=2)


class KeepEachProcessesWeights(Callback):
    """Writes the learnt weights of every process at the end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        learnt = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        torch.save(learnt, Path(trainer.default_root_dir) / f"process{trainer.global_rank}.pt")


def weights_of_processes(directory: Path) -> list[dict[str, Tensor]]:
    return [torch.load(directory / f"process{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_with_half_the_batch_each_train_as_one_does(
    several_processes: None, tiny_chest: Factory, tmp_path: Path
) -> None:
    def task() -> Classification:
        # plain gradient descent: Adam would blow up the rounding error of gradients near zero
        return classifier_of(normalisation="none", optimizer=sgd(lr=0.1), class_weights="none")

    options: dict[str, Any] = {"max_epochs": 2, "monitor": "val/loss", "mode": "min"}
    one, two = task(), task()
    start = {name: value.clone() for name, value in one.state_dict().items()}
    alone = run(one, tiny_chest(batch_size=16), tmp_path / "one", **options)
    watch = KeepEachProcessesWeights()
    both = run(two, tiny_chest(batch_size=8), tmp_path / "two", settings=TWO, callbacks=[watch], **options)

    first, second = weights_of_processes(tmp_path / "two")
    assert list_differences(first, second) == []
    for name, value in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], value, rtol=1e-3, atol=1e-5)
    assert not torch.allclose(start["net.head.weight"], one.net.head.weight, atol=1e-3)
    assert (both.epochs, both.best_epoch) == (alone.epochs, alone.best_epoch)
    assert set(both.values) == set(alone.values)
    for name, number in alone.values.items():
        swap = 0.01 if name == "val/auroc" else 0.0  # rounding may swap the ranks of two images
        assert both.values[name] == pytest.approx(number, rel=1e-3, abs=swap), name


@pytest.mark.long
@pytest.mark.parametrize("penalised", [True, False])
def test_other_generators_keep_the_same_weights_in_two_processes(
    penalised: bool, several_processes: None, tiny_chest: Factory, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task: RegularisedGAN | ConditionalDiffusion
    if penalised:
        task = RegularisedGAN(ResidualCGAN(1, 2, width=2, discriminator_width=2, latent=4), gradient_penalty_every=2)
    else:
        task = ConditionalDiffusion(DenoisingUNet(1, 2, width=2))
    start = {name: p.detach().clone() for name, p in task.named_parameters()}
    data = tiny_chest(train=49, batch_size=8)  # one process gets an image more than the other
    found = run(task, data, tmp_path, max_epochs=2, settings=TWO, callbacks=[KeepEachProcessesWeights()])
    first, second = weights_of_processes(tmp_path)
    assert list_differences(first, second) == []
    assert sum(not torch.equal(p, start[name]) for name, p in first.items()) > len(first) / 2
    assert task.images_seen == 98
    assert np.isfinite(list(found.values.values())).all()


def test_a_gan_trains_in_two_processes_that_keep_the_same_weights(
    several_processes: None, tiny_chest: Factory, tmp_path: Path
) -> None:
    task = gan_of()
    start = {name: p.detach().clone() for name, p in task.named_parameters()}
    data = tiny_chest(train=49, batch_size=8)  # one process gets an image more than the other
    found = run(task, data, tmp_path, max_epochs=2, settings=TWO, callbacks=[KeepEachProcessesWeights()])
    first, second = weights_of_processes(tmp_path)
    assert list_differences(first, second) == []
    assert all(value.isfinite().all() for value in first.values())
    assert all(torch.equal(p, first[name]) for name, p in task.named_parameters())
    for name in ("generator.to_image", "discriminator.to_logit"):
        assert not torch.equal(first[f"net.{name}.weight"], start[f"net.{name}.weight"])
    assert (task.images_seen, task.ema.updates) == (98, 6)
    assert {"train/d_loss", "train/g_loss", "train/d_real", "train/d_fake"} <= set(found.values)
    assert np.isfinite(list(found.values.values())).all()
    assert (found.epochs, found.best_epoch) == (2, 2)


class FailInSecondProcess(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            raise TrainingError("this went wrong: do that")


def test_an_error_in_one_of_several_processes_is_the_same_one_line(
    several_processes: None, tiny_chest: Factory, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError) as caught:
        run(
            classifier_of(),
            tiny_chest(train=32, batch_size=4),
            tmp_path,
            max_epochs=1,
            settings=TWO,
            callbacks=[FailInSecondProcess()],
        )
    assert one_line(caught) == "this went wrong: do that"


class Seen(Callback):
    """Remembers the labels of every batch, epoch by epoch."""

    def __init__(self) -> None:
        self.labels: list[list[int]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.labels.append([])

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.labels[-1] += batch[0].flatten(1).sum(1).mul(255).round().int().tolist()


def test_every_epoch_of_a_fit_sees_all_images_in_an_order_of_its_own(tmp_path: Path, tiny_chest: Any) -> None:
    seen = Seen()
    task = Classification(BlockCNN(1, 2, width=2), 2)
    fit(task, tiny_chest(), directory=tmp_path, max_epochs=3, callbacks=[seen], log_to="none")
    first, second, third = seen.labels
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second
    assert second != third
    assert first != third
