"""Adversarial images: closed forms on a linear net, the rules at pass and fail, and whole runs."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from medassay.core.estimate import Estimate
from medassay.core.results import to_json
from medassay.core.types import LabelledImages
from medassay.data.modules import LabelledData
from medassay.data.sources import phantom_data
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.metrics.chance import ChanceCheck
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.adversarial import soundness, verdict
from medassay.protocols.adversarial.measures import measure
from medassay.protocols.adversarial.protocol import Adversarial
from medassay.protocols.adversarial.results import AdversarialResults, Attack, Attacked, Check, Level
from medassay.protocols.adversarial.subject import Settings, Subject
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line, list_differences

CPU = torch.device("cpu")
SAVED = Path(__file__).parents[1] / "fixtures" / "runs"
QUICK: dict[str, Any] = {"budget": "quick", "epsilons": [1], "images": 16, "steps": 4, "shown": 3}

# --- closed forms ----------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.53, -1.01, 0.0, 2.07])  # no margin is a whole number of grey levels


class Linear(nn.Module):
    """Logits ``(0, WEIGHTS · x)`` of images of 2 x 2 pixels, around middle grey."""

    def forward(self, x: Tensor) -> Tensor:
        lead = (x - 128 / 255).flatten(1) @ WEIGHTS
        return torch.stack([torch.zeros_like(lead), lead], 1)


def make_linear(
    epsilons: list[float], norms: tuple[Any, ...] = ("linf", "l2"), spread: int = 28, seed: int = 0
) -> Subject:
    """40 images around middle grey, the first 36 of which are right."""
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(128 - spread, 128 + spread, (40, 1, 2, 2), generator=rng, dtype=torch.uint8)
    labels = Linear()(images.float() / 255).argmax(1)
    labels[36:] = 1 - labels[36:]
    settings = Settings("test", epsilons, norms, steps=40, restarts=3, shown=4, seed=seed)
    return Subject(Linear().eval(), LabelledImages(images, labels), torch.arange(100, 140), settings, CPU)


@pytest.fixture(scope="module")
def linear() -> tuple[Subject, AdversarialResults, Tensor]:
    """A linear net's results, and each image's margin in units of the logits, below 0 where it is wrong."""
    subject = make_linear([1, 4, 12])
    logits = Linear()(subject.pixels)[:, 1]
    return subject, measure(subject), logits * (2 * subject.data.labels - 1)


Linears = tuple[Subject, AdversarialResults, Tensor]
DUAL = {"linf": (1, 1.0), "l2": (2, 2.0)}  # the dual norm, and the square root of the number of pixels


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_a_linear_net_accuracy_is_the_share_of_margins_out_of_reach(linear: Linears, norm: Any) -> None:
    _, results, margins = linear
    dual, scale = DUAL[norm]
    reach = float(torch.linalg.vector_norm(WEIGHTS, dual)) * scale / 255  # of one grey level
    assert {one.epsilon for one in results.attacked} == {1, 2, 4, 12}  # 2 is judged, so it is always tried
    for one in results.attacked:
        if one.norm != norm:
            continue
        assert one.radius == pytest.approx(one.epsilon * scale / 255)
        out_of_reach = float((margins > one.epsilon * reach).double().mean())
        if one.attack == "fgsm":
            assert one.accuracy.value == pytest.approx(out_of_reach)
        if one.attack == "pgd":  # in L2 it comes near to the best change only
            nearly = float((margins > 0.9 * one.epsilon * reach).double().mean())
            assert out_of_reach - 1e-9 <= one.accuracy.value <= nearly


def test_on_a_linear_net_the_smallest_change_is_the_margin_over_the_dual_norm(linear: Linears) -> None:
    subject, results, margins = linear
    expected = (255 * margins / float(WEIGHTS.abs().sum()))[margins > 0].sort().values.double()
    everyone, *classes = [one for one in results.smallest if one.norm == "linf"]
    known = expected[expected <= 12]
    assert (everyone.n, everyone.unflipped) == (36, 36 - len(known))
    assert 0 < everyone.unflipped < 36
    excess = torch.tensor(everyone.epsilons) - known
    assert -1e-4 <= float(excess.min()) <= float(excess.max()) <= 12 / 2**7 + 1e-4
    assert [one.n for one in classes] == torch.bincount(subject.data.labels[margins > 0]).tolist()
    assert sum(one.unflipped for one in classes) == everyone.unflipped
    assert everyone.quartiles[1] == pytest.approx(float(expected[17:19].mean()), abs=0.7)


def test_images_that_were_never_flipped_count_as_larger_than_all_tried() -> None:
    results = measure(make_linear([2], ("linf",)))
    everyone = results.smallest[0]
    assert everyone.unflipped > 18
    assert everyone.quartiles[1:] == [None, None]
    assert max(everyone.epsilons) <= 2


def test_on_a_linear_net_every_check_that_is_made_is_passed(linear: Linears) -> None:
    assert [check.passed for check in linear[1].checks] == [True, True, True, True, None]
    assert "protocol.surrogate=<run>" in linear[1].checks[-1].text


def test_a_net_that_answers_the_opposite_gives_weak_attacks() -> None:
    class Opposite(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).flip(1)

    subject = make_linear([4], ("linf",))
    results = measure(subject, ("other", Opposite().eval()))
    left = {(one.attack, one.epsilon): one.accuracy.value for one in results.attacked}
    assert left["transfer", 4.0] == results.accuracy.value > left["pgd", 4.0]
    assert results.checks[-1].passed
    assert results.surrogate == "other"


def test_examples_are_right_before_and_named_by_their_position_in_the_split(linear: Linears) -> None:
    subject, results, margins = linear
    assert len(results.examples) == 4
    for place, one in enumerate(results.examples):
        image = one.index - 100
        assert float(margins[image]) > 0
        assert one.label == int(subject.data.labels[image])
        torch.testing.assert_close(results.pictures.before[place], subject.pixels[image])
        after = Linear()(results.pictures.after[place : place + 1]).softmax(1)[0]
        assert one.after == pytest.approx(after.tolist())
    size = (results.pictures.after - results.pictures.before).abs().amax()
    assert float(size) == pytest.approx(2 / 255, abs=1e-6)


def test_the_same_seed_gives_the_same_results_and_another_other_ones() -> None:
    first, again, other = (to_json(measure(make_linear([2], ("linf",), seed=seed))) for seed in (0, 0, 1))
    assert first == again
    assert first["examples"] != other["examples"]


class Masked(Linear):
    """The same answers without a gradient: logits are rounded to what steps of the input hide."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * x.sum() - (super().forward(x) - super().forward(x).detach())


