"""The classification task: its weights and loss against plain numpy, its metrics against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from medassay.data.modules import PhantomData
from medassay.errors import TrainingError
from medassay.nets.block_cnn import BlockCNN
from medassay.settings import TrainerSettings
from medassay.tasks.classification import Classification, balanced_weights
from medassay.tasks.optim import adam
from medassay.training import fit

Factory = Callable[..., PhantomData]
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
    weights = balanced_weights(torch.tensor([1214, 3494]))
    torch.testing.assert_close(weights, torch.tensor([1.9390445, 0.6737264]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("counts", [[10, 10], [1, 99], [3, 5, 7, 11, 13, 17, 19, 23]])
def test_balanced_weights_are_scikit_learns(counts: list[int]) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=y)
    np.testing.assert_allclose(balanced_weights(torch.tensor(counts)).numpy(), expected, rtol=1e-6)


def test_balanced_weights_leave_every_class_with_the_same_total() -> None:
    counts = torch.tensor([4, 40, 400])
    totals = balanced_weights(counts) * counts
    torch.testing.assert_close(totals, torch.full((3,), 444 / 3))


def test_a_class_without_images_weighs_nothing() -> None:
    weights = balanced_weights(torch.tensor([6, 0, 2]))
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


def test_the_logged_validation_loss_is_the_weighted_loss_on_the_same_predictions(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    data = tiny_chest(train=41, val=30, batch_size=32)  # validation is one batch; 21 and 20 training images
    task = Classification(BlockCNN(1, 2, width=2), 2)
    values = fit(task, data, directory=tmp_path, max_epochs=1, settings=CPU, log_to="none").values
    logits, labels = predictions(task, data.splits.val.images), data.splits.val.labels.numpy()
    weights = np.array([41 / 42, 41 / 40])
    assert values["val/loss"] == pytest.approx(numpy_cross_entropy(logits, labels, weights), rel=1e-5)


def test_metrics_of_one_epoch_do_not_leak_into_the_next(tiny_chest: Factory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = tiny_chest()
    task = Classification(BlockCNN(1, 2, width=2), 2, optimizer=adam(lr=1e-2))
    values = fit(task, data, directory=tmp_path, max_epochs=5, settings=CPU, log_to="none").values
    found = predictions(task, data.splits.val.images).argmax(1)
    assert values["val/accuracy"] == pytest.approx(accuracy_score(data.splits.val.labels.numpy(), found))


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
        TrainingError, match=r"loss is not finite in epoch 1: try a lower model\.optimizer\.lr"
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
