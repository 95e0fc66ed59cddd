"""The shortcut audit: nets that read a stamp are told from nets that read the disease; its numbers against references."""

from __future__ import annotations

import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import medassay
from medassay import config as configuration
from medassay.core.errors import ConfigError, DataError
from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages, Splits
from medassay.data.sources import memory_data
from medassay.data.stamps import Stamp
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.metrics.chance import ChanceCheck
from medassay.metrics.explanation import energy_inside
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.resnet import ResNet
from medassay.protocols.shortcut import measures, verdict
from medassay.protocols.shortcut.figures import draw_ranks
from medassay.protocols.shortcut.measures import Group, Heat, Level, Numbers, Trial
from medassay.protocols.shortcut.protocol import Shortcut, ShortcutAudit, choose_plain_views, flatten_metrics
from medassay.protocols.shortcut.trials import evaluate_stamp, list_stamps, stamp_as_trained, stamp_images
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import predict_logits
from tests.helpers import assert_ticks_apart

CPU = torch.device("cpu")
CLASSES = ["normal", "pneumonia"]
STAMP = Stamp(kind="date", label=1)
DISEASE = (slice(16, 22), slice(16, 22))  # where the second class is bright


def images_of(n: int) -> LabelledImages:
    """Dark noise; the second class has a bright patch, brighter in some images than in others."""
    rng = torch.Generator().manual_seed(n)
    images = torch.randint(20, (n, 1, 28, 28), generator=rng, dtype=torch.uint8)
    labels = torch.arange(n) % 2
    strength = torch.randint(60, 120, (n,), generator=rng, dtype=torch.uint8)
    images[:, :, *DISEASE] += (strength * labels.to(torch.uint8))[:, None, None, None]
    return LabelledImages(images, labels)


class Reader(nn.Module):
    """Reads brightness in two places: ``logit of class 1 = disease * patch + stamp * ink - threshold``, class 0 has 0."""

    def __init__(self, disease: float, stamp: float, threshold: float) -> None:
        super().__init__()
        self.disease, self.stamp, self.threshold = disease, stamp, threshold

    def forward(self, images: Tensor) -> Tensor:
        patch = images[:, 0, *DISEASE].mean((1, 2))
        ink = images[:, 0, STAMP.ink(28)].mean(1)
        logit = self.disease * patch + self.stamp * ink - self.threshold
        return torch.stack([torch.zeros_like(logit), logit], 1)


def judged(net: Reader, own: Stamp | None = None, n: int = 80) -> tuple[Numbers, Level, str]:
    """The numbers, the level and the text of the stamp on a net that was trained with its ``own`` stamp, or none."""
    split = images_of(n)
    numbers = evaluate_stamp(net, STAMP, split, CLASSES, CPU)
    logits = predict_logits(net, stamp_as_trained(own, split, CLASSES), CPU)
    return numbers, *verdict.judge(numbers, measures.check_class(logits, split.labels, numbers.label))


# --- what the verdict says -------------------------------------------------------------------------------------------


def test_a_net_that_reads_the_stamp_alone_has_learned_it() -> None:
    numbers, level, _ = judged(Reader(disease=0, stamp=10, threshold=5), own=STAMP)
    rows = numbers.conditions
    assert level == "learned"
    assert rows["clean"]["recall"].value == 0
    assert rows["as_trained"]["accuracy"].value == 1
    assert rows["moved_bottom_right"]["recall"].value == 0
    assert rows["other_classes"]["accuracy"].value == 0
    assert rows["other_classes"]["false_positive_rate"].value == 1
    assert numbers.drawn_over.value == 1


def test_a_net_that_reads_the_disease_alone_shows_no_sign_of_the_stamp() -> None:
    numbers, level, _ = judged(Reader(disease=20, stamp=0, threshold=3))
    assert level == "none"
    assert all(row["accuracy"].value == 1 for row in numbers.conditions.values())
    assert numbers.outranks.value == numbers.drawn_over.value == 0