def test_a_net_whose_gradient_is_hidden_is_not_called_robust() -> None:
    subject = make_linear([2], ("linf",), spread=100)
    results = measure(replace(subject, net=Masked().eval()))
    pgd = next(one for one in results.attacked if (one.attack, one.epsilon) == ("pgd", 2.0))
    assert verdict.judge_lead(pgd, enough=True) == "robust"
    assert results.verdict == "not sound"
    assert "cannot be believed" in results.reason
    assert [check.name for check in results.checks if check.passed is False] == [
        "With ever larger changes the accuracy falls to 0."
    ]


# --- the rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "passed"),
    [({10: 0.5, 40: 0.4, 80: 0.4}, True), ({10: 0.5, 40: 0.51, 80: 0.5}, True), ({10: 0.5, 40: 0.4, 80: 0.45}, False)],
)
def test_more_steps_may_not_raise_the_accuracy(found: dict[int, float], passed: bool) -> None:
    check = soundness.check_steps({"linf": found}, 100, 2.0)
    assert check.passed is passed
    assert "50 % after 10" in check.text
    assert soundness.check_steps({"linf": {1: 0.5, 2: 0.4}, "l2": found}, 100, 2.0).passed is passed


@pytest.mark.parametrize(("last", "passed"), [(0.0, True), (0.01, True), (0.02, False)])
def test_the_accuracy_must_fall_to_0_in_every_norm(last: float, passed: bool) -> None:
    check = soundness.check_growth({"linf": {8.0: 0.5, 16.0: 0.0}, "l2": {8.0: 0.5, 255.0: last}})
    assert check.passed is passed
    assert "at 255" in check.text


