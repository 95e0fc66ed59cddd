"""The fairness audit: its numbers, the rule at its limits, and whole runs whose planted disparity is found or not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.estimate import Estimate
from medassay.core.groups import Groups
from medassay.core.types import LabelledImages, Splits
from medassay.data.modules import LabelledData
from medassay.data.sources import memory_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.metrics.chance import ChanceCheck
from medassay.protocols.fairness import measures, verdict
from medassay.protocols.fairness.measures import measure_fairness
from medassay.protocols.fairness.protocol import Fairness
from medassay.protocols.fairness.results import FairnessResults, Gap
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import Predictions
from medassay.training.settings import TrainerSettings
from tests.helpers import EIGHT, TWO, Command, assert_one_line

CPU = torch.device("cpu")
GOOD = ChanceCheck(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 0.95), 0.5)
POOR = ChanceCheck(Estimate(0.5, 0.4, 0.6), Estimate(0.5, 0.4, 0.6), 0.5)


@pytest.fixture(autouse=True)
def quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of few resamples, and a net taken to be better than guessing, where the test is of neither."""
    monkeypatch.setitem(measures.BUDGETS, "quick", (400, 40))
    monkeypatch.setattr(measures, "check_against_chance", lambda *_: GOOD)


def draw_predictions(
    groups: Tensor, accuracy: list[float], *, classes: int = 2, seed: int = 0
) -> tuple[Predictions, Tensor]:
    """Predictions that are right in ``accuracy`` of each group, sure of themselves to different degrees."""
    rng = torch.Generator().manual_seed(seed)
    n = len(groups)
    labels = torch.arange(n) % classes
    right = torch.rand(n, generator=rng) < torch.tensor(accuracy)[groups]
    decided = torch.where(right, labels, (labels + torch.randint(1, classes, (n,), generator=rng)) % classes)
    logits = torch.rand(n, classes, generator=rng)
    logits[torch.arange(n), decided] += 1 + torch.rand(n, generator=rng)
    return Predictions(logits.softmax(1), labels), labels


