"""Phantoms: reproducible, with masks that tell the truth, learnable but not by a linear look at the pixels."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from medassay.core.types import LabelledImages
from medassay.data.phantoms import blood, chest, knee, oct
from medassay.data.phantoms.shapes import CHUNK

ALL = pytest.mark.parametrize(
    ("phantom", "channels"), [(chest, 1), (blood, 3), (oct, 1), (knee, 1)], ids=["chest", "blood", "oct", "knee"]
)
EPOCHS = {chest: 4, blood: 6, oct: 6, knee: 12}
SIZE = {knee: 64}  # a tear is thinner than a pixel of 28


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rendered(phantom: ModuleType, n: int, *, seed: int = 0, size: int = 28) -> LabelledImages:
    labels = torch.arange(n) % len(phantom.CLASSES)
    return phantom.render(labels, rng=torch.Generator().manual_seed(seed), size=size)


def pixels(data: LabelledImages) -> Tensor:
    return data.images.float() / 255


@ALL
def test_the_same_seed_gives_the_same_images_bit_for_bit(phantom: ModuleType, channels: int) -> None:
    first, second = rendered(phantom, CHUNK + 8, seed=3), rendered(phantom, CHUNK + 8, seed=3)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.masks, second.masks)


@ALL
def test_another_seed_gives_other_images(phantom: ModuleType, channels: int) -> None:
    first, second = rendered(phantom, 16, seed=0), rendered(phantom, 16, seed=1)
    differs = (first.images != second.images).flatten(1).any(1)
    assert differs.all()


@ALL
def test_no_image_is_drawn_twice_across_chunks(phantom: ModuleType, channels: int) -> None:
    images = rendered(phantom, 2 * CHUNK).images.flatten(1)
    assert len(images.unique(dim=0)) == 2 * CHUNK


@ALL
def test_the_global_generator_is_neither_read_nor_moved(phantom: ModuleType, channels: int) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = rendered(phantom, 16).images
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(rendered(phantom, 16).images, first)


@ALL
@pytest.mark.parametrize("size", [28, 64])
def test_images_and_masks_have_the_size_asked_for(phantom: ModuleType, channels: int, size: int) -> None:
    data = rendered(phantom, 16, size=size)
    assert data.images.shape == (16, channels, size, size)
    assert data.masks is not None
    assert data.masks.shape == (16, size, size)
    assert torch.equal(data.labels, torch.arange(16) % len(phantom.CLASSES))


@ALL
def test_a_larger_image_shows_the_same_kind_of_picture(phantom: ModuleType, channels: int) -> None:
    small, large = rendered(phantom, 256), rendered(phantom, 256, size=64)
    reduced = F.interpolate(pixels(large), (28, 28), mode="area")
    assert (pixels(small).mean((0, 1)) - reduced.mean((0, 1))).abs().mean() < 0.03
    assert small.masks is not None
    assert large.masks is not None
    assert small.masks.float().mean().item() == pytest.approx(large.masks.float().mean().item(), rel=0.1)


@ALL
@pytest.mark.parametrize("wrong", [-1, 8])
def test_a_label_out_of_range_is_refused(phantom: ModuleType, channels: int, wrong: int) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\."):
        phantom.render(torch.tensor([0, wrong]), rng=torch.Generator())


@ALL
def test_labels_that_are_not_a_vector_of_int64_are_refused(phantom: ModuleType, channels: int) -> None:
    with pytest.raises(ValueError, match="int64"):
        phantom.render(torch.zeros(2), rng=torch.Generator())


@ALL
def test_a_size_too_small_to_show_anything_is_refused(phantom: ModuleType, channels: int) -> None:
    with pytest.raises(ValueError, match="size"):
        phantom.render(torch.zeros(2, dtype=torch.int64), rng=torch.Generator(), size=4)


@ALL
def test_few_pixels_are_clipped_to_black_or_white(phantom: ModuleType, channels: int) -> None:
    images = rendered(phantom, 512).images
    assert ((images == 0) | (images == 255)).float().mean() < 0.06


def test_every_pneumonia_has_a_mask_of_plausible_area_and_no_normal_has_one() -> None:
    data = rendered(chest, 2048)
    assert data.masks is not None
    area = data.masks.float().mean((1, 2))
    ill = data.labels == 1
    assert (area[~ill] == 0).all()
    assert area[ill].min() > 0.002  # two pixels of 784
    assert area[ill].max() < 0.35


def test_opacities_brighten_the_pixels_of_their_mask_more_than_the_same_pixels_of_normals() -> None:
    data = rendered(chest, 2048)
    assert data.masks is not None
    images, ill = pixels(data)[:, 0], data.labels == 1
    median = images[~ill].median(0).values
    masks = data.masks[ill]
    excess = ((images[ill] - median) * masks).sum((1, 2)) / masks.sum((1, 2))
    assert excess.mean() > 0.05


def test_the_same_chest_with_and_without_pneumonia_differs_most_inside_the_mask() -> None:
    labels = torch.ones(256, dtype=torch.int64)
    ill = chest.render(labels, rng=torch.Generator().manual_seed(5))
    well = chest.render(0 * labels, rng=torch.Generator().manual_seed(5))
    assert ill.masks is not None
    change = (pixels(ill) - pixels(well))[:, 0]
    inside = (change * ill.masks).sum((1, 2)) / ill.masks.sum((1, 2))
    outside = (change * ~ill.masks).sum((1, 2)) / (~ill.masks).sum((1, 2))
    assert (inside > 0.03).float().mean() > 0.9
    assert outside.mean() < 0.01


def test_mean_brightness_does_not_give_pneumonia_away() -> None:
    data = rendered(chest, 4096)
    brightness = pixels(data).mean((1, 2, 3))
    threshold = brightness.median()
    accuracy = ((brightness > threshold).long() == data.labels).float().mean().item()
    assert accuracy == pytest.approx(0.5, abs=0.05)


def test_every_oct_sign_has_a_mask_of_plausible_area_and_no_normal_has_one() -> None:
    data = rendered(oct, 2048)
    assert data.masks is not None
    area = data.masks.float().mean((1, 2))
    normal = data.labels == oct.CLASSES.index("normal")
    assert (area[normal] == 0).all()
    assert area[~normal].max() < 0.25
    assert (area[~normal] > 0).float().mean() > 0.98


def test_fluid_of_the_retina_is_dark_and_lesions_and_drusen_are_not() -> None:
    data = rendered(oct, 2048)
    assert data.masks is not None
    means = [
        float(pixels(data)[data.labels == label, 0][data.masks[data.labels == label]].mean()) for label in range(3)
    ]
    assert means[oct.DME] < 0.25 < means[oct.DRUSEN] < means[oct.CNV] + 0.25


def test_the_same_eye_with_and_without_drusen_differs_most_inside_the_mask() -> None:
    ill = oct.render(torch.full((256,), oct.DRUSEN), rng=torch.Generator().manual_seed(5), size=64)
    well = oct.render(torch.full((256,), 3), rng=torch.Generator().manual_seed(5), size=64)
    assert ill.masks is not None
    difference = (pixels(ill) - pixels(well)).abs()[:, 0]
    assert difference[ill.masks].mean() > 3 * difference[~ill.masks].mean()


def test_every_torn_meniscus_has_a_mask_of_plausible_area_and_no_intact_one_has() -> None:
    data = rendered(knee, 1024, size=64)
    assert data.masks is not None
    area = data.masks.float().mean((1, 2))
    torn = data.labels == knee.TORN
    assert (area[~torn] == 0).all()
    assert area[torn].max() < 0.05
    assert (area[torn] > 4 / 64**2).float().mean() > 0.99


def test_the_same_knee_with_and_without_a_tear_differs_inside_the_mask_alone_and_is_brighter_there() -> None:
    labels = torch.ones(256, dtype=torch.int64)
    torn = knee.render(labels, rng=torch.Generator().manual_seed(5))
    intact = knee.render(0 * labels, rng=torch.Generator().manual_seed(5))
    assert torn.masks is not None
    change = (pixels(torn) - pixels(intact))[:, 0]
    inside = (change * torn.masks).sum((1, 2)) / torn.masks.sum((1, 2)).clamp(min=1)
    assert (inside > 0.05).float().mean() > 0.9
    assert change[~torn.masks].abs().mean() < 0.002


def test_mean_brightness_does_not_give_a_tear_away() -> None:
    data = rendered(knee, 2048, size=32)
    brightness = pixels(data).mean((1, 2, 3))
    accuracy = ((brightness > brightness.median()).long() == data.labels).float().mean().item()
    assert accuracy == pytest.approx(0.5, abs=0.05)


def test_the_mask_of_a_blood_cell_holds_the_middle_of_the_image() -> None:
    data = rendered(blood, 1024)
    assert data.masks is not None
    whole_cells = data.labels != blood.CLASSES.index("platelet")
    assert data.masks[whole_cells][:, 13:15, 13:15].float().mean() > 0.97
    assert data.masks.flatten(1).any(1).all()
    assert (data.masks.float().mean((1, 2)) < 0.6).all()


def test_a_blood_cell_is_darker_than_what_surrounds_it() -> None:
    data = rendered(blood, 1024)
    assert data.masks is not None
    grey, masks = pixels(data).mean(1), data.masks
    inside = (grey * masks).sum((1, 2)) / masks.sum((1, 2))
    outside = (grey * ~masks).sum((1, 2)) / (~masks).sum((1, 2))
    assert (inside < outside - 0.03).float().mean() > 0.97


def test_a_platelet_is_the_smallest_of_the_blood_cells() -> None:
    data = rendered(blood, 1024)
    assert data.masks is not None
    area = data.masks.float().mean((1, 2))
    mean_areas = torch.stack([area[data.labels == label].mean() for label in range(len(blood.CLASSES))])
    assert int(mean_areas.argmin()) == blood.CLASSES.index("platelet")


def linear_accuracy(train: LabelledImages, test: LabelledImages) -> float:
    """Balanced accuracy of multinomial logistic regression on standardised pixels, at the ridge that served it best."""
    x, x_test = pixels(train).flatten(1), pixels(test).flatten(1)
    mean, std = x.mean(0), x.std(0).clamp_min(1e-4)
    model = LogisticRegression(C=1e-3, max_iter=80)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(((x - mean) / std).numpy(), train.labels.numpy())
    predicted = model.predict(((x_test - mean) / std).numpy())
    return float(balanced_accuracy_score(test.labels.numpy(), predicted))


def small_cnn(channels: int, classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (8, 16, 32):
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def cnn_accuracy(train: LabelledImages, test: LabelledImages, *, classes: int, epochs: int) -> float:
    """Balanced accuracy of a small CNN trained with Adam and a learning rate that warms up and cools down."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = small_cnn(train.images.shape[1], classes)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        steps = epochs * (len(train) // 64)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        x = pixels(train) - 0.5
        for _ in range(epochs):
            for batch in torch.randperm(len(train))[: len(train) // 64 * 64].split(64):
                optimizer.zero_grad()
                F.cross_entropy(net(x[batch]), train.labels[batch]).backward()
                optimizer.step()
                schedule.step()
    net.eval()
    with torch.no_grad():
        predicted = net(pixels(test) - 0.5).argmax(1)
    return float(balanced_accuracy_score(test.labels.numpy(), predicted.numpy()))


@pytest.mark.parametrize(
    "phantom",
    [chest, *(pytest.param(one, marks=pytest.mark.long) for one in (blood, oct, knee))],
    ids=["chest", "blood", "oct", "knee"],
)
def test_a_cnn_beats_logistic_regression_by_ten_points_and_is_not_perfect(phantom: ModuleType) -> None:
    size = SIZE.get(phantom, 28)
    train, test = rendered(phantom, 1536, seed=1, size=size), rendered(phantom, 512, seed=2, size=size)
    linear = linear_accuracy(train, test)
    cnn = cnn_accuracy(train, test, classes=len(phantom.CLASSES), epochs=EPOCHS[phantom])
    print(f"balanced accuracy: logistic regression {linear:.3f}, CNN {cnn:.3f}")
    assert cnn - linear >= 0.10
    assert 0.75 < cnn < 0.995