@pytest.mark.parametrize(("strong", "passed"), [(0.3, True), (0.42, True), (0.43, False)])
def test_what_should_be_stronger_may_not_leave_more(strong: float, passed: bool) -> None:
    weaker = {"linf": {1.0: 0.8, 2.0: 0.4}}
    check = soundness.check_order("name", weaker, {"linf": {1.0: 0.2, 2.0: strong}}, 100, ("FGSM", "PGD"))  # type: ignore[dict-item,arg-type]
    assert check.passed is passed
    assert "(L∞, 2 of 255 grey levels)" in check.text


def test_of_few_images_one_may_differ() -> None:
    assert soundness.check_steps({"linf": {1: 0.5, 2: 0.6}}, 10, 2.0).passed
    assert not soundness.check_steps({"linf": {1: 0.5, 2: 0.7}}, 10, 2.0).passed


def test_steps_are_compared_with_fewer_and_with_more() -> None:
    assert soundness.list_steps(40) == [10, 40, 80]
    assert soundness.list_steps(1) == [1, 2]


GOOD = ChanceCheck(Estimate(0.85, 0.8, 0.9), Estimate(0.9, 0.85, 0.95), 0.5)
BAD = ChanceCheck(Estimate(0.55, 0.45, 0.65), Estimate(0.5, 0.4, 0.6), 0.5)
PASSED, FAILED = Check("It works.", True, ""), Check("It works.", False, "")
MANY = [100, 100]  # images of each class


def attacked(low: float, high: float, attack: Attack = "pgd") -> Attacked:
    some = Estimate(0.6, 0.5, 0.7, n=100)
    return Attacked("linf", attack, 2.0, 2 / 255, some, some, Estimate((low + high) / 2, low, high, n=100))


@pytest.mark.parametrize(
    ("low", "high", "level", "words"),
    [
        (0.81, 0.99, "robust", "no proof that none does"),
        (0.8, 0.99, "undecided", "It is not fragile; whether it is weakened or robust is open"),
        (0.51, 0.8, "weakened", "cost a part"),
        (0.4, 0.8, "undecided", "It is not robust; whether it is weakened or fragile is open"),
        (0.4, 0.9, "undecided", "more images would narrow it"),
        (-0.9, 0.5, "fragile", "must not be relied on"),
    ],
)
def test_the_interval_must_lie_on_one_side_of_each_limit(low: float, high: float, level: Level, words: str) -> None:
    found, reason = verdict.judge(GOOD, attacked(low, high), attacked(1, 1, "noise"), [PASSED], MANY)
    assert found == level
    assert words in reason
    assert "balanced accuracy falls from 0.850 to 0.600 [0.500," in reason
    assert "random noise of the same size 100 %" in reason


@pytest.mark.parametrize(
    ("low", "high", "level"),
    [(0.85, 0.99, "not sound"), (0.6, 0.7, "not sound"), (0.4, 0.9, "not sound"), (-0.5, 0.1, "fragile")],
)
def test_with_a_failed_check_nothing_but_fragile_can_be_said(low: float, high: float, level: Level) -> None:
    found, reason = verdict.judge(GOOD, attacked(low, high), attacked(1, 1, "noise"), [PASSED, FAILED], MANY)
    assert found == level
    assert "“It works.”" in reason


def test_a_check_that_was_not_made_fails_nothing() -> None:
    checks = [PASSED, soundness.skip_transfer()]
    assert verdict.judge(GOOD, attacked(0.9, 1), attacked(1, 1, "noise"), checks, MANY)[0] == "robust"


@pytest.mark.parametrize(
    ("counts", "chance", "level"),
    [
        ([6, 6], 0.5, "undecided"),
        ([35, 500], 0.5, "undecided"),
        ([36, 36], 0.5, "robust"),
        ([19] * 8, 0.125, "undecided"),
        ([20] * 8, 0.125, "robust"),
    ],
)
def test_few_images_that_all_withstand_show_no_net_robust(counts: list[int], chance: float, level: Level) -> None:
    lowest = min(stats.binomtest(n, n).proportion_ci(0.95, "exact").low for n in counts)
    assert ((lowest - chance) / (1 - chance) > verdict.ROBUST) is (level == "robust")
    found, reason = verdict.judge(
        replace(GOOD, chance=chance), attacked(1, 1), attacked(1, 1, "noise"), [PASSED], counts
    )
    assert found == level
    least = {0.5: 36, 0.125: 20}[chance]
    assert (f"robust by {least} of each class, and of one there are {min(counts)}" in reason) is (level == "undecided")


