"""The shortcut audit: nets that read a stamp are told from nets that read the disease; its numbers against references."""

from __future__ import annotations

import json
import re
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
from medassay.core.types import LabelledImages
from medassay.data.stamps import Stamp
from medassay.protocols.shortcut import ShortcutSettings, measures, shortcut_run, verdict
from medassay.protocols.shortcut.protocol import conditions, trials, tried
from medassay.runs.load import Run

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


def judged(net: Reader, stamp: Stamp = STAMP) -> dict[str, Any]:
    numbers = tried(net, stamp, images_of(80), CLASSES, CPU)
    return {**numbers, **verdict.judged(numbers)}


# --- what the verdict says -------------------------------------------------------------------------------------------


def test_a_net_that_reads_the_stamp_alone_has_learned_it() -> None:
    found = judged(Reader(disease=0, stamp=10, threshold=5))
    rows = found["conditions"]
    assert found["level"] == "learned"
    assert rows["clean"]["recall"]["mean"] == 0
    assert rows["as_trained"]["accuracy"]["mean"] == 1
    assert rows["moved_bottom_right"]["recall"]["mean"] == 0
    assert rows["other_classes"]["accuracy"]["mean"] == 0
    assert rows["other_classes"]["false_positive_rate"]["mean"] == 1
    assert found["drawn_over"]["mean"] == 1


def test_a_net_that_reads_the_disease_alone_shows_no_sign_of_the_stamp() -> None:
    found = judged(Reader(disease=20, stamp=0, threshold=3))
    assert found["level"] == "none"
    assert all(row["accuracy"]["mean"] == 1 for row in found["conditions"].values())
    assert found["outranks"]["mean"] == found["drawn_over"]["mean"] == 0


def test_a_net_that_reads_both_and_trusts_the_disease_more_is_called_sensitive() -> None:
    found = judged(Reader(disease=20, stamp=4, threshold=3))
    assert found["conditions"]["other_classes"]["false_positive_rate"]["mean"] == 1
    assert found["outranks"]["mean"] < 0.1
    assert found["level"] == "sensitive"
    assert "not say that the net was trained with it" in found["text"]


def test_a_net_that_the_stamp_drives_away_from_the_class_shows_no_sign_of_it() -> None:
    assert judged(Reader(disease=20, stamp=-10, threshold=3))["level"] == "none"


def test_a_net_whose_threshold_no_image_passes_is_not_accused_by_ranks_alone() -> None:
    found = judged(Reader(disease=0, stamp=1, threshold=500))
    assert found["outranks"]["low"] > verdict.LIMIT
    assert found["level"] == "sensitive"


def test_the_worst_class_decides_and_is_named() -> None:
    found = [{"level": level, "class": name, "described": "date"} for level, name in (("none", "a"), ("learned", "b"))]
    assert verdict.overall(found) == {"level": "learned", "learned": True, "verdict": "Learned the stamp: date, on b."}
    assert verdict.overall(found[:1])["verdict"] == "No sign of the stamp: date, on a."


# --- what is tried ---------------------------------------------------------------------------------------------------


def test_by_default_the_runs_own_stamp_is_tried_else_a_date_on_each_class() -> None:
    own = Stamp(kind="square", label="pneumonia", share=0.5)
    assert trials(ShortcutSettings(), own, CLASSES, 28) == [own.of_class(1)]
    assert trials(ShortcutSettings(stamp=Stamp()), own, CLASSES, 28) == [own.of_class(1)]
    assert [(s.kind, s.position, s.label) for s in trials(ShortcutSettings(), None, CLASSES, 28)] == [
        ("date", "top_left", 0), ("date", "top_left", 1),
    ]  # fmt: skip


def test_a_stamp_that_is_asked_for_is_tried_instead() -> None:
    asked = ShortcutSettings(stamp=Stamp(kind="text", text="L", label="NORMAL"))
    assert trials(asked, Stamp(kind="square", label=1), CLASSES, 28) == [Stamp(kind="text", text="L", label=0)]


def test_conditions_put_the_stamp_where_their_names_say() -> None:
    split = images_of(40)
    stamp = Stamp(kind="square", label=1, share=0.5)
    found = conditions(stamp, split, CLASSES)
    assert list(found) == [
        "clean", "as_trained", "moved_top_right", "moved_bottom_left", "moved_bottom_right", "other_classes",
    ]  # fmt: skip

    def marked(name: str, position: Any) -> Tensor:
        return (found[name][:, 0, stamp.at(position).ink(28)] == 255).all(1)

    assert torch.equal(found["clean"], split.images)
    trained = marked("as_trained", "top_left")
    assert int(trained.sum()) == 10
    assert bool((split.labels[trained] == 1).all())
    assert torch.equal(marked("moved_bottom_left", "bottom_left"), trained)
    assert not marked("moved_bottom_left", "top_left").any()
    assert torch.equal(marked("other_classes", "top_left"), split.labels == 0)


def test_the_protocols_configuration_can_be_given_a_stamp() -> None:
    typed = ["run=x", "protocol=shortcut", "protocol.stamp.kind=square", "protocol.stamp.label=1"]
    cfg, _ = configuration.compose("evaluate", typed)
    node = configuration.resolved(cfg)["protocol"]
    configuration.check(node, "protocol")
    assert configuration.build(node) == ShortcutSettings(stamp=Stamp(kind="square", label=1))


