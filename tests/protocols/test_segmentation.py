"""Segmentation by the command line: what a run leaves, what its report says, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from medassay.core.types import SegmentedImages
from medassay.data.segmentation.objects import separate_touching
from medassay.evaluation.about import describe_run
from medassay.evaluation.protocol import ComputeContext
from medassay.evaluation.writer import write_report
from medassay.metrics.estimates import mean_over_bounded_scores
from medassay.metrics.regions import score_regions
from medassay.protocols.segmentation import figures
from medassay.protocols.segmentation.protocol import SegmentationScores
from medassay.reporting.regions import FOUND, INVENTED, MISSED, draw_errors, draw_outlines, find_outline
from medassay.runs.load import open_run
from medassay.runs.region_scores import predict_masks
from tests.helpers import Command

UNET = ["model=unet", "model.net.width=2", "model.net.depth=1", "model.net.padding=same", "data.patch=16", "data.margin=0",
        "data.size=32", "data.train=4", "data.val=3", "data.test=3", "trainer.gpus=0"]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from medassay import cli

    path = tmp_path_factory.mktemp("unet") / "run"
    assert cli.main("train", [*UNET, "trainer.max_epochs=2", f"hydra.run.dir={path}"]) == 0
    return path


def test_a_run_leaves_scores_of_both_splits_and_pictures(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["chosen_by"] == "val/dice"
    loaded = open_run(run, {})
    for split in ("val", "test"):
        images = loaded.segmented_data.split(split)
        scores = score_regions(predict_masks(loaded.task, images, torch.device("cpu")), images, 2)
        assert metrics[split]["dice"] == pytest.approx(scores.estimates["dice"].value)
        assert metrics[split]["interval_95"]["ap50"][1] <= 1
        assert (run / "figures" / f"{split}_segmented.png").stat().st_size > 0
    assert list((run / "tensorboard").glob("*tfevents*"))


def test_the_report_is_the_natural_protocol_and_shows_the_worst_image_first(
    run: Path, command: Command, tmp_path: Path
) -> None:
    result = command("evaluate", f"run={run}", "protocol.n=2", f"eval_dir={tmp_path}")
    assert result.code == 0, result.err
    (directory,) = tmp_path.glob("segmentation_*")
    results = json.loads((directory / "segmentation.json").read_text())
    dice = results["scores"]["dice_of_images"]
    assert results["order"] == sorted(range(3), key=lambda index: dice[index])
    assert len(list((directory / "figures").glob("image_*.png"))) == 2
    page = (directory / "report.html").read_text()
    assert page.index(f"image {results['order'][0]}: Dice") < page.index(f"image {results['order'][1]}: Dice")


@pytest.mark.long
def test_runs_of_several_seeds_make_one_table(run: Path, command: Command, tmp_path: Path) -> None:
    second = tmp_path / "second"
    assert command("train", *UNET, "trainer.max_epochs=2", "seed=1", f"hydra.run.dir={second}").code == 0
    result = command("evaluate", f"run=[{run},{second}]", f"eval_dir={tmp_path / 'eval'}")
    assert result.code == 0, result.err
    assert re.search(r"seeds 0, 1: .*dice", result.out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["model=unet", "data=chest_phantom"], "data=chest_phantom have one class an image; choose data=cell_phantom"),
        (
            ["data=cell_phantom"],
            "data=cell_phantom have a class for each pixel, and model=pneumonia_cnn gives an image one",
        ),
        (
            ["model=unet", "data.margin=0"],
            "takes 92 pixels off on each side and answers for sides such as 388; give data.patch=388",
        ),
        (["model=unet", "data.patch=101"], "give data.patch=116 data.margin=92"),
        (["model=unet", "model.overlap=3"], "model.overlap=3: must be 0 or a multiple of 16 pixels for this net"),
        (["model=unet", "model.tile=3"], "model.tile=3: of its output 4 pixels a side are left, fewer than the 16"),
        (["model=unet", "data=nuclei"], "data.file: missing"),
        (["model=unet", "data=nuclei", "data.file=none.npz"], "none.npz"),
    ],
)
def test_what_does_not_fit_is_one_line(argv: list[str], message: str, command: Command, tmp_path: Path) -> None:
    result = command("train", *argv, "trainer.gpus=0", f"hydra.run.dir={tmp_path / 'run'}")
    assert result.code == 2
    assert message in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert (tmp_path / "run").exists() == ("none.npz" in message)  # what the configuration shows leaves no directory


@pytest.mark.parametrize("protocol", ["gradcam", "classification", "shortcut", "lesion", "features", "export", "assay"])
def test_protocols_of_other_models_refuse_the_run(protocol: str, run: Path, command: Command) -> None:
    result = command("evaluate", f"run={run}", f"protocol={protocol}")
    assert result.code == 2
    assert "is a segmentation's run (model=unet); use protocol=" in result.err


def test_the_truth_as_prediction_is_perfect() -> None:
    instances = torch.zeros(20, 20, dtype=torch.int32)
    instances[2:8, 2:8], instances[10:15, 4:18] = 1, 2
    masks = (instances > 0).to(torch.uint8)
    images = SegmentedImages([torch.zeros(1, 20, 20, dtype=torch.uint8)], [masks], [instances])
    results = SegmentationScores().measure(images, [masks], 2)
    values = {name: estimate.value for name, estimate in results.scores.estimates.items()}
    assert values == {
        "dice": 1,
        "iou": 1,
        "hd95": 0,
        "surface_distance": 0,
        "average_precision": 1,
        "ap50": 1,
        "count_error": 0,
    }
    assert results.objects == [(2, 2)]


def test_objects_that_touch_are_beside_the_most_that_their_true_mask_can_reach() -> None:
    instances = torch.zeros(20, 20, dtype=torch.int32)
    instances[2:12, 2:12], instances[2:12, 12:18] = 1, 2  # 10 x 10 and 10 x 6, of which the border takes a column each
    mask = separate_touching(instances)
    images = SegmentedImages([torch.zeros(1, 20, 20, dtype=torch.uint8)], [mask], [instances])
    merged = (instances > 0).to(torch.uint8)
    scores = SegmentationScores().measure(images, [merged], 2).scores
    # IoU 0.9 and 0.83: both found at seven thresholds, one of them at two more
    assert scores.of_true_masks == {"average_precision": pytest.approx((7 + 2 / 3) / 10), "ap50": 1, "count_error": 0}
    assert scores.estimates["count_error"].value == 1
    assert scores.to_json()["of_true_masks"] == scores.of_true_masks


def test_the_page_of_one_test_image_shows_no_interval_and_what_true_masks_reach(run: Path, tmp_path: Path) -> None:
    loaded = open_run(run, {})
    loaded = replace(loaded, settings=replace(loaded.settings, limit_batches=1))  # the first image alone
    report = SegmentationScores().run(loaded, ComputeContext(torch.device("cpu"), 0, tmp_path))
    assert report.results.scores.n == 1
    assert report.figures["objects"].description.startswith("Average precision of objects, TP / (TP + FP + FN). 0.50:")
    record = {"run": str(run), "status": "done", "protocol": {"name": "segmentation"}, "overrides": {}}
    write_report(report, describe_run(loaded, report.split), record, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Means over the images without intervals: there is one image; class 0" in page
    assert '<th scope="col">true masks</th>' in page


@pytest.mark.parametrize(
    ("n", "words"), [(11, "with 95 % bootstrap intervals"), (5, "with 95 % intervals by Student’s t, as of so few")]
)
def test_the_caption_says_what_kind_the_intervals_are_of(n: int, words: str) -> None:
    mean = mean_over_bounded_scores(torch.linspace(0, 1, n), most=1.0)
    assert figures.describe_intervals(mean).startswith(words)


def test_pictures_colour_what_was_found_missed_and_invented() -> None:
    image = torch.full((1, 6, 6), 100, dtype=torch.uint8)
    true, predicted = torch.zeros(6, 6, dtype=torch.uint8), torch.zeros(6, 6, dtype=torch.uint8)
    true[1:4, 1:3], predicted[1:4, 2:4] = 1, 1
    errors = draw_errors(image, true, predicted)
    shade = {name: [round(0.45 * 100 + 0.55 * c) for c in colour]
             for name, colour in (("found", FOUND), ("missed", MISSED), ("invented", INVENTED))}  # fmt: skip
    assert errors[:, 2, 1].tolist() == shade["missed"]
    assert errors[:, 2, 2].tolist() == shade["found"]
    assert errors[:, 2, 3].tolist() == shade["invented"]
    assert errors[:, 5, 5].tolist() == [100, 100, 100]
    outlines = draw_outlines(image, true, predicted)
    assert outlines[:, 1, 1].tolist() == list(FOUND)
    assert outlines[:, 1, 3].tolist() == list(INVENTED)
    assert outlines[:, 0, 0].tolist() == [100, 100, 100]


def test_an_outline_is_what_has_another_neighbour_the_border_included() -> None:
    mask = torch.zeros(5, 5, dtype=torch.uint8)
    mask[1:, 1:] = 1
    assert find_outline(mask).int().tolist() == [
        [0, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 1, 0, 0, 1], [0, 1, 0, 0, 1], [0, 1, 1, 1, 1],
    ]  # fmt: skip
