"""The heat-map protocol on tiny phantoms and on nets whose maps are known."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.estimate import Estimate
from medassay.data.modules import LabelledData
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext, Report
from medassay.evaluation.writer import write_report
from medassay.explain.activation_maps import METHODS
from medassay.metrics.chance import ChanceCheck
from medassay.nets.block_cnn import BlockCNN
from medassay.protocols.gradcam.measures import Subject, compare_methods, compute_gain, correlate, score_images
from medassay.protocols.gradcam.protocol import GradCAM, flatten_scores
from medassay.protocols.gradcam.results import Comparison, Layer
from medassay.protocols.gradcam.verdict import judge_method, summarise_scores
from medassay.runs.directory import RunDirectory
from medassay.runs.run import Run
from medassay.tasks.classification import Classification
from medassay.tasks.predictions import Predictions
from medassay.training.settings import TrainerSettings

CPU = torch.device("cpu")


def run_of(data: LabelledData, tmp_path: Path, **settings: Any) -> Run:
    """A run with random weights, as if loaded from its directory."""
    torch.manual_seed(3)
    net = BlockCNN(data.channels, data.num_classes, width=4)
    config = {"recipe": {"name": "pneumonia_cnn"}, "seed": 3}
    task = Classification(net, data.num_classes).eval()
    return Run(RunDirectory(tmp_path), config, data, task, TrainerSettings(gpus=0, **settings))


def evaluate(run: Run, directory: Path, **settings: Any) -> Report:
    """The report of a run, written to ``directory``."""
    report = GradCAM(**settings).run(run, ComputeContext.from_settings(run.settings, directory))
    record = {"run": "outputs/a run", "status": "done", "protocol": {"name": "gradcam", "n": 3}, "overrides": {}}
    write_report(report, describe_run(run, report.split), record, directory)
    return report


def read(directory: Path, name: str = "gradcam") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / f"{name}.json").read_text())
    return found


# --- which images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def predictions() -> Predictions:
    """Six images; the most confident are 3, 0, 4; images 4, 1 and 5 are misclassified, 4 most confidently."""
    of_one = torch.tensor([0.05, 0.6, 0.7, 0.99, 0.9, 0.45])
    return Predictions(torch.stack([1 - of_one, of_one], 1), torch.tensor([0, 0, 1, 1, 0, 1]))


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({"select": "confident", "n": 3}, [3, 0, 4]),
        ({"select": "wrong", "n": 2}, [4, 1]),
        ({"select": "wrong", "n": 10}, [4, 1, 5]),
        ({"indices": [5, 0], "select": "wrong"}, [5, 0]),
    ],
)
def test_images_are_chosen_as_asked(predictions: Predictions, settings: dict[str, Any], chosen: list[int]) -> None:
    assert GradCAM(**settings).choose_images(predictions).tolist() == chosen


def test_random_images_are_different_ones_that_depend_on_the_seed_alone(predictions: Predictions) -> None:
    draws = [GradCAM(n=3, seed=seed).choose_images(predictions).tolist() for seed in (0, 0, 1, 2, 3)]
    assert draws[0] == draws[1]
    assert any(draw != draws[0] for draw in draws)
    assert all(len(set(draw)) == 3 for draw in draws)


def test_no_more_images_are_shown_than_there_are(predictions: Predictions) -> None:
    assert GradCAM(n=99).choose_images(predictions).tolist() == list(range(6))


@pytest.mark.parametrize("indices", [[6], []])
def test_positions_outside_the_split_are_refused(predictions: Predictions, indices: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.indices=.*from 0 to 5"):
        GradCAM(indices=indices).choose_images(predictions)


def test_mistakes_of_a_perfect_classifier_are_refused(predictions: Predictions) -> None:
    perfect = Predictions(predictions.probabilities, predictions.probabilities.argmax(1))
    with pytest.raises(ConfigError, match="makes no mistake"):
        GradCAM(select="wrong").choose_images(perfect)


def test_how_images_were_chosen_is_said() -> None:
    assert GradCAM(seed=7).describe_selection(10, 1024) == "10 of 1,024 test images, drawn at random (seed 7)"
    assert GradCAM(indices=[1], split="val").describe_selection(1, 32) == "1 of 32 val images, by position"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"colormap": "virids"}, "protocol.colormap=virids.*Did you mean 'viridis'"),
        ({"methods": []}, r"protocol\.methods=\[\]: name at least one"),
        ({"score_methods": []}, r"protocol\.score_methods=\[\].*protocol\.scores=false"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GradCAM(**settings)


# --- the rule --------------------------------------------------------------------------------------------------------


def above(low: float) -> dict[str, Estimate]:
    return {key: Estimate(low + 0.1, low, low + 0.2, n=50) for key in ("random", "centre")}


def test_a_method_above_both_baselines_that_passes_the_sanity_check_is_trusted() -> None:
    assert judge_method({"pointing": above(0.01), "energy": above(0.01)}, 0.49, 50) == (True, [])


@pytest.mark.parametrize("score", ["pointing", "energy"])
def test_an_interval_that_reaches_0_is_no_gain(score: str) -> None:
    gains = {"pointing": above(0.1), "energy": above(0.1)}
    gains[score] = {**gains[score], "centre": Estimate(0.1, 0.0, 0.2, n=50)}
    trusted, reasons = judge_method(gains, 0.1, 50)
    assert trusted is False
    assert len(reasons) == 1
    assert reasons[0].endswith("not above centre prior")


@pytest.mark.parametrize("similarity", [0.5, 0.9, math.nan])
def test_maps_like_those_of_random_nets_are_not_trusted_with_or_without_masks(similarity: float) -> None:
    assert judge_method({"pointing": above(0.1), "energy": above(0.1)}, similarity, 50)[0] is False
    assert judge_method({}, similarity, 0)[0] is False


@pytest.mark.parametrize("masks", [0, 9])
def test_too_few_masks_leave_the_verdict_open(masks: int) -> None:
    trusted, reasons = judge_method({"pointing": above(0.1), "energy": above(0.1)}, 0.1, masks)
    assert trusted is None
    assert "too few true masks" in reasons[0]


def test_less_deletion_is_a_gain_and_more_of_the_others() -> None:
    better, worse = torch.tensor([0.2]), torch.tensor([0.5])
    assert compute_gain("deletion", better, worse) > 0
    assert compute_gain("insertion", worse, better) > 0


# --- scores on a net whose maps are known ----------------------------------------------------------------------------


class Brightness(nn.Module):
    """Class 1 by the brightness of its only feature map, which is the image; random weights scale it at most."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 1, 1, bias=False)
        self.activation = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.convolution.weight.data.fill_(1)
        self.scale = nn.Linear(1, 2)
        self.scale.weight.data = torch.tensor([[-40.0], [40.0]])
        self.scale.bias.data = torch.tensor([1.0, -1.0])

    def forward(self, images: Tensor) -> Tensor:
        return self.scale(self.pool(self.activation(self.convolution(images))).flatten(1))


