"""The lean loop over an epoch's batches beside Lightning's own: the same weights, records and hooks."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from medassay.core.errors import Interrupted
from medassay.data.augment import BatchAugment
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.cgan import CGAN
from medassay.nets.cvae import CVAE
from medassay.nets.diffusion import DenoisingUNet
from medassay.tasks.classification import Classification
from medassay.tasks.conditional_diffusion import ConditionalDiffusion
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.tasks.conditional_vae import ConditionalVAE
from medassay.tasks.optim import adam, cosine, sgd
from medassay.training.checkpoints import read_checkpoint
from medassay.training.epoch_loop import LeanEpochLoop
from medassay.training.fit import Fit, fit
from medassay.training.settings import TrainerSettings
from tests.helpers import list_differences

Factory = Callable[..., LabelledData]

PER_BATCH = [
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
]


def classifier(**options: Any) -> Classification:
    return Classification(BlockCNN(1, 2, width=2, dropout=0.2), 2, **options)


MAKERS: dict[str, Callable[[], LightningModule]] = {
    "classifier": lambda: classifier(),
    "averaged, with a schedule": lambda: classifier(ema_decay=0.9, scheduler=cosine(warmup_steps=3)),
    "gradient descent": lambda: classifier(optimizer=sgd(weight_decay=1e-3)),
    "gan": lambda: ConditionalGAN(CGAN(1, 2, width=2, latent=4)),
    "vae": lambda: ConditionalVAE(CVAE(1, 2, latent=4), optimizer=adam(), kl_annealing_epochs=2),
    "diffusion": lambda: ConditionalDiffusion(DenoisingUNet(1, 2, width=2), scheduler=cosine(warmup_steps=3)),
}


def train(
    loop: Any,
    make: Callable[[], LightningModule],
    data: LabelledData,
    directory: Path,
    *callbacks: Callback,
    **settings: Any,
) -> tuple[LightningModule, Fit]:
    torch.manual_seed(0)
    task = make()
    options = replace(TrainerSettings(gpus=0, loop=loop), **settings)
    fitted = fit(task, data, directory=directory, max_epochs=2, settings=options, callbacks=callbacks, log_to="csv")
    return task, fitted


def compare(first: Path, second: Path) -> list[str]:
    """What differs between two trainings: last checkpoints with all counters, chosen weights, history, logged values."""
    left = [
        where
        for name in ("last.ckpt", "best.ckpt")
        for where in list_differences(*(read_checkpoint(d / "checkpoints" / name) for d in (first, second)), name)
    ]
    files = ("history.json", "csv/metrics.csv")
    return left + [name for name in files if (first / name).read_text() != (second / name).read_text()]


@pytest.mark.parametrize(
    ("name", "precision"),
    [(name, "32-true") for name in MAKERS]
    + [
        pytest.param(name, "bf16-mixed", marks=[pytest.mark.long] * (name not in ("averaged, with a schedule", "gan")))
        for name in MAKERS
    ],
)
def test_both_loops_leave_the_same_files_bit_for_bit(
    name: str, precision: Any, tiny_chest: Factory, tmp_path: Path
) -> None:
    if (name, precision) == ("vae", "bf16-mixed") and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this CPU only emulates bfloat16, for a minute here")
    data = tiny_chest(augment=BatchAugment(rotation=10), batch_size=16)
    for loop in ("lean", "lightning"):
        train(loop, MAKERS[name], data, tmp_path / loop, precision=precision)
    assert compare(tmp_path / "lean", tmp_path / "lightning") == []


class Recorder(Callback):
    """Writes down which hook was called with what, and logs in each step."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []


def record(name: str) -> Callable[..., None]:
    def hook(self: Recorder, trainer: Trainer, task: LightningModule, *inputs: Any) -> None:
        shown = [
            float(i.detach()) if isinstance(i, Tensor) else i if isinstance(i, int) else type(i).__name__
            for i in inputs
        ]
        self.calls.append((name, trainer.global_step, trainer.current_epoch, task._current_fx_name, *shown))
        if name == "on_train_batch_end":
            task.log("own/step", float(trainer.global_step), on_step=True, on_epoch=True)

    return hook


for hook_name in [*PER_BATCH, "on_train_epoch_start", "on_validation_batch_end", "on_train_epoch_end"]:
    setattr(Recorder, hook_name, record(hook_name))