def test_a_net_that_reads_both_and_trusts_the_disease_more_is_called_sensitive() -> None:
    numbers, level, text = judged(Reader(disease=20, stamp=4, threshold=3))
    assert numbers.conditions["other_classes"]["false_positive_rate"].value == 1
    assert numbers.outranks.value < 0.1
    assert level == "sensitive"
    assert "not say that the net was trained with it" in text


def test_a_net_that_the_stamp_drives_away_from_the_class_shows_no_sign_of_it() -> None:
    _, level, _ = judged(Reader(disease=20, stamp=-10, threshold=3))
    assert level == "none"


def test_a_net_whose_threshold_no_image_passes_is_not_accused_by_ranks_alone() -> None:
    numbers, level, text = judged(Reader(disease=0, stamp=1, threshold=500), own=STAMP)
    assert numbers.outranks.is_above(verdict.LIMIT)
    assert level == "undecided"
    assert "balanced accuracy 0.500 [0.500, 0.500], chance 0.500" in text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_net_at_chance_is_undecided_even_where_any_mark_moves_it() -> None:
    numbers, level, text = judged(Reader(disease=0, stamp=10, threshold=5))  # it was never trained with a stamp
    assert numbers.outranks.is_above(verdict.LIMIT)
    assert numbers.drawn_over.is_above(verdict.MOVED)
    assert level == "undecided"
    assert text.startswith(
        "Undecided, since the net is not shown to be above chance at telling pneumonia from the others"
    )


def estimated(numbers: Numbers, **shares: tuple[float, float]) -> Numbers:
    """The numbers with other intervals."""
    return replace(numbers, **{name: Estimate(sum(ends) / 2, *ends, n=64) for name, ends in shares.items()})


ABOVE = ChanceCheck(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 0.95), 0.5)


@pytest.mark.parametrize(
    ("outranks", "drawn_over", "level"),
    [
        ((0.57, 0.85), (0.0, 0.05), "undecided"),  # might be sensitive
        ((0.3, 0.5), (0.05, 0.2), "undecided"),
        ((0.57, 0.85), (0.3, 0.6), "undecided"),  # might have learnt it
        ((0.61, 0.85), (0.05, 0.2), "undecided"),
        ((0.61, 0.85), (0.11, 0.2), "learned"),
        ((0.3, 0.6), (0.11, 0.2), "sensitive"),
        ((0.61, 0.85), (0.0, 0.1), "sensitive"),
        ((0.3, 0.6), (0.0, 0.1), "none"),
    ],
)
def test_an_interval_that_contains_its_limit_decides_nothing(
    outranks: tuple[float, float], drawn_over: tuple[float, float], level: Level
) -> None:
    numbers = evaluate_stamp(Reader(disease=20, stamp=0, threshold=3), STAMP, images_of(8), CLASSES, CPU)
    found, text = verdict.judge(estimated(numbers, outranks=outranks, drawn_over=drawn_over), ABOVE)
    assert found == level
    assert ("contains the limit" in text) == (level == "undecided")
    certain = outranks[0] > verdict.LIMIT or drawn_over[0] > verdict.MOVED
    assert ("At the least, the net is sensitive" in text) == (level == "undecided" and certain)


@pytest.mark.parametrize(
    "check",
    [
        replace(ABOVE, auroc=Estimate(0.6, 0.5, 0.7)),
        replace(ABOVE, balanced_accuracy=Estimate(0.53, 0.41, 0.66)),
        replace(ABOVE, auroc=Estimate(math.nan, math.nan, math.nan)),
    ],
)
def test_a_net_whose_interval_reaches_chance_gets_no_verdict(check: ChanceCheck) -> None:
    numbers = evaluate_stamp(Reader(disease=20, stamp=0, threshold=3), STAMP, images_of(8), CLASSES, CPU)
    clear = estimated(numbers, outranks=(0.1, 0.2), drawn_over=(0.0, 0.05))
    assert verdict.judge(clear, ABOVE)[0] == "none"
    assert verdict.judge(clear, check)[0] == "undecided"


