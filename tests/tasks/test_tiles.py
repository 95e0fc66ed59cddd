"""Tiled segmentation: where tiles lie, what mirrors show, and that a pixel's logits do not depend on the tiling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medassay.core.errors import ConfigError
from medassay.data.segmentation.loader import mirror
from medassay.nets.unet import UNet
from medassay.tasks.segmentation import Segmentation
from medassay.tasks.tiles import Box, cut_box, list_tiles, predict_tiled


def image_of(height: int, width: int, channels: int = 1) -> Tensor:
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(1))


def make_net(**options: object) -> UNet:
    torch.manual_seed(0)
    net = UNet(1, 3, **{"width": 4, "depth": 2, **options})  # type: ignore[arg-type]
    net(torch.rand(2, 1, net.find_input_size(8), net.find_input_size(8)))  # moves running statistics off their start
    return net.eval()


# --- mirrors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_mirrored_positions_are_numpys_reflections_however_often(size: int) -> None:
    expected = np.pad(np.arange(size), 23, mode="reflect")
    assert mirror(torch.arange(-23, size + 23), size).tolist() == expected.tolist()


def test_a_box_beyond_an_image_smaller_than_the_margin_is_mirrored_repeatedly() -> None:
    image = image_of(5, 7, channels=2)
    expected = np.pad(image.numpy(), ((0, 0), (20, 11), (20, 33)), mode="reflect")
    assert np.array_equal(cut_box(image, Box(-20, -20, 16, 40)).numpy(), expected)


# --- where tiles lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "tile", "overlap"), [({}, 92, 0), ({}, 92, 4), ({"padding": "same"}, 32, 8)])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (50, 97), (104, 52)])
def test_each_pixel_is_answered_by_exactly_one_tile(
    options: dict[str, str], tile: int, overlap: int, height: int, width: int
) -> None:
    net = make_net(**options)
    answers = torch.zeros(height, width)
    for one in list_tiles(net, height, width, tile, overlap):
        top, left, bottom, right = one.answered
        answers[top:bottom, left:right] += 1
        assert (one.seen.bottom - one.seen.top, one.seen.right - one.seen.left) == (tile, tile)
        assert top - one.seen.top == left - one.seen.left == net.margin + overlap
        assert one.seen.bottom - bottom >= net.margin + overlap
        assert top % net.alignment == left % net.alignment == 0
    assert (answers == 1).all()


def test_the_papers_tiles_answer_for_384_of_their_388_pixels() -> None:
    with torch.device("meta"):
        tiles = list_tiles(UNet(1, 2), 512, 512, 572)
    assert [tile.answered for tile in tiles] == [
        Box(0, 0, 384, 384), Box(0, 384, 384, 512), Box(384, 0, 512, 384), Box(384, 384, 512, 512),
    ]  # fmt: skip
    assert tiles[1].seen == Box(-92, 292, 480, 864)


@pytest.mark.parametrize(("side", "count"), [(384, 1), (385, 1), (388, 1), (389, 4)])
def test_an_image_that_one_tile_answers_for_is_not_cut(side: int, count: int) -> None:
    with torch.device("meta"):
        net = UNet(1, 2)
    assert len(list_tiles(net, side, side, 572)) == count
    assert len(Segmentation(net, 2).list_tiles(side, side)) == count


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        (90, 0, "takes no image of 90 pixels.*: 88 or 92"),
        (92, 3, "overlap=3.*multiple of 4"),
        (92, -4, "overlap=-4"),
        (60, 12, "tile=60: of its output 0 pixels.*larger tile"),
    ],
)
def test_an_impossible_tiling_is_refused_in_one_line(tile: int, overlap: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list_tiles(make_net(), 100, 100, tile, overlap)


# --- seamless --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", ["none", "batch"])
def test_without_padding_logits_do_not_depend_on_the_tiling(normalisation: str) -> None:
    net, image = make_net(normalisation=normalisation), image_of(41, 62)
    side = net.find_input_size(62)
    mirrored = np.pad(image.numpy(), ((0, 0), (20, side - 20 - 41), (20, side - 20 - 62)), mode="reflect")
    with torch.no_grad():
        whole = net(torch.from_numpy(mirrored)[None])[0, :, :41, :62]
    for tile, overlap in [(net.find_input_size(n), o) for n, o in ((8, 0), (20, 0), (28, 8), (64, 0))]:
        torch.testing.assert_close(predict_tiled(net, image, tile, overlap), whole, rtol=0, atol=1e-5)


def test_logits_do_not_depend_on_the_number_of_tiles_at_a_time() -> None:
    net, image = make_net(), image_of(30, 30)
    sizes: list[int] = []
    net.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    one, many = (predict_tiled(net, image, net.find_input_size(12), batch=batch) for batch in (1, 5))
    assert sizes == [1] * 9 + [5, 4]
    torch.testing.assert_close(one, many, rtol=0, atol=1e-5)


def test_tiles_without_alignment_would_differ() -> None:
    net, image = make_net(), image_of(60, 60)
    with torch.no_grad():
        here, moved = (net(cut_box(image, Box(y - 20, -20, y + 40, 40))[None])[0] for y in (0, 2))
    assert (here[:, 2:] - moved[:, :-2]).abs().max() > 1e-3


def test_with_padding_the_difference_between_tilings_falls_with_the_overlap_to_nothing_beyond_the_nets_reach() -> None:
    net, image = make_net(padding="same"), image_of(48, 48)
    whole = predict_tiled(net, image, tile=96, overlap=24)
    differences = [
        (predict_tiled(net, image, tile=16 + 2 * overlap, overlap=overlap) - whole).abs().max().item()
        for overlap in (0, 8, 24)
    ]
    assert differences[0] > differences[1] > 1e-5 > differences[2]


def test_a_prediction_has_the_images_size_and_leaves_the_net_in_evaluation_mode() -> None:
    net = make_net(dropout=0.5).train()
    logits = predict_tiled(net, image_of(3, 31), tile=60)
    assert (logits.shape, logits.dtype, logits.requires_grad) == ((3, 3, 31), torch.float32, False)
    assert not net.training