class OwnTask(Classification):
    """A task that overrides what Lightning calls of it within a step."""

    def __init__(self) -> None:
        super().__init__(BlockCNN(1, 2, width=2), 2)
        self.calls: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": super().training_step(batch, batch_idx), "seen": len(batch[0])}

    def on_before_backward(self, loss: Tensor) -> None:
        self.calls.append(f"on_before_backward {self._current_fx_name}")

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.calls.append(f"backward {self._current_fx_name}")
        super().backward(loss)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        self.calls.append(f"zero_grad {epoch} {batch_idx} {type(optimizer).__name__}")
        super().optimizer_zero_grad(epoch, batch_idx, optimizer)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.calls.append(f"end {float(outputs['loss']):.6f} {outputs['seen']}")
        super().on_train_batch_end(outputs, batch, batch_idx)


def test_both_loops_call_the_same_hooks_with_the_same_values(tiny_chest: Factory, tmp_path: Path) -> None:
    recorders, tasks = {}, {}
    for loop in ("lean", "lightning"):
        recorders[loop] = Recorder()
        tasks[loop], _ = train(loop, OwnTask, tiny_chest(batch_size=16), tmp_path / loop, recorders[loop])
    assert {call[0] for call in recorders["lean"].calls} > set(PER_BATCH)
    assert recorders["lean"].calls == recorders["lightning"].calls
    assert tasks["lean"].calls == tasks["lightning"].calls
    assert len(tasks["lean"].calls) > 0
    assert compare(tmp_path / "lean", tmp_path / "lightning") == []


class StopAt(Callback):
    """Tells the training to stop after the second batch of the second epoch."""

    def on_train_batch_end(self, trainer: Trainer, *inputs: Any) -> None:
        trainer.should_stop = trainer.current_epoch == 1 and inputs[-1] == 1


@pytest.mark.parametrize("name", ["classifier", "gan"])
def test_both_loops_stop_in_the_middle_of_an_epoch_at_the_same_step(
    name: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    for loop in ("lean", "lightning"):
        train(loop, MAKERS[name], tiny_chest(batch_size=16), tmp_path / loop, StopAt())
    rows = json.loads((tmp_path / "lean" / "history.json").read_text())["rows"]
    assert len(rows) == 2
    assert all(math.isfinite(row[key]) for row in rows for key in row if key.startswith("train/"))
    assert len({len(row) for row in rows}) == 1
    assert compare(tmp_path / "lean", tmp_path / "lightning") == []


class BreakOff(Classification):
    """Ends the first epoch by hand after two batches, as Lightning's hook allows."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        return -1 if self.current_epoch == 0 and batch_idx == 2 else None


def test_an_epoch_broken_off_by_hand_leaves_nothing_to_the_next_ones_mean(tiny_chest: Factory, tmp_path: Path) -> None:
    for loop in ("lean", "lightning"):
        train(loop, lambda: BreakOff(BlockCNN(1, 2, width=2), 2), tiny_chest(), tmp_path / loop, Losses(losses := []))
        rows = json.loads((tmp_path / loop / "history.json").read_text())["rows"]
        assert len(losses) == 8
        assert rows[-1]["train/loss"] == pytest.approx(sum(losses[2:]) / 6, rel=1e-6)
    assert compare(tmp_path / "lean", tmp_path / "lightning") == []


class Losses(Callback):
    def __init__(self, losses: list[float]) -> None:
        self.losses = losses

    def on_train_batch_end(
        self, trainer: Trainer, task: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))


class Terminate(Callback):
    """Sends this process SIGTERM in the second epoch's third batch."""

    def on_before_backward(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 8:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("loop", ["lean", "lightning"])
def test_a_termination_is_heeded_at_the_next_batch(loop: str, tiny_chest: Factory, tmp_path: Path) -> None:
    losses: list[float] = []
    with pytest.raises((Interrupted, KeyboardInterrupt)):
        train(loop, MAKERS["classifier"], tiny_chest(), tmp_path, Terminate(), Losses(losses))
    assert len(losses) in (8, 9)
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["epoch"] == 0


class Loops(Callback):
    def on_train_start(self, trainer: Trainer, task: LightningModule) -> None:
        self.loop = trainer.fit_loop.epoch_loop
        self.lean: list[bool] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.lean.append(isinstance(self.loop, LeanEpochLoop) and self.loop.is_short)


@pytest.mark.parametrize(
    ("settings", "short"),
    [
        ({}, True),
        ({"precision": "bf16-mixed"}, True),
        ({"limit_batches": 3}, True),
        ({"loop": "lightning"}, False),
        ({"gradient_clip": 1.0}, False),
        ({"accumulate": 2}, False),
        ({"precision": "64-true"}, False),
        ({"profiler": "simple"}, False),
    ],
    ids=str,
)
def test_the_short_way_is_taken_where_a_training_is_plain(
    settings: dict[str, Any], short: bool, tiny_chest: Factory, tmp_path: Path
) -> None:
    train(settings.pop("loop", "lean"), MAKERS["classifier"], tiny_chest(), tmp_path, seen := Loops(), **settings)
    assert seen.lean
    assert set(seen.lean) == {short}