def test_a_class_is_told_from_the_others_by_its_recall_its_specificity_and_its_ranks() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 2, 0], [0, 1, 0], [2, 0, 0], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 1, 2, 2])
    found = measures.check_class(logits, labels, 1)
    assert found.balanced_accuracy.value == pytest.approx((2 / 3 + 2 / 3) / 2)
    p = logits.softmax(1)[:, 1].numpy()
    assert found.auroc.value == pytest.approx(roc_auc_score((labels == 1).numpy(), p))


def test_a_net_is_compared_with_chance_on_images_stamped_as_in_training() -> None:
    split, own = images_of(40), Stamp(kind="square", label="pneumonia", share=0.5)
    assert torch.equal(stamp_as_trained(None, split, CLASSES), split.images)
    as_trained = stamp_images(own.with_class(1), split, CLASSES)["as_trained"]
    assert torch.equal(stamp_as_trained(own, split, CLASSES), as_trained)


def trial(name: str, level: Level) -> Trial:
    """A trial of a date on the class ``name`` that was judged so."""
    no, group = Estimate(0.0, 0.0, 0.0), Group(1, Estimate(0.0), Estimate(0.0))
    numbers = Numbers({}, "date", 0, name, {}, {}, drawn_over=no, outranks=no, outranks_clean=no, odds={})
    heat = Heat("gradcam", "x", 0.1, group, group)
    return Trial(**vars(numbers), own=False, chance=ABOVE, heat=heat, level=level, text="")


def test_the_worst_class_decides_and_is_named() -> None:
    found = [trial("a", "none"), trial("b", "learned")]
    assert verdict.judge_all(found) == ("learned", "Learnt the stamp: date, on b.")
    assert verdict.judge_all(found[:1]) == ("none", "No sign of the stamp: date, on a.")


def test_what_is_undecided_outweighs_no_sign_and_is_said_beside_a_finding() -> None:
    found = [trial("a", "undecided"), trial("b", "none"), trial("c", "sensitive")]
    assert verdict.judge_all(found[:2]) == ("undecided", "Undecided: date, on a.")
    level, words = verdict.judge_all(found)
    assert (level, words.endswith("date, on c. Undecided on a.")) == ("sensitive", True)


# --- what is tried ---------------------------------------------------------------------------------------------------


def test_by_default_the_runs_own_stamp_is_tried_else_a_date_on_each_class() -> None:
    own = Stamp(kind="square", label="pneumonia", share=0.5)
    assert Shortcut().stamp is None
    assert list_stamps(None, own, CLASSES, 28) == [own.with_class(1)]
    assert list_stamps(Stamp(), own, CLASSES, 28) == [own.with_class(1)]
    assert [(s.kind, s.position, s.label) for s in list_stamps(None, None, CLASSES, 28)] == [
        ("date", "top_left", 0), ("date", "top_left", 1),
    ]  # fmt: skip


def test_images_too_small_for_a_date_get_a_square() -> None:
    assert [stamp.kind for stamp in list_stamps(None, None, CLASSES, 8)] == ["square", "square"]


def test_a_stamp_that_is_asked_for_is_tried_instead() -> None:
    asked = Stamp(kind="text", text="L", label="NORMAL")
    assert list_stamps(asked, Stamp(kind="square", label=1), CLASSES, 28) == [Stamp(kind="text", text="L", label=0)]


def test_conditions_put_the_stamp_where_their_names_say() -> None:
    split = images_of(40)
    stamp = Stamp(kind="square", label=1, share=0.5)
    found = stamp_images(stamp, split, CLASSES)
    assert list(found) == [
        "clean", "as_trained", "moved_top_right", "moved_bottom_left", "moved_bottom_right", "other_classes",
    ]  # fmt: skip

    def marked(name: str, position: Any) -> Tensor:
        return (found[name][:, 0, stamp.move_to(position).ink(28)] == 255).all(1)

    assert torch.equal(found["clean"], split.images)
    trained = marked("as_trained", "top_left")
    assert int(trained.sum()) == 10
    assert bool((split.labels[trained] == 1).all())
    assert torch.equal(marked("moved_bottom_left", "bottom_left"), trained)
    assert not marked("moved_bottom_left", "top_left").any()
    assert torch.equal(marked("other_classes", "top_left"), split.labels == 0)


