"""The lesion study: what is removed from a net, what is measured without it, and what the rule makes of made numbers."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.data.modules import LabelledData
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.metrics.chance import ChanceCheck
from medassay.nets.resnet import ResNet
from medassay.protocols.lesion import blocks, measures, verdict
from medassay.protocols.lesion.measures import Lesion, Level, MeanRises
from medassay.protocols.lesion.protocol import LesionStudy
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line, list_differences

CPU = torch.device("cpu")
SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
NAMES = [f"layer{stage}.{place}" for stage in (1, 2, 3, 4) for place in (0, 1)]
DOWNSAMPLING = ["layer2.0", "layer3.0", "layer4.0"]


def make_net(seed: int = 0, depth: Any = 18) -> ResNet:
    """A narrow ResNet whose batch normalisations differ from the identity, as after training."""
    torch.manual_seed(seed)
    net = ResNet(1, 2, image_size=28, depth=depth, width=4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                assert tensor is not None
                tensor.normal_(0, 0.3)
    return net.eval()


def silence(net: ResNet, name: str) -> None:
    """Makes the block's residual branch give zeros: the last batch normalisation has weight and bias 0."""
    last = net.body.get_submodule(f"{name}.bn2")
    assert isinstance(last, nn.BatchNorm2d)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


@torch.no_grad()
def forward_without(net: ResNet, removed: Sequence[str], images: Tensor) -> Tensor:
    """Logits layer by layer, without the residual branches of the removed blocks."""
    part = net.body.get_submodule
    x = part("bn1")(part("conv1")(net.prepare(images))).clamp(min=0)
    for name in NAMES:
        block: Any = part(name)
        shortcut = x if block.downsample is None else block.downsample(x)
        residual = 0 if name in removed else block.bn2(block.conv2(block.bn1(block.conv1(x)).clamp(min=0)))
        x = (shortcut + residual).clamp(min=0)
    logits: Tensor = net.head(x.mean((2, 3)))
    return logits


# --- what is removed -------------------------------------------------------------------------------------------------


def test_blocks_are_found_in_order_and_downsampling_ones_have_a_projection() -> None:
    found = blocks.find_blocks(make_net())
    assert list(found) == NAMES
    assert [name for name, block in found.items() if blocks.is_downsampling(block)] == DOWNSAMPLING
    assert blocks.name_net(found) == "ResNet-18"
    assert blocks.describe_shortcut(found["layer1.1"]) == "identity"
    assert blocks.describe_shortcut(found["layer2.0"]) == "1×1 conv., 4 → 8 maps, stride 2"
    assert blocks.count_removed_parameters(found["layer2.0"]) == 4 * 8 * 9 + 8 * 8 * 9 + 4 * 8


def test_the_first_block_of_a_bottleneck_net_widens_without_halving() -> None:
    found = blocks.find_blocks(make_net(depth=50))
    assert (blocks.name_net(found), len(found)) == ("ResNet-50", 16)
    assert blocks.describe_shortcut(found["layer1.0"]) == "1×1 conv., 4 → 16 maps"


@pytest.mark.parametrize("removed", [[], ["layer1.1"], ["layer3.0"], ["layer2.0", "layer2.1", "layer4.1"], NAMES])
def test_a_net_without_blocks_computes_what_their_shortcuts_alone_do(removed: list[str]) -> None:
    net, images = make_net(), torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        logits = blocks.remove_blocks(net, removed)(images)
    torch.testing.assert_close(logits, forward_without(net, removed, images))


def test_the_net_itself_stays_as_it_is() -> None:
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    rest = blocks.remove_blocks(net, ["layer2.0"])
    nn.init.zeros_(rest.head.weight)
    assert list(blocks.find_blocks(net)) == NAMES
    assert not list_differences(before, net.state_dict())


def test_the_same_blocks_are_removed_once_in_whatever_order() -> None:
    split = LabelledImages(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 1]))
    answers = blocks.Answers(make_net(), split, CPU)
    assert answers.without("layer1.0", "layer2.0") is answers.without("layer2.0", "layer1.0")
    assert answers.measure_error(["layer1.0"]) == 0.5  # both images get the same answer


# --- what is measured ------------------------------------------------------------------------------------------------


