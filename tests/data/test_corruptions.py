"""Corruptions: stronger at each severity, seeded, in range; each by its formula or beside another library."""

from __future__ import annotations

import io
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medassay.data import corruptions
from medassay.data.corruptions import SEVERITIES, TABLE, Corruption, corrupt, corrupt_stored
from medassay.data.phantoms import blood, chest

DRAWN = ["gaussian_noise", "shot_noise", "speckle_noise", "bias_field"]
ALL = list(TABLE)


def render(channels: int) -> Tensor:
    """Six phantoms, ``(6, channels, 28, 28) float32`` in [0, 1]."""
    kind = {1: chest, 3: blood}[channels]
    labels = torch.arange(6) % len(kind.CLASSES)
    return kind.render(labels, rng=torch.Generator().manual_seed(0)).images.float() / 255


IMAGES = {channels: render(channels) for channels in (1, 3)}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("corruption", ALL)
def test_each_severity_takes_every_image_further_from_the_clean_one(corruption: Corruption, channels: int) -> None:
    images = IMAGES[channels]
    before, last = images.clone(), torch.zeros(len(images))
    for severity in SEVERITIES:
        changed = corrupt(images, corruption, severity)
        assert (changed.shape, changed.dtype) == (images.shape, torch.float32)
        assert changed.min() >= 0
        assert changed.max() <= 1
        distance = (changed - images).square().mean((1, 2, 3))
        assert bool((distance > last).all()), severity
        last = distance
    assert torch.equal(images, before)


@pytest.mark.parametrize("corruption", ALL)
def test_the_seed_decides_what_is_drawn_and_nothing_else(corruption: Corruption) -> None:
    images = IMAGES[3]
    first, again, other = (corrupt(images, corruption, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (corruption not in DRAWN)


def test_every_corruption_has_a_row_of_the_table_and_a_function() -> None:
    assert ALL == list(get_args(Corruption)) == list(corruptions._CHANGES)
    assert corruptions.describe("jpeg", 5) == "quality 5"


def test_noise_has_the_variance_that_the_table_says() -> None:
    grey = torch.full((40, 1, 28, 28), 0.5)
    expected = {
        "gaussian_noise": 0.12**2,
        "shot_noise": 0.5 / 45,  # of a Poisson number of photons, divided by white's
        "speckle_noise": (0.25 * 0.5) ** 2,
    }
    for corruption, variance in expected.items():
        noise = corrupt(grey, corruption, 3) - grey  # type: ignore[arg-type]
        assert float(noise.mean()) == pytest.approx(0, abs=0.003)
        assert float(noise.var()) == pytest.approx(variance, rel=0.05)


def test_a_noisier_image_has_the_same_noise_only_stronger() -> None:
    grey = torch.full((2, 1, 28, 28), 0.5)
    weak, strong = (corrupt(grey, "gaussian_noise", severity) - grey for severity in (1, 2))
    torch.testing.assert_close(2 * weak, strong, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("severity", "sd"), [(1, 0.4), (3, 0.9), (5, 1.8)])
def test_blur_is_scipy_s_gaussian_filter(severity: int, sd: float) -> None:
    image = IMAGES[3][0]
    expected = [
        gaussian_filter(plane.double().numpy(), sd, mode="mirror", radius=int(np.ceil(3 * sd))) for plane in image
    ]
    torch.testing.assert_close(
        corrupt(image[None], "blur", severity)[0], torch.from_numpy(np.stack(expected)).float(), atol=1e-5, rtol=1e-5
    )


def test_exposure_contrast_and_resolution_follow_their_formulas() -> None:
    image = torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]])
    torch.testing.assert_close(corrupt(image, "darker", 3), image**2)
    torch.testing.assert_close(corrupt(image, "brighter", 3), image.sqrt())
    mean = 1.75 / 4
    torch.testing.assert_close(corrupt(image, "contrast", 3), mean + 0.4 * (image - mean))
    steps = torch.zeros(1, 1, 8, 8)
    steps[..., 4:] = 1
    half = corrupt(steps, "resolution", 3)  # 4 of 8 pixels
    torch.testing.assert_close(half[0, 0, 0], half[0, 0, 7])
    assert bool((half[0, 0, 0].diff() >= 0).all())
    assert 0 < float(half[0, 0, 0, 3]) < 0.5 < float(half[0, 0, 0, 4]) < 1


def test_jpeg_is_pillow_s() -> None:
    pixels = (IMAGES[3][1].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=10)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float() / 255
    torch.testing.assert_close(corrupt(IMAGES[3][1:2], "jpeg", 4)[0], expected)


def test_a_bias_field_is_smooth_one_for_all_channels_and_no_stronger_than_said() -> None:
    grey = torch.full((5, 3, 28, 28), 0.2)
    field = (corrupt(grey, "bias_field", 3) / grey).log()
    assert torch.equal(field[:, 0], field[:, 2])
    torch.testing.assert_close(field.abs().amax((1, 2, 3)), torch.full((5,), 0.5), atol=1e-4, rtol=1e-4)
    assert float(field.diff(dim=3).diff(dim=3).diff(dim=3).abs().max()) < 1e-5  # of degree 2
    assert not torch.equal(field[0], field[1])


def test_stored_images_are_rounded_to_8_bits_and_stay_what_they_were() -> None:
    stored = (IMAGES[1] * 255).round().to(torch.uint8)
    before = stored.clone()
    changed = corrupt_stored(stored, "darker", 3)
    assert changed.dtype == torch.uint8
    assert torch.equal(changed, ((stored.float() / 255) ** 2 * 255).round().to(torch.uint8))
    assert torch.equal(stored, before)


def test_more_images_than_a_chunk_are_drawn_chunk_by_chunk() -> None:
    images = torch.full((513, 1, 2, 2), 0.5)
    changed = corrupt(images, "gaussian_noise", 5)
    assert changed.shape == images.shape
    assert torch.equal(changed[:512], corrupt(images[:512], "gaussian_noise", 5))
    assert not torch.equal(changed[512], changed[0])
    assert corrupt(images[:0], "blur", 1).shape == (0, 1, 2, 2)


@pytest.mark.parametrize(
    ("images", "corruption", "severity", "message"),
    [
        (torch.zeros(2, 2, 4, 4), "blur", 1, "1 or 3"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), "blur", 1, "uint8"),
        (torch.zeros(2, 1, 4, 4), "blur", 6, "severity 6"),
        (torch.zeros(2, 1, 4, 4), "fog", 1, "no fog"),
    ],
)
def test_what_is_no_image_or_no_corruption_is_refused(
    images: Tensor, corruption: Corruption, severity: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        corrupt(images, corruption, severity)
