"""Errors as one line, and files written whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from medassay.config.command_line import replace_config_dir
from medassay.config.messages import explain
from medassay.core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
    UserError,
    advise,
    output_error,
    suggest_nearest,
    system_error,
)
from medassay.core.files import (
    atomic_write,
    describe_zip_damage,
    file_lock,
    read_checked_json,
    refuse_unwritable,
    write_checked_json,
    write_json,
)
from medassay.core.paths import expand_home, find_kind
from medassay.data.digits import MNIST
from medassay.data.segmentation.folder import ImageMaskFolders, list_pairs
from medassay.data.segmentation.stacks import Sections
from medassay.protocols.assay.leaderboard import find_assays
from medassay.protocols.assay.subjects import take_file_samples
from medassay.protocols.domain_shift.external import read_external
from medassay.protocols.features.other_images import read_other_images
from medassay.protocols.predict import given_images
from medassay.runs.directory import RunDirectory
from medassay.runs.load import find_weights
from medassay.runs.table import find_runs, read_job
from medassay.sweeps.directory import SweepDirectory
from medassay.sweeps.study import open_study
from medassay.sweeps.summary import _read_jobs
from tests.helpers import close_folder, flip_byte

# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_user_error_folds_its_message_to_one_line() -> None:
    assert str(UserError("model.net.width=0:\n    expected\tan integer\r\n  >= 1\n")) == (
        "model.net.width=0: expected an integer >= 1"
    )


@pytest.mark.parametrize("kind", [ConfigError, DataError, CheckpointError, TrainingError, OutputError])
def test_every_error_a_user_can_mend_is_a_user_error_of_one_line(kind: type[UserError]) -> None:
    error = kind("first\nsecond")
    assert isinstance(error, UserError)
    assert str(error) == "first second"


@pytest.mark.parametrize(
    ("word", "known", "hint"),
    [
        ("pneumoniamnits", ["bloodmnist", "pneumoniamnist"], " Did you mean 'pneumoniamnist'?"),
        ("lrr", ["betas", "lr", "weight_decay"], " Did you mean 'lr'?"),
        ("lr", ["lr", "lrr"], " Did you mean 'lr'?"),
        ("zebra", ["bloodmnist", "pneumoniamnist"], ""),
        ("anything", [], ""),
        ("", ["lr"], ""),
    ],
)
def test_the_nearest_known_word_is_suggested_and_a_far_one_is_not(word: str, known: list[str], hint: str) -> None:
    assert suggest_nearest(word, known) == hint


def test_the_nearest_word_may_come_from_any_iterable() -> None:
    assert suggest_nearest("widht", (name for name in ("width", "blocks"))) == " Did you mean 'width'?"


@pytest.mark.parametrize(
    "text",
    [
        "[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/3: file write failed",
        "[enforce fail at inline_container.cc:671] . unexpected pos 53120 vs 53016",  # seen on a full file system
    ],
)
def test_a_torch_save_on_a_full_disk_is_told_as_no_space_left(text: str) -> None:
    message = str(output_error(RuntimeError(text), "last.ckpt"))
    assert message.startswith("no space left while writing last.ckpt")
    assert "free some space" in message


def test_a_file_that_torch_cannot_open_keeps_the_systems_words() -> None:
    text = "[enforce fail at inline_container.cc:746] . open file failed with strerror: Permission denied"
    assert str(output_error(RuntimeError(text), "last.ckpt")).startswith("cannot write last.ckpt (Permission denied)")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_what_to_do_then(code: int) -> None:
    error = output_error(OSError(code, "text of the system"), Path("outputs/run/last.ckpt"))
    assert isinstance(error, OutputError)
    assert str(error).startswith("no space left while writing outputs/run/last.ckpt")
    assert "free some space" in str(error)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_without_permission_asks_for_another(code: int) -> None:
    message = str(output_error(OSError(code, "text of the system"), "/mnt/run"))
    assert message.startswith("/mnt/run is not writable")
    assert "choose another place" in message


def test_any_other_failed_write_keeps_the_systems_words_on_one_line() -> None:
    message = str(output_error(OSError(errno.EIO, "Input/output\nerror"), "/mnt/run"))
    assert "cannot write /mnt/run" in message
    assert "Input/output" in message
    assert "\n" not in message


def test_a_path_of_bytes_is_shown_as_text() -> None:
    message = str(output_error(FileNotFoundError(errno.ENOENT, "gone", b"runs/events"), b"runs/events"))
    assert message.startswith("cannot write runs/events (No such file or directory)")


def test_a_link_to_nothing_is_named_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "figures").symlink_to("elsewhere")
    with pytest.raises(OutputError, match=r"figures is a link to elsewhere, which does not exist; remove the link"):
        write_json(tmp_path / "figures" / "x.json", {})
    (tmp_path / "figures").unlink()  # the advice
    write_json(tmp_path / "figures" / "x.json", {})


@pytest.mark.parametrize(
    ("convert", "code", "step"),
    [
        (True, errno.ENOSPC, "inner full"),
        (True, errno.EACCES, "inner refused"),
        (True, errno.EIO, "inner refused"),
        (False, errno.ENOSPC, "inner full"),
        (False, errno.EROFS, "inner refused"),
        (False, errno.EACCES, "if it was to be written, inner refused"),  # it may have been reading that failed
        (False, errno.EIO, "if it was to be written, inner refused"),
    ],
)
def test_the_innermost_advice_is_the_one_that_is_given(convert: bool, code: int, step: str) -> None:
    failure = OSError(code, "text of the system", "/mnt/run")

    def fail() -> None:
        with advise(full="outer", refused="outer"), advise(full="inner full", refused="inner refused"):
            raise output_error(failure, "/mnt/run") if convert else failure

    with pytest.raises(OutputError, match=f": {step}$"):
        fail()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "x", "a.png"), "cannot read or write a.png (Permission denied): "),
        (FileNotFoundError(errno.ENOENT, "x", b"a.png"), "cannot read or write a.png (No such file or directory): "),
        (OSError(errno.EIO, "x"), "cannot read or write a file (Input/output error): "),
        (OSError("image file is truncated"), "cannot read or write a file (image file is truncated): "),
        (OSError(errno.ENOSPC, "x"), "no space left while writing outputs/run; "),
        (OSError(errno.EROFS, "x", "a.png"), "a.png is not writable: "),
    ],
)
def test_an_error_of_the_system_is_of_writing_only_where_that_is_known(error: OSError, message: str) -> None:
    assert str(system_error(error, "outputs/run")).startswith(message)
    assert message.startswith("no space") or str(explain(error)).startswith(message)


def test_something_in_the_way_of_reading_or_writing_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("elsewhere")
    for name, said in (("file/x.png", "file is a file, no directory"), ("link", "link is a link to elsewhere")):
        with pytest.raises(OSError) as caught:
            (tmp_path / name).read_bytes()
        assert re.match(f"cannot read or write .*{name}: .*{said}", str(system_error(caught.value)))


def test_a_reader_of_the_output_that_has_gone_is_no_failed_write() -> None:
    with pytest.raises(BrokenPipeError), advise(full="free some space", refused="choose another place"):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_advice_changes_no_message_that_has_its_own() -> None:
    def fail() -> None:
        with advise(full="outer", refused="outer"):
            raise OutputError("there is a run already: choose another")

    with pytest.raises(OutputError, match=r"^there is a run already: choose another$"):
        fail()


def test_trying_a_directory_leaves_nothing_behind(tmp_path: Path) -> None:
    refuse_unwritable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="file is a file, no directory"):
        refuse_unwritable(tmp_path / "file" / "b")


# --- whole files -----------------------------------------------------------------------------------------------------


def test_a_finished_file_gets_its_name_and_no_other_file_remains(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with atomic_write(path) as partial:
        partial.write_bytes(b"new")
        assert not path.exists()  # nothing half-written ever has the final name
        assert partial.parent == path.parent  # a rename is atomic within one folder
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_finished_file_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"old and longer")
    with atomic_write(path) as partial:
        partial.write_bytes(b"new")
        assert path.read_bytes() == b"old and longer"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (RuntimeError("file write failed"), OutputError),
        (RuntimeError("Parent directory /x does not exist."), OutputError),
        (RuntimeError("The size of tensor a must match the size of tensor b"), RuntimeError),
        (TypeError("not serialisable"), TypeError),
        (ConfigError("a wrong key"), ConfigError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (SystemExit(3), SystemExit),
    ],
    ids=[
        "full disk",
        "torch",
        "torch's folder",
        "another of torch",
        "programming error",
        "user error",
        "Ctrl-C",
        "exit",
    ],
)
def test_whatever_ends_writing_leaves_the_old_file_as_it_was_and_no_remains(
    raised: BaseException, seen: type[BaseException], tmp_path: Path
) -> None:
    path = tmp_path / "best.ckpt"
    path.write_bytes(bytes(range(256)))

    def write() -> None:
        with atomic_write(path) as partial:
            partial.write_bytes(b"half of it")
            raise raised

    with pytest.raises(seen):
        write()
    assert path.read_bytes() == bytes(range(256))
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_before_anything_was_written_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "file"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_the_cause_of_a_failed_write_is_kept_for_the_traceback(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def write() -> None:
        with atomic_write(tmp_path / "file"):
            raise full

    with pytest.raises(OutputError) as error:
        write()
    assert error.value.__cause__ is full


def test_missing_parent_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    with atomic_write(path) as partial:
        partial.write_text("x")
    assert path.read_text() == "x"


def test_a_parent_that_is_a_file_is_one_line_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = tmp_path / "file" / "run" / "run.json"

    def write() -> None:
        with atomic_write(path) as partial:
            partial.write_text("x")

    with pytest.raises(OutputError, match=r"cannot write .*run\.json") as error:
        write()
    assert "\n" not in str(error.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    # jobs of one sweep fill the same cache at the same time: each file must be one writer's, whole
    path = tmp_path / "samples.npz"
    with atomic_write(path) as slow:
        slow.write_bytes(b"first half, ")
        with atomic_write(path) as fast:
            fast.write_bytes(b"of the other")
        assert path.read_bytes() == b"of the other"
        with slow.open("ab") as stream:
            stream.write(b"second half")
    assert path.read_bytes() == b"first half, second half"
    assert list(tmp_path.iterdir()) == [path]


# --- JSON ------------------------------------------------------------------------------------------------------------


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def read_strictly(path: Path) -> Any:
    """As another program would read it: NaN and Infinity are no JSON."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_become_null(value: float, tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"auroc": value, "n": 3})
    assert read_strictly(tmp_path / "m.json") == {"auroc": None, "n": 3}


