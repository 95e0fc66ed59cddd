"""Curves as data: beats from a file or rendered, split by beat, served whole; files that cannot be read are one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import Curve
from medassay.data.curves.csv_file import split_heading
from medassay.data.curves.phantom import ECGPhantom
from medassay.data.curves.sources import beats_data, ecg_phantom_data

TEXT = "time_ms,beat_1_mV,beat_2_mV,beat_3_mV\n-2,0.1,0.2,0.3\n0,1,2,3\n2,0,0,-0.5\n"


def write(path: Path, text: str = TEXT) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_beats_of_a_file_are_split_in_their_order(tmp_path: Path) -> None:
    data = beats_data("qrs", write(tmp_path / "b.csv"), val=1, test=1)
    train, val, test = data.splits
    assert train.x[:, 0].tolist() == [-2, 0, 2]
    assert [part.y[:, 0].tolist() for part in (train, val)] == [
        [pytest.approx(0.1), 1, 0], [pytest.approx(0.2), 2, 0]]  # fmt: skip
    assert [part.list_beats() for part in (train, val, test)] == [[0], [1], [2]]
    assert (data.x_axis.label, data.y_axis.label) == ("time (ms)", "voltage (mV)")
    assert data.provenance()["split"] == {"train": [1], "val": [2], "test": [3]}


def test_scales_divide_what_was_measured_and_the_labels_say_so(tmp_path: Path) -> None:
    data = beats_data("qrs", write(tmp_path / "b.csv"), val=1, test=1, x_scale=2.0, y_scale=0.1)
    assert data.splits.train.x[:, 0].tolist() == [-1, 0, 1]
    assert data.splits.train.y[1, 0] == pytest.approx(10)
    assert (data.x_axis.label, data.y_axis.label) == ("time (2 ms)", "voltage (0.1 mV)")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("time_ms", ("time", "ms")),
        ("beat_1_mV", ("beat 1", "mV")),
        ("beat 1 (mV)", ("beat 1", "mV")),
        ("V [µV]", ("V", "µV")),
        ("beat_1", ("beat 1", None)),
        ("frames", ("frames", None)),
    ],
)
def test_a_heading_gives_name_and_unit(text: str, parts: tuple[str, str | None]) -> None:
    assert split_heading(text) == parts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TEXT + "4,1,2\n", "line 5 has 3 cells, and the headings are 4"),
        (TEXT + "4,1,x,2\n", "line 5, beat_2_mV: 'x' is no number"),
        (TEXT + "4,1,,2\n", "line 5, beat_2_mV: '' is no number"),
        (TEXT + "4,1,nan,2\n", "'nan' is no number"),
        ("1,2,3\n2,3,4\n", "the first line holds numbers"),
        ("time_ms\n1\n", "one column alone"),
        ("time_ms;a_mV\n0,5;1\n", "separated by semicolons or tabs"),
        ("time_ms,a_mV\n", "no numbers"),
        ("", "no numbers"),
        (TEXT + "2,1,1,1\n", "a time occurs twice"),
        ("time_ms,a_mV,b_V\n1,2,3\n", "several units (V, mV)"),
    ],
)
def test_a_file_of_another_kind_is_said_in_a_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.csv") as error:
        _ = beats_data("qrs", write(tmp_path / "b.csv", text)).splits
    assert message in str(error.value)


def test_a_missing_file_and_one_that_is_no_text_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read \(No such file"):
        _ = beats_data("qrs", str(tmp_path / "none.csv")).splits
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="no text in UTF-8"):
        _ = beats_data("qrs", str(tmp_path / "b.csv")).splits
    quote = write(tmp_path / "quote.csv", '"' + TEXT + "1,2,3,4\n" * 20_000)
    with pytest.raises(DataError, match=r"quote\.csv: cannot be read \(field larger.*\); close the quote"):
        _ = beats_data("qrs", quote).splits


def test_times_that_single_precision_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    lines = "".join(f"{1.7e9 + 0.00278 * i:.5f},{i},1,2\n" for i in range(5))  # seconds since 1970
    file = write(tmp_path / "b.csv", TEXT.splitlines()[0] + "\n" + lines)
    with pytest.raises(DataError, match=r"1700000000 to .* too far from 0 .* subtract its first value"):
        _ = beats_data("qrs", file, val=1, test=1).splits


def test_a_beat_must_be_left_to_learn_from(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of 3 beats none is left"):
        _ = beats_data("qrs", write(tmp_path / "b.csv"), val=1, test=2).splits


def test_the_phantom_is_what_its_waves_say() -> None:
    source = ECGPhantom(noise=0.0, variation=0.0)
    repetitions = source.read()
    assert repetitions.y.shape == (10, 100)
    assert torch.equal(repetitions.y[0], repetitions.y[9])  # no differences
    torch.testing.assert_close(repetitions.y[0], source.compute_truth(repetitions.x))
    assert repetitions.x[50] == 0
    # at the R peak: the baseline, R, and what Q (27 ms and 8 ms wide) and S (27 and 9) leave there; P and T leave under 1e-3
    peak = -0.3 + 1.25 - 0.12 * 2.718281828 ** (-(27**2) / 128) - 0.28 * 2.718281828 ** (-(27**2) / 162)
    assert float(repetitions.y[0, 50]) == pytest.approx(peak, abs=1e-3)


def test_the_phantom_is_the_same_for_its_seed_alone() -> None:
    first, again = ecg_phantom_data("p", seed=1).splits, ecg_phantom_data("p", seed=2).splits
    assert torch.equal(first.train.y, again.train.y)
    assert not torch.equal(first.train.y, ecg_phantom_data("p", phantom_seed=1).splits.train.y)
    assert [len(part) for part in first] == [600, 200, 200]


def test_an_epoch_serves_every_point_once_in_an_order_of_its_own() -> None:
    data = ecg_phantom_data("p", batch_size=128)
    loader = data.train_dataloader()
    epochs = []
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert [len(x) for x, _ in batches] == [128, 128, 128, 128, 88]
        epochs.append(torch.cat([y for _, y in batches])[:, 0])
    assert torch.equal(epochs[0].sort().values, data.splits.train.y[:, 0].sort().values)
    assert not torch.equal(*epochs)


def test_a_subset_is_of_whole_beats() -> None:
    assert ecg_phantom_data("p", subset=2).splits.train.list_beats() == [0, 1]


@pytest.mark.parametrize(
    ("x", "y", "beats"),
    [((2,), (2, 1), (2,)), ((2, 1), (3, 1), (2,)), ((2, 1), (2, 1), (2, 1))],
)
def test_a_curve_refuses_other_shapes(x: tuple[int, ...], y: tuple[int, ...], beats: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Curve(torch.zeros(x), torch.zeros(y), torch.zeros(beats, dtype=torch.int64))
