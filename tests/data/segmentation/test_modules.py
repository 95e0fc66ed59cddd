"""The datamodule of segmented images: splits, subsets, weights, loaders, and the same training by the same seed."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.core.types import SegmentedImages, SegmentedSplits
from medassay.data.phantoms.source import PHANTOMS
from medassay.data.segmentation.augment import SegmentationAugment
from medassay.data.segmentation.modules import PixelFormat, SegmentationData, SegmentationOptions, SegmentationSource
from medassay.data.segmentation.sources import phantom_masks_data
from medassay.data.segmentation.weights import PixelWeights


@dataclass
class Squares(SegmentationSource):
    """Images whose left quarter is of class 1; image i holds the value i elsewhere."""

    lengths: tuple[int, int, int] = (6, 3, 2)
    path: str = "here"
    reads: list[PixelFormat] = field(default_factory=list)

    def check(self, declared: PixelFormat) -> None:
        if declared.channels != 1:
            raise ConfigError(f"data.channels={declared.channels}: squares are grey")

    def read(self, declared: PixelFormat) -> SegmentedSplits:
        self.reads.append(declared)
        return SegmentedSplits(*(self._draw(n) for n in self.lengths))

    def _draw(self, n: int) -> SegmentedImages:
        masks = [torch.zeros(16, 12 + 4 * i, dtype=torch.uint8) for i in range(n)]
        for mask in masks:
            mask[:, : mask.shape[1] // 4] = 1
        images = [torch.where(mask == 1, 200, i).to(torch.uint8)[None] for i, mask in enumerate(masks)]
        return SegmentedImages(images, masks)

    def provenance(self) -> dict[str, Any]:
        return {"path": self.path, "published": False}


def squares(**options: Any) -> SegmentationData:
    return SegmentationData("squares", ["ground", "square"], 1, Squares(), **{"patch": 8, "batch_size": 4, **options})


def test_splits_are_read_once_in_the_declared_format() -> None:
    data = squares()
    data.setup("fit")
    assert [len(split) for split in data.splits] == [6, 3, 2]
    assert len(data.split("test")) == 2
    assert data.source.reads == [PixelFormat(["ground", "square"], 1)]  # type: ignore[attr-defined]
    assert (data.num_classes, data.class_counts().tolist()) == (2, data.splits.train.counts(2).tolist())
    assert data.provenance() == {"name": "squares", "path": "here", "published": False}


def test_a_subset_takes_training_images_alone_and_a_larger_one_holds_the_smaller() -> None:
    def values(count: int) -> set[int]:
        splits = squares(subset=count).splits
        assert (len(splits.train), len(splits.val)) == (count, 3)
        return {int(image[0, 0, -1]) for image in splits.train.images}

    assert values(2) < values(4)


def test_training_batches_are_patches_and_validation_batches_whole_images() -> None:
    data = squares(margin=3, steps=2)
    batches = list(data.train_dataloader())
    assert [tuple(images.shape) for images, _, _ in batches] == [(4, 1, 14, 14)] * 2
    assert [tuple(masks.shape) for _, masks, _ in batches] == [(4, 8, 8)] * 2
    assert [tuple(images.shape) for images, _, _ in data.val_dataloader()] == [(1, 1, 16, 12 + 4 * i) for i in range(3)]


def test_augmentation_changes_training_patches_alone() -> None:
    augmented = squares(augment=SegmentationAugment(brightness=0.3))
    plain = squares()
    pairs = zip(augmented.val_dataloader(), plain.val_dataloader(), strict=True)
    assert all(torch.equal(one[0], other[0]) for one, other in pairs)
    assert not torch.equal(next(iter(augmented.train_dataloader()))[0], next(iter(plain.train_dataloader()))[0])


def test_pixels_weigh_one_unless_weights_are_asked_for() -> None:
    assert {float(w) for _, _, weights in squares().train_dataloader() for w in weights.unique()} == {1.0}
    data = squares(weights=PixelWeights(gap=0))
    ground, square = data.class_counts().tolist()
    total = ground + square
    for loader in (data.train_dataloader(), data.val_dataloader()):
        for _, masks, weights in loader:
            expected = torch.where(masks == 1, total / (2 * square), total / (2 * ground))
            assert torch.allclose(weights, expected.float())


@pytest.mark.parametrize(
    ("classes", "channels", "message"),
    [
        (["ground"], 1, r"data.classes=\['ground'\]: from 2 to 255 classes"),
        (["ground", "square"], 3, "data.channels=3: squares are grey"),
    ],
)
def test_a_format_that_cannot_be_is_refused_before_anything_is_read(
    classes: list[str], channels: Any, message: str
) -> None:
    source = Squares()
    with pytest.raises(ConfigError, match=message):
        SegmentationData("squares", classes, channels, source)
    assert source.reads == []


def test_the_options_of_every_data_set_are_those_of_the_datamodule() -> None:
    parameters = inspect.signature(SegmentationData).parameters.values()
    options = [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]
    assert sorted(options) == sorted(SegmentationOptions.__annotations__)


def test_data_move_to_another_place_that_the_source_has() -> None:
    assert squares().relocate(path="there", file=None).provenance()["path"] == "there"
    with pytest.raises(ConfigError, match=r"data.file=x: the data \(squares\) have no such key"):
        squares().relocate(file="x")


def test_images_do_not_travel_between_processes() -> None:
    data = squares()
    data.setup("fit")
    copy = pickle.loads(pickle.dumps(data))
    assert copy._splits is None
    assert [len(split) for split in copy.splits] == [6, 3, 2]


class Recorder(LightningModule):
    """Learns one number and keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Tensor] = []
        self.looked_at: list[tuple[int, ...]] = []

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        images, masks, weights = batch
        self.seen.append(images)
        return (weights * (masks - self.number) ** 2).mean()

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> None:
        self.looked_at.append(tuple(batch[0].shape))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(epochs: int) -> Trainer:
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(max_epochs=epochs, accelerator="cpu", devices=1, num_sanity_val_steps=0, **quiet)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning's own
def test_lightning_trains_on_them_and_every_epoch_has_patches_of_its_own() -> None:
    def train() -> Recorder:
        recorder = Recorder()
        trainer_of(2).fit(recorder, datamodule=squares(margin=2, augment=SegmentationAugment(noise=0.1)))
        return recorder

    one, other = train(), train()
    assert len(one.seen) == 4
    assert one.looked_at == [(1, 1, 16, 12 + 4 * i) for i in range(3)] * 2
    assert not torch.equal(one.seen[0], one.seen[2])
    assert all(torch.equal(a, b) for a, b in zip(one.seen, other.seen, strict=True))


@pytest.mark.parametrize("kind", PHANTOMS)
def test_every_phantom_comes_with_masks(kind: Any) -> None:
    data = phantom_masks_data("masks", kind, ["background", "sign"], PHANTOMS[kind][0], train=8, val=2, test=2)
    assert len(data.splits.train) == 8
    assert any(bool(mask.any()) for mask in data.splits.train.masks)
