"""Pictures of a segmentation in training: when they are drawn, of what, and that training does not feel them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medassay.data.modules import LabelledData
from medassay.data.segmentation.modules import SegmentationData
from medassay.data.segmentation.sources import cell_phantom_data
from medassay.nets.lenet import LeNet
from medassay.nets.unet import UNet
from medassay.reporting import regions
from medassay.tasks.classification import Classification
from medassay.tasks.optim import adam
from medassay.tasks.segmentation import Segmentation
from medassay.training.fit import fit
from medassay.training.segmented_images import SegmentedImages
from medassay.training.settings import TrainerSettings


def make_data(**sizes: Any) -> SegmentationData:
    values = {"size": 32, "train": 4, "val": 3, "test": 1, "patch": 24, "batch_size": 4, **sizes}
    return cell_phantom_data("cell_phantom", ["background", "cell"], 1, **values)


def train(path: Path, epochs: int, *shown: SegmentedImages, log_to: Any = "none") -> Segmentation:
    torch.manual_seed(0)
    task = Segmentation(UNet(1, 2, width=8, depth=2, padding="same", normalisation="batch"), 2, adam(lr=1e-2))
    settings = TrainerSettings(gpus=0)
    fit(task, make_data(), directory=path, max_epochs=epochs, callbacks=shown, log_to=log_to, settings=settings)
    return task


@pytest.mark.parametrize(("every", "epochs", "drawn"), [(1, 2, [1, 2]), (2, 3, [2, 3]), (5, 1, [1])])
def test_pictures_are_drawn_every_so_many_epochs_and_at_the_last(
    every: int, epochs: int, drawn: list[int], tmp_path: Path
) -> None:
    train(tmp_path, epochs, SegmentedImages(every))
    files = sorted(file.name for file in (tmp_path / "figures").iterdir())
    assert files == [f"segmentations_epoch_{epoch:04d}.png" for epoch in drawn]


def test_the_first_validation_images_are_shown_as_the_net_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[Tensor, Tensor, Tensor]] = []
    draw = regions.draw_views
    monkeypatch.setattr(regions, "draw_views", lambda *views: shown.append(views) or draw(*views))
    task = train(tmp_path, 1, SegmentedImages(images=2))
    val = make_data().splits.val
    assert len(shown) == 2
    for (image, true, predicted), expected, mask in zip(shown, val.images, val.masks, strict=False):
        assert torch.equal(image, expected)
        assert torch.equal(true, mask)
        assert torch.equal(predicted, task.eval().segment(expected.float() / 255).argmax(0))


def test_training_with_pictures_gives_the_same_weights(tmp_path: Path) -> None:
    plain, shown = train(tmp_path / "plain", 3), train(tmp_path / "shown", 3, SegmentedImages(1))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, shown.state_dict()[name]), name


def test_pictures_are_in_tensorboard_where_the_scalars_stand(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, 2, SegmentedImages(1), log_to="tensorboard")
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    assert [event.step for event in accumulator.Images("segmentations")] == [1, 2]  # optimizer steps, one an epoch


def test_what_does_not_segment_has_no_pictures(tiny_chest: Callable[..., LabelledData], tmp_path: Path) -> None:
    fit(
        Classification(LeNet(1, 2), 2),
        tiny_chest(train=16),
        directory=tmp_path,
        max_epochs=1,
        callbacks=[SegmentedImages(1)],
        log_to="none",
        settings=TrainerSettings(gpus=0),
    )
    assert not (tmp_path / "figures").exists()