def test_the_protocols_configuration_can_be_given_a_stamp() -> None:
    typed = ["run=x", "protocol=shortcut", "protocol.stamp.kind=square", "protocol.stamp.label=1"]
    cfg = configuration.compose("evaluate", typed)
    node = configuration.resolve(cfg)["protocol"]
    configuration.check(node, "protocol")
    assert configuration.build(node) == Shortcut(stamp=Stamp(kind="square", label=1))


def test_what_cannot_be_tried_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.colormaps: matplotlib has no 'sumer'"):
        Shortcut(colormaps=["sumer"])
    with pytest.raises(ConfigError, match=r"protocol\.stamp\.label=flu: no such class"):
        list_stamps(Stamp(kind="date", label="flu"), None, CLASSES, 28)
    only = images_of(8)[torch.tensor([1, 3])]
    with pytest.raises(DataError, match=r"of 2 test images 2 are pneumonia, and others are needed, too"):
        evaluate_stamp(Reader(1, 1, 1), STAMP, only, CLASSES, CPU)


def test_plain_views_are_two_images_of_each_group_each_without_the_stamp_and_with_it() -> None:
    def rows(first: int) -> dict[str, Tensor]:
        levels = torch.tensor([first, first + 1, first + 2])[:, None, None, None].expand(-1, 3, 4, 4)
        return {"without": levels, "with the stamp": levels + 50}

    found = choose_plain_views({"class": rows(0), "others": rows(100)})
    assert found[:, 0, 0, 0].tolist() == [0, 50, 1, 51, 100, 150, 101, 151]


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_log_odds_are_those_of_the_softmax() -> None:
    scores = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = (scores.exp() / scores.exp().sum(1, keepdim=True))[:, 2]
    torch.testing.assert_close(measures.log_odds(scores, 2), torch.log(p / (1 - p)))


def test_shares_and_their_intervals_are_those_of_a_plain_bootstrap() -> None:
    rng = torch.Generator().manual_seed(2)
    values, members = torch.rand(50, generator=rng), torch.rand(50, generator=rng) < 0.6
    found = measures.estimate_shares({"x": (values, members)})["x"]
    drawn = torch.randint(50, (1000, 50), generator=torch.Generator().manual_seed(0)).numpy()
    v, m = values.double().numpy(), members.numpy()
    means = [v[rows][m[rows]].mean() for rows in drawn]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found.value == pytest.approx(v[m].mean())
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert (found.n, found.kind) == (int(m.sum()), "bootstrap")


def test_rates_are_counted_by_hand() -> None:
    found = measures.estimate_rates(torch.tensor([1, 1, 0, 1, 0]), torch.tensor([1, 1, 1, 0, 0]), 1)
    means = {name: estimate.value for name, estimate in found.items()}
    assert means == pytest.approx({"accuracy": 3 / 5, "recall": 2 / 3, "false_positive_rate": 1 / 2})


@pytest.mark.parametrize("decimals", [6, 0])  # 0: many ties
def test_outranking_is_one_minus_the_area_under_the_roc_curve(decimals: int) -> None:
    rng = np.random.default_rng(3)
    others, own = (np.round(rng.normal(at, 1.5, size), decimals) for at, size in ((0, 70), (1, 40)))
    found = measures.measure_outranking(torch.from_numpy(others), torch.from_numpy(own))
    area = roc_auc_score([0] * 70 + [1] * 40, np.concatenate([others, own]))
    assert found.value == pytest.approx(1 - area)
    resampled = [
        1 - roc_auc_score([0] * 70 + [1] * 40, np.concatenate([rng.choice(others, 70), rng.choice(own, 40)]))
        for _ in range(300)
    ]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.03)


