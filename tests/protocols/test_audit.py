"""The audit: which parts are built, what becomes of those that do not fit, the model card beside the record, the page."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from medassay import config as configuration
from medassay.config.checks import TRUSTED_ENVIRONMENT_VARIABLE
from medassay.core.errors import ConfigError
from medassay.evaluation.about import format_command
from medassay.evaluation.evaluate import evaluate, load_protocol_node
from medassay.evaluation.protocol import ComputeContext, Outcome, Page, Part, Protocol, Report
from medassay.protocols.adversarial import results as adversarial_results
from medassay.protocols.adversarial import verdict as adversarial
from medassay.protocols.audit.card import describe_augmentation, describe_node
from medassay.protocols.audit.parts import build_parts
from medassay.protocols.audit.protocol import describe_verdict, list_limits, merge_metrics, run_part
from medassay.protocols.audit.results import PartVerdict, summarise
from medassay.protocols.domain_shift import results as domain_shift_results
from medassay.protocols.domain_shift import verdict as domain_shift
from medassay.protocols.fairness import results as fairness_results
from medassay.protocols.fairness import verdict as fairness
from medassay.protocols.gradcam.protocol import GradCAM
from medassay.protocols.inversion import measures as inversion_measures
from medassay.protocols.inversion import verdict as inversion
from medassay.protocols.shortcut import measures as shortcut_measures
from medassay.protocols.shortcut import verdict as shortcut
from medassay.runs.load import load_run
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from tests.helpers import Command, assert_one_line

SAVED = Path(__file__).parents[1] / "fixtures" / "runs" / "cnn"
PAGE = Path(__file__).parents[1] / "fixtures" / "stub.html.j2"
HERE = "tests.protocols.test_audit"


@dataclass(frozen=True)
class Measured:
    number: float


@dataclass(frozen=True)
class Stub(Protocol):
    """Does it do what it is told?

    Changes the net it is given: no other part may see that.
    """

    requires: ClassVar[type] = Classification
    name: str = "stub"
    budget: Literal["quick", "full", "endless"] = "full"
    outcome: str | None = None
    error: str | None = None
    page: bool = False

    def run(self, run: Run, context: ComputeContext) -> Report:
        if self.error == "bug":
            raise ZeroDivisionError("a bug")
        if self.error is not None:
            raise ConfigError(self.error)
        for weight in run.task.parameters():
            weight.data.fill_(0)
        outcome: Outcome | None = self.outcome  # type: ignore[assignment]
        numbers = {"stub": {"number": 3.5}, "split": "test"}
        page = Page(PAGE) if self.page else None
        lines = [f"{self.name}: said", "because"]
        return Report(Measured(3.5), split="test", verdict=lines, metrics=numbers, outcome=outcome, page=page)


def stub(**settings: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.Stub", **settings}


SMALL = [
    stub(name="first", outcome="bad", page=True),
    {"classification": {"mistakes": 2}},
    "lesion",
    "assay",
    stub(name="grumbling", error="protocol.error: it is wrong"),
    stub(name="buggy", error="bug"),
    stub(name="last"),
]


@pytest.fixture(autouse=True, scope="module")
def trusted() -> Iterator[None]:
    """Protocols of this file may be named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRUSTED_ENVIRONMENT_VARIABLE, "tests")
        yield


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an audit with parts that fit, do not fit, fail and are of one's own."""
    top = tmp_path_factory.mktemp("audit")
    run = Path(shutil.copytree(SAVED, top / "run", ignore=shutil.ignore_patterns("eval")))
    node = load_protocol_node("audit", parts=SMALL, budget="quick", author="A. Author")
    return evaluate(str(run), node, {}, top / "outputs")


@pytest.fixture(scope="module")
def results(left: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((left / "audit.json").read_text())
    return values


# --- parts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "budget", "expected"),
    [
        (stub(), "quick", "quick"),
        (stub(), "full", "full"),
        (stub(budget="full"), "quick", "full"),
    ],
)
def test_a_part_gets_the_audits_budget_unless_told_another(entry: Any, budget: Any, expected: str) -> None:
    (part,) = build_parts([entry], budget, {})
    assert part.node["budget"] == expected
    assert isinstance(part.protocol, Stub)
    assert part.protocol.budget == expected


def test_a_part_without_a_budget_gets_the_quick_settings_where_the_audit_is_quick() -> None:
    entries = [{"gradcam": {"n": 3}}, "lesion"]
    quick = {"gradcam": {"n": 9, "score_images": 7}}
    hasty, plain = build_parts(entries, "quick", quick)[0], build_parts(entries, "full", quick)[0]
    assert isinstance(hasty.protocol, GradCAM)
    assert isinstance(plain.protocol, GradCAM)
    assert (hasty.protocol.n, hasty.protocol.score_images) == (3, 7)
    assert (plain.protocol.n, plain.protocol.score_images) == (3, 200)
    assert "budget" not in hasty.node


