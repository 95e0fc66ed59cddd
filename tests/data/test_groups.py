"""Groups of images: tables, arrays in a file, phantoms; they follow their images, and batches can be balanced over them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medassay.core.errors import ConfigError, DataError
from medassay.core.groups import Groups, sort_levels
from medassay.core.types import LabelledImages, Splits
from medassay.data.balance import count_balanced, draw_balanced_order
from medassay.data.duplicates import drop_duplicates
from medassay.data.group_files import attach_groups, read_group_table
from medassay.data.modules import LabelledData
from medassay.data.phantoms.groups import PlantedGroup
from medassay.data.sources import folder_data, medmnist_data
from medassay.data.stamps import Stamp
from medassay.tasks.classification import compute_balanced_weights

Factory = Callable[..., LabelledData]
SIZES = {"train": 6, "val": 3, "test": 4}
SEXES = {"train": "fmfmfm", "val": "ffm", "test": "mmff"}


def name_site(split: str, index: int) -> str:
    return "east" if index % 3 else "west"


def write_table(
    path: Path, *, leave_out: str | None = None, add: str = "", header: str = "split,index,sex,site"
) -> Path:
    lines = [f"{s},{i},{SEXES[s][i]},{name_site(s, i)}" for s, n in SIZES.items() for i in range(n)]
    kept = [line for line in lines if leave_out is None or not line.startswith(leave_out)]
    path.write_text("\n".join([header, *kept, *([add] if add else [])]) + "\n", encoding="utf-8")
    return path


def write_npz(path: Path, size: int = 28, **arrays: Any) -> Path:
    rng = np.random.default_rng(0)
    for split, n in SIZES.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (n, size, size), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2)[:, None].astype(np.uint8)
    np.savez(path, **arrays)
    return path


def load_npz(file: Path, **options: Any) -> LabelledData:
    return medmnist_data("mine", "pneumoniamnist", ["normal", "pneumonia"], 1, file=str(file), **options)


def list_names(split: LabelledImages, attribute: str) -> list[str]:
    """The group of each image by name."""
    groups = split.groups
    assert groups is not None
    place = list(groups.levels).index(attribute)
    return [groups.levels[attribute][index] for index in groups.indices[:, place].tolist()]


# --- the type --------------------------------------------------------------------------------------------------------


def test_groups_are_checked_for_shape_and_range() -> None:
    with pytest.raises(ValueError, match=re.escape("groups must be (N, 1) int64")):
        Groups({"sex": ("f", "m")}, torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("groups of sex must lie in 0..1, not 0..2")):
        Groups({"sex": ("f", "m")}, torch.tensor([[0], [2]]))
    images, labels = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
    groups = Groups({"sex": ("f",)}, torch.zeros(3, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="groups must be of 2 images, not of 3"):
        LabelledImages(images, labels, groups=groups)


def test_an_intersection_has_the_combinations_that_occur() -> None:
    groups = Groups({"sex": ("f", "m"), "site": ("a", "b", "c")}, torch.tensor([[0, 2], [1, 0], [0, 0], [0, 2]]))
    crossed = groups.cross(["sex", "site"])
    assert crossed.levels == {"sex × site": ("f × a", "f × c", "m × a")}
    assert crossed.indices[:, 0].tolist() == [1, 2, 0, 1]
    assert groups.cross(["site"]).levels == {"site": ("a", "c")}


def test_levels_are_sorted_as_numbers_where_all_are() -> None:
    assert sort_levels(["10", "9", "10", "1"]) == ("1", "9", "10")
    assert sort_levels(["b", "10", "a"]) == ("10", "a", "b")


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_gives_every_image_of_a_file_its_groups(tmp_path: Path) -> None:
    table = write_table(tmp_path / "groups.csv")
    splits = load_npz(write_npz(tmp_path / "a.npz"), groups=str(table)).splits
    for name, split in zip(Splits._fields, splits, strict=True):
        assert list_names(split, "sex") == list(SEXES[name])
        assert list_names(split, "site") == [name_site(name, index) for index in range(SIZES[name])]
        assert split.groups is not None
        assert split.groups.levels == {"sex": ("f", "m"), "site": ("east", "west")}


def test_the_rows_may_stand_in_any_order_and_be_separated_by_semicolons(tmp_path: Path) -> None:
    lines = write_table(tmp_path / "a.csv").read_text().replace(",", ";").splitlines()
    (tmp_path / "b.csv").write_text("\ufeff" + "\r\n".join([lines[0], *reversed(lines[1:])]), encoding="utf-8")
    splits = load_npz(write_npz(tmp_path / "a.npz"), groups=str(tmp_path / "b.csv")).splits
    assert list_names(splits.test, "sex") == list(SEXES["test"])


def test_a_split_may_have_no_rows_at_all(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("split,index,sex\n" + "".join(f"test,{i},{sex}\n" for i, sex in enumerate(SEXES["test"])))
    splits = load_npz(write_npz(tmp_path / "a.npz"), groups=str(table)).splits
    assert list_names(splits.test, "sex") == list("mmff")
    assert splits.train.groups is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"leave_out": "test,2"}, "1 of 4 test images have no row, e.g. image 2 of test"),
        ({"add": "test,4,f,east"}, "line 15 is of image 4 of test, which the data do not have"),
        ({"add": "val,1,f,east"}, "line 15 is of image 1 of val, and so is line 9"),
        ({"add": "dev,1,f,east"}, "line 15 has split 'dev': expected train, val, test"),
        ({"add": "val,-1,f,east"}, "line 15 has index '-1'"),
        ({"add": "val,1.5,f,east"}, "line 15 has index '1.5'"),
        ({"add": "val,1,,east"}, "line 15 has no sex: where a group is not known, write unknown"),
        ({"add": "val,1,f"}, "line 15 has 3 values for 4 columns"),
        ({"header": "split,number,sex,site"}, "its columns are split, number, sex, site: expected a column 'file'"),
        ({"header": "file,index,sex,site"}, "expected a column 'file'"),
        ({"header": "split,index,sex,sex"}, "two columns are called 'sex'"),
        ({"header": "split,index,sex,"}, "column 4 has no name"),
        ({"header": "file,a,b,c"}, "the images are no files: give the columns 'split' and 'index'"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_in_one_line_that_names_it(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    if changes.get("header", "").startswith("file,a"):
        path = tmp_path / "groups.csv"
        path.write_text("file,sex\na.png,f\n")
    else:
        path = write_table(tmp_path / "groups.csv", **changes)
    with pytest.raises(DataError) as refused:
        _ = load_npz(write_npz(tmp_path / "a.npz"), groups=str(path)).splits
    message = str(refused.value)
    assert message.startswith(f"data.groups={path}: ")
    assert said in message
    assert "\n" not in message


def test_a_table_that_is_no_text_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_group_table(tmp_path / "absent.csv")
    (tmp_path / "b.csv").write_bytes("split,index,sex\ntest,0,weiß\n".encode("latin-1"))
    with pytest.raises(DataError, match="no text in UTF-8"):
        read_group_table(tmp_path / "b.csv")
    (tmp_path / "quote.csv").write_text('split,index,sex\ntest,0,f\ntest,1,"m\n' + "test,2,f\n" * 20_000)
    with pytest.raises(DataError, match=r"quote\.csv: line 3 cannot be read \(field larger.*\); close the quote"):
        read_group_table(tmp_path / "quote.csv")
    (tmp_path / "heading.csv").write_text('split,index,"sex\n' + "test,2,f\n" * 20_000)
    with pytest.raises(DataError, match=r"heading\.csv: line 1 cannot be read \(field larger.*\); close the quote"):
        read_group_table(tmp_path / "heading.csv")
    (tmp_path / "c.csv").write_text("split,index,sex\n")
    with pytest.raises(DataError, match="has no rows"):
        read_group_table(tmp_path / "c.csv")


def test_a_column_of_ages_is_refused_with_advice(tmp_path: Path) -> None:
    splits = Splits(
        *(LabelledImages(torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 2) for _ in range(3))
    )
    (tmp_path / "a.csv").write_text("split,index,age\n" + "".join(f"test,{i},{i}\n" for i in range(40)))
    with pytest.raises(DataError, match=r"'age' has 40 different values, at most 32 .* into bins"):
        attach_groups(splits, read_group_table(tmp_path / "a.csv"), {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders without splits, six images each."""
    rng = np.random.default_rng(0)
    for name in ("round", "square"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_images_of_a_folder_keep_their_groups_through_a_random_split(folder: Path, tmp_path: Path) -> None:
    rows = [(f"{name}/{i}.png", f"site {i % 2}") for name in ("round", "square") for i in range(6)]
    table = tmp_path / "groups.csv"
    table.write_text("file,site\n" + "".join(f"{file},{site}\n" for file, site in rows))
    data = folder_data("mine", str(folder), ["round", "square"], 1, (0.5, 0.25, 0.25), size=8, groups=str(table))
    for name, split in zip(Splits._fields, data.splits, strict=True):
        assert list_names(split, "site") == [dict(rows)[file] for file in data.source.name_files()[name]]
    assert data.provenance()["groups"]["file"] == str(table)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("round/0.png,a\n", "have no row"),
        ("round/9.png,a\n", "file 'round/9.png', which the data do not have"),
        ("round/0.png,a\nround/0.png,a\n", "and so is line 2"),
    ],
)
def test_a_wrong_table_of_files_is_refused(folder: Path, tmp_path: Path, rows: str, said: str) -> None:
    (tmp_path / "g.csv").write_text("file,site\n" + rows)
    data = folder_data("mine", str(folder), ["round", "square"], 1, size=8, groups=str(tmp_path / "g.csv"))
    with pytest.raises(DataError, match=said):
        _ = data.splits


