"""Certainty of a classifier: what is measured of known answers, and a net whose answers are known."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import LabelledData
from medassay.data.sources import memory_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.protocols.uncertainty import measures
from medassay.protocols.uncertainty.measures import Answers
from medassay.protocols.uncertainty.protocol import Uncertainty, shuffle_pixels
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.training.settings import TrainerSettings

CPU = torch.device("cpu")
ABC = ["a", "b", "c"]


def answers(*rows: list[float], labels: list[int]) -> Answers:
    return Answers(torch.tensor(rows, dtype=torch.float64).log(), torch.tensor(labels))


FOUR = answers([0.98, 0.01, 0.01], [0.5, 0.49, 0.01], [0.4, 0.3, 0.3], [0.05, 0.05, 0.9], labels=[0, 1, 0, 2])


# --- what is measured ------------------------------------------------------------------------------------------------


def test_entropy_and_margin_may_disagree_on_what_is_most_ambiguous() -> None:
    by_entropy, by_margin = (measures.find_ambiguous(FOUR, ABC, by, 2) for by in ("entropy", "margin"))
    assert [one.index for one in by_entropy] == [2, 1]
    assert [one.index for one in by_margin] == [1, 2]
    first = by_margin[0]
    assert first.chances == [("a", pytest.approx(0.5)), ("b", pytest.approx(0.49)), ("c", pytest.approx(0.01))]
    assert (first.true, first.is_right, first.margin) == ("b", False, pytest.approx(0.01))


def test_pairs_are_those_of_the_images_that_the_net_is_not_sure_of_in_either_order() -> None:
    unsure = answers([0.5, 0.49, 0.01], [0.49, 0.5, 0.01], [0.3, 0.1, 0.6], [0.95, 0.04, 0.01], labels=[0, 0, 0, 0])
    pairs = measures.count_pairs(unsure, ABC, 0.9)
    assert [(pair.classes, pair.n) for pair in pairs] == [(("a", "b"), 2), (("a", "c"), 1)]
    assert measures.count_pairs(unsure, ABC, 0.1) == []


def test_the_surest_are_kept_by_their_largest_probability() -> None:
    rows = measures.keep_surest(FOUR, [0.5, 1.0, 0.75, 0.5])
    assert [(row.asked, row.n) for row in rows] == [(1.0, 4), (0.75, 3), (0.5, 2)]
    assert [row.accuracy.value for row in rows] == pytest.approx([0.75, 2 / 3, 1])
    assert [row.lowest for row in rows] == pytest.approx([0.4, 0.5, 0.9])


def test_sure_is_at_least_the_limit() -> None:
    sure = measures.measure_sure(FOUR, 0.89)
    assert (sure.share.value, sure.accuracy.value) == (0.5, 1)
    assert sure.confidence == pytest.approx((0.98 + 0.5 + 0.4 + 0.9) / 4)


def test_a_letter_is_called_what_most_of_its_fonts_are_called() -> None:
    said = answers([0.95, 0.03, 0.02], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.02, 0.02, 0.96], labels=[-1] * 4)
    found = measures.judge_foreign("letters", said.logits, FOUR, ABC, 0.9, ["A", "A", "A", "B"])
    assert (found.n, found.sure, found.decided) == (4, 0.5, [2, 1, 1])
    assert [(one.letter, one.called, one.fonts, one.sure) for one in found.letters] == [
        ("B", "c", 1, 1),
        ("A", "a", 2, 1),
    ]
    # ours 0.98 0.9 0.5 0.4 above theirs 0.96 0.95 0.8 0.6: 4 + 2 + 0 + 0 of 16 pairs
    assert found.detection.value == pytest.approx(6 / 16)


def test_shuffled_pixels_are_the_same_values_in_an_order_of_their_own() -> None:
    images = torch.arange(2 * 3 * 16, dtype=torch.uint8).reshape(2, 3, 4, 4)
    shuffled = shuffle_pixels(images, seed=3)
    assert shuffled.shape == images.shape
    for one in shuffled:
        source = images[int(one[0].min()) // 48]
        assert torch.equal(one.flatten(1).sort(1).values, source.flatten(1))
        assert torch.equal(one[1].int() - one[0].int(), torch.full((4, 4), 16))  # channels move together
    assert not torch.equal(shuffled[0].flatten(1).argsort(1), shuffled[1].flatten(1).argsort(1))


# --- a net whose answers are known -----------------------------------------------------------------------------------


class Brightness(nn.Module):
    """Class 1 the brighter the first pixel is; sure of it above and below a half."""

    def forward(self, images: Tensor) -> Tensor:
        score = 40 * (images[:, 0, 0, 0] - 0.5)
        return torch.stack([torch.zeros_like(score), score], 1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    images = torch.zeros(20, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor([255] * 9 + [0] * 9 + [128, 127], dtype=torch.uint8)
    labels = torch.tensor([1] * 9 + [0] * 9 + [0, 1])  # the two in the middle are wrong
    split = LabelledImages(images, labels)
    data = memory_data("mine", ["dark", "bright"], Splits(split, split, split))
    task = Classification(Brightness(), 2)
    directory = RunDirectory(tmp_path / "run")
    directory.path.mkdir()
    config = {"seed": 0, "recipe": {"name": "brightness"}, "data": {"name": "mine"}}
    return Run(directory, config, data, task, TrainerSettings(gpus=0), "best", tmp_path / "best.ckpt", 1)


def judge(run: Run, tmp_path: Path, **settings: object) -> Report:
    return Uncertainty(**settings).run(run, ComputeContext(CPU, 0, tmp_path))  # type: ignore[arg-type]


def test_confident_images_are_right_and_the_two_in_the_middle_are_left_out(run: Run, tmp_path: Path) -> None:
    results = judge(run, tmp_path, shown=2).results
    assert results.kept[0].accuracy.value == 0.9
    assert next(row for row in results.kept if row.asked == 0.9).accuracy.value == 1
    assert {one.index for one in results.ambiguous} == {18, 19}
    assert (results.unsure, [pair.n for pair in results.pairs]) == (2, [2])
    letters, shuffled = results.foreign
    assert (letters.n, letters.sure, letters.decided) == (312, 1, [312, 0])  # a letter's corner is black
    assert (shuffled.n, shuffled.kind) == (20, "shuffled")
    assert [row.severity for row in results.blurred] == [0, 1, 2, 3, 4, 5]
    assert results.blurred[0].accuracy.value == 0.9


def test_the_page_shows_everything_and_asks_for_nothing_from_outside(run: Run, tmp_path: Path) -> None:
    report = judge(run, tmp_path, shown=2)
    protocol = {"name": "uncertainty"}
    record = {"run": "outputs/r", "status": "done", "protocol": protocol, "overrides": {}}
    write_report(report, describe_run(run, None), record, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for text in (
        "Most ambiguous images",
        "Letter by letter",
        "Blurred images",
        "accuracy 0.900",
        "between dark and bright",
    ):
        assert text.lower() in page.lower()
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())["uncertainty"]
    assert numbers["accuracy_kept/100"] == 0.9
    assert numbers["sure_of/letters"] == 1
    assert all(isinstance(value, float) for value in numbers.values())
    assert {path.stem for path in (tmp_path / "out" / "figures").iterdir()} == {"kept", "confidence", "ambiguous"}


def test_shares_that_differ_by_a_thousandth_have_names_of_their_own(run: Run, tmp_path: Path) -> None:
    settings = {"shares": [1.0, 0.999, 0.995, 0.57], "foreign": [], "blurred": False}
    numbers = judge(run, tmp_path, **settings).results.flatten()
    names = {name for name in numbers if name.startswith("accuracy_kept/")}
    assert names == {f"accuracy_kept/{share}" for share in ("100", "99.9", "99.5", "57")}


def test_sentences_say_the_limit_and_a_share_as_they_were_asked_for(run: Run, tmp_path: Path) -> None:
    report = judge(run, tmp_path, sure=0.999, shares=[0.5], foreign=[], blurred=False)
    kept, sure = report.verdict[:2]
    assert kept.endswith("on the 90 % of them that the net is surest of")  # of equal certainty, so that all are kept
    assert "at least 99.9 % sure of" in sure
    write_report(report, describe_run(run, None), {"run": "r", "protocol": {"name": "uncertainty"}}, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "At least 99.9 % sure of" in page
    assert "100 % sure" not in page


def test_parts_can_be_left_out(run: Run, tmp_path: Path) -> None:
    report = judge(run, tmp_path, foreign=[], blurred=False)
    assert (report.results.foreign, report.results.blurred) == ([], [])
    write_report(report, describe_run(run, None), {"run": "r", "protocol": {"name": "uncertainty"}}, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Images of no class" not in page
    assert "Blurred images" not in page


def test_no_shares_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.shares=\[\]"):
        Uncertainty(shares=[])


def test_a_run_of_colour_images_gets_letters_in_three_channels(
    tiny_blood: Callable[..., LabelledData], tmp_path: Path
) -> None:
    split = tiny_blood(test=8).splits.test
    made = Uncertainty().make_foreign(split)
    assert made["letters"][0].shape == (312, 3, 28, 28)
    assert made["shuffled"][0].shape == (8, 3, 28, 28)