def audit(
    sizes: list[int], accuracy: list[float], *, classes: int = 2, budget: Any = "quick", seed: int = 0, **settings: Any
) -> FairnessResults:
    """The audit of groups ``a``, ``b``, … with so many images, right in these shares."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    predictions, _ = draw_predictions(group, accuracy, classes=classes, seed=seed)
    groups = Groups({"site": tuple("abcdefgh"[: len(sizes)])}, group[:, None])
    names = TWO if classes == 2 else EIGHT[:classes]
    options = {"positive": None, "attributes": ["site"], "budget": budget, **settings}
    return measure_fairness(predictions, groups, names, **options)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_each_group_s_scores_are_those_of_its_images_alone() -> None:
    group = torch.arange(200) // 120
    predictions, labels = draw_predictions(group, [0.9, 0.6])
    groups = Groups({"site": ("a", "b")}, group[:, None])
    results = measure_fairness(predictions, groups, TWO, positive=None, attributes=["site"], budget="quick")
    for index, scores in enumerate(results.comparisons[0].groups):
        own = group == index
        said, truth = predictions.decisions[own], labels[own]
        metrics = {name: estimate.value for name, estimate in scores.metrics.items()}
        assert (scores.n, sum(scores.images_per_class.values())) == (int(own.sum()), int(own.sum()))
        assert metrics["accuracy"] == pytest.approx(float((said == truth).double().mean()))
        assert metrics["sensitivity"] == pytest.approx(float((said[truth == 1] == 1).double().mean()))
        assert metrics["specificity"] == pytest.approx(float((said[truth == 0] == 0).double().mean()))
        area = roc_auc_score(truth.numpy(), predictions.probabilities[own, 1].numpy())
        assert metrics["auroc"] == pytest.approx(float(area))
        assert scores.called is not None
        assert scores.called.value == pytest.approx(float((said == 1).double().mean()))
        for estimate in scores.metrics.values():
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.high
        x, y = map(torch.tensor, scores.curve)
        assert float(torch.trapezoid(y, x)) == pytest.approx(float(area))


def test_of_more_classes_one_can_be_named_and_else_rates_are_means_over_them() -> None:
    named = audit([200, 200], [0.9, 0.7], classes=4, positive=2)
    together = audit([200, 200], [0.9, 0.7], classes=4)
    each = [audit([200, 200], [0.9, 0.7], classes=4, positive=label) for label in range(4)]
    assert (named.positives, together.positives) == ([EIGHT[2]], EIGHT[:4])
    for place in (0, 1):
        single = [one.comparisons[0].groups[place].metrics for one in each]
        mean = together.comparisons[0].groups[place].metrics
        assert mean["sensitivity"].value == pytest.approx(sum(one["sensitivity"].value for one in single) / 4)
        assert mean["specificity"].value == pytest.approx(sum(one["specificity"].value for one in single) / 4)
    assert together.comparisons[0].groups[0].called is None
    largest = max(one.comparisons[0].gaps["equalised_odds"].value.value for one in each)
    assert together.comparisons[0].gaps["equalised_odds"].value.value == pytest.approx(largest)


def test_a_group_without_the_disease_has_a_specificity_and_no_sensitivity() -> None:
    groups = Groups({"site": ("a", "b")}, (torch.arange(120) % 2)[:, None])
    predictions, _ = draw_predictions(groups.indices[:, 0], [0.9, 0.8])
    apart = Predictions(predictions.probabilities, (torch.arange(120) % 4 == 0).long())  # group b is healthy
    results = measure_fairness(apart, groups, TWO, positive=None, attributes=["site"], budget="quick")
    healthy = results.comparisons[0].groups[1].metrics
    assert healthy["sensitivity"].value != healthy["sensitivity"].value
    said = apart.decisions[groups.indices[:, 0] == 1]
    assert healthy["specificity"].value == pytest.approx(float((said == 0).double().mean()))
    gap = results.comparisons[0].gaps["equal_opportunity"]
    assert not gap.value.known
    assert gap.level == "undecided"


# --- the rule --------------------------------------------------------------------------------------------------------


def test_a_large_difference_is_found_and_its_groups_are_named() -> None:
    results = audit([300, 300], [0.95, 0.7])
    assert (results.level, results.verdict) == ("found", "Disparity found: site.")
    text = results.comparisons[0].text
    assert text.startswith("Disparity found: equalised odds differ by ")
    assert re.search(r"accuracy: b 0\.\d+, a 0\.\d+\.", text)


def test_groups_that_are_treated_alike_are_not_accused() -> None:
    levels = [audit([400, 400], [0.85, 0.85], seed=seed).level for seed in range(6)]
    assert levels.count("found") <= 1  # each is accused with 5 %: two or more of six in one of thirty such tests
    assert levels.count("none") >= 5


def test_few_images_leave_it_undecided_and_say_which_gap_would_have_counted() -> None:
    results = audit([40, 40], [0.8, 0.75])
    assert results.level == "undecided"
    assert re.search(r"too few images: equalised odds differ by .*only a gap of 0\.\d\d", results.reasons[0])


def test_groups_under_thirty_images_are_shown_and_not_judged() -> None:
    results = audit([300, 300, 29], [0.85, 0.85, 0.0])
    one = results.comparisons[0]
    assert [group.judged for group in one.groups] == [True, True, False]
    assert one.groups[2].metrics["accuracy"].value == 0
    assert one.gaps["accuracy"].value.value == pytest.approx(
        abs(one.groups[0].metrics["accuracy"].value - one.groups[1].metrics["accuracy"].value)
    )
    assert results.level == "none"
    assert one.text.endswith("Not judged, with fewer than 30 images: c (29).")
    thirty = audit([300, 300, 30], [0.85, 0.85, 0.0])
    assert thirty.level == "found"


def test_one_group_alone_is_nothing_to_compare() -> None:
    small = audit([300, 12], [0.9, 0.9])
    assert small.level == "undecided"
    assert "only a has at least 30" in small.reasons[0]
    assert small.comparisons[0].gaps == {}
    alone = audit([300], [0.9])
    assert "all images are of one group, a" in alone.reasons[0]


def make_gap(value: float, null: Tensor, comparisons: int = 1) -> Gap:
    p = (int((null >= value).sum()) + 1) / (len(null) + 1)
    return verdict.judge_gap(Estimate(value, 0.0, 1.0), null, p, min(1.0, comparisons * p), comparisons)


def test_the_rule_s_limits() -> None:
    narrow, wide = torch.linspace(0, 0.04, 1000), torch.linspace(0, 0.3, 1000)
    assert make_gap(0.05, narrow).level == "found"
    assert make_gap(0.049, narrow).level == "none"  # certain, and smaller than what counts
    assert make_gap(0.02, narrow).level == "none"
    assert make_gap(0.2, wide).level == "undecided"
    assert make_gap(0.31, wide).level == "found"
    assert make_gap(0.2, torch.linspace(0, 0.02, 20)).level == "undecided"  # 20 permutations can show no p below 1/21


def test_the_needed_gap_is_the_smallest_whose_p_value_is_small_enough() -> None:
    null = torch.rand(400, generator=torch.Generator().manual_seed(0)).double()
    for comparisons in (1, 3, 6):
        needed = verdict.find_needed(null, comparisons)
        at, below = make_gap(needed + 1e-6, null, comparisons), make_gap(needed - 1e-3, null, comparisons)
        assert at.p_corrected <= verdict.SHARE
        reached = int((null >= needed - 2e-9).sum())
        assert comparisons * (reached + 1) / 401 > verdict.SHARE
        assert below.p_corrected >= at.p_corrected
    assert verdict.find_needed(null, 20) != verdict.find_needed(null, 20)


EXTREMES = dict.fromkeys(verdict.NAMES, "b 0.5, a 0.9")


def test_a_finding_names_the_rate_and_the_groups_that_make_it() -> None:
    # of 100 ill and 100 healthy images at each site, so many are found and so many rightly left
    found = {"a": (97, 63), "b": (63, 97), "c": (84, 84), "d": (76, 76)}
    decisions, labels, sites = [], [], []
    for site, (ill, healthy) in enumerate(found.values()):
        decisions += [1] * ill + [0] * (100 - ill) + [0] * healthy + [1] * (100 - healthy)
        labels += [1] * 100 + [0] * 100
        sites += [site] * 200
    one_hot = torch.nn.functional.one_hot(torch.tensor(decisions), 2).double()
    groups = Groups({"site": tuple(found)}, torch.tensor(sites)[:, None])
    results = measure_fairness(
        Predictions(one_hot, torch.tensor(labels)), groups, TWO, positive=None, attributes=["site"], budget="quick"
    )
    assert results.level == "found"
    assert f"sensitivity to {TWO[1]}: b 0.630, a 0.970" in results.reasons[0]


def test_a_group_with_two_images_of_a_class_hides_no_disparity() -> None:
    indices = torch.tensor([0] * 500 + [1] * 500 + [2] * 40)
    labels = torch.tensor([1, 0] * 500 + [1, 1] + [0] * 38)
    decisions = labels.clone()
    for site, missed in ((0, 12), (1, 80)):
        ill = ((indices == site) & (labels == 1)).nonzero().flatten()
        decisions[ill[:missed]] = 0
    predictions = Predictions(torch.nn.functional.one_hot(decisions, 2).double(), labels)
    groups = Groups({"site": ("a", "b", "c")}, indices[:, None])
    results = measure_fairness(predictions, groups, TWO, positive=None, attributes=["site"], budget="quick")
    assert results.level == "found"


def test_there_are_permutations_enough_for_many_comparisons() -> None:
    indices = torch.randint(2, (200, 7), generator=torch.Generator().manual_seed(0))
    predictions, _ = draw_predictions(indices[:, 0], [1.0, 0.3])
    groups = Groups(dict.fromkeys("abcdefg", ("x", "y")), indices)
    results = measure_fairness(
        predictions, groups, TWO, positive=None, attributes=[*"abcdefg"], budget="quick", depth=2
    )
    assert results.permutations >= len(results.comparisons) / verdict.SHARE
    assert results.comparisons[0].level == "found"


def test_a_net_at_chance_is_not_called_fair() -> None:
    gaps = {name: make_gap(0.01, torch.linspace(0, 0.04, 1000)) for name in verdict.NAMES}
    scores = audit([60, 60], [0.9, 0.9]).comparisons[0].groups
    assert verdict.judge_comparison(scores, gaps, GOOD, EXTREMES)[0] == "none"
    level, text = verdict.judge_comparison(scores, gaps, POOR, EXTREMES)
    assert level == "undecided"
    assert "not shown to be above chance" in text
    gaps["accuracy"] = make_gap(0.4, torch.linspace(0, 0.04, 1000))
    assert verdict.judge_comparison(scores, gaps, POOR, EXTREMES)[0] == "found"


@pytest.mark.parametrize(("apart", "level"), [(True, "undecided"), (False, "none")])
def test_groups_that_share_no_class_are_not_called_alike(apart: bool, level: str) -> None:
    site = torch.arange(400) // 200
    labels = (
        2 * site + torch.arange(400) % 2 if apart else torch.arange(400) % 4
    )  # site a has classes 0 and 1, b 2 and 3
    right = Predictions(torch.nn.functional.one_hot(labels, 4).double(), labels)
    groups = Groups({"site": ("a", "b")}, site[:, None])
    results = measure_fairness(right, groups, EIGHT[:4], positive=None, attributes=["site"], budget="quick")
    assert results.level == level
    assert ("a and b have fewer than 10 images of the same classes" in results.reasons[0]) is apart


def test_a_disparity_stays_one_where_a_further_group_shares_no_class() -> None:
    gaps = {name: make_gap(0.4, torch.linspace(0, 0.04, 1000)) for name in verdict.NAMES}
    scores = audit([60, 60], [0.9, 0.9]).comparisons[0].groups
    assert verdict.judge_comparison(scores, gaps, GOOD, EXTREMES, ["c"])[0] == "found"
    gaps = {name: make_gap(0.01, torch.linspace(0, 0.04, 1000)) for name in verdict.NAMES}
    text = verdict.judge_comparison(scores, gaps, GOOD, EXTREMES, ["c"])[1]
    assert "Undecided: c has fewer than 10 images of the same classes" in text


def test_every_gap_that_is_found_is_as_large_as_the_one_that_is_needed() -> None:
    null = torch.linspace(0.2, 0, 999, dtype=torch.float64)
    observed = [Estimate(value, 0.0, 1.0) for value in (0.3, float(null[18:20].mean()), 0.01)]
    judged = verdict.judge_gaps([{"accuracy": one} for one in observed[:2]], [{"accuracy": null}] * 2)
    found = [gaps["accuracy"] for gaps in judged]
    assert [gap.p for gap in found] == pytest.approx([0.001, 0.02])
    assert [gap.level for gap in found] == ["found", "found"]
    assert all(gap.value.value >= gap.needed for gap in found)
    judged = verdict.judge_gaps([{"accuracy": one} for one in observed[::2]], [{"accuracy": null}] * 2)
    assert judged[1]["accuracy"].needed == judged[0]["accuracy"].needed == verdict.find_needed(null, 2)


def test_p_values_are_corrected_over_attributes_and_intersections() -> None:
    rng = torch.Generator().manual_seed(1)
    indices = torch.randint(2, (300, 3), generator=rng)
    predictions, _ = draw_predictions(indices[:, 0], [0.9, 0.8])
    groups = Groups({"site": ("a", "b"), "sex": ("f", "m"), "age": ("old", "young")}, indices)
    results = measure_fairness(
        predictions, groups, TWO, positive=None, attributes=["site", "sex", "age"], budget="quick", depth=2
    )
    assert [one.name for one in results.comparisons] == [
        "site", "sex", "age", "site × sex", "site × age", "sex × age",
    ]  # fmt: skip
    for name in verdict.NAMES:
        gaps = sorted((one.gaps[name] for one in results.comparisons), key=lambda gap: gap.p)
        assert gaps[0].p_corrected == pytest.approx(min(1.0, 6 * gaps[0].p))
        assert gaps[-1].p_corrected >= gaps[-1].p
    single = measure_fairness(predictions, groups, TWO, positive=None, attributes=["sex"], budget="quick", depth=1)
    assert [one.name for one in single.comparisons] == ["sex"]
    assert single.comparisons[0].gaps["accuracy"].p_corrected == single.comparisons[0].gaps["accuracy"].p


def test_what_is_undecided_in_an_intersection_alone_is_said_beside() -> None:
    indices = torch.tensor([[i // 100 % 2, i % 2 if i % 10 == 0 else 0] for i in range(800)])
    indices[:, 1] = (torch.arange(800) % 16 == 0).long()  # 50 images in the second group, 25 in each intersection
    predictions, _ = draw_predictions(torch.zeros(800, dtype=torch.int64), [0.97])
    groups = Groups({"site": ("a", "b"), "sex": ("f", "m")}, indices)
    results = measure_fairness(predictions, groups, TWO, positive=None, attributes=["site"], budget="quick")
    assert (results.level, results.verdict) == ("none", "No disparity found: site.")
    crossed = measure_fairness(predictions, groups, TWO, positive=None, attributes=["site", "sex"], budget="quick")
    assert len(crossed.comparisons[2].too_small) == 2
    assert "Not judged, with fewer than 30 images: a × m (" in crossed.reasons[2]


# --- a whole run -----------------------------------------------------------------------------------------------------


class MeanNet(nn.Module):
    """Calls an image ill where it is brighter than the middle."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images.mean((1, 2, 3))
        return torch.stack([0.5 - brightness, brightness - 0.5], 1) * 20