def test_undefined_numbers_become_null_however_deep_they_lie(tmp_path: Path) -> None:
    values = {
        "test": {"interval_95": [(0.1, math.nan), [math.inf, {"x": -math.inf}]]},
        "kept": [1, 2.5, True, None, "nan"],
    }
    write_json(tmp_path / "m.json", values)
    assert read_strictly(tmp_path / "m.json") == {
        "test": {"interval_95": [[0.1, None], [None, {"x": None}]]},
        "kept": [1, 2.5, True, None, "nan"],
    }


def test_floats_come_back_exactly(tmp_path: Path) -> None:
    values = [0.1 + 0.2, 1e-300, 2**53 + 1, -0.0]
    write_json(tmp_path / "m.json", values)
    assert read_strictly(tmp_path / "m.json") == values


def test_text_of_other_scripts_is_written_as_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {"κλάση": "Lungenentzündung 肺炎"})
    text = (tmp_path / "m.json").read_bytes().decode("utf-8")
    assert "κλάση" in text
    assert "Lungenentzündung 肺炎" in text


def test_keys_that_are_no_text_become_text(tmp_path: Path) -> None:
    write_json(tmp_path / "m.json", {3: {5: math.nan}})
    assert read_strictly(tmp_path / "m.json") == {"3": {"5": None}}