def test_energy_is_the_share_inside_the_box_and_an_empty_map_counts_as_even() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 3.0, 1.0
    box = torch.zeros(4, 4, dtype=torch.bool)
    box[0, :2] = True
    assert energy_inside(maps, box.expand(2, -1, -1)).tolist() == pytest.approx([0.75, 2 / 16])


def test_empty_maps_are_counted() -> None:
    clean, stamped = torch.rand(3, 4, 4) + 0.1, torch.rand(3, 4, 4) + 0.1
    clean[0], stamped[:2] = 0, 0
    found = Group.from_maps(clean, stamped, torch.ones(4, 4, dtype=torch.bool))
    assert (found.empty_clean, found.empty) == (1, 2)


@pytest.mark.parametrize("odds", [-5.65e-5, 0.0012, 0.15, -12.0, 98_765.0])
def test_the_ticks_of_the_ranks_do_not_touch_however_small_or_large_the_log_odds(odds: float) -> None:
    spread = torch.linspace(0.3, 1.7, 9).tolist()
    drawn = replace(
        trial("a", "none"), odds={key: [odds * one for one in spread] for key in ("class", "others", "others_stamped")}
    )
    assert_ticks_apart(draw_ranks(drawn).figure)


def trial_of(label: int, level: Level, outranks: float, moved: float) -> Trial:
    """A trial with these numbers; the rest is that of a reader."""
    numbers, _, text = judged(Reader(disease=0.05, stamp=0, threshold=4), n=20)
    chance = ChanceCheck(Estimate(0.9, kind="images"), Estimate(0.9, kind="images"), 0.5)
    changed = vars(numbers) | {
        "label": label,
        "outranks": Estimate(outranks, kind="images"),
        "drawn_over": Estimate(moved, kind="images"),
    }
    return Trial(**changed, own=False, chance=chance, heat=None, level=level, text=text)


def test_single_numbers_are_those_of_the_class_that_the_verdict_is_of() -> None:
    trials = [trial_of(0, "learned", 0.65, 0.3), trial_of(1, "sensitive", 0.8, 0.02)]
    flat = flatten_metrics(ShortcutAudit(20, "test", None, "", "learned", True, "", trials))
    assert (flat["learned"], flat["label"], flat["drawn_over"]) == (1, 0, 0.3)


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = ["data.train=64", "data.val=16", "data.test=40", "trainer.max_epochs=1", "logger=none", "test=false"]
    stamp = ["data.stamp.kind=date", "data.stamp.label=pneumonia", "data.stamp.share=0.9"]
    path = tmp_path_factory.mktemp("shortcut") / "run"
    return medassay.train_run("model=pneumonia_cnn", "data=chest_phantom", *small, *stamp, directory=path)


def audit(run: Run, settings: Shortcut, record: dict[str, Any], directory: Path, outputs: Path) -> None:
    """Audits the run and leaves in ``directory`` what ``evaluate`` would."""
    report = settings.run(run, ComputeContext.from_settings(run.settings, outputs))
    write_report(report, describe_run(run, report.split), record, directory)


def test_a_run_with_a_stamp_is_audited_and_leaves_everything(run: Run, tmp_path: Path) -> None:
    assert run.directory.record()["data"]["stamp"]["share"] == 0.9
    protocol = {"name": "shortcut", "heat_maps": 8}
    record = {"run": "outputs/r", "status": "done", "protocol": protocol, "overrides": {}}
    audit(run, Shortcut(heat_maps=8, shown=3), record, tmp_path / "audit", tmp_path)
    results = json.loads((tmp_path / "audit" / "shortcut.json").read_text())
    (trial,) = results["trials"]
    assert results["trained_with"] == "date '03.21', top left, on 90 % of pneumonia"
    assert (trial["class"], trial["stamp"]["share"], trial["n"]) == ("pneumonia", 0.9, {"class": 20, "others": 20})
    assert "odds" not in trial  # single images' numbers are drawn, not kept
    assert 0 <= trial["heat"]["others"]["energy"]["mean"] <= 1
    assert trial["heat"]["area"] == pytest.approx(17 * 5 / 28**2)
    metrics = json.loads((tmp_path / "audit" / "metrics.json").read_text())
    assert metrics["run"] == "outputs/r"
    assert metrics["shortcut"]["outranks"] == trial["outranks"]["mean"]
    assert all(isinstance(value, float) for value in metrics["shortcut"].values())
    figures = {path.stem for path in (tmp_path / "audit" / "figures").glob("*.png")}
    assert figures == {
        "colour_views", "conditions_class_1", "heat_class_1", "maps_of_class_class_1", "maps_of_others_class_1",
        "ranks_class_1",
    }  # fmt: skip
    assert list((tmp_path / "audit" / "tensorboard").iterdir())


