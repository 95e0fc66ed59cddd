"""Heat maps in colour, over their images and beside them."""

from __future__ import annotations

import pytest
import torch

from medassay.reporting.heat_maps import place_beside_heat_map


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_stands_beside_itself_enlarged_with_its_pixels_as_they_are(channels: int) -> None:
    images = torch.randint(256, (2, channels, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = place_beside_heat_map(images, torch.rand(2, 28, 28))
    assert rows.shape == (2, 3, 84, 84 + 3 + 84)
    assert rows.dtype == torch.uint8
    assert torch.equal(rows[:, :, 1:84:3, 1:84:3], images.expand(2, 3, 28, 28))
    assert (rows[:, :, :, 84:87] == 255).all()


def test_a_hot_pixel_is_red_and_a_cold_one_blue() -> None:
    maps = torch.zeros(1, 28, 28)
    maps[0, :14] = 1
    row = place_beside_heat_map(torch.full((1, 1, 28, 28), 128, dtype=torch.uint8), maps)[0]
    hot, cold = row[:, 10, 120].tolist(), row[:, 74, 120].tolist()
    assert hot[0] > hot[2]
    assert cold[2] > cold[0]


def test_large_images_are_shown_as_they_are() -> None:
    assert (
        place_beside_heat_map(torch.zeros(1, 1, 100, 100, dtype=torch.uint8), torch.zeros(1, 100, 100)).shape[2] == 100
    )