def test_errors_rises_and_their_intervals_are_those_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(0)
    wrong, labels = rng.random((3, 60)) < [[0.1], [0.3], [0.6]], np.arange(60) % 4 // 3  # classes of 45 and 15 images
    found = measures.measure_errors(torch.from_numpy(wrong), torch.from_numpy(labels))
    drawn = torch.randint(60, (1000, 60), generator=torch.Generator().manual_seed(0)).numpy()
    rises = [wrong[2][rows].mean() - wrong[0][rows].mean() for rows in drawn]
    rise = measures.estimate(found.rises[:, 1], 60)
    assert rise.value == pytest.approx(wrong[2].mean() - wrong[0].mean())
    assert [rise.low, rise.high] == pytest.approx(np.quantile(rises, [0.025, 0.975]).tolist())
    assert rise.n == 60
    means = [np.mean([wrong[1][rows][labels[rows] == k].mean() for k in (0, 1)]) for rows in drawn]
    balanced = measures.estimate(found.balanced[:, 1], 60)
    assert balanced.value == pytest.approx(np.mean([wrong[1][labels == k].mean() for k in (0, 1)]))
    assert [balanced.low, balanced.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist())


def test_the_difference_of_kinds_is_that_of_their_mean_rises() -> None:
    rises = torch.tensor([[0.5, 0.1, 0.2, 0.3]]).double().repeat(1 + measures.RESAMPLES, 1)
    found = measures.compare_kinds(rises, torch.tensor([True, False, False, True]), 10)
    assert found.downsampling.value == pytest.approx(0.4)
    assert found.others.value == pytest.approx(0.15)
    assert [found.difference.low, found.difference.high] == pytest.approx([0.25, 0.25])


def test_random_orders_remove_one_more_block_at_a_time_and_depend_on_the_seed_alone() -> None:
    asked: list[frozenset[str]] = []

    def measure(names: Sequence[str]) -> float:
        asked.append(frozenset(names))
        return float("a" in names)

    curves = [measures.measure_several(measure, "abcd", 6, seed) for seed in (1, 1, 2)]
    assert curves[0] == curves[1]
    assert asked[:24] == asked[24:48] != asked[48:]
    assert [one.value for one in curves[0]] == sorted(one.value for one in curves[0])
    assert [len(names) for names in asked[:24]] == [k for k in (1, 2, 3, 4) for _ in range(6)]
    assert all(asked[place] < asked[place + 6] for place in range(18))  # each order goes on
    assert curves[0][-1] == Estimate(1.0, sd=0.0, n=6, kind="draws")


# --- the rule --------------------------------------------------------------------------------------------------------


def lesion(name: str, low: float, high: float) -> Lesion:
    """A block without which the error rises so."""
    rise = Estimate((low + high) / 2, low, high, n=100)
    return Lesion(name, False, "identity", 1, rise, rise, rise, verdict.judge_loss(rise, lead=0.5))


@pytest.mark.parametrize(
    ("rises", "level", "words"),
    [
        (
            [(-0.01, 0.01), (0.0, 0.05)],
            "yes",
            "Yes, of any of its 2 blocks. Most is lost with b: the error rises by 0.025",
        ),
        (
            [(0.0, 0.01), (0.051, 0.2)],
            "no",
            "No. It bears the loss of 1 of its 2 blocks. Not borne, with the rise of the error: b (0.1",
        ),
        (
            [(0.1, 0.2), (0.3, 0.4)],
            "no",
            "loss of none of its 2 blocks. Not borne, with the rise of the error: b (0.350), a (0.150).",
        ),
        (
            [(0.0, 0.01), (0.04, 0.06)],
            "undecided",
            "Undecided. It bears the loss of 1 of its 2 blocks. Undecided: b (0.050).",
        ),
        ([(0.04, 0.06), (0.1, 0.2)], "no", "rise of the error: b (0.150). Undecided: a (0.050)."),
    ],
)
def test_a_loss_is_borne_where_the_rise_lies_below_the_limit_as_a_whole(
    rises: list[tuple[float, float]], level: Level, words: str
) -> None:
    found = verdict.judge_bearing([lesion(name, *ends) for name, ends in zip("ab", rises, strict=True)])
    assert found.level == level
    assert words in found.text.replace("\N{NO-BREAK SPACE}", " ")


def test_of_many_blocks_the_worst_are_named() -> None:
    text = verdict.judge_bearing([lesion(str(k), 0.1 + k / 100, 0.3 + k / 100) for k in range(9)]).text
    assert "rise of the error: 8 (0.280), 7 (" in text
    assert text.endswith(" and 3 more.")
    assert text.count("(") == verdict.NAMED


