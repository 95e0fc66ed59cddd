"""The segmentation task: it learns, judges whole images, keeps its average, and resumes bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from medassay.core.types import Segmenter
from medassay.data.segmentation.modules import SegmentationData
from medassay.data.segmentation.sources import cell_phantom_data
from medassay.data.segmentation.weights import PixelWeights
from medassay.metrics.segmentation import compute_dice
from medassay.nets.unet import UNet
from medassay.tasks.optim import adam
from medassay.tasks.predictions import Classifier
from medassay.tasks.segmentation import Segmentation
from medassay.tasks.segmentation_losses import segmentation_loss
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

CPU = TrainerSettings(gpus=0)


def make_data(**changes: Any) -> SegmentationData:
    values: dict[str, Any] = {"size": 32, "train": 6, "val": 3, "test": 2, "patch": 24, "batch_size": 4, **changes}
    return cell_phantom_data("cell_phantom", ["background", "cell"], 1, weights=PixelWeights(), **values)


def make_task(*, seed: int = 0, **settings: Any) -> Segmentation:
    torch.manual_seed(seed)
    return Segmentation(
        UNet(1, 2, width=8, depth=2, padding="same", normalisation="batch"), 2, adam(lr=1e-2), **settings
    )


def train(task: Segmentation, path: Path, epochs: int, data: SegmentationData | None = None, **options: Any) -> Any:
    options = {"monitor": "val/dice", "log_to": "none", "settings": CPU, **options}
    return fit(task, data or make_data(), directory=path, max_epochs=epochs, **options)


def test_a_segmenter_is_no_classifier() -> None:
    task = make_task()
    assert isinstance(task, Segmenter)
    assert not isinstance(task, Classifier)


@pytest.mark.parametrize("loss", ["cross_entropy", "weighted_cross_entropy+dice"])
def test_a_few_steps_find_more_of_the_cells(loss: Any, tmp_path: Path) -> None:
    fitted = train(make_task(loss=loss), tmp_path, 3, make_data(train=16, steps=30))
    assert fitted.values["val/dice"] > 0.45  # 0.56; of the first epoch below 0.2


def test_validation_is_the_mean_over_whole_images(tmp_path: Path) -> None:
    class Remember(Callback):
        def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            assert isinstance(pl_module, Segmentation)
            val = pl_module.trainer.datamodule.splits.val  # type: ignore[attr-defined]
            losses, dices = [], []
            for image, mask in zip(val.images, val.masks, strict=True):
                probabilities = pl_module.segment(image.float() / 255)
                losses.append(segmentation_loss("cross_entropy", probabilities.log()[None], mask[None].long()))
                dices.append(compute_dice(probabilities.argmax(0) == 1, mask == 1))
            expected.update(
                {"val/loss": float(torch.stack(losses).mean()), "val/dice": float(torch.stack(dices).mean())}
            )

    expected: dict[str, float] = {}
    fitted = train(make_task(loss="cross_entropy"), tmp_path, 1, callbacks=[Remember()], monitor=None)
    for name, value in expected.items():
        assert fitted.values[name] == pytest.approx(value, rel=1e-4)


def test_an_image_of_any_size_is_segmented_whole() -> None:
    task = make_task(tile=16).eval()
    probabilities = task.segment(torch.rand(1, 37, 21))
    assert probabilities.shape == (2, 37, 21)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(37, 21))
    assert len(task.list_tiles(37, 21)) == 6
    assert len(make_task(tile=64).list_tiles(37, 21)) == 1


def test_valid_convolutions_answer_alike_in_tiles_of_any_size() -> None:
    torch.manual_seed(0)
    net = UNet(1, 2, width=4, depth=2)
    image = torch.rand(1, 50, 41)
    answers = [Segmentation(net, 2, tile=tile).eval().segment(image) for tile in (8, 20, 64)]
    for one in answers[1:]:
        torch.testing.assert_close(one, answers[0], rtol=0, atol=1e-5)


def test_the_average_answers_and_is_what_is_kept(tmp_path: Path) -> None:
    task = make_task(ema_decay=0.9)
    fitted = train(task, tmp_path, 1)
    state = torch.load(fitted.best, weights_only=True)["state_dict"]
    assert task.ema is not None
    assert task.answering_net is task.ema.net
    name = "contracting.0.0.weight"
    assert torch.equal(state[f"net.{name}"], state[f"ema.net.{name}"])


def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, parts = make_task(ema_decay=0.9), make_task(ema_decay=0.9)
    train(whole, tmp_path / "whole", 3, monitor=None)
    train(parts, tmp_path / "parts", 1, monitor=None)
    parts = make_task(seed=1, ema_decay=0.9)  # were it trained from the start, it would end with other weights
    train(parts, tmp_path / "parts", 3, monitor=None, resume=True)
    for (name, one), other in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert name.endswith("_extra_state") or torch.equal(one, other), name
