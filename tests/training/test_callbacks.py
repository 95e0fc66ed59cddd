"""Sample grids, reconstructions, seeds per epoch, early stopping. Checkpoints are tested with fitting, in test_training.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from medassay.core.seeds import derive_seed
from medassay.core.types import LabelledImages, Splits
from medassay.data import loader
from medassay.data.modules import LabelledData
from medassay.data.sources import InMemory
from medassay.reporting import figures
from medassay.runs.directory import RunDirectory
from medassay.training.callbacks import (
    Autoencoder,
    EpochSeed,
    FixedSampler,
    History,
    Pictures,
    Reconstructions,
    SampleGrid,
    early_stopping,
)
from medassay.training.fit import LoggerName, fit
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]
ROWS = 3  # images per class of the dummy's grid


class Task(LightningModule):
    """The smallest thing that can be fitted: one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.weight**2).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Generator(Task):
    """Shows class k as k grey levels out of 10; counts how often it was asked."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.asked = 0

    def fixed_samples(self) -> tuple[Tensor, Tensor]:
        self.asked += 1
        labels = torch.arange(self.num_classes).repeat_interleave(ROWS)
        return (labels / 10)[:, None, None, None].expand(-1, 1, 4, 4).clone(), labels


class Mirror(Task):
    """An autoencoder that gives back negatives, and blends pixels where another would its latents."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def reconstruct(self, images: Tensor, labels: Tensor) -> Tensor:
        self.asked += 1
        assert len(images) == len(labels)
        return 1 - images

    def interpolate(self, first: Tensor, second: Tensor, labels: Tensor, steps: int) -> Tensor:
        assert len(first) == len(second) == len(labels)
        blends = [torch.lerp(first, second, step / (steps - 1)) for step in range(steps)]
        return torch.stack(blends, dim=1).flatten(0, 1)


def train(
    task: Task, data: LabelledData, directory: Path, epochs: int, *callbacks: Callback, log_to: LoggerName = "none"
) -> None:
    settings = TrainerSettings(gpus=0, limit_batches=2)
    fit(task, data, directory=directory, max_epochs=epochs, settings=settings, callbacks=callbacks, log_to=log_to)


def drawn(directory: Path, name: str = "samples") -> list[int]:
    """The epochs whose grids lie in the run's figures."""
    return sorted(int(path.stem.rpartition("_")[2]) for path in (directory / "figures").glob(f"{name}_epoch_????.png"))


class Shown(NamedTuple):
    """A picture: its images and how they are laid out."""

    images: Tensor
    options: dict[str, Any]


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """Every grid in the order of drawing."""
    real, seen = figures.draw_image_grid, []

    def spy(images: Tensor, **options: Any) -> Any:
        seen.append(Shown(images, options))
        return real(images, **options)

    monkeypatch.setattr(figures, "draw_image_grid", spy)
    return seen


# --- sample grids ----------------------------------------------------------------------------------------------------


SCHEDULES = pytest.mark.parametrize(
    ("every", "epochs", "shown"),
    [
        (1, 3, [1, 2, 3]),
        (2, 5, [2, 4, 5]),  # the last epoch's always
        (2, 4, [2, 4]),  # and once
        (5, 3, [3]),
    ],
)