def test_what_cannot_be_tried_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"protocol\.colormaps: matplotlib has no 'sumer'"):
        ShortcutSettings(colormaps=["sumer"])
    with pytest.raises(ConfigError, match=r"protocol\.stamp\.label=flu: no such class"):
        trials(ShortcutSettings(stamp=Stamp(kind="date", label="flu")), None, CLASSES, 28)
    only = images_of(8)[torch.tensor([1, 3])]
    with pytest.raises(DataError, match=r"of 2 test images 2 are pneumonia, and both sides are needed"):
        tried(Reader(1, 1, 1), STAMP, only, CLASSES, CPU)


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_log_odds_are_those_of_the_softmax() -> None:
    scores = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = (scores.exp() / scores.exp().sum(1, keepdim=True))[:, 2]
    torch.testing.assert_close(measures.log_odds(scores, 2), torch.log(p / (1 - p)))


def test_shares_and_their_intervals_are_those_of_a_plain_bootstrap() -> None:
    rng = torch.Generator().manual_seed(2)
    values, members = torch.rand(50, generator=rng), torch.rand(50, generator=rng) < 0.6
    found = measures.shares({"x": (values, members)})["x"]
    drawn = torch.randint(50, (1000, 50), generator=torch.Generator().manual_seed(0)).numpy()
    v, m = values.double().numpy(), members.numpy()
    means = [v[rows][m[rows]].mean() for rows in drawn]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["mean"] == pytest.approx(v[m].mean())
    assert (found["low"], found["high"]) == (pytest.approx(low), pytest.approx(high))


def test_rates_are_counted_by_hand() -> None:
    found = measures.rates(torch.tensor([1, 1, 0, 1, 0]), torch.tensor([1, 1, 1, 0, 0]), 1)
    means = {name: value["mean"] for name, value in found.items()}
    assert means == pytest.approx({"accuracy": 3 / 5, "recall": 2 / 3, "false_positive_rate": 1 / 2})


@pytest.mark.parametrize("decimals", [6, 0])  # 0: many ties
def test_outranking_is_one_minus_the_area_under_the_roc_curve(decimals: int) -> None:
    rng = np.random.default_rng(3)
    others, own = (np.round(rng.normal(at, 1.5, size), decimals) for at, size in ((0, 70), (1, 40)))
    found = measures.outranking(torch.from_numpy(others), torch.from_numpy(own))
    area = roc_auc_score([0] * 70 + [1] * 40, np.concatenate([others, own]))
    assert found["mean"] == pytest.approx(1 - area)
    resampled = [
        1 - roc_auc_score([0] * 70 + [1] * 40, np.concatenate([rng.choice(others, 70), rng.choice(own, 40)]))
        for _ in range(300)
    ]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])), abs=0.03)


def test_energy_is_the_share_inside_the_box_and_an_empty_map_counts_as_even() -> None:
    maps = torch.zeros(2, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 3.0, 1.0
    box = torch.zeros(4, 4, dtype=torch.bool)
    box[0, :2] = True
    assert measures.inside(maps, box).tolist() == pytest.approx([0.75, 2 / 16])


# --- a whole run -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    small = ["data.train=64", "data.val=16", "data.test=40", "trainer.max_epochs=1", "logger=none", "test=false"]
    stamp = ["data.stamp.kind=date", "data.stamp.label=pneumonia", "data.stamp.share=0.9"]
    path = tmp_path_factory.mktemp("shortcut") / "run"
    return medassay.train_run("model=pneumonia_cnn", "data=chest_phantom", *small, *stamp, directory=path)


def test_a_run_with_a_stamp_is_audited_and_leaves_everything(run: Run, tmp_path: Path) -> None:
    assert run.directory.record()["data"]["stamp"]["share"] == 0.9
    settings = ShortcutSettings(heat_maps=8, shown=3)
    record = {"run": "outputs/r", "status": "done", "protocol": {"name": "shortcut", "heat_maps": 8}}
    shortcut_run(run, settings, tmp_path / "audit", record, tmp_path)
    results = json.loads((tmp_path / "audit" / "shortcut.json").read_text())
    (trial,) = results["trials"]
    assert results["trained_with"] == "date '03.21', top left, on 90% of pneumonia"
    assert (trial["class"], trial["stamp"]["share"], trial["n"]) == ("pneumonia", 0.9, {"class": 20, "others": 20})
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
    record = {"run": "outputs/r", "protocol": {"name": "shortcut", "stamp": stamp}}
    settings = ShortcutSettings(stamp=Stamp(kind="square", label=0), heat_maps=4, shown=2)
    shortcut_run(run, settings, tmp_path, record, tmp_path)
    page = (tmp_path / "report.html").read_text()
    verdict_said = json.loads((tmp_path / "shortcut.json").read_text())["verdict"]
    assert verdict_said in page
    assert "rendered phantoms" in page
    assert "protocol=shortcut protocol.stamp.kind=square protocol.stamp.label=0" in page
    for name in ("gray", "jet", "summer", "flag", "rainbow"):
        assert f'<th scope="row">{name}</th>' in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
