"""What a training run records and prints: its data and model at the start, its final numbers at the end."""

from __future__ import annotations

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.loggers import TensorBoardLogger

from medassay.core.files import write_text
from medassay.core.results import to_json
from medassay.core.types import LabelledImages, SegmentedImages
from medassay.data.classes import describe_counts
from medassay.data.curves.modules import CurveData
from medassay.data.duplicates import describe_duplicates, describe_provenance
from medassay.data.image_files import describe_left_out
from medassay.data.kinds import AnyData
from medassay.data.modules import LabelledData
from medassay.data.segmentation.modules import SegmentationData
from medassay.reporting import tensorboard
from medassay.runs.directory import RunDirectory
from medassay.runs.table import collect_single_numbers
from medassay.tasks.summary import count_parameters, summarise_model
from medassay.training.epoch_scores import Selection
from medassay.training.fit import Fit
from medassay.training.loggers import end_logging, log_results
from medassay.training.settings import Recipe

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
PRESETS = {"augment": "data.augment", "transfer": "model.transfer"}  # groups of values, and where these stand
WITHOUT_IMAGES = {  # what to say of a split that lacks classes
    "train": "training images lack %s: the model cannot learn it",
    "val": "validation images lack %s: means over the classes leave it out",
    "test": "test images lack %s: means over the classes leave it out",
}


@dataclass(frozen=True)
class SweepPart:
    """What a run that is a job of a sweep shows less of than a single one.

    Attributes:
        swept: The job's value of each key in which the sweep's jobs differ.
        is_first: Whether it is the sweep's first job, which prints the model's table for all.
    """

    swept: Mapping[str, str]
    is_first: bool


def record_start(run: RunDirectory, data: AnyData, task: LightningModule, *, show_table: bool) -> str:
    """Records and prints what is trained on what; gives the model's summary, of which the last line is always printed."""
    provenance = data.provenance() if isinstance(data, CurveData) else describe_provenance(data)
    run.update(data=provenance, parameters=count_parameters(task), threads=torch.get_num_threads())
    overview = summarise_model(task, input_shape=data.input_shape)
    write_text(run.path / "model.txt", overview + "\n")
    if provenance.get("phantom"):
        origin = f" (rendered phantoms, not real {provenance.get('of', 'images')})"
    elif not provenance.get("published"):
        origin = f" (not a published file: md5 {provenance.get('md5')})"
    else:
        origin = ""
    if (side := provenance.get("resized_from")) is not None:
        origin += f" (resized from {side} pixels a side)"
    logger.info("%s", overview if show_table else overview.splitlines()[-1])
    logger.info("data: %s%s, %s", data.name, origin, _describe_sizes(data))
    if left_out := provenance.get("left_out"):
        logger.warning("left out of %s: %s", provenance["path"], describe_left_out(left_out))
    if (duplicates := describe_duplicates(provenance)) is not None:
        command = shlex.join(["python", "scripts/check_data.py", f"run={run.path}"])  # which takes the path as it is
        logger.warning("warning: %s To see them: %s", duplicates, command)
    lacking = {} if isinstance(data, CurveData) else _list_lacking(data)
    for split, names in lacking.items():
        logger.warning(WITHOUT_IMAGES[split], ", ".join(names))
    if lacking:
        run.update(classes_without_images=lacking)
    return overview


def _describe_sizes(data: AnyData) -> str:
    """How large the splits are, and what is in the training one."""
    sizes = " / ".join(str(len(split)) for split in data.splits)
    if isinstance(data, CurveData):
        beats = " / ".join(str(len(split.list_beats())) for split in data.splits)
        return f"train / val / test {sizes} points of {beats} beats"
    counts = describe_counts(data.classes, data.class_counts().tolist())
    return f"train / val / test {sizes}; training {data.counted}: {counts}"


def _list_lacking(data: LabelledData | SegmentationData) -> dict[str, list[str]]:
    """By split, the classes without an image; splits that lack none are left out."""
    return {split: names for split in SPLITS if (names := _list_absent(getattr(data.splits, split), data.classes))}


def _list_absent(images: LabelledImages | SegmentedImages, classes: Sequence[str]) -> list[str]:
    """The classes without an image; empty where there are no images at all, as of a split that is not needed."""
    counts = images.counts(len(classes)).tolist()
    return [name for name, count in zip(classes, counts, strict=True) if not count] if len(images) else []


