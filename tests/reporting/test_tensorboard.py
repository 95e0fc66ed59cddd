"""Pictures, text and hyper-parameters in TensorBoard, as TensorBoard itself reads them."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from medassay.reporting.tensorboard import add_results


def read(directory: Path) -> Any:
    """The accumulator of the only run in ``directory``."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(directory))
    multiplexer.Reload()
    (run,) = multiplexer.Runs()
    return multiplexer.GetAccumulator(run)


def hparams(accumulator: Any) -> list[HParamsPluginData]:
    """What the HParams tab reads."""
    contents = [m.plugin_data for m in accumulator.summary_metadata.values() if m.plugin_data.plugin_name == "hparams"]
    return [HParamsPluginData.FromString(data.content) for data in contents]


def started(accumulator: Any) -> dict[str, Any]:
    """The hyper-parameters of the only row, plain values."""
    (start,) = (d.session_start_info for d in hparams(accumulator) if d.HasField("session_start_info"))
    return {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}


def announced(accumulator: Any) -> set[str]:
    """The metrics that the HParams tab has columns for."""
    (experiment,) = (d.experiment for d in hparams(accumulator) if d.HasField("experiment"))
    return {info.name.tag for info in experiment.metric_infos}


def scalars(accumulator: Any) -> dict[str, tuple[int, float]]:
    found = {}
    for name, metadata in accumulator.summary_metadata.items():
        if metadata.plugin_data.plugin_name == "scalars":
            (event,) = accumulator.Tensors(name)
            found[name] = (event.step, float(np.ravel(event.tensor_proto.float_val)[0]))
    return found


def test_pictures_are_shown_under_their_stems_pixel_by_pixel(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pixels = {name: rng.integers(0, 256, (5, 7, 3), dtype=np.uint8) for name in ("val_roc", "test_roc")}
    for name, array in pixels.items():
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    add_results(tmp_path / "tensorboard", step=12, pictures=[tmp_path / f"{name}.png" for name in pixels])
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert set(accumulator.Tags()["images"]) == {"figures/val_roc", "figures/test_roc"}
    for name, array in pixels.items():
        (event,) = accumulator.Images(f"figures/{name}")
        assert event.step == 12
        with Image.open(io.BytesIO(event.encoded_image_string)) as shown:
            assert np.array_equal(np.asarray(shown.convert("RGB")), array)


def test_pictures_with_transparency_or_in_grey_are_shown_too(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (10, 20, 30, 255)).save(tmp_path / "a.png")
    Image.new("L", (4, 4), 77).save(tmp_path / "b.png")
    add_results(tmp_path / "tensorboard", step=0, pictures=[tmp_path / "a.png", tmp_path / "b.png"])
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    colours = {}
    for name in ("a", "b"):
        (event,) = accumulator.Images(f"figures/{name}")
        with Image.open(io.BytesIO(event.encoded_image_string)) as shown:
            colours[name] = shown.convert("RGB").getpixel((0, 0))
    assert colours == {"a": (10, 20, 30), "b": (77, 77, 77)}


def test_texts_are_shown_under_their_names(tmp_path: Path) -> None:
    add_results(tmp_path, step=3, text={"model": "```\nBlockCNN – 18,218\n```"})
    accumulator = read(tmp_path)
    (name,) = accumulator.PluginTagToContent("text")
    (event,) = accumulator.Tensors(name)
    assert name.startswith("model")
    assert event.step == 3
    assert event.tensor_proto.string_val[0].decode() == "```\nBlockCNN – 18,218\n```"


def test_one_row_of_hyperparameters_keeps_numbers_booleans_and_text(tmp_path: Path) -> None:
    given = {"model.optimizer.lr": 3e-4, "seed": 7, "data": "chest_phantom", "compile": True}
    add_results(tmp_path, step=1, hyperparameters=given, metrics={"val_final/auroc": 0.9})
    assert started(read(tmp_path)) == given


def test_other_values_are_shown_as_text(tmp_path: Path) -> None:
    given = {"betas": [0.5, 0.999], "subset": None, "path": Path("a/b"), "table": {"x": 1}}
    add_results(tmp_path, step=1, hyperparameters=given)
    assert started(read(tmp_path)) == {"betas": "[0.5, 0.999]", "subset": "None", "path": "a/b", "table": "{'x': 1}"}


def test_the_rows_metrics_are_announced_and_have_their_values_at_the_step(tmp_path: Path) -> None:
    values = {"val_final/auroc": 0.875, "test_final/auroc": 0.5}
    add_results(tmp_path, step=40, hyperparameters={"seed": 0}, metrics=values)
    accumulator = read(tmp_path)
    assert announced(accumulator) == set(values)
    assert scalars(accumulator) == {name: (40, value) for name, value in values.items()}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_are_no_finite_numbers_are_left_out(value: float, tmp_path: Path) -> None:
    add_results(tmp_path, step=1, hyperparameters={"seed": 0}, metrics={"val_final/auroc": value, "val_final/f1": 0.5})
    accumulator = read(tmp_path)
    assert announced(accumulator) == {"val_final/f1"}
    assert set(scalars(accumulator)) == {"val_final/f1"}


def test_a_row_without_metrics_is_one_too(tmp_path: Path) -> None:
    add_results(tmp_path, step=1, hyperparameters={"seed": 0})
    assert started(read(tmp_path)) == {"seed": 0}


def test_without_hyperparameters_there_is_no_row(tmp_path: Path) -> None:
    add_results(tmp_path, step=1, text={"a": "b"})
    assert hparams(read(tmp_path)) == []


def test_results_are_added_to_the_scalars_of_training(tmp_path: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        writer.add_scalar("train/loss", 0.25, 1)
    add_results(tmp_path, step=2, hyperparameters={"seed": 0}, metrics={"val_final/f1": 0.5})
    assert scalars(read(tmp_path)) == {"train/loss": (1, 0.25), "val_final/f1": (2, 0.5)}
