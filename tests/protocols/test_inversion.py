"""Gradient inversion: what is tried, how it is scored, what the rule says, and whole runs."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import medassay
from medassay.core.errors import ConfigError
from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.metrics.estimates import estimate_share, mean_over_few_images
from medassay.protocols.inversion import verdict
from medassay.protocols.inversion.attack import Attack, Found, find_bias
from medassay.protocols.inversion.cases import BUDGETS, Case, group_cases, list_batches, list_cases
from medassay.protocols.inversion.measures import (
    CaseResult,
    Level,
    Nearness,
    Scores,
    choose_originals,
    score_images,
)
from medassay.protocols.inversion.protocol import Inversion, choose_bias, choose_modes, make_nets
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.ema import EMA
from tests.helpers import Command, assert_one_line, list_differences

CPU = torch.device("cpu")
SAVED = Path(__file__).parents[1] / "fixtures" / "runs" / "cnn"

# --- what is tried ---------------------------------------------------------------------------------------------------


def test_a_full_budget_changes_one_thing_at_a_time() -> None:
    cases = list_cases("trained", BUDGETS["full"])
    base = Case("trained")
    assert cases[:2] == [base, Case("initial")]
    for case in cases[1:]:
        assert sum(value != getattr(base, name) for name, value in vars(case).items()) == 1
    assert [case.batch for case in cases if case.batch > 1] == [2, 4, 8]
    assert [case.noise for case in cases if case.noise is not None] == [0.001, 0.01, 0.1]
    assert [case.pruned for case in cases if case.pruned] == [0.5, 0.9, 0.99]
    assert {case.mode for case in cases} == {"eval", "train"}
    assert {case.local_steps for case in cases} == {1, 4}
    assert len({case.key for case in cases}) == len({str(case) for case in cases}) == len(cases) == 13


def test_defences_of_one_gradient_are_computed_side_by_side() -> None:
    groups = group_cases(list_cases("initial", BUDGETS["quick"]))
    assert [[str(case) for case in group] for group in groups] == [
        [
            "initial weights, one image",
            "initial weights, one image, clipping and noise 0.01",
            "initial weights, one image, 90 % pruned",
        ],
        ["trained weights, one image"],
    ]


def test_batches_for_which_there_are_too_few_images_are_left_out() -> None:
    amounts = BUDGETS["full"]._replace(images=5)
    assert list_batches(amounts) == [1, 2, 4]
    assert max(case.batch for case in list_cases("trained", amounts)) == 4


def test_a_first_batch_that_is_too_large_is_left_out_of_every_case() -> None:
    cases = list_cases("trained", BUDGETS["quick"]._replace(batch_sizes=[8, 1]))
    assert {case.batch for case in cases} == {1}


def test_settings_take_the_place_of_the_budget_s() -> None:
    amounts = Inversion(budget="quick", images=3, noise=[], modes=["train", "eval"]).amounts
    assert amounts == BUDGETS["quick"]._replace(images=3, noise=[], modes=["train", "eval"])
    assert all(case.mode == "train" for case in list_cases("trained", amounts) if case.is_defended or case.batch > 1)


# --- how it is scored ------------------------------------------------------------------------------------------------


def make_split() -> LabelledImages:
    images = torch.randint(256, (40, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images[7] = images[3]  # a copy, of another class
    images[8] = (images[3].int() + 1).clamp(max=255).to(torch.uint8)
    return LabelledImages(images, torch.arange(40) % 2)


def test_originals_are_ranked_among_their_class_and_copies_are_no_others() -> None:
    split = make_split()
    originals = choose_originals(split, torch.tensor([3, 4]), seed=0)
    assert originals.labels.tolist() == [1, 0]
    assert [len(one) for one in originals.others] == [18, 19]  # of 20 a class, less itself and the copy
    torch.testing.assert_close(originals.nearest[0], split.images[8].float() / 255)
    own_class = split.images[split.labels == 0].float() / 255
    assert all(any(torch.equal(one, other) for other in own_class) for one in originals.others[1])
    torch.testing.assert_close(originals.mean[1], split.images.float().mean(0) / 255)


def test_a_batch_is_scored_in_its_best_order() -> None:
    originals = choose_originals(make_split(), torch.tensor([3, 4, 5, 6]), seed=0)
    swapped = originals.images.view(2, 2, 1, 16, 16).flip(1)
    scores = score_images(swapped, originals)
    assert torch.equal(scores.images, originals.images)
    assert scores.ranks == [1, 1, 1, 1]
    assert scores.first == estimate_share(4, 4)
    assert scores.reconstruction.psnr.value == pytest.approx(58.92, abs=0.01)
    assert scores.reconstruction.ssim.value == pytest.approx(1.0)


def test_a_gain_is_over_the_nearest_other_image_pair_by_pair() -> None:
    originals = choose_originals(make_split(), torch.tensor([3, 4, 5]), seed=0)
    scores = score_images(originals.nearest[:, None], originals)
    assert scores.gain.psnr.value == scores.gain.ssim.value == 0
    part = score_images(originals.images[:2].view(1, 2, 1, 16, 16), originals)  # the third was not attacked
    assert part.n == len(part.ranks) == 2


# --- the rule --------------------------------------------------------------------------------------------------------


def make_scores(gains: list[float], ranks: list[int]) -> Scores:
    gain = mean_over_few_images(gains)
    first = estimate_share(sum(rank == 1 for rank in ranks), len(ranks))
    near = Nearness(Estimate(20.0), Estimate(0.5))
    return Scores(len(ranks), near, Nearness(gain, gain), first, ranks, torch.zeros(len(ranks), 1, 1, 1))


@pytest.mark.parametrize(
    ("gains", "ranks", "level"),
    [
        ([5.0, 6.0, 7.0, 6.0], [1, 1, 1, 1], "recognisable"),
        ([5.0, 6.0, 7.0, 6.0], [2, 2, 2, 2], "recognisable"),  # by the gains alone
        ([-5.0, -6.0, -7.0, -6.0], [1, 1, 1, 9], "recognisable"),  # by the ranks alone
        ([-5.0, 9.0], [1, 1], "recognisable"),
        ([-5.0, -6.0, -7.0, -6.0], [1, 1, 7, 9], "undecided"),  # half is not most, and more than luck
        ([-5.0, 6.0, 7.0, -6.0], [4, 5, 7, 9], "undecided"),
        ([-5.0, -6.0, -7.0, -6.0], [4, 500, 7, 900], "not_recognisable"),
        ([-5.0, -6.0], [4, 500], "undecided"),  # of two images the interval is wide
        ([-5.0, -5.1], [4, 500], "not_recognisable"),
        ([-9.0], [500], "undecided"),  # of one there is none
        ([9.0], [1], "recognisable"),
    ],
)
def test_the_rule_asks_for_gains_outside_their_interval_or_first_ranks_in_most_cases(
    gains: list[float], ranks: list[int], level: Level
) -> None:
    assert verdict.judge_case(make_scores(gains, ranks), luck=0.001)[0] == level


@pytest.mark.parametrize(("ranked", "level"), [(1, "undecided"), (2, "undecided"), (1000, "recognisable")])
def test_what_comes_first_by_luck_is_not_recognised(ranked: int, level: Level) -> None:
    scores = make_scores([-5.0, 9.0], [1, 1])
    assert verdict.judge_case(scores, verdict.expect_luck([ranked] * 2))[0] == level


def test_luck_is_that_of_the_images_that_the_case_attacked() -> None:
    split = make_split()
    split.labels[4] = 2  # alone in its class: it comes first whatever is found
    originals = choose_originals(split, torch.tensor([3, 5, 4]), seed=0)
    found = Found(originals.images[:2].view(1, 2, 1, 16, 16), 0.0, None)  # a batch of two: the third is left over
    assert len(originals.others[2]) == 0
    result = Inversion().judge(Case("trained", batch=2), found, originals)
    assert (result.n, result.level) == (2, "recognisable")


def make_result(case: Case, level: Level) -> CaseResult:
    scores = make_scores([1.0, 1.0], [1, 2])
    return CaseResult(
        case=case, name=str(case), right_labels=estimate_share(2, 2), distance=0.1, epsilon=None, level=level,
        reason="a reason", **vars(scores),
    )  # fmt: skip


BASE, OTHER, BATCH, NOISE = Case("trained"), Case("initial"), Case("trained", batch=2), Case("trained", noise=0.1)


@pytest.mark.parametrize(
    ("levels", "level", "words"),
    [
        (("not_recognisable", "recognisable", "recognisable", "not_recognisable"), "recognisable", "weights, 2 images"),
        (
            ("not_recognisable", "recognisable", "undecided", "recognisable"),
            "undecided",
            "Undecided: trained weights, 2",
        ),
        (("not_recognisable", "recognisable", "not_recognisable", "undecided"), "not_recognisable", "initial weights"),
        (("not_recognisable",) * 4, "undecided", "its failure shows nothing"),
    ],
)
def test_the_verdict_is_that_of_the_undefended_case_that_gives_most_away(
    levels: tuple[Level, ...], level: Level, words: str
) -> None:
    results = [make_result(case, one) for case, one in zip((BASE, OTHER, BATCH, NOISE), levels, strict=True)]
    found, text, reason = verdict.judge(results)
    assert found == level
    assert words in text
    assert "a reason" in reason


def test_findings_say_labels_weights_batches_and_defences_in_words() -> None:
    noisy = replace(make_result(NOISE, "not_recognisable"), epsilon=91.8173)
    results = [
        make_result(BASE, "recognisable"),
        make_result(OTHER, "undecided"),
        make_result(BATCH, "undecided"),
        noisy,
    ]
    found = "\n".join(verdict.list_findings(results, 1e-5)).replace("\N{NO-BREAK SPACE}", " ")
    assert "rightly in 2 of 2 images" in found
    assert "With initial weights: undecided, PSNR 20.0 dB" in found
    assert "Larger batches: 2 images: undecided (first in 1 of 2, 20.0 dB)." in found
    assert "at delta 1e-05: noise 0.1 (epsilon 91.8): not recognisable" in found
    assert "Pruning" not in found


# --- what the attack is given ----------------------------------------------------------------------------------------


class Plain(nn.Module):
    """Softmax regression on 16x16 pixels."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.head = nn.Linear(256, 2, bias=bias)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1) - 0.5)
        return logits


