"""Which files below a folder are read: links, loops, hidden files, other kinds, and the fingerprint of what is read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from medassay.core.errors import DataError
from medassay.data import image_files
from medassay.data.image_files import compute_fingerprint, describe_left_out, list_folders, list_images
from tests.helpers import close_folder


def touch(file: Path, content: bytes = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def names(folder: Path, *, nested: bool = True) -> list[str]:
    return [file.relative_to(folder).as_posix() for file in list_images(folder, nested=nested).images]


def test_linked_files_and_folders_are_read_like_others(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "p1" / "a.png")
    touch(tmp_path / "single.PNG")
    top = tmp_path / "top"
    top.mkdir()
    (top / "b.png").symlink_to(tmp_path / "single.PNG")
    (top / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(top) == ["b.png", "linked/p1/a.png"]


@pytest.mark.parametrize("target", [".", "..", "../..", "in/deep"])
def test_a_link_that_leads_back_into_itself_is_a_problem_and_not_an_endless_walk(target: str, tmp_path: Path) -> None:
    touch(tmp_path / "top" / "in" / "deep" / "a.png")
    place = tmp_path / "top" / "in" / "deep" if target == "in/deep" else tmp_path / "top" / "in"
    (place / "loop").symlink_to(tmp_path / "top" / target if target == "in/deep" else target)
    found = list_images(tmp_path / "top", nested=True)
    assert len(found.images) == 1
    with pytest.raises(DataError, match=r"loop is a link to .* which contains it.*: remove the link"):
        found.refuse_problems()


def test_two_links_to_one_folder_are_no_loop(tmp_path: Path) -> None:
    touch(tmp_path / "elsewhere" / "a.png")
    (tmp_path / "top").mkdir()
    for name in ("one", "two"):
        (tmp_path / "top" / name).symlink_to(tmp_path / "elsewhere")
    assert names(tmp_path / "top") == ["one/a.png", "two/a.png"]


@pytest.mark.parametrize("name", ["gone.png", "patient"])
def test_a_link_that_leads_nowhere_is_a_problem(name: str, tmp_path: Path) -> None:
    touch(tmp_path / "a.png")
    (tmp_path / name).symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match=f"{name} is a link that leads nowhere"):
        list_images(tmp_path, nested=True).refuse_problems()


def test_a_folder_that_may_be_listed_and_not_entered_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path / "closed" / "a.png")
    touch(tmp_path / "b.png")
    close_folder(tmp_path / "closed", monkeypatch)
    found = list_images(tmp_path, nested=True)
    assert [file.name for file in found.images] == ["b.png"]
    with pytest.raises(DataError, match=r"closed/a\.png cannot be opened \(Permission denied\): make it readable"):
        found.refuse_problems()
    with pytest.raises(DataError, match=r"^cannot read .*closed/a\.png \(Permission denied\)"):
        list_folders(tmp_path / "closed")


def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files.importlib.util, "find_spec", lambda name: None)  # no pydicom
    for name in (
        "a.webp",
        "b.Dcm",
        "c.dcm",
        "notes.txt",
        "README",
        "._a.png",
        ".DS_Store",
        ".cache/d.png",
        "p/e.png",
        "p/f.jpg",
    ):
        touch(tmp_path / name)
    found = list_images(tmp_path, nested=False)
    assert [file.name for file in found.images] == ["a.webp"]
    assert found.left_out == {".dcm": 2, ".txt": 1, "no extension": 1, "hidden": 1, "in sub-folders": 2}
    assert describe_left_out({".dcm": 1200, ".txt": 1}) == (
        "1,200 .dcm (pip install 'medassay[dicom]' reads them; or convert them to PNG), 1 .txt"
    )
    nested = list_images(tmp_path, nested=True)
    assert [file.name for file in nested.images] == ["a.webp", "e.png", "f.jpg"]
    assert "in sub-folders" not in nested.left_out


def test_with_pydicom_its_files_are_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files.importlib.util, "find_spec", lambda name: name == "pydicom" or None)
    touch(tmp_path / "a.dcm")
    assert names(tmp_path) == ["a.dcm"]


def test_the_fingerprint_is_that_of_names_and_contents_sorted(tmp_path: Path) -> None:
    files = [touch(tmp_path / name, name.encode()) for name in ("b/1.png", "a/2.png", "a.png")]
    expected = hashlib.md5()
    for name in sorted(("b/1.png", "a/2.png", "a.png")):
        expected.update(name.encode() + b"\0" + hashlib.md5(name.encode()).digest())
    assert compute_fingerprint(tmp_path, files) == expected.hexdigest()


def test_a_name_that_is_no_text_has_a_fingerprint(tmp_path: Path) -> None:
    try:
        file = touch(tmp_path / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system wants text")
    expected = hashlib.md5(b"caf\xe9.png\0" + hashlib.md5(b"x").digest()).hexdigest()
    assert compute_fingerprint(tmp_path, list_images(tmp_path, nested=False).images) == expected
    file.unlink()
    with pytest.raises(DataError, match=r"caf\\udce9"):
        compute_fingerprint(tmp_path, [file])


def test_nothing_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        compute_fingerprint(tmp_path, [])
