"""What an assay leaves: files that hold the same numbers, and a page that stands alone."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from functools import cache
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medassay.core.results import from_json
from medassay.evaluation import writer
from medassay.evaluation.about import About, format_command
from medassay.evaluation.protocol import Report
from medassay.protocols.assay import figures
from medassay.protocols.assay.figures import Examples, Gallery
from medassay.protocols.assay.protocol import build_report
from medassay.protocols.assay.results import AssayResults
from medassay.reporting.charts import Chart
from medassay.reporting.figures import save_figure

TARGET = "medassay.protocols.assay.protocol.Assay"
CONTROLS = ["copies", "noisy_copies", "turned_copies", "without_class", "floor_same_m", "shuffled_labels"]
NUMBERS = [
    *("frechet", "kid", "kid_subsets_sd", "intra_class_frechet", "precision", "recall", "density", "coverage"),
    *("alpha_precision", "beta_recall", "authenticity", "memorisation_ratio", "c_t", "membership_auc"),
    *("membership_auc_se", "membership_tpr_at_1_fpr", "membership_null_auc"),
    *("authenticity_turned", "membership_auc_turned", "membership_auc_se_turned"),
]
CHARTS = [
    *("class_coverage", "class_consistency", "class_recall", "plane_recall_precision", "plane_coverage_density"),
    *("curve_alpha", "curve_beta", "learning_curve"),
]
SECTIONS = [
    *("Verdict", "Numbers", "Real and generated images", "Class by class", "Fidelity and diversity"),
    *("Most suspicious samples", "α-precision and β-recall curves", "Predictive performance", "Provenance"),
]


def row(key: str, encoders: list[str], k: int, *, m: int = 40, sd: float | None = None) -> dict[str, Any]:
    place = len(key)  # rows differ
    found: dict[str, Any] = {
        "key": key,
        "name": f"the {key}",
        "kind": "control",
        "m": m,
        "sets": 1 if sd is None else 2,
        "encoders": {
            e: {name: {"mean": (i + place) / 30 + j / 300, "sd": sd} for i, name in enumerate(NUMBERS)}
            for j, e in enumerate(encoders)
        },
        "class_consistency": {"mean": 0.75, "sd": sd},
        "exact_copies": {"mean": 0.0, "sd": sd},
        "exact_copies_turned": {"mean": 0.0, "sd": sd},
        "per_class": {
            name: [(c + place) / 40 for c in range(k)]
            for name in ("coverage", "authenticity", "frechet", "class_consistency")
        },
        "curves": {name: [i / 100 for i in range(101)] for name in ("alpha", "beta")},
        "faults": ["labels"] if key == "shuffled_labels" else [],
    }
    if key in ("floor", "shuffled_labels"):
        found["tstr"] = {"accuracy": 0.5, "balanced_accuracy": 0.5, "auroc": 0.5}
    return found


def interval(mean: float, seeds: int) -> dict[str, Any]:
    half = None if seeds == 1 else 0.1
    low, high = (None, None) if half is None else (mean - half, mean + half)
    return {"mean": mean, "sd": half, "low": low, "high": high, "values": [mean] * seeds}


def performance(k: int, *, full: bool) -> dict[str, Any]:
    sizes = {"TRTR": 80, "TSTR": 80}
    sizes |= {"TSTR 2x": 160, "TSTR 5x": 400, "TR+STR": 160, "TRTS": 80} if full else {}
    seeds = 3 if full else 1
    return {
        "steps": 300,
        "seeds": list(range(seeds)),
        "n": 80,
        "test": 40,
        "arms": {
            name: {metric: interval(0.5 + i / 20, seeds) for metric in ("accuracy", "balanced_accuracy", "auroc")}
            | {"recall": [0.5] * k, "images": size}
            for i, (name, size) in enumerate(sizes.items())
        },
        "ratio": {metric: interval(0.9, seeds) for metric in ("accuracy", "balanced_accuracy")},
    }


def results(
    *,
    classes: tuple[str, ...] = ("a", "b", "c"),
    encoders: tuple[str, ...] = ("classifier", "pixels"),
    full: bool = True,
    controls: bool = True,
    large: bool = False,
    **changes: Any,
) -> dict[str, Any]:
    k, names = len(classes), list(encoders)
    rows = [row("generator", names, k, sd=0.01), row("floor", names, k)]
    rows += [row(key, names, k, m=30 if key[-5:] in ("class", "ame_m") else 40) for key in CONTROLS if controls]
    return {
        "run": "outputs/cgan/one",
        "status": "done",
        "protocol": {"_target_": TARGET, "name": "assay", "budget": "full", "encoders": names, "controls": controls},
        "overrides": {},
        "generator": {
            "run": "outputs/cgan/one",
            "model": "cgan",
            "epochs": 3,
            "seed": 0,
            "samples_seed": 0,
            "code": "1",
        },
        "name": "cgan, seed 0",
        "data": {"name": "bloodmnist", "file": "x.npz", "md5": "abc", "published": True},
        "classes": list(classes),
        "budget": "full" if full else "quick",
        "split": "test",
        "real": {"digest": "06fd82eff45105fd", "train": 80, "unique": 79, "val": 40, "test": 40},
        "encoders": {name: f"what {name} is" for name in names},
        "verdict": [{"level": "good", "fault": None, "text": "Single samples look real: 87 % of them."}],
        "faults": [],
        "m": 40,
        "rows": rows,
        "large": row("generator", names, k, m=10_000) if large else None,
        "performance": performance(k, full=full),
        "seconds": {"metrics": 1.0},
        "peak_memory_mb": 100.0,
        "precision": "float64",
        **changes,
    }


def pictures(k: int, *, channels: int = 3, n: int = 2, shown: int = 5) -> tuple[Examples, Gallery]:
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, k, n, channels, 12, 12), generator=rng, dtype=torch.uint8)
    pairs = torch.randint(256, (2, shown, channels, 12, 12), generator=rng, dtype=torch.uint8)
    labels = torch.arange(shown) % k
    return Examples(*images), Gallery(*pairs, labels, labels.flip(0), torch.linspace(0.1, 0.9, shown).double())


COMMAND = ("run", "samples", "status", "protocol", "overrides", "resize")


def record(values: dict[str, Any]) -> dict[str, Any]:
    """What the command was."""
    return {"protocol": {"name": "assay"}, **{key: values[key] for key in COMMAND if key in values}}


def about(values: dict[str, Any]) -> About:
    return About("one", "cgan", 0, values["data"], False, values["classes"], {"epoch": 2, "chosen_by": "val/loss"})


def report(values: dict[str, Any], **kinds: Any) -> Report:
    return build_report(from_json(AssayResults, values), *pictures(len(values["classes"]), **kinds))


def page_of(found: Report, values: dict[str, Any]) -> str:
    assert found.page is not None
    return writer._render_page(found, found.page, about(values), record(values), {"threads": 1})


def page(values: dict[str, Any], **kinds: Any) -> str:
    return page_of(report(values, **kinds), values)


def words(values: dict[str, Any]) -> str:
    """The page's text, with empty charts, which are drawn faster."""
    empty = dict.fromkeys(CHARTS, Chart(Figure(figsize=(1, 1)), "empty"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *_: empty)
        return seen(page(values))


@cache
def usual() -> str:
    return page(results())


class Reader(HTMLParser):
    """Tags with attributes, headings and the text that a reader sees."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        if tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "h2" in self._open:
            self.headings[-1] += data
        if "style" not in self._open:
            self.text += f"{data} "


def seen(content: str) -> str:
    """The text, with any white space as single spaces."""
    return " ".join(Reader(content).text.split())


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_asks_for_nothing_from_outside() -> None:
    for tag, attributes in Reader(usual()).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href", "srcset", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,"))


def test_every_image_and_chart_says_what_it_shows() -> None:
    tags = Reader(usual()).tags
    images = [attributes["alt"] for tag, attributes in tags if tag == "img"]
    drawn = [attributes["aria-label"] for tag, attributes in tags if tag == "svg"]
    assert len(images) == 2 * 3 + 2 * 5
    assert len(drawn) == 8
    assert all(images + drawn)


def test_all_sections_come_in_order() -> None:
    assert Reader(usual()).headings == SECTIONS


def test_ids_are_unique() -> None:
    ids = [attributes["id"] for _, attributes in Reader(usual()).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_links_within_the_page_lead_somewhere() -> None:
    tags = Reader(usual()).tags
    ids = {attributes.get("id") for _, attributes in tags}
    assert {str(attributes["href"])[1:] for tag, attributes in tags if tag == "a"} <= ids


def test_names_and_texts_with_markup_are_shown_as_they_are() -> None:
    nasty = "<b>x</b> & y"
    found = [{"level": "suspicious", "fault": "labels", "text": f"Text {nasty}."}]
    content = page(results(classes=(nasty, "b\\1"), verdict=found, name=nasty))
    assert "<b>" not in content
    assert escape(nasty) in content
    assert f"Text {nasty}." in seen(content)


def test_the_verdict_stands_under_words_and_not_colours_alone() -> None:
    found = [
        {"level": "missing", "fault": "diversity", "text": "Too few."},
        {"level": "suspicious", "fault": "copies", "text": "Too near."},
    ]
    text = words(results(verdict=found, faults=["diversity", "copies"]))
    assert "2 faults: part of the variety is missing; samples repeat training images." in text
    assert "What is good Nothing that the rules look for." in text
    assert "What is missing Too few." in text
    assert "What is suspicious Too near." in text


def test_what_cannot_be_judged_has_a_place_of_its_own_where_there_is_something() -> None:
    found = [{"level": "undecided", "fault": None, "text": "Usefulness cannot be judged."}]
    assert "What cannot be judged Usefulness cannot be judged." in words(results(verdict=found))
    assert "What cannot be judged" not in words(results())


@pytest.mark.parametrize(("trtr", "said"), [(0.45, True), (0.9, False)])
def test_that_wrong_labels_cannot_be_judged_is_said_beside_the_controls(trtr: float, said: bool) -> None:
    values = results(full=False)  # three classes: 1.5 times chance is 0.5
    values["performance"]["arms"]["TRTR"]["balanced_accuracy"] = interval(trtr, 1)
    assert ("Wrong labels cannot be judged here." in words(values)) is said


def test_every_card_says_in_a_line_what_its_number_is() -> None:
    cards = words(results()).partition(" Numbers ")[2].partition("Comparison at m")[0]
    for name, line in {
        "TSTR, balanced accuracy": "a classifier trained on generated, tested on real images",
        "TRTR, balanced accuracy": "a classifier trained on real, tested on real images",
        "TSTR / TRTR": "1: generated images teach as much as real ones",
        "Coverage": "share of training images with a sample near them",
    }.items():
        assert re.search(rf"{name} [\d.]+( ± [\d.]+)? {line}", cards), cards
    assert cards.count("floor (new real images)") == 5


def test_numbers_that_there_are_not_are_dashes() -> None:
    values = results()
    values["rows"][0]["encoders"]["classifier"]["c_t"] = {"mean": math.nan, "sd": math.nan}
    values["rows"][1]["encoders"]["classifier"]["c_t"] = {"mean": None, "sd": None}
    values["rows"][0]["per_class"]["frechet"][0] = math.nan
    values["rows"][0]["per_class"]["coverage"][1] = None
    values["rows"][1]["class_consistency"] = {"mean": math.nan, "sd": None}
    content = page(values)
    text = seen(content)
    assert not re.search(r"\b(nan|None|NaN)\b", text)
    assert "negative: copying – – " in text


def test_a_value_is_shown_with_its_deviation_beside_the_floor() -> None:
    values = results()
    values["rows"][0]["encoders"]["classifier"]["coverage"] = {"mean": 0.1234, "sd": 0.0456}
    values["rows"][1]["encoders"]["classifier"]["coverage"] = {"mean": 0.8765, "sd": None}
    assert "Coverage ↑ higher is better 0.123 ± 0.046 0.876" in words(values)


def test_a_quick_assay_says_that_it_has_no_interval() -> None:
    text = seen(page(results(full=False)))
    assert "Quick budget: one classifier seed" in text
    assert "95 % CI" not in text


def test_an_assay_without_controls_says_so() -> None:
    content = page(results(controls=False))
    assert "The controls were not measured." in seen(content)
    assert "the copies" not in content


def test_the_second_table_says_that_it_has_no_floor() -> None:
    text = words(results(large=True))
    assert "The generator at m = 10,000" in text
    assert "There is no floor at this size" in text
    assert "at m = 10,000" not in seen(usual())


def test_images_from_elsewhere_are_named_by_their_file() -> None:
    values = results(generator={"samples": "mine.npz", "md5": "abc", "images": 70, "held_out": 10}, name="mine.npz")
    del values["run"], values["status"]
    values |= {"samples": "mine.npz", "overrides": ["data=bloodmnist"], "resize": True}
    text = words(values)
    assert "Images mine.npz, 70 judged" in text
    assert "python evaluate.py samples=mine.npz data=bloodmnist resize=true protocol=assay" in text


@pytest.mark.parametrize("channels", [1, 3])
def test_two_classes_and_one_encoder_are_enough(channels: int) -> None:
    content = page(results(classes=("no", "yes"), encoders=("classifier",)), channels=channels, n=1, shown=1)
    assert Reader(content).headings == SECTIONS
    assert "The same table" not in content


def test_how_the_epoch_was_chosen_is_shown_where_samples_chose_it() -> None:
    scores = [{"epoch": 5, "tstr": 0.4, "frechet": 9.0}, {"epoch": 10, "tstr": 0.3, "frechet": 2.5}]
    text = words({**results(), "selection": {"by": "tstr", "scores": scores}})
    assert "Weights of epoch 5, chosen by TSTR on validation images" in text
    assert "chosen, by TSTR 5 0.400 9.00 best by Fréchet distance 10 0.300 2.50 last 10 0.300 2.50" in text
    assert "measured both numbers on samples drawn after 2 of its epochs" in text
    assert "Choice of the epoch" not in words(results())


def test_no_images_to_show_is_said() -> None:
    text = seen(page(results(), n=0, shown=0))
    assert "A class has no images to show." in text
    assert "No samples to show." in text


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"data": {"name": "blood_phantom", "phantom": True, "published": False}},
            "rendered phantoms, not real images",
        ),
        ({"data": {"name": "folder", "md5": "abc", "published": False}}, "not a published file (md5 abc)"),
        ({"split": "val"}, "Validation images stand in for test images"),
        ({"status": "interrupted"}, "status is interrupted"),
    ],
)
def test_what_must_be_known_first_stands_above_the_verdict(changes: dict[str, Any], warning: str) -> None:
    before, _, _ = words(results(**changes)).partition("The rules find")
    assert warning in before
    assert warning not in seen(usual())


def test_no_distance_is_called_fid_but_that_of_inception() -> None:
    assert not re.search(r"\bFID\b", seen(usual()))
    text = words(results(encoders=("classifier", "inception")))
    headline, _, other = text.partition("The same table for the encoder inception")
    assert not re.search(r"\bFID\b", headline)
    assert "Intra-class FID" in other
    assert " FID ↓ lower is better" in other


def test_the_command_repeats_every_setting() -> None:
    values = results()
    assert format_command(record(values)) == (
        "python evaluate.py run=outputs/cgan/one protocol=assay protocol.budget=full "
        "'protocol.encoders=[classifier,pixels]' protocol.controls=true"
    )
    values["run"] = "a run=1"
    assert "run='\"'\"'a run=1'\"'\"''" in str(format_command(record(values)))


def test_without_a_record_there_is_no_command() -> None:
    values = results()
    del values["run"], values["protocol"]
    assert format_command(record(values)) is None
    assert "To repeat it" not in words(values)


def test_the_page_is_the_same_for_the_same_results() -> None:
    assert page(results()) == usual()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("assay") / "new"
    write(directory)
    return directory


def all_kinds() -> dict[str, Any]:
    """Results with a large table, and a number that is undefined."""
    values = results(large=True)
    values["rows"][1]["encoders"]["pixels"]["c_t"]["mean"] = math.nan
    return values


def write(directory: Path) -> None:
    values = all_kinds()
    writer.write_report(report(values), about(values), record(values), directory)


def test_all_files_appear(left: Path) -> None:
    assert {p.name for p in left.iterdir()} == {
        *("assay.json", "assay.csv", "metrics.json", "report.html", "figures", "tensorboard")
    }
    assert {p.stem for p in (left / "figures").iterdir()} == {*CHARTS, "examples", "suspicious"}
    assert {p.suffix for p in (left / "figures").iterdir()} == {".png"}


def test_the_table_holds_the_numbers_of_the_json(left: Path) -> None:
    values = json.loads((left / "assay.json").read_text(encoding="utf-8"))
    lines = list(csv.DictReader(io.StringIO((left / "assay.csv").read_text(encoding="utf-8"))))
    rows = [*values["rows"], values["large"]]
    assert len(lines) == len(rows) * len(values["encoders"])
    expected = [(row, encoder) for row in rows for encoder in values["encoders"]]
    for line, (own, encoder) in zip(lines, expected, strict=True):
        assert (line["key"], line["encoder"], int(line["m"])) == (own["key"], encoder, own["m"])
        for name, value in own["encoders"][encoder].items():
            assert line[name] == ("" if value["mean"] is None else repr(value["mean"]))
            assert line[f"{name}_sd"] == ("" if value["sd"] is None else repr(value["sd"]))
        assert float(line["class_consistency"]) == own["class_consistency"]["mean"]


def test_metrics_are_single_numbers_by_name(left: Path) -> None:
    metrics = json.loads((left / "metrics.json").read_text(encoding="utf-8"))
    values = results()
    assert {key: metrics[key] for key in ("run", "status", "overrides")} == {
        key: values[key] for key in ("run", "status", "overrides")
    }
    flat = metrics["assay"]
    headline, other = (values["rows"][0]["encoders"][name] for name in ("classifier", "pixels"))
    assert all(flat[name] == headline[name]["mean"] for name in NUMBERS)
    assert all(flat[f"{name}/pixels"] == other[name]["mean"] for name in NUMBERS)
    assert flat["tstr_balanced_accuracy"] == values["performance"]["arms"]["TSTR"]["balanced_accuracy"]["mean"]
    assert flat["trtr_balanced_accuracy"] == values["performance"]["arms"]["TRTR"]["balanced_accuracy"]["mean"]
    assert flat["tstr_accuracy"] == values["performance"]["arms"]["TSTR"]["accuracy"]["mean"]
    assert flat["tstr_trtr_ratio"] == 0.9
    assert (flat["class_consistency"], flat["exact_copies"]) == (0.75, 0.0)


def test_tensorboard_has_the_numbers_and_the_figures(left: Path) -> None:
    events = EventAccumulator(str(left / "tensorboard"))
    events.Reload()
    flat = json.loads((left / "metrics.json").read_text(encoding="utf-8"))["assay"]
    scalars = {name.removeprefix("assay/") for name in events.Tags()["scalars"]}
    assert scalars == set(flat)
    assert {f"figures/{p.stem}" for p in (left / "figures").iterdir()} == set(events.Tags()["images"])


def test_the_written_page_is_the_one_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(writer, "describe_environment", lambda: {"threads": 1})
    write(tmp_path)
    found = report(all_kinds())
    for (
        one
    ) in found.figures.values():  # a chart that was drawn before is laid out anew from there, a fraction of a dot away
        save_figure(one.figure if isinstance(one, Chart) else one, tmp_path / "one.png")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page_of(found, all_kinds())


def test_figures_are_the_same_for_the_same_results(left: Path, tmp_path: Path) -> None:
    write(tmp_path / "again")
    for first in (left / "figures").iterdir():
        assert (tmp_path / "again" / "figures" / first.name).read_bytes() == first.read_bytes()
