"""Nearly identical images: the perceptual hash, and the search for pairs."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.fft import dctn
from torch import Tensor

from medassay.data.near_duplicates import find_near_pairs, hash_perceptually
from medassay.data.phantoms import blood


def cells(n: int, size: int = 28) -> Tensor:
    return blood.render(torch.arange(n) % 8, rng=torch.Generator().manual_seed(0), size=size).images


def distance(first: Tensor, second: Tensor) -> int:
    one, other = hash_perceptually(torch.stack([first, second]))
    return int(one ^ other).bit_count()


def test_the_hash_says_which_low_frequencies_are_above_their_median() -> None:
    images = torch.randint(256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = []
    for image in images[:, 0].numpy():
        low = dctn(image.astype(float), norm="ortho")[1:9, 1:9].flatten()
        expected.append(np.packbits(low > np.median(low)).view(np.uint64)[0])
    assert hash_perceptually(images).tolist() == expected


def test_a_copy_saved_as_jpeg_brightened_or_resized_is_near_and_another_cell_is_far() -> None:
    image, other = cells(2, size=64)
    saved = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(saved, format="jpeg", quality=90)
    jpeg = torch.from_numpy(np.array(Image.open(saved))).permute(2, 0, 1)
    assert not torch.equal(jpeg, image)
    assert distance(image, jpeg) <= 2
    assert distance(image, (image.float() * 0.8 + 10).to(torch.uint8)) <= 2
    assert distance(image, other) > 8
    small = torch.nn.functional.interpolate(image[None].float(), (40, 40), mode="area").round().to(torch.uint8)
    assert (int(hash_perceptually(small)[0]) ^ int(hash_perceptually(image[None])[0])).bit_count() <= 2


@pytest.mark.parametrize("bits", [0, 2, 5])
def test_the_pairs_are_those_of_a_plain_comparison_of_all(bits: int) -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 40, dtype=np.uint64).repeat(6)
    for index in range(len(hashes)):
        for bit in rng.choice(64, rng.integers(0, 4), replace=False):
            hashes[index] ^= np.uint64(1) << np.uint64(bit)
    expected = []
    for first, one in enumerate(hashes.tolist()):
        for second, other in enumerate(hashes.tolist()):
            if first < second and (apart := (one ^ other).bit_count()) <= bits:
                expected.append((first, second, apart))
    assert expected
    assert find_near_pairs(hashes, bits) == expected


def test_of_no_images_there_are_no_pairs() -> None:
    assert find_near_pairs(hash_perceptually(cells(8)[:0])) == []
