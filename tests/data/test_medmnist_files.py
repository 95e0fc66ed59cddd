"""Finding, downloading, verifying and reading MedMNIST files. No test uses the network."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import medmnist
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torchvision.datasets import utils as torchvision_download

from medassay.core.errors import DataError
from medassay.core.types import Splits
from medassay.data import medmnist_files
from medassay.data.medmnist_files import DataFile, check_channels, check_names, find_file, name_file
from medassay.data.npz import read_splits
from tests.helpers import close_folder

ROOT = Path(__file__).parents[2]

FLAG = "breastmnist"
REAL = Path(os.environ.get("MEDASSAY_DATA_ROOT") or Path(__file__).parents[3] / "shared" / "medmnist")


def arrays(size: int = 28, channels: int = 1, **changes: Any) -> dict[str, Any]:
    """Small arrays in MedMNIST's layout, some of them replaced; None removes one."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    for split, n in (("train", 6), ("val", 3), ("test", 4)):
        shape = (n, size, size) if channels == 1 else (n, size, size, channels)
        made[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(n, dtype=np.uint8) % 2)[:, None]
    return {key: value for key, value in (made | changes).items() if value is not None}


def save(path: Path, **content: Any) -> Path:
    np.savez(path, **(content or arrays()))
    return path


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def as_file(path: Path) -> DataFile:
    return DataFile(path, "0" * 32, published=False)


def read(file: DataFile, **expected: int) -> Splits:
    """All three splits."""
    return Splits(*read_splits(file.path, Splits._fields, **expected))