@pytest.mark.parametrize(
    ("entries", "facts"),
    [
        (["gradcamm"], ["protocol.parts", "'gradcamm'", "Did you mean 'gradcam'?", "lesion"]),
        ([], ["protocol.parts=[]", "[classification,gradcam]"]),
        (["lesion", "lesion"], ["lesion stands there 2 times", "name"]),
        (["audit"], ["an audit is no part of an audit"]),
        ([{"gradcam": {"n": 0}}], ["protocol.parts.gradcam.n=0: expected an integer >= 1"]),
        ([{"gradcam": {"colormap": "jett"}}], ["protocol.colormap=jett"]),
        ([3], ["protocol.parts: 3: expected a protocol's name"]),
        ([{"gradcam": 3}], ["expected a protocol's name, {name: {key: value}}"]),
        ([{"_target_": "medassay.nets.lenet.LeNet"}], ["protocol.parts.medassay.nets.lenet.LeNet"]),
        ([stub(budget="huge")], ["budget=huge: expected one of quick, full, endless"]),
        ([stub(name="../up")], ["name=../up"]),
    ],
)
def test_what_is_wrong_with_parts_is_one_line(entries: list[Any], facts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_parts(entries, "quick", {})
    for fact in facts:
        assert fact in str(error.value)


def test_an_unknown_part_is_said_on_the_command_line(command: Command) -> None:
    assert_one_line(command("evaluate", f"run={SAVED}", "protocol=audit", "protocol.parts=[shortcutt]"), "'shortcut'?")


def test_a_protocol_of_ones_own_is_a_part_by_its_name(tmp_path: Path, command: Command) -> None:
    run, conf = shutil.copytree(SAVED, tmp_path / "run"), tmp_path / "their_conf" / "protocol"
    conf.mkdir(parents=True)
    (conf / "theirs.yaml").write_text(f"# Theirs.\n_target_: {HERE}.Stub\nname: theirs\noutcome: good\n")
    argv = [f"run={run}", "protocol=audit", "protocol.parts=[theirs]", "--config-dir", str(conf.parent)]
    shown = command("evaluate", *argv)
    assert shown.code == 0, shown.err
    assert "1/1 theirs …" in shown.out
    assert "audit: 1 part; no objection: theirs." in shown.out


# --- what becomes of them --------------------------------------------------------------------------------------------


def test_parts_that_do_not_fit_or_fail_are_listed_and_the_others_are_there(results: dict[str, Any]) -> None:
    listed = {one["name"]: (one["status"], one["verdict"]) for one in results["verdicts"]}
    assert list(listed) == ["first", "classification", "lesion", "assay", "grumbling", "buggy", "last"]
    assert listed["first"] == ("bad", "said")
    assert listed["lesion"][0] == "not applicable"
    assert listed["lesion"][1].startswith("this run's net is a BlockCNN")
    assert listed["assay"] == ("not applicable", "it does not work on a classifier's run")
    assert listed["grumbling"] == ("failed", "protocol.error: it is wrong")
    assert listed["buggy"] == ("failed", "ZeroDivisionError: a bug")
    assert listed["last"] == ("unjudged", "said")
    assert list(results["parts"]) == ["first", "classification", "last"]
    assert results["parts"]["last"] == {"number": 3.5}


def test_the_verdict_says_every_part(left: Path, results: dict[str, Any]) -> None:
    assert results["overall"].startswith("7 parts; objection: first, classification; ")
    assert "; not applicable: lesion, assay; failed: grumbling, buggy." in results["overall"]
    assert json.loads((left / "metrics.json").read_text())["audit"]["not_applicable"] == 2


def test_a_part_gives_the_same_as_alone_whatever_the_one_before_did(left: Path, results: dict[str, Any]) -> None:
    # the stub sets all weights to 0
    recorded = json.loads((SAVED / "metrics.json").read_text())["test"]
    assert results["parts"]["classification"]["metrics"]["auroc"] == pytest.approx(recorded["auroc"], abs=1e-6)
    own = json.loads((left / "classification" / "classification.json").read_text())
    assert own["metrics"] == results["parts"]["classification"]["metrics"]
    assert own["protocol"]["mistakes"] == 2
    metrics = json.loads((left / "metrics.json").read_text())
    assert metrics["test"]["auroc"] == own["metrics"]["auroc"]
    assert metrics["stub"] == metrics["last_stub"] == {"number": 3.5}


def test_a_renamed_part_that_does_not_fit_is_not_applicable() -> None:
    run = load_run(SAVED, trainer_gpus=0)
    (part,) = build_parts([{"fairness": {"name": "fair_b"}}], "quick", {})
    report, verdict = run_part(part, run, ComputeContext.from_settings(run.settings, SAVED))
    assert report is None
    assert (verdict.name, verdict.status) == ("fair_b", "not applicable")
    assert verdict.verdict.startswith("the test images of ")


@pytest.mark.parametrize("speaks_as", ["mine", "stub"])
def test_a_verdict_does_not_repeat_the_name_of_its_part(speaks_as: str) -> None:
    (part,) = build_parts([stub(name="mine")], "quick", {})
    report = Report(Measured(1.0), verdict=[f"{speaks_as}: said", "because"])
    verdict = describe_verdict(part, report)
    assert (verdict.verdict, verdict.reasons) == ("said", ["because"])


def test_the_numbers_of_parts_are_beside_the_splits_that_they_are_of() -> None:
    about: Any = None
    parts = [
        Part(name, Report(Measured(1.0), split=split, metrics={"split": split, name: {"number": 1.0}}), about, {})
        for name, split in (("a", "val"), ("b", "train"), ("c", "val"))
    ]
    splits = {"a": "val", "b": "train", "c": "val"}
    assert merge_metrics(parts) == {"split": "val", "splits": splits, **{name: {"number": 1.0} for name in "abc"}}


def test_the_net_at_chance_is_an_objection(results: dict[str, Any]) -> None:
    (one,) = (one for one in results["verdicts"] if one["name"] == "classification")
    assert (one["status"], one["verdict"][:29]) == ("bad", "not shown to be above chance:")


def test_limits_are_objections_and_what_is_not_known() -> None:
    made = [
        ("a", "bad"),
        ("b_c", "undecided"),
        ("d", "good"),
        ("e", "not applicable"),
        ("f", "failed"),
        ("g", "unjudged"),
    ]
    verdicts = [PartVerdict(name, "", status, f"{name} says", [], None) for name, status in made]  # type: ignore[arg-type]
    assert list_limits(verdicts) == [
        "A: a says",
        "B c (undecided): b_c says",
        "E: not looked at, e says",
        "F: not looked at, f says",
    ]
    assert summarise(verdicts[:2]) == "2 parts; objection: a; undecided: b_c."
    assert merge_metrics([]) == {"split": "test", "splits": {}}


@pytest.mark.parametrize(
    ("verdicts", "level"),
    [
        (shortcut, shortcut_measures.Level),
        (domain_shift, domain_shift_results.Level),
        (adversarial, adversarial_results.Level),
        (fairness, fairness_results.Level),
        (inversion, inversion_measures.Level),
    ],
)
def test_every_verdict_of_the_audits_parts_has_an_outcome(verdicts: Any, level: Any) -> None:
    assert set(verdicts.OUTCOMES) == set(typing.get_args(level))
    assert {"good", "bad", "undecided"} == set(verdicts.OUTCOMES.values())


def test_the_default_audit_has_every_part_that_judges_a_classifier() -> None:
    parts = build_parts(load_protocol_node("audit")["parts"], "quick", {})
    names = ["classification", "shortcut", "gradcam", "domain_shift", "adversarial", "fairness", "inversion"]
    assert [part.name for part in parts] == names
    assert [part.name for part in parts if part.node.get("budget") == "quick"] == names[3:]
    assert all(part.question for part in parts)


# --- the model card --------------------------------------------------------------------------------------------------


def test_the_model_card_says_what_the_record_says(results: dict[str, Any]) -> None:
    card = results["card"]
    record, metrics = (json.loads((SAVED / name).read_text()) for name in ("run.json", "metrics.json"))
    assert card["training"]["parameters"] == record["parameters"] == 1208
    assert (card["code"], card["started"], card["seconds"]) == (record["code"], record["started"], record["seconds"])
    assert card["environment"]["packages"] == record["packages"]
    assert card["provenance"] == record["data"]
    assert card["selection"].startswith(f"Epoch {metrics['best_epoch']} of {metrics['epochs']}: the largest val/auroc")
    assert card["scores"]["auroc"]["mean"] == pytest.approx(metrics["test"]["auroc"], abs=1e-6)
    low, high = metrics["test"]["interval_95"]["auroc"]
    assert card["scores"]["auroc"]["low"] == pytest.approx(low, abs=1e-6)
    assert card["scores"]["auroc"]["high"] == pytest.approx(high, abs=1e-6)
    assert card["images"] == {"train": [32, 32], "val": [16, 16], "test": [16, 16]}
    assert card["training"]["net"].startswith("BlockCNN (width 2, blocks 3,")
    assert card["training"]["optimizer"] == "adam (lr 0.001, betas [0.9, 0.999], weight decay 0.0)"
    assert card["training"]["augmentation"] == "none"
    assert card["training"]["epochs"] == metrics["epochs"]
    assert card["training"]["batch size"] == 16
    assert (card["author"], card["origin"]["licence"]) == ("A. Author", "that of MedAssay (MIT)")
    assert "not for" not in card["intended_use"]
    assert "Diagnosis" in card["excluded_use"]
    assert card["limits"][0].startswith("The data are rendered phantoms")
    assert any(limit.startswith("Lesion: not looked at, ") for limit in card["limits"])


def test_without_classification_the_figures_are_those_recorded_after_training(tmp_path: Path) -> None:
    run = shutil.copytree(SAVED, tmp_path / "run")
    left = evaluate(str(run), load_protocol_node("audit", parts=[stub()]), {}, tmp_path)
    card = json.loads((left / "audit.json").read_text())["card"]
    recorded = json.loads((SAVED / "metrics.json").read_text())["test"]
    assert card["scores"]["accuracy"]["mean"] == recorded["accuracy"]
    assert card["scores_of"] == "32 test images, after training"


def test_nodes_and_augmentation_in_words() -> None:
    assert describe_node(None) == "none"
    node = {"_target_": "a.b.Net", "width": 4, "image_size": 28, "inner": {"x": 1}, "empty": None, "small_images": True}
    assert describe_node(node, ("image_size",)) == "Net (width 4, small images on)"
    assert describe_augmentation({"rotation": 10, "blur": 0.0, "erasing_size": 0.3, "colour": 0}) == "rotation 10"


# --- the page and the files ------------------------------------------------------------------------------------------


def test_every_link_of_every_page_resolves_also_where_the_folder_was_moved(left: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(left, tmp_path / "elsewhere"))
    pages = sorted(moved.rglob("report.html"))
    assert sorted(page.parent.name for page in pages) == ["classification", "elsewhere", "first"]
    for page in pages:
        text = page.read_text()
        links = re.findall(r'<a href="([^"]+)"', text)
        for link in links:
            if link.startswith("#"):
                assert f'id="{link[1:]}"' in text
            else:
                assert (page.parent / link).resolve().is_relative_to(moved.resolve())
                assert (page.parent / link).is_file()
    main = (moved / "report.html").read_text()
    assert 'href="classification/report.html"' in main
    assert 'href="../report.html"' in (moved / "first" / "report.html").read_text()
    assert "last/report.html" not in main  # the stub has no page


def test_the_page_has_card_verdicts_and_reasons(left: Path) -> None:
    text = (left / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    for fact in ("Model card", "Mitchell et al.", "Does it do what it is told?", "ZeroDivisionError: a bug", "1,208"):
        assert fact in text
    assert "because" in text
    assert "rendered phantoms" in text


def test_parts_leave_their_own_files(left: Path) -> None:
    assert any((left / "classification" / "figures").glob("*.png"))
    for name in ("classification", "first", "last"):
        assert (left / name / "tensorboard").is_dir()
    assert not (left / "tensorboard").exists()
    assert not (left / "lesion").exists()


def test_the_command_of_the_page_gives_the_same_audit(results: dict[str, Any]) -> None:
    typed = format_command({key: results[key] for key in ("run", "protocol", "overrides")})
    assert typed is not None
    _, _, *argv = shlex.split(typed)
    cfg = configuration.compose("evaluate", argv)
    assert configuration.resolve(cfg)["protocol"] == results["protocol"]


def test_several_runs_are_audited_one_by_one_and_stand_in_one_table(tmp_path: Path, command: Command) -> None:
    run = shutil.copytree(SAVED, tmp_path / "run", ignore=shutil.ignore_patterns("eval"))
    other = shutil.copytree(run, tmp_path / "other")
    parts = f"protocol.parts=[{{_target_: {HERE}.Stub, name: mine}}]"
    shown = command("evaluate", f"run=[{run},{other}]", "protocol=audit", parts, f"outputs={tmp_path / 'outputs'}")
    assert shown.code == 0, shown.err
    assert len([*run.glob("eval/audit_*/audit.json"), *other.glob("eval/audit_*/audit.json")]) == 2
    (table,) = (tmp_path / "outputs" / "eval").iterdir()
    text = (table / "summary.csv").read_text()
    assert "stub/number" in text
    assert "audit/unjudged" in text


def test_a_generator_is_refused(command: Command) -> None:
    result = command("evaluate", f"run={SAVED.with_name('cgan')}", "protocol=audit")
    assert_one_line(result, "protocol=audit", "generator's run", "use protocol=assay or sample")