def test_a_net_that_withstands_on_a_dozen_images_is_not_called_robust() -> None:
    subject = make_linear([2], ("linf",), spread=100)
    margins = (
        (Linear()(subject.pixels)[:, 1] * (2 * subject.data.labels - 1)).sort(descending=True, stable=True).indices
    )
    chosen = torch.cat(
        [margins[subject.data.labels[margins] == label][:6] for label in (0, 1)]
    )  # the surest of each class
    results = measure(replace(subject, data=subject.data[chosen], positions=chosen))
    pgd = next(one for one in results.attacked if (one.attack, one.epsilon) == ("pgd", 2.0))
    assert (pgd.kept.low, pgd.kept.high) == (1, 1)
    assert results.verdict == "undecided"


def test_a_net_at_chance_is_not_judged() -> None:
    level, reason = verdict.judge(BAD, attacked(0.9, 1), attacked(1, 1, "noise"), [FAILED], MANY)
    assert level == "not judged"
    assert "not shown to be above chance" in reason


# --- a whole run -----------------------------------------------------------------------------------------------------


def run_of(data: LabelledData, directory: Path, task: Classification) -> Run:
    """A run with this task, as if loaded from its directory."""
    config = {"recipe": {"name": "pneumonia_cnn"}, "seed": 3}
    return Run(RunDirectory(directory), config, data, task.eval(), TrainerSettings(gpus=0))


def relabel(data: LabelledData, task: Classification, *, wrong: bool = False) -> None:
    """Gives each test image the class that the task says, half of each; or the other one."""
    net: Any = task.net if task.ema is None else task.ema.net
    images = data.splits.test.images
    with torch.no_grad():
        logits = task.eval()(images.float() / 255)
        net.head.bias[1] += (logits[:, 0] - logits[:, 1]).median()
    found = predict(task, data.splits.test, CPU).decisions
    data._splits = data.splits._replace(test=LabelledImages(images, 1 - found if wrong else found))


def evaluate(run: Run, directory: Path, **settings: Any) -> Report:
    """The report of a run, written to ``directory``."""
    report = Adversarial(**{**QUICK, **settings}).run(run, ComputeContext.from_settings(run.settings, directory))
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "adversarial"}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


def make_run(directory: Path, *, wrong: bool = False, **settings: Any) -> Run:
    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=8, val=8, test=32)
    torch.manual_seed(0)
    task = Classification(BlockCNN(1, 2, width=2), 2, **settings)
    relabel(data, task, wrong=wrong)
    return run_of(data, directory, task)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, dict[str, Tensor], Report, Path]:
    """A run that makes no mistake, its weights before, and its report in both norms."""
    directory = tmp_path_factory.mktemp("adversarial")
    run = make_run(directory)
    before = copy.deepcopy(run.task.state_dict())
    return run, before, evaluate(run, directory, budget="full", restarts=1), directory


Studied = tuple[Run, dict[str, Tensor], Report, Path]


def test_the_run_s_task_is_as_before(studied: Studied) -> None:
    run, before, _, _ = studied
    assert not list_differences(before, run.task.state_dict())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in run.task.parameters())
    assert not run.task.training


def test_the_report_has_verdict_checks_numbers_and_pictures(studied: Studied) -> None:
    _, _, report, directory = studied
    page, results = (directory / "report.html").read_text(), report.results
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert verdict.HEADLINES[results.verdict] in page
    for check in results.checks:
        assert check.name in page
    assert page.count("<td>L2</td>") == 3 * 2 + 3  # three attacks at two distances; all images and two classes
    assert page.count("flipped</small>") == 3 == len(results.examples)
    names = {path.stem for path in (directory / "figures").iterdir()}
    assert names == {"accuracy_linf", "accuracy_l2", "smallest", "pictures"}
    assert report.verdict[0].startswith(f"adversarial: {verdict.HEADLINES[results.verdict]}. {results.reason}")