@SCHEDULES
def test_grids_are_drawn_every_so_many_epochs_and_at_the_last(
    every: int, epochs: int, shown: list[int], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = Generator()
    train(task, tiny_chest(train=16), tmp_path, epochs, SampleGrid(every))
    assert drawn(tmp_path) == shown
    assert task.asked == len(shown)


class StopAfter(Callback):
    """Ends training early, as a time limit does."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == self.epochs:
            trainer.should_stop = True


def test_the_last_grid_is_drawn_too_where_training_ends_early(tiny_chest: Factory, tmp_path: Path) -> None:
    train(Generator(), tiny_chest(train=16), tmp_path, 10, SampleGrid(5), StopAfter(3))
    assert drawn(tmp_path) == [3]


def test_a_classifier_has_no_grids(tiny_chest: Factory, tmp_path: Path) -> None:
    assert not isinstance(Task(), FixedSampler)
    train(Task(), tiny_chest(train=16), tmp_path, 2, SampleGrid(1))
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(("task", "callback"), [(Generator(), SampleGrid(1)), (Mirror(), Reconstructions(1))])
def test_only_the_first_of_several_processes_draws(task: Any, callback: Any, tmp_path: Path) -> None:
    trainer = SimpleNamespace(current_epoch=0, max_epochs=1, is_global_zero=False, default_root_dir=str(tmp_path))
    callback.on_train_epoch_end(trainer, task)
    trainer.current_epoch, callback.every_n_epochs = 1, 5
    callback.on_train_end(trainer, task)
    assert (task.asked, list(tmp_path.iterdir())) == (0, [])


def test_each_class_has_a_row_of_its_name(tiny_chest: Factory, tmp_path: Path, pictures: list[Shown]) -> None:
    train(Generator(), tiny_chest(train=16), tmp_path, 1, SampleGrid(5))
    ((images, options),) = pictures
    assert options["columns"] == ROWS
    assert options["row_labels"] == ["normal", "pneumonia"]
    torch.testing.assert_close(images[:, 0, 0, 0], torch.tensor([0, 0, 0, 0.1, 0.1, 0.1]))
    with Image.open(tmp_path / "figures" / "samples_epoch_0001.png") as picture:
        assert picture.format == "PNG"


def test_a_picture_says_after_how_many_epochs_it_was_drawn(
    tiny_chest: Factory, tmp_path: Path, pictures: list[Shown]
) -> None:
    train(Generator(), tiny_chest(train=16), tmp_path, 3, SampleGrid(2))
    assert [options["title"] for _, options in pictures] == ["after 2 epochs", "after 3 epochs"]


def test_grids_are_shown_in_tensorboard_over_the_images_seen(tiny_chest: Factory, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    task = Generator()
    task.images_seen = 321  # type: ignore[assignment]
    train(task, tiny_chest(train=16), tmp_path, 2, SampleGrid(1), log_to="tensorboard")
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    shown = accumulator.Images("samples")
    assert [event.step for event in shown] == [321, 321]
    assert {(event.height, event.width) for event in shown} == {(2 * 6 + 2, 3 * 6 + 2)}  # 4 pixels and 2 between


def test_every_kind_of_picture_must_say_what_it_draws() -> None:
    with pytest.raises(TypeError, match="abstract method"):
        Pictures()  # type: ignore[abstract]


# --- reconstructions -------------------------------------------------------------------------------------------------


class Grey(LabelledData):
    """Validation images of the given classes; the i-th is all of one grey, 10 * i + 5 out of 255."""

    def __init__(self, val: list[int], classes: int = 3, channels: Any = 1) -> None:
        def split(labels: list[int]) -> LabelledImages:
            greys = 10 * torch.arange(len(labels), dtype=torch.uint8) + 5
            images = greys[:, None, None, None].expand(-1, channels, 12, 12).clone()
            return LabelledImages(images, torch.tensor(labels))

        names, others = [f"class {label}" for label in range(classes)], split([0, 1, 2] * 3)
        source = InMemory(Splits(others, split(val), others))
        super().__init__("grey", names, channels, source, size=12, batch_size=8)


def greys(images: Tensor) -> list[float]:
    """The grey value of each image, in steps of 1/255."""
    return (255 * images[:, 0, 0, 0]).round(decimals=3).tolist()


@SCHEDULES
def test_reconstructions_are_drawn_every_so_many_epochs_and_at_the_last(
    every: int, epochs: int, shown: list[int], tmp_path: Path
) -> None:
    task = Mirror()
    train(task, Grey([0, 0, 1, 1]), tmp_path, epochs, Reconstructions(every))
    assert drawn(tmp_path, "reconstructions") == drawn(tmp_path, "interpolations") == shown
    assert task.asked == len(shown)


def test_the_last_reconstructions_are_drawn_too_where_training_ends_early(tmp_path: Path) -> None:
    train(Mirror(), Grey([0, 0, 1, 1]), tmp_path, 10, Reconstructions(5), StopAfter(3))
    assert drawn(tmp_path, "reconstructions") == [3]


@pytest.mark.parametrize("make", [Task, Generator])
def test_a_classifier_and_a_gan_have_no_reconstructions(make: type[Task], tmp_path: Path) -> None:
    assert not isinstance(make(), Autoencoder)
    train(make(), Grey([0, 0, 1, 1]), tmp_path, 2, Reconstructions(1))
    assert not (tmp_path / "figures").exists()


def test_a_task_that_encodes_and_shows_no_samples_has_no_grids(tmp_path: Path) -> None:
    train(Mirror(), Grey([0, 0, 1, 1]), tmp_path, 1, SampleGrid(1))
    assert not (tmp_path / "figures").exists()


def test_validation_images_stand_beside_their_reconstructions_one_class_a_row(
    tmp_path: Path, pictures: list[Shown]
) -> None:
    train(Mirror(), Grey([2, 0, 1, 0, 2, 1, 2, 0, 1]), tmp_path, 1, Reconstructions(5, pairs=2))
    images, options = pictures[0]
    assert options["columns"] == 4
    assert options["row_labels"] == ["class 0", "class 1", "class 2"]
    assert options["column_labels"] == ["real", "reconstruction", "real", "reconstruction"]
    first_two = [15, 35, 25, 55, 5, 45]  # of each class, by place in the validation set
    assert greys(images[::2]) == first_two
    assert greys(images[1::2]) == [255 - grey for grey in first_two]


def test_an_interpolation_goes_from_a_classs_first_validation_image_to_its_last(
    tmp_path: Path, pictures: list[Shown]
) -> None:
    train(Mirror(), Grey([2, 0, 1, 0, 2, 1, 2, 0, 1]), tmp_path, 1, Reconstructions(5, steps=3))
    images, options = pictures[1]
    assert options["columns"] == 3
    assert options["row_labels"] == ["class 0", "class 1", "class 2"]
    assert greys(images) == [15, 45, 75, 25, 55, 85, 5, 35, 65]


def test_a_class_with_fewer_than_two_validation_images_is_left_out(tmp_path: Path, pictures: list[Shown]) -> None:
    train(Mirror(), Grey([0, 2, 2, 2, 0, 1], classes=4), tmp_path, 1, Reconstructions(5))
    for _, options in pictures:
        assert options["row_labels"] == ["class 0", "class 2"]  # of class 1 there is one, of class 3 none
    assert greys(pictures[0].images[::2]) == [5, 45, 15, 25]
    assert greys(pictures[1].images[::9]) == [5, 15]


def test_without_two_validation_images_of_a_class_nothing_is_drawn(tmp_path: Path) -> None:
    task = Mirror()
    train(task, Grey([0, 1, 2]), tmp_path, 1, Reconstructions(1))
    assert (task.asked, (tmp_path / "figures").exists()) == (0, False)


def test_all_rows_have_as_many_pairs_as_the_smallest_class_shown(tmp_path: Path, pictures: list[Shown]) -> None:
    train(Mirror(), Grey([0] * 6 + [1] * 3), tmp_path, 1, Reconstructions(5, pairs=4))
    assert pictures[0].options["columns"] == 2 * 3
    assert len(pictures[0].images) == 2 * 2 * 3


def test_colour_images_are_shown_in_colour(tmp_path: Path, pictures: list[Shown]) -> None:
    train(Mirror(), Grey([0, 0, 1, 1], channels=3), tmp_path, 1, Reconstructions(5, pairs=2, steps=4))
    assert [tuple(images.shape) for images, _ in pictures] == [(8, 3, 12, 12), (8, 3, 12, 12)]


def test_reconstructions_are_shown_in_tensorboard_where_the_scalars_stand(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = Reconstructions(2, pairs=2, steps=5)
    train(Mirror(), Grey([0, 0, 1, 1]), tmp_path, 3, shown, log_to="tensorboard")
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    for name, columns in (("reconstructions", 4), ("interpolations", 5)):
        events = accumulator.Images(name)
        assert [event.step for event in events] == [2, 3]  # optimizer steps, one an epoch
        assert {(event.height, event.width) for event in events} == {(2 * 14 + 2, columns * 14 + 2)}


# --- seeds -----------------------------------------------------------------------------------------------------------


def start(seed: int, *, epoch: int = 0, rank: int = 0, batch: int = 0) -> Tensor:
    """What torch draws first once the batch has begun."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_batch_start(trainer, Task(), None, batch)  # type: ignore[arg-type]
    return torch.rand(4)


def test_an_epochs_noise_does_not_depend_on_what_was_drawn_before() -> None:
    torch.manual_seed(1)
    first = start(7, epoch=2)
    torch.rand(1000)
    assert torch.equal(start(7, epoch=2), first)


def test_each_seed_epoch_and_process_has_noise_of_its_own() -> None:
    noises = [start(7), start(8), start(7, epoch=1), start(7, rank=1)]
    assert len({tuple(noise.tolist()) for noise in noises}) == len(noises)


def test_the_noise_is_not_that_of_the_loaders_order_and_augmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[tuple[int, ...], int] = {}
    monkeypatch.setattr(loader, "derive_seed", lambda *parts: seeds.setdefault(parts, derive_seed(*parts)))
    images = LabelledImages(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
    _ = list(loader.ResidentLoader(images, 2, shuffle=True, seed=7))
    assert seeds.keys() == {(7, 0, 1), (7, 0, 2, 0)}  # the order's and the augmentation's
    for seed in seeds.values():
        assert not torch.equal(start(7), torch.rand(4, generator=torch.Generator().manual_seed(seed)))


def test_only_the_first_batch_of_an_epoch_is_seeded() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    assert torch.equal(start(7, batch=1), expected)


class Draws(Task):
    """Remembers the noise of every training step, and draws some more between epochs."""

    def __init__(self, wasted: int) -> None:
        super().__init__()
        self.wasted = wasted
        self.noise: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.noise.append(float(torch.rand(())))
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        np.random.rand(self.wasted)
        torch.rand(self.wasted)


def test_what_happens_between_epochs_does_not_change_the_next_epochs_noise(tiny_chest: Factory, tmp_path: Path) -> None:
    quiet, wasteful = Draws(0), Draws(17)
    train(quiet, tiny_chest(train=32), tmp_path / "a", 3)
    train(wasteful, tiny_chest(train=32), tmp_path / "b", 3)
    assert quiet.noise == wasteful.noise
    assert len(set(quiet.noise)) == 3 * 2


# --- early stopping --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("monitor", "patience"), [(None, 15), ("val/auroc", None), (None, None)])
def test_where_nothing_is_watched_nothing_stops(monitor: str | None, patience: int | None) -> None:
    assert early_stopping(monitor, patience=patience) is None


@pytest.mark.parametrize(
    ("mode", "better", "worse"),
    [("max", [0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]), ("min", [4, 3, 2, 1], [1, 2, 3, 4])],
)
def test_getting_worse_in_the_watched_direction_stops_and_getting_better_does_not(
    mode: Any, better: list[float], worse: list[float]
) -> None:
    def stopped_at(values: list[float]) -> int | None:
        callback = early_stopping("watched", mode, patience=2)
        assert callback is not None
        for epoch, value in enumerate(values):
            trainer = SimpleNamespace(
                callback_metrics={"watched": torch.tensor(value)},
                current_epoch=epoch,
                should_stop=False,
                fast_dev_run=False,
                strategy=SimpleNamespace(reduce_boolean_decision=lambda stop, all: stop),
                world_size=1,
            )
            callback._run_early_stopping_check(trainer)  # type: ignore[arg-type]
            if trainer.should_stop:
                return epoch
        return None

    assert stopped_at(better) is None
    assert stopped_at(worse) == 2


def test_a_gain_smaller_than_asked_for_is_none(tiny_chest: Factory, tmp_path: Path) -> None:
    class Rising(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("watched", 0.5 + 0.001 * trainer.current_epoch)

    def epochs(min_delta: float) -> int:
        stop = early_stopping("watched", patience=2, min_delta=min_delta)
        assert stop is not None
        task = Generator()
        train(task, tiny_chest(train=16), tmp_path / str(min_delta), 5, Rising(), stop, SampleGrid(1))
        return task.asked

    assert epochs(0.0) == 5
    assert epochs(0.01) == 3


# --- history ---------------------------------------------------------------------------------------------------------


class Logs(Task):
    """Logs numbers that its epoch alone decides."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.log("train/loss", 1.0 / (1 + self.current_epoch), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/auroc", self.current_epoch / 8, on_epoch=True)


def history(directory: Path) -> list[dict[str, float]]:
    return RunDirectory(directory).history()


ROWS_OF_LOGS = [{"epoch": n + 1, "train/loss": pytest.approx(1 / (1 + n)), "val/auroc": n / 8} for n in range(4)]


def test_what_was_logged_in_each_epoch_is_kept_in_a_file_with_epochs_from_1(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    train(Logs(), tiny_chest(train=16), tmp_path, 3)
    assert history(tmp_path) == ROWS_OF_LOGS[:3]


def test_a_continued_run_adds_to_its_history(tiny_chest: Factory, tmp_path: Path) -> None:
    settings = TrainerSettings(gpus=0, limit_batches=2)
    for epochs in (2, 4):
        data = tiny_chest(train=16)
        fit(Logs(), data, directory=tmp_path, max_epochs=epochs, settings=settings, log_to="none", resume=epochs > 2)
    assert history(tmp_path) == ROWS_OF_LOGS


class Dies(Callback):
    """Ends training in the middle of the third epoch, after a checkpoint and a row of the second."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2:
            raise RuntimeError("killed")


def test_a_run_that_died_replays_its_epoch_and_has_one_row_of_each(tiny_chest: Factory, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        train(Logs(), tiny_chest(train=16), tmp_path, 4, Dies())
    assert history(tmp_path) == ROWS_OF_LOGS[:2]
    settings = TrainerSettings(gpus=0, limit_batches=2)
    fit(Logs(), tiny_chest(train=16), directory=tmp_path, max_epochs=4, settings=settings, log_to="none", resume=True)
    assert history(tmp_path) == ROWS_OF_LOGS


def test_a_row_that_no_checkpoint_remembers_is_not_doubled(tmp_path: Path) -> None:
    first = History(tmp_path)
    for epoch in range(2):  # it was killed after the second row and before the second checkpoint
        state = {"rows": list(first.rows)}
        trainer: Any = SimpleNamespace(current_epoch=epoch, callback_metrics={}, is_global_zero=True)
        first.on_train_epoch_end(trainer, Task())
    again = History(tmp_path)
    again.load_state_dict(state)
    again.on_train_epoch_end(trainer, Task())
    assert history(tmp_path) == [{"epoch": 1}, {"epoch": 2}]


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    trainer: Any = SimpleNamespace(current_epoch=0, callback_metrics={}, is_global_zero=False)
    History(tmp_path).on_train_epoch_end(trainer, Task())
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_is_none_is_kept_as_none(tmp_path: Path) -> None:
    values = {"train/loss": torch.tensor(float("nan"))}
    trainer: Any = SimpleNamespace(current_epoch=0, callback_metrics=values, is_global_zero=True)
    History(tmp_path).on_train_epoch_end(trainer, Task())
    assert history(tmp_path) == [{"epoch": 1, "train/loss": None}]