# --- arrays in a file ------------------------------------------------------------------------------------------------


def test_arrays_of_a_file_are_groups_text_or_integers(tmp_path: Path) -> None:
    texts = {f"{s}_groups": np.array([[SEXES[s][i], str(i % 2)] for i in range(n)]) for s, n in SIZES.items()}
    splits = load_npz(write_npz(tmp_path / "a.npz", **texts, group_names=np.array(["sex", "site"]))).splits
    assert list_names(splits.val, "sex") == list("ffm")
    assert list_names(splits.val, "site") == ["0", "1", "0"]
    numbers = {f"{s}_groups": np.arange(n) + 8 for s, n in SIZES.items()}
    splits = load_npz(write_npz(tmp_path / "b.npz", **numbers)).splits
    assert splits.train.groups is not None
    assert splits.train.groups.levels == {"group": ("8", "9", "10", "11", "12", "13")}
    assert list_names(splits.test, "group") == ["8", "9", "10", "11"]


def test_a_table_takes_the_place_of_a_file_s_own_groups(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", test_groups=np.arange(4))
    splits = load_npz(file, groups=str(write_table(tmp_path / "g.csv"))).splits
    assert splits.test.groups is not None
    assert list(splits.test.groups.levels) == ["sex", "site"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"test_groups": np.zeros(3, int)}, r"is int64 of shape \(3,\), expected text or integers of shape \(4,\)"),
        ({"test_groups": np.zeros(4)}, "'test_groups' is float64"),
        ({"test_groups": np.zeros((4, 2), int)}, "'test_groups' has 2 columns and 'group_names' names none"),
        ({"test_groups": np.zeros((4, 1), int), "group_names": np.array(["a", "b"])}, "has 1 column and"),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        _ = load_npz(write_npz(tmp_path / "a.npz", **arrays)).splits