def test_the_report_is_one_file_with_verdict_rule_and_command(run: Run, tmp_path: Path) -> None:
    stamp = {"_target_": "medassay.data.stamps.Stamp", "kind": "square", "label": 0}
    record = {"run": "outputs/r", "status": "done", "protocol": {"name": "shortcut", "stamp": stamp}, "overrides": {}}
    audit(run, Shortcut(stamp=Stamp(kind="square", label=0), heat_maps=4, shown=2), record, tmp_path, tmp_path)
    page = (tmp_path / "report.html").read_text()
    results = json.loads((tmp_path / "shortcut.json").read_text())
    assert results["verdict"] in page
    empty = sum(
        group[key]
        for group in results["trials"][0]["heat"].values()
        if isinstance(group, dict)
        for key in ("empty", "empty_clean")
    )
    assert ("blue all over" in page) == (empty > 0)
    colour = {"learned": "suspicious", "sensitive": "missing", "undecided": "undecided", "none": "good"}
    assert f'<section class="{colour[results["level"]]}">' in page
    assert "rendered phantoms" in page
    assert "protocol=shortcut protocol.stamp.kind=square protocol.stamp.label=0" in page
    for name in ("gray", "jet", "summer", "flag", "rainbow"):
        assert f'<th scope="row">{name}</th>' in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)


def test_a_net_whose_layer_fits_no_heat_map_is_audited_without_and_the_page_says_why(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = replace(run, task=Classification(ResNet(1, 2, width=4, small_images=False), 2).eval())
    record = {"run": "outputs/r", "status": "done", "protocol": {"name": "shortcut"}, "overrides": {}}
    audit(small, Shortcut(heat_maps=4, shown=2), record, tmp_path, tmp_path)
    results = json.loads((tmp_path / "shortcut.json").read_text())
    assert [trial["heat"] for trial in results["trials"]] == [None]
    assert "a heat map needs" in results["without_heat"]
    assert f"No heat maps: {results['without_heat'][:20]}" in html.unescape((tmp_path / "report.html").read_text())
    with pytest.raises(ConfigError, match=r"protocol\.layer=body\.layer4: its output is"):
        Shortcut(layer="body.layer4").run(small, ComputeContext(CPU, 0, tmp_path))


def test_a_class_without_test_images_is_named_and_the_others_are_tried(run: Run, tmp_path: Path) -> None:
    names, split = ["a", "b", "c"], images_of(24)
    train = LabelledImages(split.images, torch.arange(24) % 3)
    data = memory_data("three", names, Splits(train, train, split))  # no test image of c
    task = Classification(BlockCNN(1, 3, width=2), 3).eval()
    report = Shortcut(heat_maps=2, shown=2).run(replace(run, data=data, task=task), ComputeContext(CPU, 0, tmp_path))
    assert [trial.class_name for trial in report.results.trials] == ["a", "b"]
    assert report.results.left_out == ["c"]
    assert report.warnings == ["No stamp was tried on c: that takes test images of it and of other classes."]


def test_settings_of_a_stamp_that_is_not_asked_for_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.stamp\.position=bottom_right without a stamp: say which"):
        list_stamps(Stamp(position="bottom_right"), None, CLASSES, 28)