@pytest.fixture
def squares() -> Subject:
    """24 dark images, half of them with a bright square off the centre whose pixels are known."""
    images, labels = torch.full((24, 1, 8, 8), 0.0), torch.arange(24) % 2
    masks = torch.zeros(24, 8, 8, dtype=torch.bool)
    for i in range(1, 24, 2):
        y, x = [(0, 0), (0, 5), (5, 0), (5, 5)][i // 2 % 4]
        masks[i, y : y + 2, x : x + 2] = True
    images[:, 0][masks] = 1
    return Subject(Brightness().eval(), CPU, images, labels, labels.clone(), masks, (8, 8))


def test_a_map_that_is_the_mask_points_into_it_and_has_all_energy_there(squares: Subject) -> None:
    found = score_images(squares, "gradcam", None, 1)
    assert found["pointing"].tolist() == [1] * 12
    assert found["energy"].tolist() == pytest.approx([1] * 12)
    assert len(found["deletion"]) == len(found["insertion"]) == len(found["sanity"]) == 24


def test_where_a_mask_is_compared_the_map_is_of_the_true_class(squares: Subject) -> None:
    wrong = Subject(squares.net, CPU, squares.images, squares.labels, 1 - squares.labels, squares.masks, (8, 8))
    assert score_images(wrong, "gradcam", None, 1)["pointing"].tolist() == [1] * 12


def test_images_without_a_true_mask_are_left_out(squares: Subject) -> None:
    found = compare_methods(squares, ["dark", "bright"], ["gradcam"], None, 1)
    assert (found.images, found.with_mask) == (24, 12)
    (row,) = found.rows
    assert row.scores["pointing"].n == 12
    assert [part.name for part in row.per_class] == ["bright"]


def test_baselines_stand_beside_the_methods(squares: Subject) -> None:
    found = compare_methods(squares, ["dark", "bright"], ["gradcam"], None, 1)
    random, centre = (baseline.scores for baseline in found.baselines)
    assert random["pointing"].value == random["energy"].value == pytest.approx(4 / 64)
    assert centre["pointing"].value == 0
    assert found.rows[0].gain["pointing"]["centre"].value == 1


def test_maps_that_do_not_depend_on_the_weights_fail_though_they_point_right(squares: Subject) -> None:
    bright = Subject(
        squares.net, CPU, *(v[1::2] for v in (squares.images, squares.labels, squares.labels)), None, (8, 8)
    )
    shown = score_images(bright, "eigencam", None, 4)
    assert shown["sanity"].mean() >= 0.5 - 1e-9  # the limit: passing asks for less


def test_pixels_that_no_net_s_maps_reach_make_maps_more_alike_than_they_are() -> None:
    rng = torch.Generator().manual_seed(0)
    maps, others = torch.rand(20, 8, 8, generator=rng), torch.rand(2, 20, 8, 8, generator=rng)
    maps[:, 4:], others[:, :, 4:] = 0, 0
    found = correlate(maps, others)
    assert abs(found["sanity_reached"].mean()) < 0.1
    assert found["sanity"].mean() > 0.5


# --- no verdict where nothing can be told ----------------------------------------------------------------------------

ABOVE = ChanceCheck(Estimate(0.8, 0.7, 0.9), Estimate(0.9, 0.8, 0.95), 0.5)


def test_a_net_above_chance_is_judged(squares: Subject) -> None:
    found = compare_methods(squares, ["dark", "bright"], ["gradcam"], None, 1)
    assert found.chance.passed
    assert found.chance.balanced_accuracy == Estimate(1.0, 1.0, 1.0, n=24)
    assert found.rows[0].trusted is not None


def test_on_a_net_at_chance_no_method_is_judged(squares: Subject) -> None:
    guessed = replace(squares, labels=torch.arange(24) // 2 % 2)  # brightness says nothing of these labels
    found = compare_methods(guessed, ["dark", "bright"], ["gradcam"], None, 1)
    assert (found.rows[0].trusted, found.rows[0].reasons) == (None, ["the net is not shown to be above chance"])
    verdict = summarise_scores(found)
    assert verdict.startswith(
        "Not judged: the net is not shown to be above chance on these 24 images (balanced accuracy 0.500"
    )
    assert not {"trusted/gradcam"} & set(flatten_scores(found))


def compared(found: Comparison, *pointing: tuple[float, float]) -> str:
    """The verdict on methods that point with these intervals."""
    names = ("Alpha", "Beta", "Gamma")
    rows = [
        replace(found.rows[0], name=name, scores={"pointing": Estimate(sum(ends) / 2, *ends, n=40)})
        for name, ends in zip(names, pointing, strict=False)
    ]
    return summarise_scores(replace(found, rows=rows))


def test_a_method_points_best_only_where_its_interval_lies_above_all_others(squares: Subject) -> None:
    found = compare_methods(squares, ["dark", "bright"], ["gradcam"], None, 1)
    assert "Beta points best: into the true mask in 80 % of" in compared(found, (0.1, 0.3), (0.7, 0.9), (0.2, 0.6))
    text = compared(found, (0.1, 0.3), (0.7, 0.9), (0.4, 0.8))
    assert "Which of Beta and Gamma points best cannot be said" in text
    assert "No method points best" in compared(found, (0.1, 0.6), (0.5, 0.7), (0.3, 0.6))
    assert "Alpha points into the true mask in 20 %" in compared(found, (0.1, 0.3))


def test_a_score_and_its_interval_have_the_same_decimals(chest_report: tuple[Report, Path]) -> None:
    page = (chest_report[1] / "report.html").read_text()
    pairs = re.findall(r"(−?\d\.\d+) <small class=\"muted\">\[(−?\d\.\d+),\s(−?\d\.\d+)\]", page)
    assert len(pairs) > 20
    assert all(len({len(number.lstrip("−")) for number in numbers}) == 1 for numbers in pairs)


def test_empty_maps_are_explained_where_there_are_some(chest_report: tuple[Report, Path]) -> None:
    page = (chest_report[1] / "report.html").read_text()
    assert ("nothing at this layer speaks for that class" in page) == ("<small>empty</small>" in page)


def test_maps_that_are_all_empty_are_marked_and_explained(tiny_chest: Callable[..., Any], tmp_path: Path) -> None:
    run = run_of(tiny_chest(test=8), tmp_path)
    nn.init.zeros_(run.task.net.head.weight)  # no feature speaks for any class
    evaluate(run, tmp_path, n=1, methods=["gradcam"], scores=False, strip=None)
    page = (tmp_path / "report.html").read_text()
    assert "nothing at this layer speaks for that class" in page
    assert "2 of the maps below are empty" in page
    assert page.count("<small>empty</small>") == 2


# --- the whole protocol ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chest_report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    from medassay.data.sources import phantom_data

    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=8, val=8, test=32)
    directory = tmp_path_factory.mktemp("gradcam")
    settings = {"n": 3, "methods": ["gradcam", "eigencam"], "randomisations": 1, "score_images": 24}
    return evaluate(run_of(data, directory), directory, **settings), directory


def test_the_results_hold_images_scores_and_files(chest_report: tuple[Report, Path]) -> None:
    results, directory = chest_report[0].results, chest_report[1]
    assert [row.key for row in results.scores.rows] == list(METHODS)
    assert results.layer == Layer("blocks.2.features.5", maps=16, height=7, width=7)
    assert len(results.images) == 3
    assert sum(results.images[0].probabilities) == pytest.approx(1)
    names = {path.stem for path in (directory / "figures").iterdir()}
    charts = {f"score_{name}" for name in ("pointing", "energy", "deletion", "insertion", "sanity")}
    assert names == {"heatmaps_gradcam", "heatmaps_eigencam", "steps", *charts}


def test_the_written_results_have_a_row_a_method_with_its_scores_by_name(chest_report: tuple[Report, Path]) -> None:
    written = read(chest_report[1])
    assert [row["key"] for row in written["scores"]["rows"]] == list(METHODS)
    assert written["layer"] == {"name": "blocks.2.features.5", "maps": 16, "height": 7, "width": 7}
    assert len(written["images"]) == 3
    assert sum(written["images"][0]["probabilities"]) == pytest.approx(1)
    row, found = written["scores"]["rows"][0], chest_report[0].results.scores.rows[0]
    assert "scores" not in row
    assert {name: row[name]["mean"] for name in found.scores} == {name: e.value for name, e in found.scores.items()}
    assert row["per_class"][0]["energy"]["n"] == found.per_class[0].energy.n
    assert row["gain"]["deletion"]["random"]["low"] == found.gain["deletion"]["random"].low
    assert "sanity" not in written["scores"]["baselines"][0]


def test_single_numbers_are_finite_and_name_score_and_method(chest_report: tuple[Report, Path]) -> None:
    report, directory = chest_report
    written = read(directory, "metrics")
    assert written["run"] == "outputs/a run"
    values = written["gradcam"]
    assert values == pytest.approx(flatten_scores(report.results.scores))
    assert {"pointing/gradcam", "energy/random", "deletion/centre", "sanity/scorecam"} <= set(values)
    assert all(math.isfinite(value) for value in values.values())


def test_tensorboard_gets_the_pictures_and_the_verdict(chest_report: tuple[Report, Path]) -> None:
    events = EventAccumulator(str(chest_report[1] / "tensorboard")).Reload().Tags()
    assert "figures/heatmaps_gradcam" in events["images"]
    assert any(name.startswith("verdict") for name in events["tensors"])


def test_the_page_is_complete_in_itself_and_says_what_must_be_known(chest_report: tuple[Report, Path]) -> None:
    report, directory = chest_report
    page = (directory / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page)
    assert "rendered phantoms" in page
    assert "Eigen-CAM ignores the class" in page
    assert summarise_scores(report.results.scores).split(":")[0] in page
    assert page.index('<h2 id="maps-title"') < page.index('<h2 id="trust-title"')
    head = re.findall(r"<th [^>]*>([^<]*)", page.split("Means over images with 95 % bootstrap")[1])
    assert head[:3] == ["method", "to be trusted?", "Pointing game ↑"]
    for image in report.results.images:
        assert f"Heat map of image {image.index} for pneumonia" in page


def test_every_class_of_a_colour_data_set_has_its_map(tiny_blood: Callable[..., Any], tmp_path: Path) -> None:
    report = evaluate(run_of(tiny_blood(test=16), tmp_path), tmp_path, n=1, scores=False, strip=None, indices=[4])
    page = (tmp_path / "report.html").read_text()
    assert page.count("Heat map of image 4 for") == 8
    assert report.results.scores is None
    assert read(tmp_path)["scores"] is None
    assert "Nothing was scored" in page
    assert not (tmp_path / "figures" / "steps.png").exists()
    assert read(tmp_path, "metrics")["gradcam"] == {}


def test_a_data_set_without_masks_gets_no_verdict_on_where_maps_point(
    tiny_chest: Callable[..., Any], tmp_path: Path
) -> None:
    data = tiny_chest(test=16)
    splits = data.splits
    data._splits = splits._replace(test=type(splits.test)(splits.test.images, splits.test.labels))
    report = evaluate(
        run_of(data, tmp_path), tmp_path, n=2, score_methods=["gradcam"], randomisations=1, score_images=12
    )
    written = read(tmp_path)["scores"]
    assert report.results.scores.with_mask == written["with_mask"] == 0
    assert "pointing" not in report.results.scores.rows[0].scores
    assert "pointing" not in written["rows"][0]
    able = replace(report.results.scores, chance=ABOVE)  # random weights know nothing, and are not judged
    assert "cannot be said" in summarise_scores(able)
    assert not (tmp_path / "figures" / "score_pointing.png").exists()


def test_a_run_cut_short_is_explained_on_the_images_it_saw(tiny_chest: Callable[..., Any], tmp_path: Path) -> None:
    run = run_of(tiny_chest(test=32, batch_size=4), tmp_path, limit_batches=2)
    report = evaluate(run, tmp_path, n=99, scores=False)
    assert report.results.selection.startswith("8 of 8 test images")
    assert read(tmp_path)["selection"] == report.results.selection


def test_a_wrong_layer_is_one_line(tiny_chest: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.layer=blocks\.9: the net has no such module"):
        evaluate(run_of(tiny_chest(test=8), tmp_path), tmp_path, layer="blocks.9")