def test_groups_follow_a_resized_file(tmp_path: Path) -> None:
    file = write_npz(tmp_path / "a.npz", size=14, test_groups=np.array(list("abba")))
    assert list_names(load_npz(file, resize=True).splits.test, "group") == list("abba")


# --- phantoms --------------------------------------------------------------------------------------------------------

CHANGED = ["contrast", "noise", "blur", "size"]


@pytest.mark.parametrize("phantom", ["tiny_chest", "tiny_blood"])
@pytest.mark.parametrize("kind", CHANGED)
def test_a_planted_group_changes_its_images_and_no_other(
    phantom: str, kind: Any, request: pytest.FixtureRequest
) -> None:
    make: Factory = request.getfixturevalue(phantom)
    plain = make(train=8, val=8, test=32).splits.test
    split = make(train=8, val=8, test=32, group=PlantedGroup(kind=kind, share=0.25)).splits.test
    groups = split.groups
    assert groups is not None
    member = groups.indices[:, 0] == 1
    assert member.sum() == 8
    differs = (split.images != plain.images).flatten(1).any(1)
    assert torch.equal(differs, member)
    assert torch.equal(split.labels, plain.labels)


@pytest.mark.parametrize("kind", CHANGED)
def test_at_strength_0_the_images_are_as_without_groups_bit_for_bit(tiny_chest: Factory, kind: Any) -> None:
    small: dict[str, Any] = {"train": 16, "val": 8, "test": 8}
    plain, named = tiny_chest(**small).splits, tiny_chest(**small, group=PlantedGroup(kind=kind, strength=0.0)).splits
    for one, other in zip(plain, named, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.masks is not None
        assert other.masks is not None
        assert torch.equal(one.masks, other.masks)
        assert one.groups is None
        assert other.groups is not None


def test_each_change_is_what_its_name_says(tiny_chest: Factory) -> None:
    def draw(**options: Any) -> torch.Tensor:
        return tiny_chest(train=8, val=8, test=32, **options).splits.test.images.double()

    def roughness(images: torch.Tensor) -> float:
        return float(images.diff(dim=3).abs().mean())

    plain = draw()
    flat, noisy, blurred = (draw(group=PlantedGroup(kind=k, share=1.0)) for k in ("contrast", "noise", "blur"))
    assert float(flat.std((2, 3)).mean()) == pytest.approx(0.3 * float(plain.std((2, 3)).mean()), rel=0.05)
    assert roughness(noisy) > 2 * roughness(plain) > 3 * roughness(blurred)


def test_smaller_bodies_have_smaller_opacities_in_their_masks(tiny_chest: Factory) -> None:
    plain = tiny_chest(train=8, val=8, test=64).splits.test.masks
    small = tiny_chest(train=8, val=8, test=64, group=PlantedGroup(kind="size", share=1.0)).splits.test.masks
    assert plain is not None
    assert small is not None
    assert float(small.sum()) == pytest.approx(0.36 * float(plain.sum()), rel=0.2)  # (1 - 0.4) squared


def test_shares_may_differ_by_class(tiny_chest: Factory) -> None:
    split = tiny_chest(train=8, val=8, test=40, group=PlantedGroup(kind="noise", share=[0.1, 0.8])).splits.test
    assert split.groups is not None
    assert [int(split.groups.indices[split.labels == label].sum()) for label in (0, 1)] == [2, 16]


def test_two_planted_attributes_are_chosen_apart(tiny_chest: Factory) -> None:
    data = tiny_chest(
        train=160, val=8, test=8, group=PlantedGroup(kind="noise"), second_group=PlantedGroup(kind="size")
    )
    groups = data.splits.train.groups
    assert groups is not None
    assert groups.levels == {"scanner": ("A", "B"), "body_size": ("normal", "small")}
    both = groups.cross(["scanner", "body_size"])
    assert torch.bincount(both.indices[:, 0]).min() > 20
    assert data.provenance()["planted_groups"]["scanner"]["kind"] == "noise"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": PlantedGroup(kind="noise", share=[0.1, 0.2, 0.3])}, "data.group.share=.*3 shares for 2 classes"),
        ({"group": PlantedGroup(kind="noise"), "second_group": PlantedGroup(kind="blur")}, "both are called scanner"),
        ({"group": PlantedGroup(kind="noise"), "groups": "a.csv"}, "this phantom has planted groups"),
    ],
)  # fmt: skip
def test_wrong_planted_groups_are_refused(tiny_chest: Factory, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_chest(**options)
    with pytest.raises(ConfigError, match="without a group"):
        PlantedGroup(name="site")


# --- groups follow their images --------------------------------------------------------------------------------------


def test_groups_follow_a_subset_a_stamp_and_the_dropping_of_duplicates(tiny_chest: Factory) -> None:
    group = PlantedGroup(kind="contrast", share=0.5)
    whole = tiny_chest(group=group).splits.train
    known = {
        image.numpy().tobytes(): name for image, name in zip(whole.images, list_names(whole, "scanner"), strict=True)
    }
    part = tiny_chest(group=group, subset=20).splits.train
    assert list_names(part, "scanner") == [known[image.numpy().tobytes()] for image in part.images]
    stamped = tiny_chest(group=group, stamp=Stamp(kind="date", label=1)).splits.train
    assert list_names(stamped, "scanner") == list_names(whole, "scanner")
    twice = whole[torch.tensor([3, 1, 3, 0, 1])]
    once = drop_duplicates(twice)
    assert list_names(once, "scanner") == [list_names(whole, "scanner")[i] for i in (3, 1, 0)]
    assert len(once.to("cpu")) == len(once) == 3


# --- balance ---------------------------------------------------------------------------------------------------------


def test_a_balanced_order_has_each_cell_equally_often_by_hand() -> None:
    cells = torch.tensor([0] * 7 + [1] * 2 + [2] * 1)  # 10 images: 3 or 4 of each cell
    counts = []
    for seed in range(20):
        order = draw_balanced_order(cells, torch.Generator().manual_seed(seed))
        assert len(order) == 10
        drawn = torch.bincount(cells[order], minlength=3)
        assert sorted(drawn.tolist()) == [3, 3, 4]
        assert len(set(order[cells[order] == 0].tolist())) == drawn[0]  # none twice while others wait
        assert torch.bincount(order, minlength=10)[7:9].min() >= 1
        counts.append(order)
    assert len({tuple(order.tolist()) for order in counts}) == 20
    assert set(torch.cat(counts).tolist()) == set(range(10))


def test_class_weights_make_up_for_what_balanced_batches_leave_unequal() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3)
    cells = torch.tensor(
        [0, 0, 0, 1, 1, 1, 2, 2, 2]
    )  # class 0 in two groups, class 1 in one: 6 to 3 images of an epoch
    counts = count_balanced(labels, cells, 2)
    assert counts.tolist() == [6, 3]
    torch.testing.assert_close(compute_balanced_weights(counts), torch.tensor([0.75, 1.5]))


