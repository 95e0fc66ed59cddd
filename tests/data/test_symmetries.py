"""The eight symmetries of a square."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from medassay.data.symmetries import apply_symmetries, draw_symmetries

ALL = torch.tensor(list(itertools.product((0, 1), repeat=3)))
IMAGE = torch.arange(2 * 9).reshape(1, 2, 3, 3)


def changed() -> list[np.ndarray]:
    return list(apply_symmetries(IMAGE.expand(8, -1, -1, -1), ALL).numpy())


def test_the_eight_rows_of_bits_are_the_four_turns_and_their_mirror_images() -> None:
    image = IMAGE[0].numpy()
    turns = [np.rot90(image, k, axes=(1, 2)) for k in range(4)]
    expected = {array.tobytes() for turn in turns for array in (turn.copy(), turn[:, :, ::-1].copy())}
    found = {np.ascontiguousarray(array).tobytes() for array in changed()}
    assert len(found) == 8
    assert found == expected


def test_each_bit_is_the_change_it_is_said_to_be() -> None:
    one = apply_symmetries(IMAGE.expand(4, -1, -1, -1), torch.tensor([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    image = IMAGE[0].numpy()
    for found, expected in zip(
        one.numpy(), (image, image[:, :, ::-1], image[:, ::-1], image.transpose(0, 2, 1)), strict=True
    ):
        assert np.array_equal(found, expected)


def test_all_eight_are_drawn_equally_often_by_the_global_seed() -> None:
    torch.manual_seed(3)
    bits = draw_symmetries(8000, torch.device("cpu"))
    counts = torch.bincount(bits @ torch.tensor([4, 2, 1]), minlength=8)
    assert ((counts - 1000).abs() < 130).all()  # four standard deviations
    torch.manual_seed(3)
    assert torch.equal(draw_symmetries(8000, torch.device("cpu")), bits)