def test_single_numbers_and_results_are_written(studied: Studied) -> None:
    _, _, report, directory = studied
    written = json.loads((directory / "adversarial.json").read_text())
    assert written["verdict"] == report.results.verdict
    assert "pictures" not in written
    values = json.loads((directory / "metrics.json").read_text())["adversarial"]
    assert values["clean/accuracy"] == 1
    assert values["attacked/balanced_accuracy"] == values["pgd_linf/2"] <= values["pgd_linf/1"]
    assert sum(values[level.replace(" ", "_")] for level in verdict.HEADLINES) == 1


def test_validation_images_are_attacked_with_a_warning(studied: Studied) -> None:
    report = Adversarial(**{**QUICK, "split": "val"}).run(studied[0], ComputeContext(CPU, 0, Path()))
    assert (report.results.n, report.results.split, report.split) == (8, "val", "val")
    assert "chose the epoch" in report.warnings[0]


def test_the_averaged_weights_are_attacked_where_they_answer(tmp_path: Path) -> None:
    run = make_run(tmp_path, ema_decay=0.9)
    assert isinstance(run.task, Classification)
    nn.init.zeros_(run.task.net.head.weight)  # type: ignore[union-attr, arg-type]
    results = Adversarial(**QUICK).run(run, ComputeContext(CPU, 0, tmp_path)).results
    assert results.accuracy.value == 1
    assert results.smallest[0].n == 16
    assert min(one.accuracy.value for one in results.attacked) < 1  # the other net has no gradient to follow


def test_a_net_that_is_always_wrong_is_not_judged_and_has_no_pictures(tmp_path: Path) -> None:
    report = evaluate(make_run(tmp_path, wrong=True), tmp_path)
    assert report.results.verdict == "not judged"
    assert report.results.examples == []
    assert "pictures" not in report.figures
    assert "Not judged" in (tmp_path / "report.html").read_text()


# --- the command line ------------------------------------------------------------------------------------------------


def copy_run(name: str, target: Path) -> Path:
    return Path(shutil.copytree(SAVED / name, target, ignore=shutil.ignore_patterns("eval")))


@pytest.fixture
def attack(command: Command, tmp_path: Path) -> Callable[..., Any]:
    """Runs the protocol on a saved run."""
    run = copy_run("cnn", tmp_path / "cnn")
    settings = [f"protocol.{key}={value}" for key, value in QUICK.items()]

    def evaluate(*more: str) -> Any:
        return command(
            "evaluate", f"run={run}", "protocol=adversarial", *settings, "trainer.gpus=0", "trainer.threads=1", *more
        )

    return evaluate


def test_images_attacked_on_another_run_s_net_are_tried(attack: Callable[..., Any], tmp_path: Path) -> None:
    other = copy_run("cnn", tmp_path / "other")
    result = attack(f"protocol.surrogate={other}")
    assert result.code == 0, result.err
    (written,) = (tmp_path / "cnn" / "eval").glob("adversarial_*/adversarial.json")
    values = json.loads(written.read_text())
    left = {(one["attack"], one["epsilon"]): one["accuracy"]["mean"] for one in values["attacked"]}
    assert left["transfer", 2.0] == left["pgd", 2.0]  # the same weights, so the same images
    assert values["checks"][-1]["passed"] is True


def test_wrong_settings_are_one_line(attack: Callable[..., Any], tmp_path: Path) -> None:
    assert_one_line(attack(f"protocol.surrogate={tmp_path / 'cnn'}"), "is the run itself", "another seed")
    assert_one_line(attack("protocol.surrogate=nowhere"), "protocol.surrogate=nowhere")
    other = copy_run("cnn", tmp_path / "other")
    config = other / ".hydra" / "config.yaml"
    config.write_text(config.read_text().replace("- pneumonia\n", "- opacity\n"))
    assert_one_line(
        attack(f"protocol.surrogate={other}"), "takes 28×28 images of 1 channel (normal, opacity), this run"
    )
    other = copy_run("cgan", tmp_path / "cgan")
    assert_one_line(attack(f"protocol.surrogate={other}"), "is a run of model=cgan: give a classifier's")
    assert_one_line(attack("protocol.epsilons=[0]"), "protocol.epsilons=[0]", "> 0 and <= 255")


def test_a_generator_s_run_is_refused(command: Command, tmp_path: Path) -> None:
    run = copy_run("cgan", tmp_path / "cgan")
    assert_one_line(command("evaluate", f"run={run}", "protocol=adversarial", "trainer.gpus=0"), "protocol=adversarial")
