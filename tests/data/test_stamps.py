"""Stamps: what is drawn, where, on which images, and that everything else stays as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medassay import config as configuration
from medassay.core.errors import ConfigError
from medassay.data.modules import LabelledData
from medassay.data.stamps import POSITIONS, WORDS, Stamp, check_stamp, draw_text
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.runs.load import build_data

Factory = Callable[..., LabelledData]
CLASSES = ["normal", "pneumonia"]


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_letters_are_three_by_five_pixels_with_one_between_them() -> None:
    assert draw_text("A1").tolist() == [
        [False, True, False, False, False, True, False],
        [True, False, True, False, True, True, False],
        [True, True, True, False, False, True, False],
        [True, False, True, False, False, True, False],
        [True, False, True, False, True, True, True],
    ]


def test_a_full_stop_takes_one_column_so_that_a_date_fits_into_28_pixels() -> None:
    assert draw_text("03.21").shape == (5, 3 + 1 + 3 + 1 + 1 + 1 + 3 + 1 + 3)


def test_no_two_signs_look_the_same() -> None:
    signs = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ.:-/+ "
    drawn = [tuple(map(tuple, draw_text(sign).tolist())) for sign in signs]
    # an O of three by five pixels has round corners, a zero has not; small letters are written as capitals
    assert len(set(drawn)) == len(signs)
    assert torch.equal(draw_text("ab"), draw_text("AB"))


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", ["text", "date", "square"])
def test_a_stamp_lies_one_pixel_inside_its_corner(kind: Any, position: Any) -> None:
    rows, columns = Stamp(kind=kind, position=position).ink(28).nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    bottom, right = 27 - int(rows.max()), 27 - int(columns.max())
    assert (top if position.startswith("top") else bottom) == 1
    assert (left if position.endswith("left") else right) == 1


def test_a_stamp_grows_with_the_image() -> None:
    small, large = Stamp(kind="date").ink(28), Stamp(kind="date").ink(64)
    assert torch.equal(large[2:12, 2:36], small[1:6, 1:18].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert int(large.sum()) == 4 * int(small.sum())


def test_the_box_is_the_rectangle_around_the_ink() -> None:
    box = Stamp(kind="date", position="bottom_right").box(28)
    expected = torch.zeros(28, 28, dtype=torch.bool)
    expected[22:27, 10:27] = True
    assert torch.equal(box, expected)


@pytest.mark.parametrize(("opacity", "value"), [(1.0, 1.0), (0.3, 1.0), (0.5, 0.0), (0.25, 0.6)])
def test_ink_is_mixed_with_what_lies_below_and_other_pixels_stay(opacity: float, value: float) -> None:
    images = torch.randint(256, (4, 3, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stamp = Stamp(kind="date", opacity=opacity, value=value)
    stamped, masks = stamp(images, torch.tensor([True, False, True, False]))
    before, after, ink = images.numpy(), stamped.numpy(), stamp.ink(28).numpy()
    for index, carries in enumerate([True, False, True, False]):
        assert masks[index].numpy().tolist() == (ink & carries).tolist()
        mixed = np.rint(before[index] * (1 - opacity) + 255 * value * opacity)
        expected = np.where(ink & carries, mixed, before[index])
        assert np.abs(after[index].astype(int) - expected).max() <= (opacity < 1)  # a half may be rounded either way
    assert torch.equal(images, torch.from_numpy(before))


# --- which images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("share", "expected"), [(1.0, 40), (0.9, 36), (0.5, 20), (0.01, 0)])
def test_the_share_of_one_class_carries_the_stamp(share: float, expected: int) -> None:
    labels = torch.arange(80) % 2
    carriers = Stamp(kind="date", label="pneumonia", share=share).choose_carriers(labels, CLASSES)
    assert int(carriers.sum()) == expected
    assert not carriers[labels == 0].any()


def test_which_images_carry_it_is_drawn_by_the_stamps_seed_alone(tiny_chest: Factory) -> None:
    stamp = {"kind": "date", "label": 1, "share": 0.5}
    one, two, other = (
        tiny_chest(seed=seed, stamp=Stamp(**stamp, seed=own)).splits.train.images
        for seed, own in ((0, 0), (7, 0), (0, 1))
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


# --- data modules ----------------------------------------------------------------------------------------------------


def test_training_and_validation_images_are_stamped_and_test_images_are_not(tiny_chest: Factory) -> None:
    stamp = Stamp(kind="square", label="pneumonia")
    plain, stamped = tiny_chest().splits, tiny_chest(stamp=stamp).splits
    ink = stamp.ink(28)
    for before, after in zip(plain[:2], stamped[:2], strict=True):
        carries = before.labels == 1
        assert bool((after.images[carries][:, :, ink] == 255).all())
        assert torch.equal(after.images[carries][:, :, ~ink], before.images[carries][:, :, ~ink])
        assert torch.equal(after.images[~carries], before.images[~carries])
        assert before.masks is not None
        assert after.masks is not None
        assert torch.equal(after.masks, before.masks)  # of the disease, not of the stamp
    assert torch.equal(stamped.test.images, plain.test.images)


def test_a_subset_holds_the_same_stamped_images_as_the_whole(tiny_chest: Factory) -> None:
    stamp = Stamp(kind="date", label=1, share=0.5)
    whole, part = tiny_chest(stamp=stamp), tiny_chest(stamp=stamp, subset=24)
    known = {image.numpy().tobytes() for image in whole.splits.train.images}
    assert len(part.splits.train) == 24
    assert all(image.numpy().tobytes() in known for image in part.splits.train.images)


def test_the_record_names_the_stamp_only_where_there_is_one(tiny_chest: Factory) -> None:
    assert "stamp" not in tiny_chest(stamp=Stamp()).provenance()
    assert tiny_chest(stamp=Stamp()).provenance() == tiny_chest().provenance()
    recorded = tiny_chest(stamp=Stamp(kind="date", label="pneumonia", share=0.9)).provenance()["stamp"]
    assert (recorded["kind"], recorded["text"], recorded["label"], recorded["share"]) == (
        "date", WORDS["date"], "pneumonia", 0.9,
    )  # fmt: skip


@pytest.mark.parametrize("data", ["chest_phantom", "blood_phantom"])
def test_the_configuration_puts_a_stamp_on_and_is_off_by_default(data: str) -> None:
    small = [f"data={data}", "data.train=16", "data.val=8", "data.test=8"]
    plain, stamped = (
        configuration.resolve(configuration.compose("train", [*small, *extra]))
        for extra in ([], ["data.stamp.kind=text", "data.stamp.text='L'", "data.stamp.label=1"])
    )
    for node in (plain, stamped):
        configuration.check(node["data"], "data")
    assert build_data(plain).stamp is None
    assert str(build_data(stamped).stamp) == "text 'L', top left"
    del plain["data"]["stamp"]  # as in a run of before there were stamps
    assert torch.equal(build_data(plain).splits.test.images, build_data(stamped).splits.test.images)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "date"}, r"data\.stamp\.label: missing; which class .* Accepted: 0\.\.1 or normal, pneumonia"),
        ({"kind": "date", "label": "pnuemonia"}, r"data\.stamp\.label=pnuemonia: .* Did you mean 'pneumonia'\?"),
        ({"kind": "date", "label": 2}, r"data\.stamp\.label=2: no such class"),
        ({"kind": "text", "text": "ANONYMOUS", "label": 1}, r"stamp\.text=ANONYMOUS: 35 pixels wide, .* room for 26"),
    ],
)
def test_a_stamp_that_does_not_fit_the_data_is_refused(
    tiny_chest: Factory, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_chest(stamp=Stamp(**settings))


@pytest.mark.parametrize(("text", "message"), [("ä?", r"no \? Ä to write with"), ("", "nothing to write")])
def test_a_sign_that_cannot_be_written_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Stamp(kind="text", text=text)


def test_no_stamp_needs_no_class() -> None:
    assert check_stamp(None, CLASSES, 28) is None
    assert check_stamp(Stamp(), CLASSES, 28) is None


@pytest.mark.parametrize("letters", [(7, 64, True), (9, 80, True), (7, 128, True), (8, 64, False), (8, 128, False)])
def test_how_many_letters_fit_is_as_documented(letters: tuple[int, int, bool]) -> None:
    count, size, fits = letters
    stamp = Stamp(kind="text", text="A" * count, label=1)
    if fits:
        assert stamp.ink(size).any()
    else:
        with pytest.raises(ConfigError, match=r"shorten it, or give data\.stamp\.kind=square"):
            stamp.ink(size)


@pytest.mark.parametrize(
    "given",
    [
        {"label": "pneumonia"},
        {"label": 0},
        {"text": "R"},
        {"position": "bottom_right"},
        {"opacity": 0.3},
        {"value": 0.5},
        {"share": 0.9},
        {"seed": 1},
    ],
)
def test_a_setting_without_a_stamp_is_not_left_out_in_silence(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(ConfigError, match=rf"stamp\.{name}=.* say which, (data\.)?stamp\.kind=date"):
        check_training(compose_training(["data=chest_phantom", f"data.stamp.{name}={given[name]}"]))


@pytest.mark.parametrize("given", [{"label": 1}, {"text": "R"}])
def test_a_label_or_text_without_a_stamp_is_refused_in_saved_runs_too(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"say which, stamp\.kind=date"):
        Stamp(**given)


def test_other_settings_without_a_stamp_are_read_in_saved_runs() -> None:
    assert not Stamp(position="bottom_right", opacity=0.3, value=0.5, share=0.9, seed=1).active