def test_batches_balanced_over_class_and_group_come_from_the_loader(tiny_chest: Factory) -> None:
    data = tiny_chest(group=PlantedGroup(kind="noise", share=[0.1, 0.9]), balance="class_group")
    train = data.splits.train
    assert train.groups is not None
    assert sorted(torch.bincount(train.groups.number_cells(train.labels)).tolist()) == [5, 5, 43, 43]
    loader = data.train_dataloader()
    order = torch.cat(list(loader.batch_sampler))
    cells = train.groups.number_cells(train.labels)
    assert torch.bincount(cells[order]).tolist() == [24, 24, 24, 24]
    assert data.served_class_counts().tolist() == [48, 48]
    again = torch.cat(list(data.train_dataloader().batch_sampler))
    assert torch.equal(order, again)
    loader.batch_sampler.set_epoch(1)
    assert not torch.equal(order, torch.cat(list(loader.batch_sampler)))
    assert torch.cat(list(data.val_dataloader().batch_sampler)).tolist() == list(range(32))


def test_without_balance_the_order_is_as_ever(tiny_chest: Factory) -> None:
    plain = tiny_chest().train_dataloader().batch_sampler.order(2)
    named = tiny_chest(group=PlantedGroup(kind="noise")).train_dataloader().batch_sampler.order(2)
    assert torch.equal(plain, named)
    assert tiny_chest().served_class_counts().tolist() == tiny_chest().class_counts().tolist()


def test_balance_over_groups_that_are_not_known_is_refused(tiny_chest: Factory) -> None:
    with pytest.raises(
        ConfigError, match=r"data.balance=class_group: the training images have no groups; give data.groups"
    ):
        tiny_chest(balance="class_group").train_dataloader()