def make_attack(**changes: Any) -> Attack:
    torch.manual_seed(0)
    originals = choose_originals(make_split(), torch.tensor([3, 4]), seed=0)
    search = Inversion(steps=1, restarts=1).make_search()
    values: dict[str, Any] = {
        "nets": {"trained": Plain()}, "loss": F.cross_entropy, "originals": originals, "search": search, "device": CPU,
        "bound": 1.0, "lr": 0.01, "bias": "head.bias",
    }  # fmt: skip
    return Attack(**{**values, **changes})


def test_labels_of_single_images_are_read_and_those_of_batches_given() -> None:
    found = make_attack().attack([Case("trained"), Case("trained", noise=0.0), Case("trained", pruned=0.9)])
    assert [one.right_labels.tolist() for one in found if one.right_labels is not None] == [[True, True]] * 3
    assert make_attack().attack([Case("trained", batch=2)])[0].right_labels is None
    assert make_attack(bias=None).attack([Case("trained")])[0].right_labels is None


class Narrow(nn.Module):
    """A net whose last maps are a single pixel, and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 16), nn.BatchNorm2d(2), nn.Flatten())
        self.head = nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images))
        return logits


def test_where_a_single_image_has_no_statistics_noise_alone_is_left_out() -> None:
    attack = make_attack(nets={"trained": Narrow()})
    pair = Case("trained", "train", batch=2)
    found = attack.attack_defined([pair, replace(pair, noise=0.1), replace(pair, pruned=0.5)])
    assert [*found] == [pair, replace(pair, pruned=0.5)]
    assert attack.attack_defined([replace(pair, batch=1)]) == {}
    assert [*attack.attack_defined([replace(pair, mode="eval", noise=0.1)])] == [replace(pair, mode="eval", noise=0.1)]


def test_noise_takes_the_labels_away() -> None:
    originals = choose_originals(make_split(), torch.arange(0, 40), seed=0)
    (found,) = make_attack(originals=originals).attack([Case("trained", noise=100.0)])
    assert found.right_labels is not None
    assert 0.2 < float(found.right_labels.double().mean()) < 0.8


def test_a_net_without_a_bias_or_with_smoothed_labels_gives_no_label() -> None:
    assert find_bias(Plain(), 2) == "head.bias"
    assert find_bias(Plain(bias=False), 2) is None
    plain = Plain(bias=False)
    assert choose_bias(Classification(plain, 2), plain)[0] is None
    assert "no bias" in (choose_bias(Classification(plain, 2), plain)[1] or "")
    smooth = Classification(Plain(), 2, label_smoothing=0.1)
    assert choose_bias(smooth, smooth.net)[0] is None
    assert "label_smoothing=0.1" in (choose_bias(smooth, smooth.net)[1] or "")


# --- a whole run -----------------------------------------------------------------------------------------------------

TINY: dict[str, Any] = {"budget": "quick", "steps": 2, "restarts": 1}


def evaluate(run: Run, directory: Path, **settings: Any) -> Report:
    """The report of a run, written to ``directory``."""
    report = Inversion(**{**TINY, **settings}).run(run, ComputeContext.from_settings(run.settings, directory))
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "inversion"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Tensor], Report, Path]:
    """A saved run, its weights before, and its report."""
    run, directory = medassay.load_run(SAVED, trainer_gpus=0), tmp_path_factory.mktemp("inversion")
    before = copy.deepcopy(run.task.state_dict())
    return run, before, evaluate(run, directory, batch_sizes=[1, 2]), directory


Attacked = tuple[Run, dict[str, Tensor], Report, Path]


def test_weights_mode_and_gradients_of_the_run_are_untouched(attacked: Attacked) -> None:
    run, before, _, _ = attacked
    assert not list_differences(before, run.task.state_dict())
    assert not any(part.training for part in run.task.modules())
    assert all(weight.grad is None for weight in run.task.parameters())


def test_labels_are_read_off_the_gradient_of_a_real_net(attacked: Attacked) -> None:
    for one in attacked[2].results.cases:
        if one.case.batch == 1 and not one.case.is_defended:
            assert one.right_labels == estimate_share(2, 2)
    assert attacked[2].results.labels_read


def test_the_same_seed_gives_the_same_images() -> None:
    cases = [Case("trained", noise=0.1), Case("trained", mode="train"), Case("trained", local_steps=2)]
    first, alone = (
        make_attack().attack([Case("trained"), *cases[:1]]),
        make_attack().attack([Case("trained"), *cases[:1]]),
    )
    for one, other in zip(first, alone, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.distance == other.distance
    for case in cases[1:]:
        assert torch.equal(make_attack().attack([case])[0].images, make_attack().attack([case])[0].images)


def test_the_report_is_one_file_with_verdict_rule_and_a_row_for_each_case(attacked: Attacked) -> None:
    _, _, report, directory = attacked
    page = (directory / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "rendered phantoms" in page
    for one in report.results.cases:
        assert f'<th scope="row">{one.name}</th>' in page  # its picture
        assert f'<th scope="row" class="nowrap">{one.name}</th>' in page  # its numbers
    assert "nearest other training image" in page
    assert {path.stem for path in (directory / "figures").iterdir()} == {"batch", "noise", "pruning", "pictures"}


def test_single_numbers_and_results_are_written(attacked: Attacked) -> None:
    _, _, report, directory = attacked
    written = json.loads((directory / "inversion.json").read_text())
    assert written["level"] == report.results.level
    assert written["verdict"] == report.results.verdict
    assert "images" not in written["cases"][0]
    assert written["cases"][0]["reconstruction"]["psnr"]["kind"] == "images"
    values = json.loads((directory / "metrics.json").read_text())["inversion"]
    assert values["psnr/trained"] == report.results.cases[0].reconstruction.psnr.value
    assert values["right_labels/trained"] == 1
    assert {"first/trained_noise_0.01", "ssim/initial", "psnr_gain/trained_batch_2"} <= set(values)


def test_fresh_weights_are_new_ones_and_the_loss_that_of_the_training(attacked: Attacked) -> None:
    run = attacked[0]
    nets = [make_nets(run, seed) for seed in (0, 0, 1)]
    assert nets[0]["trained"] is run.task.net
    states = [net["initial"].state_dict() for net in nets]
    assert not list_differences(states[0], states[1])
    assert list_differences(states[0], states[2])
    assert list_differences(states[0], nets[0]["trained"].state_dict())


def test_averaged_weights_send_the_gradient_that_the_training_would(tmp_path: Path) -> None:
    run = medassay.load_run(SAVED, trainer_gpus=0)
    assert isinstance(run.task, Classification)
    run.task.ema = EMA(run.task.net)
    net = make_nets(run, 0)["trained"]
    assert all(torch.equal(own, one) for own, one in zip(net.parameters(), run.task.net.parameters(), strict=True))
    results = evaluate(run, tmp_path, batch_sizes=[1]).results
    assert results.parameters == sum(weight.numel() for weight in run.task.net.parameters())
    assert results.labels_read
    assert not any(weight.requires_grad for weight in run.task.ema.parameters())


def test_what_was_left_out_is_said(attacked: Attacked) -> None:
    run = attacked[0]
    told = Inversion(budget="quick", batch_sizes=[1, 2, 4]).list_left_out(make_nets(run, 0)["trained"])
    assert told == ["Batches of 4 were left out: 2 images were attacked."]
    told = Inversion(modes=["train", "eval"]).list_left_out(Plain())
    assert told == ["The net has no batch normalisation, so that its mode makes no difference; one is tried."]
    assert choose_modes(Inversion(modes=["train", "eval"]).amounts, Plain()).modes == ["train"]


def test_cases_without_statistics_are_named_and_the_rest_is_reported(
    attacked: Attacked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = Attack.attack

    def refuse_noise(self: Attack, cases: Sequence[Case]) -> list[Found]:
        if any(case.noise is not None for case in cases):
            raise ValueError("Expected more than 1 value per channel when training")
        return whole(self, cases)

    monkeypatch.setattr(Attack, "attack", refuse_noise)
    settings: dict[str, Any] = {**TINY, "modes": ["train"], "batch_sizes": [2]}
    report = Inversion(**settings).run(attacked[0], ComputeContext(CPU, 0, tmp_path))
    (told,) = report.warnings
    base = "trained weights, 2 images, batch statistics"
    assert told == f"Left out, since a single value has no batch statistics: {base}, clipping and noise 0.01."
    assert base in [one.name for one in report.results.cases]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_sizes": [4, 8]}, r"2 images make no such batch; give smaller ones, or protocol.images=4"),
        ({"images": 64}, "protocol.images=64: there are 64 training images"),
    ],
)
def test_what_cannot_be_attacked_is_refused(attacked: Attacked, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Inversion(**{**TINY, **settings}).choose_images(attacked[0].data)


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("protocol.pruning=[1.5]", ("pruning", "1.5", "< 1")),
        ("protocol.modes=[test]", ("modes", "eval")),
        ("protocol.batch_sizes=[]", ("protocol.batch_sizes=[]", "null")),
        ("protocol.weights=best", ("weights", "trained", "initial")),
    ],
)
def test_wrong_settings_are_one_line(override: str, facts: tuple[str, ...], tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(SAVED, tmp_path / "cnn", ignore=shutil.ignore_patterns("eval")))
    assert_one_line(command("evaluate", f"run={run}", "protocol=inversion", override, "trainer.gpus=0"), *facts)
