"""The classification task: its weights, loss and averages against plain numpy, its metrics against scikit-learn."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from medassay.cli.train import train_run
from medassay.core.errors import DataError, TrainingError
from medassay.data.modules import LabelledData
from medassay.data.sources import memory_data
from medassay.metrics.scores import score_classification
from medassay.nets.block_cnn import BlockCNN
from medassay.runs.load import open_run
from medassay.tasks.classification import Classification, compute_balanced_weights
from medassay.tasks.ema import EMA
from medassay.tasks.optim import adam
from medassay.tasks.predictions import predict
from medassay.tasks.summary import count_parameters, summarise_model
from medassay.training.callbacks import early_stopping
from medassay.training.checkpoints import load_weights
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)


def numpy_cross_entropy(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray, smoothing: float = 0.0) -> float:
    """Sum of weighted negative log-likelihoods over the sum of weights; the smoothed part is spread over all classes."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    w = weights[labels]
    hit = -(w * log_p[np.arange(len(labels)), labels]).sum() / w.sum()
    spread = -(log_p * weights).sum() / logits.shape[1] / w.sum()
    return (1 - smoothing) * hit + smoothing * spread


# --- weights ---------------------------------------------------------------------------------------------------------


def test_balanced_weights_of_pneumoniamnist_are_those_computed_by_hand() -> None:
    # 4708 images, 2 classes: 4708 / (2 * 1214) and 4708 / (2 * 3494)
    weights = compute_balanced_weights(torch.tensor([1214, 3494]))
    torch.testing.assert_close(weights, torch.tensor([1.9390445, 0.6737264]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("counts", [[10, 10], [1, 99], [3, 5, 7, 11, 13, 17, 19, 23]])
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=y)
    np.testing.assert_allclose(compute_balanced_weights(torch.tensor(counts)).numpy(), expected, rtol=1e-6)


def test_balanced_weights_leave_every_class_with_the_same_total() -> None:
    counts = torch.tensor([4, 40, 400])
    totals = compute_balanced_weights(counts) * counts
    torch.testing.assert_close(totals, torch.full((3,), 444 / 3))


def test_a_class_without_images_weighs_nothing() -> None:
    weights = compute_balanced_weights(torch.tensor([6, 0, 2]))
    torch.testing.assert_close(weights, torch.tensor([8 / 18, 0.0, 8 / 6]))


# --- loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_weighted_cross_entropy_of_plain_numpy(smoothing: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (12, 3)), rng.integers(0, 3, 12)
    weights = np.array([0.5, 1.0, 4.0])
    task = Classification(BlockCNN(1, 3, width=2), 3, label_smoothing=smoothing)
    task.class_weights = torch.tensor(weights, dtype=torch.float32)
    found = task.loss(torch.tensor(logits, dtype=torch.float32), torch.tensor(labels))
    assert float(found) == pytest.approx(numpy_cross_entropy(logits, labels, weights, smoothing), rel=1e-5)


@pytest.mark.parametrize(("choice", "expected"), [("balanced", [9 / 10, 9 / 8]), ("none", [1.0, 1.0])])
def test_training_takes_its_class_weights_from_the_training_images(
    choice: str, expected: list[float], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = Classification(BlockCNN(1, 2, width=2), 2, class_weights=choice)
    fit(task, tiny_chest(train=9), directory=tmp_path, max_epochs=1, settings=CPU, log_to="none")  # 5 and 4 images
    torch.testing.assert_close(task.class_weights, torch.tensor(expected))


def test_the_epochs_training_loss_is_the_mean_over_images_of_the_batches_losses(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    data = tiny_chest(train=40, batch_size=16)  # 16, 16, 8
    task = Classification(BlockCNN(1, 2, width=2, normalisation="none"), 2, optimizer=frozen, class_weights="none")
    values = fit(task, data, directory=tmp_path, max_epochs=1, settings=CPU, log_to="none").values
    logits, labels = predictions(task, data.splits.train.images), data.splits.train.labels.numpy()
    assert values["train/loss"] == pytest.approx(numpy_cross_entropy(logits, labels, np.ones(2)), rel=1e-5)


def frozen(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)  # type: ignore[arg-type]


@torch.no_grad()
def predictions(task: Classification, images: Tensor) -> np.ndarray:
    return task.eval()(images.float() / 255).numpy()


# --- learning and its metrics ----------------------------------------------------------------------------------------


def test_32_phantoms_are_learnt_by_heart_in_a_few_epochs(tiny_blood: Factory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = tiny_blood(train=32, batch_size=8)
    task = Classification(BlockCNN(3, 8, width=8), 8, optimizer=adam(lr=3e-3))
    fit(task, data, directory=tmp_path, max_epochs=40, settings=CPU, log_to="none")
    labels = data.splits.train.labels.numpy()
    assert accuracy_score(labels, predictions(task, data.splits.train.images).argmax(1)) == 1.0


@pytest.mark.parametrize("kind", ["chest", "blood"])
def test_logged_validation_metrics_are_scikit_learns_on_the_same_predictions(
    kind: str, tiny_chest: Factory, tiny_blood: Factory, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    data = {"chest": tiny_chest, "blood": tiny_blood}[kind](val=50, batch_size=16)  # batches of 16, 16, 16, 2
    classes = data.num_classes
    task = Classification(BlockCNN(data.channels, classes, width=4), classes)
    values = fit(task, data, directory=tmp_path, max_epochs=2, settings=CPU, log_to="none").values
    logits, labels = predictions(task, data.splits.val.images), data.splits.val.labels.numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    auroc = np.mean([roc_auc_score(labels == k, p[:, k]) for k in range(classes)])
    assert values["val/accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert values["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    assert values["val/auroc"] == pytest.approx(auroc, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 32])
def test_the_logged_validation_loss_is_the_weighted_loss_of_all_images_at_once(
    batch_size: int, tiny_chest: Factory, tmp_path: Path
) -> None:
    """And not a mean over batches: within a batch of one class the weights would cancel."""
    torch.manual_seed(0)
    data = tiny_chest(train=41, val=30)
    uneven = data.splits.train[torch.cat([torch.arange(41), torch.nonzero(data.splits.train.labels)[:, 0]])]
    order = data.splits.val.labels.argsort(stable=True)  # as class folders lie
    splits = data.splits._replace(train=uneven, val=data.splits.val[order])
    data = memory_data("sorted", data.classes, splits, batch_size=batch_size)
    task = Classification(BlockCNN(1, 2, width=2), 2, optimizer=frozen)
    values = fit(task, data, directory=tmp_path, max_epochs=1, settings=CPU, log_to="none").values
    logits, labels = predictions(task, data.splits.val.images), data.splits.val.labels.numpy()
    counts = np.bincount(data.splits.train.labels.numpy())
    assert counts[1] > 1.5 * counts[0]
    assert values["val/loss"] == pytest.approx(numpy_cross_entropy(logits, labels, counts.sum() / 2 / counts), rel=1e-4)


def test_metrics_of_one_epoch_do_not_leak_into_the_next(tiny_chest: Factory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = tiny_chest()
    task = Classification(BlockCNN(1, 2, width=2), 2, optimizer=adam(lr=1e-2))
    values = fit(task, data, directory=tmp_path, max_epochs=5, settings=CPU, log_to="none").values
    found = predictions(task, data.splits.val.images).argmax(1)
    assert values["val/accuracy"] == pytest.approx(accuracy_score(data.splits.val.labels.numpy(), found))


# --- classes without images ------------------------------------------------------------------------------------------


def data_with(
    tiny: Factory, train: list[int] | None = None, val: list[int] | None = None, **options: Any
) -> LabelledData:
    """Phantoms of the factory, only those of the classes named for a split."""
    data = tiny(**options)
    kept = {"train": train, "val": val}
    splits = data.splits
    for name, labels in kept.items():
        if labels is not None:
            split = getattr(splits, name)
            splits = splits._replace(**{name: split[torch.isin(split.labels, torch.tensor(labels))]})
    return memory_data(data.name, data.classes, splits, batch_size=data.batch_size)


def test_means_are_over_the_classes_that_validation_images_have(tiny_blood: Factory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    present = [0, 1, 3, 4, 5, 7]
    data = data_with(tiny_blood, val=present)
    task = Classification(BlockCNN(3, 8, width=4), 8)
    values = fit(task, data, directory=tmp_path, max_epochs=2, settings=CPU, log_to="none").values
    logits, labels = predictions(task, data.splits.val.images), data.splits.val.labels.numpy()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    decided = logits.argmax(1)
    assert set(decided) - set(present)  # a class that is missing is predicted: it must not count as one without hits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn says that a predicted class is missing
        assert values["val/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, decided))
    auroc = np.mean([roc_auc_score(labels == k, p[:, k]) for k in present])
    assert values["val/auroc"] == pytest.approx(auroc, abs=1e-6)


def test_a_ranking_of_images_of_one_class_is_undefined_and_not_0(tiny_chest: Factory, tmp_path: Path) -> None:
    data = data_with(tiny_chest, val=[0])
    task = Classification(BlockCNN(1, 2, width=2), 2)
    fitted = fit(
        task, data, directory=tmp_path, max_epochs=2, settings=CPU, log_to="none", monitor="val/loss", mode="min"
    )
    assert math.isnan(fitted.values["val/auroc"])
    assert math.isfinite(fitted.values["val/loss"])


def test_a_monitor_that_the_validation_images_leave_undefined_is_refused_before_training(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    data = data_with(tiny_chest, val=[0])
    task = Classification(BlockCNN(1, 2, width=2), 2)
    with pytest.raises(DataError, match=r"lack pneumonia.*two classes.*recipe\.monitor=val/loss recipe\.mode=min"):
        fit(task, data, directory=tmp_path, max_epochs=1, settings=CPU, log_to="none", monitor="val/auroc")
    assert not any(tmp_path.iterdir())


def test_where_a_cut_short_epoch_leaves_the_monitor_undefined_the_last_epoch_is_kept_and_nothing_stops(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_with(tiny_chest, batch_size=8)
    order = data.splits.val.labels.argsort(stable=True)
    data = memory_data("sorted", data.classes, data.splits._replace(val=data.splits.val[order]), batch_size=8)
    stop = early_stopping("val/auroc", patience=1)
    assert stop is not None
    settings = TrainerSettings(gpus=0, limit_batches=1)
    task = Classification(BlockCNN(1, 2, width=2), 2)
    fitted = fit(
        task,
        data,
        directory=tmp_path,
        max_epochs=4,
        settings=settings,
        log_to="none",
        monitor="val/auroc",
        callbacks=[stop],
    )
    assert (fitted.epochs, fitted.best_epoch) == (4, 4)
    assert [m for m in caplog.messages if "limit_batches=1" in m and "lack pneumonia" in m]


# --- losses that are no numbers --------------------------------------------------------------------------------------


class Poison(Callback):
    """Puts NaN into a weight at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            pl_module.net.head.weight.data[0, 0] = float("nan")  # type: ignore[index,union-attr]


def test_a_loss_that_is_no_number_stops_in_one_line_and_the_last_good_checkpoint_stays(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = Classification(BlockCNN(1, 2, width=2), 2)
    with pytest.raises(
        TrainingError, match=r"loss is not finite in epoch 2: try a lower model\.optimizer\.lr"
    ) as caught:
        fit(task, tiny_chest(), directory=tmp_path, max_epochs=3, settings=CPU, callbacks=[Poison(1)], log_to="none")
    assert "\n" not in str(caught.value)
    for name in ("last.ckpt", "best.ckpt"):
        kept = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
        assert kept["epoch"] == 0
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_an_absurd_learning_rate_stops_instead_of_training_on(tiny_chest: Factory, tmp_path: Path) -> None:
    task = Classification(BlockCNN(1, 2, width=2, normalisation="none"), 2, optimizer=adam(lr=1e20))
    with pytest.raises(TrainingError, match="is not finite in epoch"):
        fit(task, tiny_chest(), directory=tmp_path, max_epochs=3, settings=CPU, log_to="none")


# --- averaged weights ------------------------------------------------------------------------------------------------


def averaging(decay: float = 0.9, *, seed: int = 0, dropout: float = 0.0) -> Classification:
    torch.manual_seed(seed)
    return Classification(BlockCNN(1, 2, width=2, dropout=dropout), 2, optimizer=adam(lr=1e-2), ema_decay=decay)


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two state dictionaries are equal bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        for name, value in first.items()
    )


class Watch(Callback):
    """Remembers the net at the start, after every optimizer step seen from a batch's end, and at every validation."""

    def __init__(self) -> None:
        self.after_batches: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = copied(pl_module.net)  # type: ignore[arg-type]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        self.after_batches.append(copied(pl_module.net))  # type: ignore[arg-type]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated.append(copied(pl_module.ema.net))  # type: ignore[union-attr,arg-type]


def numpy_average(start: dict[str, Tensor], nets: list[dict[str, Tensor]], decay: float) -> dict[str, np.ndarray]:
    """Every floating-point entry averaged with the warmed-up decay; the others are the last net's."""
    average = {name: value.numpy().astype(np.float64) for name, value in start.items()}
    for t, net in enumerate(nets):
        kept = min(decay, (1 + t) / (10 + t))
        for name, value in net.items():
            old = average[name]
            average[name] = kept * old + (1 - kept) * value.numpy() if value.is_floating_point() else value.numpy()
    return average


def test_without_averages_nothing_is_added() -> None:
    task = averaging(0.0)
    assert {name.partition(".")[0] for name in task.state_dict()} == {"net", "class_weights"}
    assert not any(isinstance(module, EMA) for module in task.modules())


def test_averages_do_not_change_what_is_trained(tiny_chest: Factory, tmp_path: Path) -> None:
    found = []
    for name, decay in (("plain", 0.0), ("averaged", 0.9)):
        watch = Watch()
        watch.on_validation_end = lambda *_: None  # type: ignore[assignment,method-assign]  # there is no average
        task = averaging(decay, dropout=0.3)
        fit(task, tiny_chest(train=32), directory=tmp_path / name, max_epochs=2, settings=CPU, callbacks=[watch])
        found.append(watch.after_batches[-1])
    assert same(*found)


def test_weights_and_running_statistics_are_averaged_as_plain_numpy_averages_them(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    watch = Watch()
    data = tiny_chest(train=41)  # 3 batches
    fit(averaging(0.3), data, directory=tmp_path, max_epochs=2, settings=CPU, callbacks=[watch], log_to="none")
    expected = numpy_average(watch.start, watch.after_batches, 0.3)
    assert any("running_var" in name for name in expected)
    for name, value in watch.validated[-1].items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_batches_that_share_an_optimizer_step_share_an_average(tiny_chest: Factory, tmp_path: Path) -> None:
    task = averaging()
    settings = TrainerSettings(gpus=0, accumulate=2)
    fit(task, tiny_chest(train=80), directory=tmp_path, max_epochs=2, settings=settings, log_to="none")
    assert task.ema is not None
    assert task.ema.updates == 6  # 5 batches: steps after the second, the fourth and the epoch's last


def test_the_averaged_net_is_what_is_validated_chosen_and_left_in_the_task(tiny_chest: Factory, tmp_path: Path) -> None:
    watch, data, task = Watch(), tiny_chest(val=50), averaging()
    fitted = fit(
        task,
        data,
        directory=tmp_path,
        max_epochs=4,
        settings=CPU,
        monitor="val/loss",
        mode="min",
        callbacks=[watch],
        log_to="none",
    )
    assert fitted.best_epoch is not None
    assert same(copied(task.net), watch.validated[fitted.best_epoch - 1])
    logits, labels = predictions(task, data.splits.val.images), data.splits.val.labels.numpy()
    expected = numpy_cross_entropy(logits, labels, task.class_weights.numpy().astype(np.float64))
    assert fitted.values["val/loss"] == pytest.approx(expected, rel=1e-4)


def test_the_net_alone_predicts_what_the_task_predicts_after_training(tiny_chest: Factory, tmp_path: Path) -> None:
    data, task = tiny_chest(), averaging()
    fit(task, data, directory=tmp_path, max_epochs=2, settings=CPU, log_to="none")
    images = data.splits.test.images.float() / 255
    assert torch.equal(task.eval().net(images), task(images))


def test_the_best_checkpoint_gives_another_task_the_same_predictions(tiny_chest: Factory, tmp_path: Path) -> None:
    data, task, other = tiny_chest(), averaging(), averaging(seed=1)
    fitted = fit(task, data, directory=tmp_path, max_epochs=2, settings=CPU, monitor="val/auroc", log_to="none")
    load_weights(other, fitted.best)
    found, expected = (predict(t, data.splits.test, torch.device("cpu")).probabilities for t in (other, task))
    assert torch.equal(found, expected)


def test_the_last_checkpoint_holds_the_trained_net_beside_the_average(tiny_chest: Factory, tmp_path: Path) -> None:
    watch = Watch()
    fitted = fit(
        averaging(), tiny_chest(), directory=tmp_path, max_epochs=2, settings=CPU, callbacks=[watch], log_to="none"
    )
    state = torch.load(fitted.last, weights_only=True)["state_dict"]
    assert same({name: state[f"net.{name}"] for name in watch.start}, watch.after_batches[-1])
    assert same({name: state[f"ema.net.{name}"] for name in watch.start}, watch.validated[-1])


def test_evaluating_the_run_again_gives_the_numbers_that_training_left(tiny_chest: Factory, tmp_path: Path) -> None:
    small = ["data=chest_phantom", "data.train=32", "data.val=32", "data.test=32", "data.batch_size=8"]
    train_run(
        *small, "trainer.gpus=0", "trainer.max_epochs=2", "logger=none", "model.ema_decay=0.5", directory=tmp_path
    )
    left = json.loads((tmp_path / "metrics.json").read_text())
    run = open_run(tmp_path, {})
    predictions = predict(run.task, run.data.splits.test, torch.device("cpu"))
    found = score_classification(predictions.probabilities, predictions.labels).to_json()
    assert found == left["test"]


class PowerCutError(Exception):
    """What ends a run from outside."""


class PowerCut(Callback):
    """Ends the run in the middle of its third epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.current_epoch == 2 and trainer.global_step % 6 == 1:
            raise PowerCutError


def test_a_resumed_run_averages_on_as_if_uninterrupted(tiny_chest: Factory, tmp_path: Path) -> None:
    def trained(name: str, task: Classification, *callbacks: Callback, resume: bool = False) -> list[dict[str, Any]]:
        fitted = fit(
            task,
            tiny_chest(),
            directory=tmp_path / name,
            max_epochs=4,
            settings=CPU,
            monitor="val/auroc",
            callbacks=callbacks,
            log_to="none",
            resume=resume,
        )
        return [torch.load(path, weights_only=True)["state_dict"] for path in (fitted.last, fitted.best)]

    whole = trained("whole", averaging(dropout=0.3))
    with pytest.raises(PowerCutError):
        trained("cut", averaging(dropout=0.3), PowerCut())
    again = trained("cut", averaging(seed=9, dropout=0.3), resume=True)
    assert same(whole[0], again[0])
    assert same(whole[1], again[1])
    assert whole[0]["ema._extra_state"] == {"updates": 24}


def test_the_parameters_counted_are_those_of_the_net() -> None:
    task = Classification(BlockCNN(1, 2), 2, ema_decay=0.99)
    assert count_parameters(task) == 18_218
    assert summarise_model(task) == summarise_model(Classification(BlockCNN(1, 2), 2))


def test_a_compiled_net_is_averaged(tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, *_, **__: plain(self, backend="eager"))
    settings = TrainerSettings(gpus=0, compile=True)
    tasks = [averaging(), averaging()]
    for name, task, chosen in zip(("plain", "compiled"), tasks, (CPU, settings), strict=True):
        fit(task, tiny_chest(train=32), directory=tmp_path / name, max_epochs=1, settings=chosen, log_to="none")
    assert same(copied(tasks[0].net), copied(tasks[1].net))


# A process that trains imports this module by its name, so what it is handed is defined here.


class KeepEachProcessesAverage(Callback):
    """Writes every process's average when it has been validated."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = Path(trainer.default_root_dir) / f"process{trainer.global_rank}.pt"
        torch.save(pl_module.ema.state_dict(), path)  # type: ignore[union-attr]


@pytest.mark.long
def test_two_processes_keep_the_same_average(several_processes: None, tiny_chest: Factory, tmp_path: Path) -> None:
    task = averaging()
    settings = TrainerSettings(accelerator="cpu", devices=2)
    watch = KeepEachProcessesAverage()
    data = tiny_chest(train=32, batch_size=8)
    fit(task, data, directory=tmp_path, max_epochs=1, settings=settings, callbacks=[watch], log_to="none")
    first, second = (torch.load(tmp_path / f"process{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first, second)
    assert same({f"net.{name}": value for name, value in copied(task.net).items()} | updates(first), first)


def updates(state: dict[str, Any]) -> dict[str, Any]:
    return {"_extra_state": state["_extra_state"]}


def test_scaled_gradients_that_are_clipped_are_unscaled_first() -> None:
    task = Classification(BlockCNN(1, 2, width=2), 2, optimizer=adam(lr=1.0))
    task._trainer = SimpleNamespace(gradient_clip_val=0.5)  # type: ignore[assignment]
    optimizer = task.configure_optimizers()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale(task.loss(task(torch.rand(8, 1, 28, 28)), torch.tensor([0, 1] * 4))).backward()
    scaler.unscale_(optimizer)
    assert float(nn.utils.clip_grad_norm_(task.parameters(), 0.5)) < 100
    before = [parameter.detach().clone() for parameter in task.parameters()]
    scaler.step(optimizer)
    moved = [float((new.detach() - old).abs().max()) for new, old in zip(task.parameters(), before, strict=True)]
    assert 0.5 < max(moved) <= 1.01  # Adam's first step is the learning rate