def test_values_that_json_cannot_hold_leave_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_strictly(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


# --- locks -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock") as first:
        assert first
        with file_lock(tmp_path / ".lock", wait=0) as second:
            assert not second
        with file_lock(tmp_path / "other.lock", wait=0) as other:
            assert other


def test_giving_up_a_lock_that_another_holds_does_not_free_it(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock"):
        for _ in range(2):
            with file_lock(tmp_path / ".lock", wait=0) as mine:
                assert not mine


def test_a_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside"), file_lock(tmp_path / ".lock"):
        raise ValueError("inside")
    with file_lock(tmp_path / ".lock", wait=0) as mine:
        assert mine


def test_who_waits_gets_the_lock_when_it_is_freed(tmp_path: Path) -> None:
    got = []

    def wait() -> None:
        with file_lock(tmp_path / ".lock", wait=30.0) as mine:
            got.append(mine)

    with file_lock(tmp_path / ".lock"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        assert got == []
    thread.join(30)
    assert got == [True]


def test_the_folder_of_a_lock_is_made(tmp_path: Path) -> None:
    with file_lock(tmp_path / "a" / "b" / ".lock") as mine:
        assert mine


def test_a_lock_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), file_lock(tmp_path / "file" / ".lock"):
        pytest.fail("held")


def test_the_error_of_the_work_under_a_lock_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), file_lock(tmp_path / ".lock"):
        raise PermissionError(errno.EACCES, "of the work")


# --- damaged files ---------------------------------------------------------------------------------------------------


def archive_of(path: Path, kind: str) -> Path:
    """An archive of numbers, compressed or not."""
    write = np.savez if kind == "stored" else np.savez_compressed
    with path.open("wb") as stream:
        write(stream, numbers=np.random.default_rng(0).integers(0, 9, 5000), more=np.arange(7))
    return path


@pytest.mark.parametrize("kind", ["stored", "compressed"])
def test_a_whole_archive_is_not_damaged_and_one_flipped_byte_of_its_content_is(kind: str, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.npz", kind)
    assert describe_zip_damage(path) is None
    flip_byte(path)
    assert describe_zip_damage(path)


@pytest.mark.parametrize("length", [0, 3, 0.5, 0.99])
def test_an_archive_that_was_cut_short_is_damaged(length: float, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.npz", "stored")
    content = path.read_bytes()
    path.write_bytes(content[: length if isinstance(length, int) else int(length * len(content))])
    assert describe_zip_damage(path)


@pytest.mark.parametrize("position", range(-150, 0, 3))
def test_bytes_flipped_in_an_archives_directory_never_raise(position: int, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "x.npz", "stored")
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    assert isinstance(describe_zip_damage(path), str | None)


def test_checked_values_come_back_and_a_changed_digit_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_checked_json(path, {"auroc": 0.815, "of": [1, math.nan]})
    assert read_checked_json(path) == {"auroc": 0.815, "of": [1, None]}
    path.write_text(path.read_text().replace("0.815", "0.915"))
    with pytest.raises(CheckpointError, match="is damaged"):
        read_checked_json(path)


def test_values_of_an_older_version_without_a_checksum_are_read(tmp_path: Path) -> None:
    (tmp_path / "values.json").write_text('{"auroc": 0.8}')
    assert read_checked_json(tmp_path / "values.json") == {"auroc": 0.8}


# --- what there is at a path -----------------------------------------------------------------------------------------


def test_what_there_is_at_a_path_is_known_through_links(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "nowhere").symlink_to("nothing")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    names = (".", "file", "link", "pipe", "nothing", "file/x", "nowhere", "loop", "a\0b")
    kinds = ["directory", "file", "file", "other", None, None, None, None, None]
    assert [find_kind(tmp_path / name) for name in names] == kinds


@pytest.mark.parametrize("kind", [DataError, CheckpointError])
def test_a_path_that_may_not_be_looked_at_is_one_line_of_reading(
    kind: type[UserError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_folder(tmp_path, monkeypatch)
    with pytest.raises(kind, match=r"^cannot read .*/a\.png \(Permission denied\): make it and its folder readable"):
        find_kind(tmp_path / "a.png", kind)


ANY: Any = None  # what is not asked for before the path has been looked at
DATA: Any = SimpleNamespace(channels=1, size=8, num_classes=2)
READERS: dict[str, Callable[[Path], object]] = {
    "digits": lambda path: MNIST(file=str(path)).read(ANY),
    "stack": lambda path: Sections(str(path)).find_file(),
    "images and masks": lambda path: ImageMaskFolders(str(path)).read(ANY),
    "pairs": list_pairs,
    "predict": lambda path: given_images.read(path, size=8, channels=1),
    "features": lambda path: read_other_images(str(path), size=8, channels=1),
    "domain shift": lambda path: read_external(str(path), ANY, None),
    "samples": lambda path: take_file_samples(path, DATA, resize=False),
    "assays": lambda path: find_assays([path]),
    "runs": find_runs,
    "best checkpoint": lambda path: find_weights(RunDirectory(path), "best"),
    "named checkpoint": lambda path: find_weights(RunDirectory(path), "x.ckpt"),
    "study": lambda path: open_study(path).__enter__(),
    "sweep": lambda path: _read_jobs(SweepDirectory(path), listed=False),
    "yamls": lambda path: replace_config_dir(["--config-dir", str(path)]),
}


@pytest.mark.parametrize("reader", READERS)
def test_whoever_is_to_read_what_may_not_be_looked_at_says_so(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_folder(tmp_path, monkeypatch)
    with pytest.raises(
        UserError, match=r"^cannot read \S*/x\S* \(Permission denied\): make it and its folder readable"
    ):
        READERS[reader](tmp_path / "x")


def test_a_job_that_may_not_be_looked_at_is_a_failed_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_folder(tmp_path, monkeypatch)
    monkeypatch.setattr(RunDirectory, "record", lambda run: {})
    row = read_job(tmp_path / "x")
    assert (row.status, str(row.reason)[:11]) == ("failed", "cannot read")


# --- the home directory ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [("~", ""), ("~/a b/c", "a b/c")])
def test_a_tilde_is_the_home_directory(
    given: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home(given) == tmp_path / expected


@pytest.mark.parametrize("path", ["a/~/b", "./~", "/x/~"])
def test_a_tilde_elsewhere_is_a_name(path: str) -> None:
    assert expand_home(path) == Path(path)


def test_the_home_of_a_user_that_there_is_not_is_one_line() -> None:
    with pytest.raises(ConfigError, match="~nobody_of_that_name/x: there is no such home directory"):
        expand_home("~nobody_of_that_name/x")