@pytest.mark.parametrize(
    ("low", "high", "level"), [(0.001, 0.3, "yes"), (-0.001, 0.3, "undecided"), (-0.1, 0.0, "no"), (-0.3, -0.2, "no")]
)
def test_downsampling_blocks_matter_most_where_the_difference_lies_above_0_as_a_whole(
    low: float, high: float, level: Level
) -> None:
    rises = MeanRises(Estimate(0.3), Estimate(0.1), Estimate((low + high) / 2, low, high))
    found = verdict.judge_kinds(rises)
    assert found.level == level
    assert found.text.startswith(f"{level.capitalize()}. Without one of them the error rises by 0.300 on average")


def test_a_small_lead_leaves_little_to_lose() -> None:
    rise = Estimate(0.04, 0.03, 0.05)
    assert [verdict.judge_loss(rise, lead) for lead in (0.05, 0.4, 0.6)] == ["no", "undecided", "yes"]


@pytest.mark.parametrize(
    ("accuracy", "error", "judged"),
    [((0.7, 0.9), (0.2, 0.4), True), ((0.7, 0.9), (0.2, 0.41), False), ((0.5, 0.9), (0.2, 0.3), False)],
)
def test_a_net_is_judged_where_all_its_intervals_are_better_than_guessing(
    accuracy: tuple[float, float], error: tuple[float, float], judged: bool
) -> None:
    chance = ChanceCheck(Estimate(0.8, *accuracy), Estimate(0.9, 0.8, 0.95), 0.5)
    assert verdict.is_judged(chance, Estimate(0.3, *error), guessing=0.4) == judged


# --- a whole run -----------------------------------------------------------------------------------------------------


def run_of(data: LabelledData, directory: Path, task: Classification) -> Run:
    """A run with this task, as if loaded from its directory."""
    config = {"recipe": {"name": "pneumonia_cnn"}, "seed": 3}
    return Run(RunDirectory(directory), config, data, task.eval(), TrainerSettings(gpus=0))


def relabel(data: LabelledData, net: nn.Module) -> None:
    """Gives each test image the class that the net says, of as many images as of the other: the net makes no mistake."""
    head = net.head
    assert isinstance(head, nn.Linear)
    images = data.splits.test.images
    with torch.no_grad():
        logits = net(images.float() / 255)
        head.bias[1] += (logits[:, 0] - logits[:, 1]).median()
    found = predict(net, data.splits.test, CPU).decisions
    data._splits = data.splits._replace(test=LabelledImages(images, found))


def evaluate(run: Run, directory: Path, **settings: Any) -> Report:
    """The report of a run, written to ``directory``."""
    report = LesionStudy(**settings).run(run, ComputeContext.from_settings(run.settings, directory))
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "lesion"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Tensor], Report, Path]:
    """A run that makes no mistake as a whole, its weights before, and its report."""
    from medassay.data.sources import phantom_data

    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=8, val=8, test=48)
    net, directory = make_net(), tmp_path_factory.mktemp("lesion")
    silence(net, "layer1.1")
    silence(net, "layer3.0")
    relabel(data, net)
    run = run_of(data, directory, Classification(net, 2))
    before = copy.deepcopy(run.task.state_dict())
    return run, before, evaluate(run, directory, permutations=3), directory


Studied = tuple[Run, dict[str, Tensor], Report, Path]


def test_a_block_whose_residual_branch_gives_zeros_is_not_missed(studied: Studied) -> None:
    results = studied[2].results
    rises = {one.name: one.rise for one in results.lesions}
    for name in ("layer1.1", "layer3.0"):
        assert rises[name] == Estimate(0.0, 0.0, 0.0, n=48)
    assert max(rise.value for rise in rises.values()) > 0.1
    assert results.error == Estimate(0.0, 0.0, 0.0, n=48)
    labels = studied[0].data.splits.test.labels.tolist()
    assert results.guessing == pytest.approx(min(labels.count(0), labels.count(1)) / 48)
    assert results.limit == pytest.approx(0.1 * results.guessing)


def test_the_run_s_task_is_as_before(studied: Studied) -> None:
    run, before, _, _ = studied
    task = run.task
    assert isinstance(task, Classification)
    assert isinstance(task.net, ResNet)
    assert not list_differences(before, task.state_dict())
    assert list(blocks.find_blocks(task.net)) == NAMES
    assert not task.training
    torch.testing.assert_close(predict(task, run.data.splits.test, CPU).decisions, run.data.splits.test.labels)


