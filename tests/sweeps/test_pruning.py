"""Giving up runs of a search: the median rule on hand-written siblings, and in real trainings."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from medassay import config as configuration
from medassay.core.errors import ConfigError
from medassay.data.modules import LabelledData
from medassay.sweeps.pruning import MedianPruning, median_pruning
from medassay.training.callbacks import early_stopping
from medassay.training.checkpoints import read_checkpoint
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]


class Scripted(LightningModule):
    """Logs one value of ``script`` after each epoch."""

    def __init__(self, *script: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.script = script

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.weight**2).sum()

    def on_train_epoch_start(self) -> None:
        self.log("val/auroc", self.script[self.current_epoch], on_epoch=True, on_step=False)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def sibling(sweep: Path, name: str, *values: float | None, status: str = "done", monitor: str = "val/auroc") -> None:
    """A run directory as a training leaves it: a record, and a row for each epoch."""
    (sweep / name).mkdir(parents=True)
    rows = [{"epoch": epoch, monitor: value} for epoch, value in enumerate(values, start=1)]
    (sweep / name / "run.json").write_text(json.dumps({"status": status}))
    (sweep / name / "history.json").write_text(json.dumps({"rows": rows}))


def watched(sweep: Path, script: list[float], **options: Any) -> tuple[int, str | None]:
    """How many epochs of ``script`` were watched before the run was given up, and why; without a trainer."""
    callback = MedianPruning("val/auroc", **options)
    trainer = SimpleNamespace(
        max_epochs=100,
        should_stop=False,
        is_global_zero=True,
        default_root_dir=str(sweep / "own"),
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    for epoch, value in enumerate(script):
        trainer.current_epoch = epoch
        trainer.callback_metrics = {"val/auroc": torch.tensor(value, dtype=torch.float64)}
        callback.on_train_epoch_end(trainer, Scripted())  # type: ignore[arg-type]
        if trainer.should_stop:
            return epoch + 1, callback.pruned
    return len(script), callback.pruned


def test_a_run_below_the_median_of_the_finished_ones_is_given_up(tmp_path: Path) -> None:
    for number, value in enumerate((0.90, 0.94, 0.95, 0.96, 0.99)):
        sibling(tmp_path, f"run{number}", *[value] * 9)
    epochs, why = watched(tmp_path, [0.91] * 9, warmup_epochs=6)
    assert epochs == 7
    assert why == "epoch 7: best val/auroc 0.91 is under the median 0.95 of 5 finished runs"


def test_a_run_at_the_median_goes_on(tmp_path: Path) -> None:
    for number, value in enumerate((0.8, 0.9, 1.0)):
        sibling(tmp_path, f"run{number}", *[value] * 9)
    assert watched(tmp_path, [0.9] * 9, startup_runs=3, warmup_epochs=0) == (9, None)


def test_the_best_value_so_far_counts_not_the_last(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.9, 0.5, 0.5)
    assert watched(tmp_path, [0.95, 0.1, 0.1], startup_runs=1, warmup_epochs=0) == (3, None)
    epochs, why = watched(tmp_path, [0.8, 0.8, 0.8], startup_runs=1, warmup_epochs=1)
    assert (epochs, why) == (2, "epoch 2: best val/auroc 0.8 is under the median 0.9 of 1 finished runs")


def test_a_sibling_counts_by_what_it_had_reached_at_the_same_epoch(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.5, 0.5, 0.99, 0.99)
    assert watched(tmp_path, [0.6, 0.6, 0.6, 0.6], startup_runs=1, warmup_epochs=0)[0] == 3


def test_an_even_number_of_siblings_has_the_mean_of_the_middle_two_as_median(tmp_path: Path) -> None:
    for number, value in enumerate((0.2, 0.4, 0.8, 0.9)):
        sibling(tmp_path, f"run{number}", *[value] * 3)
    options: dict[str, Any] = {"startup_runs": 4, "warmup_epochs": 0}
    assert watched(tmp_path, [0.61] * 3, **options)[1] is None
    assert "the median 0.6 of 4" in str(watched(tmp_path, [0.59] * 3, **options)[1])


def test_less_is_better_where_the_mode_says_so(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.3, 0.2)
    options: dict[str, Any] = {"mode": "min", "startup_runs": 1, "warmup_epochs": 0}
    assert watched(tmp_path, [0.3, 0.2], **options) == (2, None)
    assert watched(tmp_path, [0.2, 0.25], **options) == (2, None)
    reason = "epoch 2: best val/auroc 0.25 is over the median 0.2 of 1 finished runs"
    assert watched(tmp_path, [0.3, 0.25], **options) == (2, reason)


def test_no_run_is_given_up_before_enough_have_finished(tmp_path: Path) -> None:
    for number in range(4):
        sibling(tmp_path, f"run{number}", *[0.9] * 9)
    sibling(tmp_path, "run4", *[0.9] * 9, status="running")
    sibling(tmp_path, "run5", *[0.9] * 9, status="failed")
    sibling(tmp_path, "run6", *[0.9] * 9, status="interrupted")
    assert watched(tmp_path, [0.1] * 9) == (9, None)
    sibling(tmp_path, "run7", *[0.9] * 9, status="pruned")
    assert watched(tmp_path, [0.1] * 9)[0] == 6


@pytest.mark.parametrize(("warmup", "interval", "epoch"), [(0, 1, 1), (3, 1, 4), (0, 4, 1), (2, 3, 3)])
def test_the_first_comparison_is_in_the_epoch_after_the_warm_up(
    warmup: int, interval: int, epoch: int, tmp_path: Path
) -> None:
    sibling(tmp_path, "run0", *[0.9] * 9)
    options: dict[str, Any] = {"startup_runs": 1, "warmup_epochs": warmup, "interval_epochs": interval}
    assert watched(tmp_path, [0.1] * 9, **options)[0] == epoch


def test_comparisons_are_the_interval_apart(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.1, 0.9, 0.9, 0.9, 0.9)
    options: dict[str, Any] = {"startup_runs": 1, "warmup_epochs": 0, "interval_epochs": 3}
    assert watched(tmp_path, [0.2] * 5, **options)[0] == 4  # 1: ahead; 2, 3: not compared


def test_a_done_run_that_was_shorter_takes_part_with_its_best_and_a_pruned_one_does_not(tmp_path: Path) -> None:
    sibling(tmp_path, "stopped", 0.9, 0.8)
    sibling(tmp_path, "pruned", 0.1, 0.1, status="pruned")
    epochs, why = watched(tmp_path, [0.5] * 3, startup_runs=1, warmup_epochs=2)
    assert (epochs, why) == (3, "epoch 3: best val/auroc 0.5 is under the median 0.9 of 1 finished runs")


def test_siblings_without_the_value_are_no_siblings(tmp_path: Path) -> None:
    sibling(tmp_path, "other", 0.9, 0.9, monitor="val/loss")
    sibling(tmp_path, "empty")
    sibling(tmp_path, "undefined", None, None)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text('{"status": "do')
    assert watched(tmp_path, [0.1] * 2, startup_runs=1, warmup_epochs=0) == (2, None)


def test_a_run_without_a_number_yet_goes_on(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.9, 0.9)
    assert watched(tmp_path, [math.nan] * 2, startup_runs=1, warmup_epochs=0) == (2, None)


def test_further_seeds_of_the_chosen_configuration_are_neither_given_up_nor_compared_with(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", *[0.9] * 3)
    sibling(tmp_path, "final", *[0.99] * 3)
    listed = {"final_jobs": [{"directory": "final", "overrides": []}]}
    (tmp_path / "sweep.json").write_text(json.dumps(listed))
    options: dict[str, Any] = {"startup_runs": 1, "warmup_epochs": 0}
    assert watched(tmp_path, [0.95] * 3, **options) == (3, None)
    assert watched(tmp_path, [0.5] * 3, **options)[0] == 1
    listed["final_jobs"].append({"directory": "own", "overrides": []})
    (tmp_path / "sweep.json").write_text(json.dumps(listed))
    assert watched(tmp_path, [0.5] * 3, **options) == (3, None)


def test_an_epoch_is_not_compared_where_early_stopping_ended_the_run(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.9)
    callback = MedianPruning("val/auroc", startup_runs=1, warmup_epochs=0)
    trainer = SimpleNamespace(
        max_epochs=9,
        current_epoch=0,
        should_stop=True,
        is_global_zero=True,
        default_root_dir=str(tmp_path / "own"),
        callback_metrics={"val/auroc": torch.tensor(0.1)},
        strategy=SimpleNamespace(broadcast=lambda value: value),
    )
    callback.on_train_epoch_end(trainer, Scripted())  # type: ignore[arg-type]
    assert callback.pruned is None


def test_only_the_first_of_several_processes_reads_and_the_others_do_as_it_says(tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.1)
    callback = MedianPruning("val/auroc", startup_runs=1, warmup_epochs=0)
    given: list[str | None] = []

    def broadcast(value: str | None) -> str:
        given.append(value)
        return "epoch 1: the first process said so"

    trainer = SimpleNamespace(
        max_epochs=9,
        current_epoch=0,
        should_stop=False,
        is_global_zero=False,
        default_root_dir=str(tmp_path / "nowhere" / "own"),
        callback_metrics={"val/auroc": torch.tensor(0.9)},
        strategy=SimpleNamespace(broadcast=broadcast),
    )
    callback.on_train_epoch_end(trainer, Scripted())  # type: ignore[arg-type]
    assert (given, trainer.should_stop) == ([None], True)
    assert callback.pruned == "epoch 1: the first process said so"


# --- real trainings --------------------------------------------------------------------------------------------------


def train(
    task: Scripted, data: LabelledData, directory: Path, *callbacks: Any, epochs: int, resume: bool = False
) -> Any:
    settings = TrainerSettings(gpus=0, progress=False, limit_batches=1)
    return fit(
        task,
        data,
        directory=directory,
        max_epochs=epochs,
        settings=settings,
        monitor="val/auroc",
        callbacks=callbacks,
        log_to="none",
        resume=resume,
    )


def eager(**changes: Any) -> MedianPruning:
    return MedianPruning("val/auroc", **{"startup_runs": 1, "warmup_epochs": 1, **changes})


def test_training_ends_with_the_epoch_in_which_it_was_given_up(tiny_chest: Factory, tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.9, 0.9, 0.9, 0.9)
    pruning = eager()
    fitted = train(Scripted(0.95, 0.5, 0.5, 0.5), tiny_chest(train=16), tmp_path / "ahead", pruning, epochs=4)
    assert (fitted.epochs, pruning.pruned) == (4, None)
    pruning = eager()
    fitted = train(Scripted(0.5, 0.6, 0.7, 0.8), tiny_chest(train=16), tmp_path / "behind", pruning, epochs=4)
    assert fitted.epochs == 2
    assert str(pruning.pruned).startswith("epoch 2: best val/auroc 0.6 is under")


def test_a_run_that_came_to_its_last_epoch_is_not_given_up_any_more(tiny_chest: Factory, tmp_path: Path) -> None:
    sibling(tmp_path, "run0", 0.9, 0.9)
    pruning = eager()
    train(Scripted(0.5, 0.5), tiny_chest(train=16), tmp_path / "own", pruning, epochs=2)
    assert pruning.pruned is None


def test_a_resumed_run_remembers_its_best_value(tiny_chest: Factory, tmp_path: Path) -> None:
    sibling(tmp_path, "run0", *[0.9] * 6)
    train(Scripted(0.95, 0.5), tiny_chest(train=16), tmp_path / "own", eager(), epochs=2)
    pruning = eager()
    task = Scripted(0.0, 0.0, 0.5, 0.5)
    fitted = train(task, tiny_chest(train=16), tmp_path / "own", pruning, epochs=4, resume=True)
    assert (fitted.epochs, pruning.best, pruning.pruned) == (4, pytest.approx(0.95), None)


def test_a_run_interrupted_after_it_was_given_up_is_not_trained_any_further(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    sibling(tmp_path, "run0", *[0.9] * 6)
    task = Scripted(*[0.5] * 6)
    train(task, tiny_chest(train=16), tmp_path / "own", eager(), epochs=6)
    pruning = eager()
    fitted = train(Scripted(*[0.5] * 6), tiny_chest(train=16), tmp_path / "own", pruning, epochs=6, resume=True)
    assert fitted.epochs == 2
    assert str(pruning.pruned).startswith("epoch 2: ")


def test_what_a_checkpoint_keeps_can_be_read_as_plain_values(tiny_chest: Factory, tmp_path: Path) -> None:
    train(Scripted(0.5), tiny_chest(train=16), tmp_path / "own", eager(), epochs=1)
    kept = read_checkpoint(tmp_path / "own" / "checkpoints" / "last.ckpt")["callbacks"][eager().state_key]
    assert kept == {"best": 0.5, "pruned": None}


def test_a_name_that_is_not_logged_is_refused_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    pruning = MedianPruning("val/aurocc")
    with pytest.raises(ConfigError, match=r"callbacks\.pruning\.monitor=val/aurocc: .* Did you mean 'val/auroc'\?"):
        train(Scripted(0.5), tiny_chest(train=16), tmp_path / "own", pruning, epochs=1)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_where_there_is_nothing_to_watch_nothing_is_pruned() -> None:
    assert median_pruning(None) is None
    assert early_stopping(None) is None  # as early stopping does


@pytest.mark.parametrize("wrong", [{"startup_runs": 0}, {"warmup_epochs": -1}, {"interval_epochs": 0}, {"mode": "up"}])
def test_numbers_out_of_range_are_refused_before_training(wrong: dict[str, Any]) -> None:
    node = {"_target_": "medassay.sweeps.pruning.median_pruning", "monitor": "val/auroc"}
    configuration.check(node, "callbacks.pruning")
    with pytest.raises(ConfigError, match=f"callbacks.pruning.{next(iter(wrong))}"):
        configuration.check({**node, **wrong}, "callbacks.pruning")


def test_a_value_that_is_undefined_in_every_epoch_gives_no_run_up(tmp_path: Path) -> None:
    for number, value in enumerate((0.90, None, 0.95)):
        sibling(tmp_path, f"run{number}", *[value] * 9)
    assert watched(tmp_path, [math.nan] * 9, warmup_epochs=0, startup_runs=2) == (9, None)