def error_of(call: Callable[..., object], *args: object, **kwargs: object) -> str:
    """The message of the error that a call must raise; one line."""
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def error_of_reading(path: Path) -> str:
    message = error_of(read, as_file(path), channels=1, size=28, num_classes=2)
    assert str(path) in message
    return message


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file that counts as the published BreastMNIST."""
    path = save(tmp_path / "published.npz")
    monkeypatch.setitem(medmnist.INFO[FLAG], "MD5", md5(path))
    return path


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], list[str]]:
    """Replaces the network: the given function writes (or fails to write) the file that is asked for."""

    def install(answer: Callable[[Path], None]) -> list[str]:
        asked: list[str] = []

        def retrieve(url: str, filename: str, chunk_size: int = 0) -> None:
            asked.append(url)
            answer(Path(filename))

        monkeypatch.setattr(torchvision_download, "_get_redirect_url", lambda url, max_hops: url)
        monkeypatch.setattr(torchvision_download, "_urlretrieve", retrieve)
        return asked

    return install


# --- find ------------------------------------------------------------------------------------------------------------


def test_a_published_file_is_found_and_its_md5_recorded(tmp_path: Path, published: Path) -> None:
    path = published.rename(tmp_path / "breastmnist.npz")
    assert find_file(FLAG, root=tmp_path, phantom="chest_phantom") == DataFile(path, md5(path), published=True)


def test_larger_sizes_have_a_file_name_and_an_md5_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "breastmnist_64.npz", **arrays(64))
    monkeypatch.setitem(medmnist.INFO[FLAG], "MD5_64", md5(path))
    assert find_file(FLAG, size=64, root=str(tmp_path), phantom="chest_phantom").path == path


def test_without_a_root_the_cache_folder_of_medmnist_is_used(
    tmp_path: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = published.rename(tmp_path / "breastmnist.npz")
    monkeypatch.setattr("medmnist.info.DEFAULT_ROOT", str(tmp_path))
    assert find_file(FLAG, phantom="chest_phantom").path == path


def test_a_file_with_another_md5_is_refused_with_both_and_kept(tmp_path: Path) -> None:
    path = save(tmp_path / "breastmnist.npz")
    message = error_of(find_file, FLAG, root=tmp_path, phantom="chest_phantom")
    for fact in (str(path), md5(path), medmnist.INFO[FLAG]["MD5"], "delete", f"data.file={path}"):
        assert fact in message
    assert path.exists()


def test_an_unknown_data_set_is_answered_with_the_nearest() -> None:
    message = error_of(find_file, "bloodmnst", phantom="blood_phantom")
    assert "bloodmnst" in message
    assert "Did you mean 'bloodmnist'?" in message


@pytest.mark.parametrize(("flag", "reason"), [("nodulemnist3d", "3-D"), ("chestmnist", "multi-label")])
def test_data_sets_of_another_kind_are_refused(flag: str, reason: str, tmp_path: Path) -> None:
    message = error_of(find_file, flag, root=tmp_path, phantom="chest_phantom")
    assert flag in message
    assert reason in message


def test_a_size_that_is_not_published_is_refused(tmp_path: Path) -> None:
    message = error_of(find_file, FLAG, size=32, root=tmp_path, phantom="chest_phantom")
    assert "data.size=32" in message
    assert "28, 64, 128, 224" in message


def test_a_size_missing_for_this_data_set_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(medmnist.INFO[FLAG], "MD5_224")
    assert "28, 64, 128 pixels" in error_of(find_file, FLAG, size=224, root=tmp_path, phantom="chest_phantom")


# --- download --------------------------------------------------------------------------------------------------------


def test_a_missing_file_is_downloaded_into_a_new_folder_and_nothing_else_is_left(
    tmp_path: Path, published: Path, remote: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = remote(lambda path: shutil.copy(published, path))
    root = tmp_path / "new" / "root"
    file = find_file(FLAG, root=root, phantom="chest_phantom")
    assert file == DataFile(root / "breastmnist.npz", md5(published), published=True)
    assert asked == [medmnist.INFO[FLAG]["url"]]
    assert [path.name for path in root.iterdir()] == ["breastmnist.npz"]
    assert capfd.readouterr().err == ""


def test_a_file_that_is_there_is_not_downloaded_again(tmp_path: Path, published: Path, remote: Any) -> None:
    published.rename(tmp_path / "breastmnist.npz")
    asked = remote(lambda path: None)
    find_file(FLAG, root=tmp_path, phantom="chest_phantom")
    assert asked == []


def wrong_content(path: Path) -> None:
    path.write_bytes(b"an error page")


def no_network(path: Path) -> None:
    raise urllib.error.URLError("Temporary failure in name resolution")


def half_way(path: Path) -> None:
    path.write_bytes(b"PK half of it")
    raise TimeoutError("timed out")


def not_there(path: Path) -> None:
    raise urllib.error.HTTPError("https://zenodo.org", 404, "NOT FOUND", None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (wrong_content, "corrupted"),
        (no_network, "name resolution"),
        (half_way, "timed out"),
        (not_there, "404"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_all_that_is_needed(
    failure: Callable[[Path], None], reason: str, tmp_path: Path, remote: Any
) -> None:
    remote(failure)
    root = tmp_path / "root"
    message = error_of(find_file, FLAG, root=root, phantom="chest_phantom")
    info = medmnist.INFO[FLAG]
    for fact in (reason, "breastmnist.npz", str(root / "breastmnist.npz"), info["MD5"], info["url"]):
        assert fact in message
    assert "data=chest_phantom" in message
    assert not root.exists()


def test_an_md5_that_the_downloader_let_pass_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        medmnist_files, "_fetch", lambda flag, size, folder: (Path(folder) / f"{flag}.npz").write_bytes(b"x")
    )
    assert hashlib.md5(b"x").hexdigest() in error_of(find_file, FLAG, root=tmp_path, phantom="chest_phantom")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_stays_an_interrupt_and_leaves_nothing(tmp_path: Path, remote: Any) -> None:
    def interrupted(path: Path) -> None:
        path.write_bytes(b"PK half of it")
        raise KeyboardInterrupt

    remote(interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_file(FLAG, root=tmp_path, phantom="chest_phantom")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_made_is_one_line(tmp_path: Path, remote: Any) -> None:
    remote(wrong_content)
    (tmp_path / "file").write_text("not a folder")
    message = error_of(find_file, FLAG, root=tmp_path / "file" / "root", phantom="chest_phantom")
    assert "data.root=" in message


# --- name_file -------------------------------------------------------------------------------------------------------


def test_a_named_file_of_another_md5_is_accepted_as_not_published(tmp_path: Path) -> None:
    path = save(tmp_path / "mine.npz")
    assert name_file(path, FLAG) == DataFile(path, md5(path), published=False)


def test_a_named_file_with_the_published_md5_is_published(published: Path) -> None:
    assert name_file(str(published), FLAG).published


def test_a_named_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    assert f"data.file={tmp_path / 'none.npz'} does not exist" in error_of(name_file, tmp_path / "none.npz", FLAG)


@pytest.mark.parametrize("official", [True, False])
def test_a_file_that_may_not_be_looked_at_is_one_line_of_reading(
    official: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_folder(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"^cannot read .*\.npz \(Permission denied\)"):
        find_file(FLAG, root=tmp_path, phantom="x") if official else name_file(tmp_path / "x.npz", FLAG)


def test_a_named_directory_is_one_line(tmp_path: Path) -> None:
    assert f"data.file={tmp_path} is a directory" in error_of(name_file, tmp_path, FLAG)


# --- read ------------------------------------------------------------------------------------------------------------


def test_grey_images_get_a_channel_and_labels_lose_their_column(tmp_path: Path) -> None:
    content = arrays()
    splits = read(as_file(save(tmp_path / "a.npz", **content)), channels=1, size=28, num_classes=2)
    assert [len(split) for split in splits] == [6, 3, 4]
    assert splits.train.images.shape == (6, 1, 28, 28)
    assert splits.train.labels.tolist() == content["train_labels"][:, 0].tolist()
    assert splits.train.labels.dtype == torch.int64


def test_colour_images_become_channel_first_and_contiguous(tmp_path: Path) -> None:
    content = arrays(channels=3)
    splits = read(as_file(save(tmp_path / "a.npz", **content)), channels=3, size=28, num_classes=2)
    assert splits.val.images.shape == (3, 3, 28, 28)
    assert splits.val.images.is_contiguous()
    assert splits.val.images[2, 1, 5, 7] == content["val_images"][2, 5, 7, 1]


def test_a_file_without_test_images_is_read_where_they_are_not_asked_for(tmp_path: Path) -> None:
    content = arrays(test_images=None, test_labels=None)
    val, train = read_splits(save(tmp_path / "a.npz", **content), ("val", "train"), channels=1, size=28, num_classes=2)
    assert (len(val), len(train)) == (3, 6)


def test_flat_labels_are_read_too(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", **arrays(val_labels=np.array([0, 1, 1])))
    assert read(as_file(path), channels=1, size=28, num_classes=2).val.labels.tolist() == [0, 1, 1]


def test_a_truncated_file_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[:-200])
    assert "cut short" in error_of_reading(path)


def test_a_file_that_is_not_a_zip_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("<html>")
    assert "not an .npz file" in error_of_reading(path)


def test_a_file_with_a_broken_array_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    content = bytearray(path.read_bytes())
    content[2000] ^= 0xFF  # inside train_images: its checksum no longer fits
    path.write_bytes(content)
    assert "'train_images' cannot be read" in error_of_reading(path)


def test_a_file_with_a_broken_table_of_contents_is_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes().replace(b"PK\x01\x02", b"XX\x01\x02"))
    assert "damaged" in error_of_reading(path)


def test_a_file_that_vanished_is_one_line(tmp_path: Path) -> None:
    assert "cannot read" in error_of_reading(tmp_path / "gone.npz")


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        pytest.param({"test_labels": None}, ["has no test_labels", "holds train_images"], id="missing key"),
        pytest.param({"val_images": np.array([{}], dtype=object)}, ["'val_images' cannot be read"], id="pickle"),
        pytest.param(
            {"val_images": np.zeros((3, 28, 28), np.float32)}, ["'val_images' is float32", "uint8"], id="float"
        ),
        pytest.param({"val_images": np.zeros((3, 28, 27), np.uint8)}, ["(3, 28, 27)", "(N, 28, 28)"], id="shape"),
        pytest.param({"val_images": np.zeros((3, 28, 28, 3), np.uint8)}, ["(3, 28, 28, 3)", "data.channels"], id="RGB"),
        pytest.param({"val_images": np.uint8(3)}, ["shape ()", "(N, 28, 28)"], id="scalar"),
        pytest.param(
            {"val_labels": np.zeros((3, 14), np.uint8)}, ["'val_labels'", "(3, 14)", "multi-label"], id="multi"
        ),
        pytest.param({"val_labels": np.zeros((3, 1))}, ["'val_labels' is float64", "integers"], id="float labels"),
        pytest.param({"val_labels": np.array([0, 1, 2])}, ["labels 0..2", "expected 0..1"], id="label too large"),
        pytest.param({"val_labels": np.array([-1, 0, 1])}, ["labels -1..1", "expected 0..1"], id="label negative"),
        pytest.param({"val_images": np.zeros((0, 28, 28), np.uint8)}, ["'val_images' is empty"], id="empty"),
        pytest.param({"val_labels": np.array([0, 1])}, ["3 'val_images'", "2 'val_labels'"], id="lengths"),
    ],
)
def test_an_array_that_does_not_fit_is_one_line_with_found_and_expected(
    changes: dict[str, Any], facts: list[str], tmp_path: Path
) -> None:
    message = error_of_reading(save(tmp_path / "a.npz", **arrays(**changes)))
    for fact in facts:
        assert fact in message


# --- names and channels ----------------------------------------------------------------------------------------------


def test_official_names_words_of_them_and_aliases_fit() -> None:
    check_names("pneumoniamnist", ["Normal", "pneumonia"])
    check_names("breastmnist", ["malignant", "benign"])
    check_names("retinamnist", ["none", "1", "2", "3", "4"], {"none": "0"})
    blood = "basophil, eosinophil, erythroblast, immature_granulocyte, lymphocyte, monocyte, neutrophil, platelet"
    check_names("bloodmnist", blood.split(", "))


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "data").glob("?*mnist.yaml")), ids=lambda path: path.stem)
def test_the_yaml_of_a_set_agrees_with_medmnists_table(path: Path) -> None:
    cfg = OmegaConf.load(path)
    info = medmnist.INFO[cfg.flag]
    assert path.stem == cfg.name == cfg.flag
    check_names(cfg.flag, list(cfg.classes), dict(cfg.get("aliases", {})))
    check_channels(cfg.flag, cfg.channels)
    comment = path.read_text().partition("defaults:")[0]
    counts = " / ".join(f"{split} {info['n_samples'][split]}" for split in ("train", "val", "test"))
    assert counts in comment.replace("\n# ", " ").replace("Train", "train")
    assert info["license"] in comment


def test_names_in_another_order_are_refused() -> None:
    message = error_of(check_names, "pneumoniamnist", ["pneumonia", "normal"])
    for fact in ("data.classes[0]='pneumonia'", "class 0 of pneumoniamnist", "'normal'"):
        assert fact in message


@pytest.mark.parametrize("name", ["", "ormal", "---"])
def test_parts_that_are_not_the_beginning_of_a_word_are_refused(name: str) -> None:
    assert "data.classes[0]" in error_of(check_names, "pneumoniamnist", [name, "pneumonia"])


def test_an_alias_for_another_class_is_refused() -> None:
    aliases = {"healthy": "pneumonia"}
    assert "'healthy'" in error_of(check_names, "pneumoniamnist", ["healthy", "pneumonia"], aliases)


def test_another_number_of_classes_is_refused() -> None:
    message = error_of(check_names, "breastmnist", ["malignant", "normal", "benign"])
    assert "3 names" in message
    assert "malignant; normal, benign" in message


def test_another_number_of_channels_is_refused() -> None:
    check_channels("bloodmnist", 3)
    assert "data.channels=1, but bloodmnist has 3" in error_of(check_channels, "bloodmnist", 1)


# --- the real files --------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    if not (REAL / name).exists():
        pytest.skip(f"{name} is not in {REAL}: set MEDASSAY_DATA_ROOT to its folder")
    return REAL / name


@pytest.mark.parametrize(("flag", "counts"), [("pneumoniamnist", [4708, 524, 624]), ("breastmnist", [546, 78, 156])])
def test_the_published_files_are_verified_and_read(flag: str, counts: list[int]) -> None:
    real(f"{flag}.npz")
    file = find_file(flag, root=REAL, phantom="chest_phantom")
    splits = read(file, channels=1, size=28, num_classes=2)
    assert file.published
    assert [len(split) for split in splits] == counts


def test_the_rebuilt_bloodmnist_is_refused_under_the_official_name(tmp_path: Path) -> None:
    (tmp_path / "bloodmnist.npz").symlink_to(real("bloodmnist_rebuilt.npz").resolve())
    message = error_of(find_file, "bloodmnist", root=tmp_path, phantom="blood_phantom")
    assert "d64ea70a3a0b23a7c351648d9c63589a" in message
    assert "7053d0359d879ad8a5505303e11de1dc" in message


def test_the_rebuilt_bloodmnist_is_read_where_it_is_named() -> None:
    file = name_file(real("bloodmnist_rebuilt.npz"), "bloodmnist")
    splits = read(file, channels=3, size=28, num_classes=8)
    assert not file.published
    assert [len(split) for split in splits] == [11959, 1712, 3421]