def test_the_errors_are_those_of_the_nets_without_the_blocks(studied: Studied) -> None:
    run, _, report, _ = studied
    test, net = run.data.splits.test, run.task.net
    assert isinstance(net, ResNet)
    for one in report.results.lesions:
        decided = forward_without(net, [one.name], test.images.float() / 255).argmax(1)
        assert one.error.value == pytest.approx(float((decided != test.labels).double().mean()))
    nothing_left = forward_without(net, NAMES, test.images.float() / 255).argmax(1)
    assert report.results.several[-1].value == pytest.approx(float((nothing_left != test.labels).double().mean()))
    assert [one.n for one in report.results.several] == [3] * 8


def test_the_report_is_one_file_with_verdict_rule_and_a_row_for_each_block(studied: Studied) -> None:
    _, _, report, directory = studied
    page = (directory / "report.html").read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert "Lesion study of a ResNet-18 on chest_phantom" in page
    for finding in report.results.findings:
        assert finding.question in page
    assert len(report.results.findings) == 2
    rows = re.findall(r'<th scope="row" class="nowrap">\d · (layer\d\.\d)( ▼)?</th>', page)
    assert [name for name, _ in rows] == NAMES
    assert [name for name, mark in rows if mark] == DOWNSAMPLING
    assert {path.stem for path in (directory / "figures").iterdir()} == {"lesions", "several"}


def test_single_numbers_and_results_are_written(studied: Studied) -> None:
    _, _, report, directory = studied
    written = json.loads((directory / "lesion.json").read_text())
    assert [one["name"] for one in written["lesions"]] == NAMES
    assert written["several"][0]["kind"] == "draws"
    values = json.loads((directory / "metrics.json").read_text())["lesion"]
    assert values["error"] == 0
    assert values["rise/layer2.0"] == report.results.lesions[2].rise.value
    assert values["error/8"] == report.results.several[-1].value
    assert values["borne"] == sum(one.borne == "yes" for one in report.results.lesions) / 8


def test_a_net_at_chance_is_not_judged(studied: Studied, tmp_path: Path) -> None:
    run, _, report, _ = studied
    assert report.results.chance.passed
    data = copy.copy(run.data)
    test = data.splits.test
    turned = LabelledImages(test.images, torch.arange(48) // 2 % 2)
    data._splits = data.splits._replace(test=turned)
    found = evaluate(replace(run, data=data), tmp_path, permutations=1)
    assert found.results.findings == []
    assert {one.borne for one in found.results.lesions} == {None} == {found.results.limit}
    assert found.verdict[0].startswith(
        "lesion: Not judged: the whole net is not shown to be better than guessing on these"
    )
    assert "borne" not in found.metrics["lesion"]
    assert "Not judged" in (tmp_path / "report.html").read_text()


def test_the_averaged_weights_are_studied_where_they_answer(
    tiny_chest: Callable[..., LabelledData], tmp_path: Path
) -> None:
    data, averaged = tiny_chest(test=16), make_net(1)
    task = Classification(averaged, 2, ema_decay=0.9)
    assert task.ema is not None
    relabel(data, task.ema.net)
    nn.init.zeros_(task.net.head.weight)  # type: ignore[union-attr, arg-type]
    results = LesionStudy(permutations=1).run(run_of(data, tmp_path, task), ComputeContext(CPU, 0, tmp_path)).results
    assert results.error.value == 0
    assert not list_differences(list(averaged.head.weight), list(torch.zeros(2, 32)))


def test_validation_images_are_judged_with_a_warning(studied: Studied) -> None:
    run = studied[0]
    report = LesionStudy(split="val", permutations=1).run(run, ComputeContext(CPU, 0, Path()))
    assert (report.results.n, report.split) == (8, "val")
    assert "chose the epoch" in report.warnings[0]


def test_a_net_without_residual_blocks_is_refused_with_advice_that_works(tmp_path: Path, command: Command) -> None:
    run = Path(shutil.copytree(SAVED / "cnn", tmp_path / "cnn", ignore=shutil.ignore_patterns("eval")))
    result = command("evaluate", f"run={run}", "protocol=lesion", "trainer.gpus=0", "trainer.threads=1")
    assert_one_line(result, "this run's net is a BlockCNN", "model/net=resnet")
    advised = re.search(r"with (\S+),", result.err)
    assert advised is not None
    assert compose_training([advised[1]]).model.net._target_ == "medassay.nets.resnet.ResNet"