def describe_fit(config: dict[str, Any], data: AnyData, fitted: Fit, recipe: Recipe) -> dict[str, Any]:
    """What the numbers are of: the first entries of metrics.json."""
    return {
        "model": recipe.name,
        "data": data.name,
        "seed": config["seed"],
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "chosen_by": _describe_choice(fitted, recipe.monitor),
        **({} if fitted.selection is None else {"selection": to_json(fitted.selection)}),
    }


def describe_selection(selection: Selection, epochs: int) -> str:
    """Which epoch of how many was chosen by what, and what it is worth beside others."""
    name, chosen = selection.criterion.name, selection.chosen.epoch
    table = selection.to_table()
    return f"epoch {chosen} of {epochs} chosen by {name} on validation images:\n{table.to_text()}\n{table.note}"


def _describe_choice(fitted: Fit, monitor: str | None) -> str:
    """What chose the epoch."""
    if fitted.selection is not None:
        return fitted.selection.criterion.logged
    if monitor is None:
        return "last epoch"
    return f"last epoch: {monitor} is undefined" if math.isnan(fitted.values.get(monitor, 0.0)) else monitor


def collect_logged_numbers(task: LightningModule, fitted: Fit) -> dict[str, Any]:
    """A generator's final numbers: what was logged in the chosen epoch, by split."""
    numbers: dict[str, Any] = {}
    for split in ("train", "val"):
        logged = {k.removeprefix(f"{split}/"): v for k, v in fitted.values.items() if k.startswith(f"{split}/")}
        if logged:
            numbers[split] = logged
    if hasattr(task, "images_seen"):
        numbers["images_seen"] = task.images_seen
    return numbers


def show_results(
    run: RunDirectory,
    config: dict[str, Any],
    hyperparameters: dict[str, Any],
    numbers: dict[str, Any],
    pictures: list[Path],
    overview: str,
    step: int,
    fitted: Fit,
) -> None:
    """Adds the final numbers to where the run was logged; to TensorBoard the pictures and the hyperparameters, too."""
    final = {name.replace("/", "_final/", 1): value for name, value in collect_single_numbers(numbers, SPLITS).items()}
    chosen = {} if fitted.selection is None else {"selection": describe_selection(fitted.selection, fitted.epochs)}
    for text in chosen.values():
        logger.info("%s", text)
    if any(isinstance(one, TensorBoardLogger) for one in fitted.loggers):
        tensorboard.add_results(
            run.path / "tensorboard",
            step=step,
            pictures=pictures,
            text={name: f"```\n{text}\n```" for name, text in ({"model": overview} | chosen).items()}
            | describe_purpose(config),
            hyperparameters=hyperparameters,
            metrics=final,
        )
    log_results(fitted.loggers, final)
    end_logging(fitted.loggers)


def describe_purpose(config: Mapping[str, Any]) -> dict[str, str]:
    """Tags and notes as text, where there are any."""
    purpose = {"tags": ", ".join(map(str, config.get("tags") or ())), "notes": config.get("notes") or ""}
    return {name: text for name, text in purpose.items() if text}


def list_hyperparameters(config: dict[str, Any], part: SweepPart | None) -> dict[str, Any]:
    """What TensorBoard's table of hyperparameters has of the run: of a job of a sweep what the jobs differ by alone."""
    flat = _flatten_hyperparameters(config)
    if part is None or not part.swept:
        return flat
    shown: dict[str, Any] = {}
    for key, value in part.swept.items():
        dotted = key.replace("/", ".")
        place = PRESETS.get(key, dotted)
        own = {name: flat[name] for name in flat if name == place or name.startswith(f"{place}.")}
        shown |= {dotted: value, **own}  # the name of a group's option, and what it stands for
    return shown


def _flatten_hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
    """What may distinguish runs, as ``dotted.key: value``; constructors and places are left out."""
    flat: dict[str, Any] = {"seed": config["seed"], "data": config["data"]["name"]}

    def walk(node: Any, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                if not name.startswith("_"):
                    walk(value, f"{key}.{name}")
        elif node is not None:
            flat[key] = node

    walk({**config["model"], "name": config["recipe"]["name"]}, "model")
    for key in ("batch_size", "augment", "subset", "steps", "stamp", "generator"):
        walk(config["data"].get(key), f"data.{key}")
    for key in ("max_epochs", "precision"):
        walk(config["trainer"][key], f"trainer.{key}")
    return flat