def make_data(*, disparity: bool, groups: bool = True, n: int = 240) -> LabelledData:
    """Bright ill and dark healthy images; with ``disparity`` a third of those of scanner B look like the other class."""
    index = torch.arange(n)
    labels = index % 2
    scanner, sex = index // 2 % 2, index // 4 % 2
    wrong = (index // 8 % 3 == 0) & ((scanner == 1) if disparity else torch.ones(n, dtype=torch.bool)) & (index % 5 < 3)
    brightness = torch.where(wrong, 1 - labels, labels) * 60 + 98 + index % 7
    images = brightness.to(torch.uint8)[:, None, None, None].expand(n, 1, 8, 8).contiguous()
    known = Groups({"scanner": ("A", "B"), "sex": ("f", "m")}, torch.stack([scanner, sex], 1)) if groups else None
    split = LabelledImages(images, labels, groups=known)
    return memory_data("made", TWO, Splits(split[:8], split[:40], split))


def run_of(data: LabelledData, directory: Path) -> Run:
    task = Classification(MeanNet(), 2).eval()
    config = {"recipe": {"name": "pneumonia_cnn"}, "seed": 3}
    return Run(RunDirectory(directory), config, data, task, TrainerSettings(gpus=0))


def evaluate(run: Run, directory: Path, **settings: Any) -> Report:
    """The report of a run, written to ``directory``."""
    report = Fairness(budget="quick", **settings).run(run, ComputeContext(CPU, 0, directory))
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "fairness"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    directory = tmp_path_factory.mktemp("fairness")
    return evaluate(run_of(make_data(disparity=True), directory), directory, intersections=1), directory


def test_the_report_is_one_file_with_verdict_rule_and_a_row_for_each_group(audited: tuple[Report, Path]) -> None:
    report, directory = audited
    page = (directory / "report.html").read_text()
    assert report.verdict[0].startswith("fairness: Disparity found: scanner")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for text in (
        "Fairness of pneumonia_cnn on made",
        "By scanner",
        "By sex",
        "The rule, fixed beforehand",
        "called pneumonia",
    ):
        assert text in page
    names = {f"{kind}_{number}" for kind in ("scores", "roc", "gaps") for number in range(2)}
    assert {path.stem for path in (directory / "figures").iterdir()} == names


def test_single_numbers_and_results_are_written(audited: tuple[Report, Path]) -> None:
    report, directory = audited
    written = json.loads((directory / "fairness.json").read_text())
    assert written["level"] == "found"
    assert [one["name"] for one in written["comparisons"]] == ["scanner", "sex"]
    assert "null" not in written["comparisons"][0]["gaps"]["accuracy"]
    values = json.loads((directory / "metrics.json").read_text())["fairness"]
    gaps = report.results.comparisons[0].gaps
    assert values["found"] == values["found/scanner"] == 1
    assert values["equalised_odds/scanner"] == gaps["equalised_odds"].value.value
    assert values["accuracy_p/sex"] == report.results.comparisons[1].gaps["accuracy"].p_corrected
    assert values["worst_accuracy/scanner"] == report.results.comparisons[0].groups[1].metrics["accuracy"].value


def test_without_a_disparity_none_is_found_and_one_attribute_can_be_chosen(tmp_path: Path) -> None:
    run, here = run_of(make_data(disparity=False, n=480), tmp_path), ComputeContext(CPU, 0, tmp_path)
    report = Fairness(budget="quick", attributes=["scanner"]).run(run, here)
    assert report.results.level == "none"
    assert [one.name for one in report.results.comparisons] == ["scanner"]
    assert report.hyperparameters == {"attributes": "scanner"}


def test_metrics_and_files_name_an_intersection_without_signs(tmp_path: Path) -> None:
    run, here = run_of(make_data(disparity=True), tmp_path), ComputeContext(CPU, 0, tmp_path)
    report = Fairness(budget="quick").run(run, here)
    assert [one.name for one in report.results.comparisons] == ["scanner", "sex", "scanner × sex"]
    assert [group.name for group in report.results.comparisons[2].groups] == ["A × f", "A × m", "B × f", "B × m"]
    assert "found/scanner_x_sex" in report.metrics["fairness"]
    assert {"scores_2", "roc_2", "gaps_2"} <= set(report.figures)


def test_validation_images_are_judged_with_a_warning(tmp_path: Path) -> None:
    report = Fairness(budget="quick", split="val").run(
        run_of(make_data(disparity=False), tmp_path), ComputeContext(CPU, 0, tmp_path)
    )
    assert (report.results.n, report.split) == (40, "val")
    assert "chose the epoch" in report.warnings[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attributes": ["scaner"]}, "no attribute 'scaner'. Did you mean 'scanner'? Accepted: scanner, sex"),
        ({"attributes": []}, "nothing to compare by"),
        ({"positive": "flu"}, "protocol.positive=flu: no such class"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        Fairness(**settings).run(run_of(make_data(disparity=False, n=40), tmp_path), ComputeContext(CPU, 0, tmp_path))


def test_images_without_groups_are_refused_with_what_gives_them(tmp_path: Path) -> None:
    run = run_of(make_data(disparity=False, groups=False, n=40), tmp_path)
    with pytest.raises(ConfigError, match=r"the test images of made have no groups; give data.groups=<csv>"):
        Fairness().run(run, ComputeContext(CPU, 0, tmp_path))


SAVED = Path(__file__).parents[1] / "fixtures" / "runs" / "cnn"


def test_a_run_of_before_there_were_groups_gets_them_at_its_evaluation(tmp_path: Path, command: Command) -> None:
    refused = command("evaluate", f"run={SAVED}", "protocol=fairness", f"eval_dir={tmp_path}", "trainer.gpus=0")
    assert_one_line(refused, "have no groups", "data.groups=<csv>")
    table = tmp_path / "groups.csv"
    n = len(saved_data().splits.test)
    table.write_text("split,index,site\n" + "".join(f"test,{i},{'ab'[i % 2]}\n" for i in range(n)))
    arguments = [
        "evaluate",
        f"run={SAVED}",
        "protocol=fairness",
        "protocol.budget=quick",
        f"eval_dir={tmp_path / 'eval'}",
    ]
    result = command(*arguments, f"data.groups={table}", "trainer.gpus=0")
    assert result.code == 0, result.err
    (written,) = (tmp_path / "eval").glob("fairness_*/report.html")
    assert "The groups were named for this evaluation" in written.read_text()
    wrong = command(*arguments, f"data.groups={tmp_path / 'absent.csv'}", "trainer.gpus=0")
    assert_one_line(wrong, "absent.csv", "cannot be read")


def saved_data() -> LabelledData:
    from medassay.runs.load import load_run

    return load_run(SAVED, trainer_gpus=0).data
