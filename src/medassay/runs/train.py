"""The way of one training, from a checked configuration to the files it leaves."""

from __future__ import annotations

import logging
import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule
from pytorch_lightning.loggers import TensorBoardLogger

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, OutputError
from medassay.core.files import atomic_write, write_json, write_text
from medassay.core.types import LabelledImages, Sampler
from medassay.data.duplicates import describe_duplicates, provenance_with_duplicates
from medassay.data.image_files import describe_left_out
from medassay.data.modules import LabelledData
from medassay.reporting import tensorboard
from medassay.runs.directory import RunDirectory
from medassay.runs.final_scores import score_split
from medassay.runs.load import build_data, build_task, device_for, with_overrides
from medassay.runs.table import single_numbers
from medassay.tasks.summary import count_parameters, summarise_model
from medassay.training.fit import Fit, fit
from medassay.training.loggers import LoggerFactory, end_logging, log_results
from medassay.training.settings import Recipe, TrainerSettings

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
WITHOUT_IMAGES = {  # what to say of a split that lacks classes
    "train": "training images lack %s: the model cannot learn it",
    "val": "validation images lack %s: means over the classes leave it out",
    "test": "test images lack %s: means over the classes leave it out",
}


@dataclass(frozen=True)
class SweepPart:
    """What a run that is a job of a sweep shows less of than a single one.

    Attributes:
        swept: What the sweep's jobs differ by: the job's value of each key.
        is_first: Whether it is the sweep's first job, which prints the model's table for all.
    """

    swept: Mapping[str, str]
    is_first: bool


def train(config: dict[str, Any], path: Path, overrides: list[str], part: SweepPart | None = None) -> None:
    """Trains what ``config`` says into a new run directory.

    Args:
        config: The checked configuration; ``test`` None looks at the test set.
        path: The run directory.
        overrides: What was given, for the record.
        part: Its part in a sweep; None for a single run.

    Raises:
        UserError: see the functions it calls; the run's record then says failed and why.
    """
    run = RunDirectory(path)
    if run.last.exists() and not run.record():
        raise OutputError(f"{path} holds the checkpoints of medassay.fit: choose another hydra.run.dir, or remove them")
    config = {**config, "test": config["test"] is not False, "resume": None}
    _ = _build_loggers(config)  # an extra that is not installed is said before anything is written
    run.create(config, overrides)
    train_in(run, config, part=part)


def train_in(run: RunDirectory, config: dict[str, Any], *, resume: bool = False, part: SweepPart | None = None) -> None:
    """Trains in the directory of a run that has been created: data, task, fit, test, record.

    Args:
        run: The directory.
        config: The checked configuration.
        resume: Continue from ``last.ckpt`` if there is one.
        part: Its part in a sweep; None for a single run.
    """
    with run.record_ending() as ending:
        settings: TrainerSettings = configuration.build(config["trainer"])
        recipe: Recipe = configuration.build(config["recipe"])
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        device_for(settings)  # an absent GPU is said before any image is read

        data = build_data(config)
        _ = data.splits
        task = build_task(config, config["seed"])
        overview = _record_start(run, data, task, show_table=part is None or part.is_first)

        fitted = fit(
            task,
            data,
            directory=run.path,
            settings=settings,
            monitor=recipe.monitor,
            mode=recipe.mode,
            callbacks=_build_callbacks(config),
            log_to=_build_loggers(config),
            hyperparameters={**list_hyperparameters(config, part), **_describe_purpose(config)},
            seed=config["seed"],
            resume=resume,
            overwrite=not resume,  # the directory is this run's own
        )
        if fitted.pruned is not None:
            ending.status, ending.reason = "pruned", fitted.pruned

        numbers = _describe_fit(config, data, fitted, recipe)
        pictures: list[Path] = []
        if isinstance(task, Sampler):
            numbers |= _logged_numbers(task, fitted)
        else:
            for split in ("val", "test") if config["test"] and fitted.pruned is None else ("val",):
                scores, drawn = score_split(task, data, split, settings, run.figures)
                numbers[split] = scores.to_json()
                if absent := [name for name, row in zip(data.classes, scores.confusion, strict=True) if not sum(row)]:
                    numbers[split]["classes_without_images"] = absent
                pictures += drawn
        write_json(run.path / "metrics.json", numbers)
        step = getattr(task, "images_seen", fitted.epochs)
        shown = list_hyperparameters(config, part)
        _show_results(run, config, shown, numbers, pictures, overview, step, fitted)


def resume(path: str | Path, overrides: Mapping[str, Any], part: SweepPart | None = None) -> Path:
    """Continues an interrupted run in place, or a finished one with more epochs in a new directory beside it.

    Args:
        path: The run directory.
        overrides: Changes of its configuration, by key.
        part: Its part in a sweep; None for a single run.

    Returns:
        The directory.

    Raises:
        CheckpointError: no run directory, or a damaged checkpoint.
        ConfigError: an override that a run does not take, or a finished run without more epochs.
    """
    run = RunDirectory(path)
    saved, record = run.config(), run.record()
    if record.get("status") != "done":
        run.refuse_if_alive()
        given = {**record.get("resumed_with", {}), **overrides}  # an earlier resume's epochs still hold
        config = with_overrides(saved, given)
        if run.last.exists():
            _refuse_damaged(run)
        else:
            logger.info("%s has no finished epoch: starting over", path)
        run.update(resumed_with=given)
        train_in(run, config, resume=True, part=part)
        return run.path
    config = with_overrides(saved, overrides)
    trained = int(run.metrics().get("epochs", saved["trainer"]["max_epochs"]))
    more = {"trainer.max_epochs", "trainer.max_time"} & set(overrides)
    if not more or config["trainer"]["max_epochs"] <= trained:
        raise ConfigError(
            f"resume={path}: this run is done after {trained} epochs; give more, e.g. trainer.max_epochs={2 * trained}"
        )
    if not run.last.exists():
        raise CheckpointError(f"resume={path}: this run is done and has no checkpoints/last.ckpt to continue from")
    _refuse_damaged(run)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    longer = RunDirectory(run.path.parent / f"{now}_{configuration.run_id(config['data']['name'])}")
    for name in ("last.ckpt", "best.ckpt"):
        with atomic_write(longer.path / "checkpoints" / name) as partial:
            shutil.copyfile(run.path / "checkpoints" / name, partial)
    longer.create(config, [f"resume={path}", *(f"{k}={v}" for k, v in overrides.items())])
    longer.update(continues=str(path))
    train_in(longer, config, resume=True)
    return longer.path


def _refuse_damaged(run: RunDirectory) -> None:
    """Raises :class:`CheckpointError` where a checkpoint is damaged, or the chosen epoch's is missing."""
    if not run.best.exists():
        raise CheckpointError(f"{run.best} is missing: restore it from a copy, or {run.explain_new_start()}")
    for checkpoint in (run.last, run.best):
        run.refuse_damaged(checkpoint)


# --- what is recorded ------------------------------------------------------------------------------------------------


def _record_start(run: RunDirectory, data: LabelledData, task: LightningModule, *, show_table: bool) -> str:
    """Records and prints what is trained on what; gives the model's summary, of which the last line is always printed."""
    provenance = provenance_with_duplicates(data)
    run.update(data=provenance, parameters=count_parameters(task), threads=torch.get_num_threads())
    overview = summarise_model(task)
    write_text(run.path / "model.txt", overview + "\n")
    counts = ", ".join(
        f"{name} {count}" for name, count in zip(data.classes, data.class_counts().tolist(), strict=True)
    )
    sizes = " / ".join(str(len(split)) for split in data.splits)
    if provenance.get("phantom"):
        origin = " (rendered phantoms, not real images)"
    elif not provenance.get("published"):
        origin = f" (not a published file: md5 {provenance.get('md5')})"
    else:
        origin = ""
    logger.info("%s", overview if show_table else overview.splitlines()[-1])
    logger.info("data: %s%s, train / val / test %s; training images: %s", data.name, origin, sizes, counts)
    if left_out := provenance.get("left_out"):
        logger.warning("left out of %s: %s", provenance["path"], describe_left_out(left_out))
    if (duplicates := describe_duplicates(provenance)) is not None:
        command = shlex.join(["python", "scripts/check_data.py", f"run={run.path}"])
        logger.warning("warning: %s To see them: %s", duplicates, command)
    lacking = {split: names for split in SPLITS if (names := list_absent(getattr(data.splits, split), data.classes))}
    for split, names in lacking.items():
        logger.warning(WITHOUT_IMAGES[split], ", ".join(names))
    if lacking:
        run.update(classes_without_images=lacking)
    return overview


def list_absent(images: LabelledImages, classes: Sequence[str]) -> list[str]:
    """The classes without an image; empty where there are no images at all, as of a split that is not needed."""
    counts = images.counts(len(classes)).tolist()
    return [name for name, count in zip(classes, counts, strict=True) if not count] if len(images) else []


def _describe_fit(config: dict[str, Any], data: LabelledData, fitted: Fit, recipe: Recipe) -> dict[str, Any]:
    """What the numbers are of: the first entries of metrics.json."""
    return {
        "model": recipe.name,
        "data": data.name,
        "seed": config["seed"],
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "chosen_by": _chosen_by(fitted, recipe.monitor),
    }


def _chosen_by(fitted: Fit, monitor: str | None) -> str:
    """What chose the epoch."""
    if monitor is None:
        return "last epoch"
    return f"last epoch: {monitor} is undefined" if math.isnan(fitted.values.get(monitor, 0.0)) else monitor


def _logged_numbers(task: LightningModule, fitted: Fit) -> dict[str, Any]:
    """A generator's final numbers: what was logged in the last epoch, by split."""
    numbers: dict[str, Any] = {}
    for split in ("train", "val"):
        logged = {k.removeprefix(f"{split}/"): v for k, v in fitted.values.items() if k.startswith(f"{split}/")}
        if logged:
            numbers[split] = logged
    if hasattr(task, "images_seen"):
        numbers["images_seen"] = task.images_seen
    return numbers


def _show_results(
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
    final = {name.replace("/", "_final/", 1): value for name, value in single_numbers(numbers, SPLITS).items()}
    if any(isinstance(one, TensorBoardLogger) for one in fitted.loggers):
        tensorboard.add_results(
            run.path / "tensorboard",
            step=step,
            pictures=pictures,
            text={"model": f"```\n{overview}\n```"} | _describe_purpose(config),
            hyperparameters=hyperparameters,
            metrics=final,
        )
    log_results(fitted.loggers, final)
    end_logging(fitted.loggers)


def _build_callbacks(config: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that the configuration names; raises :class:`ConfigError` where something else is named."""
    callbacks = []
    for name, node in config["callbacks"].items():
        callback = configuration.build(node)
        if callback is not None and not isinstance(callback, Callback):
            raise ConfigError(
                f"callbacks.{name}._target_={node['_target_']}: it gives no Lightning callback but a "
                f"{type(callback).__name__}; name a sub-class of pytorch_lightning.Callback"
            )
        callbacks.append(callback)
    return [callback for callback in callbacks if callback is not None]


def _describe_purpose(config: Mapping[str, Any]) -> dict[str, str]:
    """Tags and notes as text, where there are any."""
    purpose = {"tags": ", ".join(map(str, config.get("tags") or ())), "notes": config.get("notes") or ""}
    return {name: text for name, text in purpose.items() if text}


def _build_loggers(config: Mapping[str, Any]) -> list[LoggerFactory]:
    """The factories that the configuration names; raises :class:`ConfigError` where a package is missing."""
    return [factory for node in config["logger"].values() if (factory := configuration.build(node)) is not None]


def list_hyperparameters(config: dict[str, Any], part: SweepPart | None) -> dict[str, Any]:
    """What TensorBoard's table of hyperparameters has of the run: of a job of a sweep what the jobs differ by alone."""
    flat = _flat_hyperparameters(config)
    if part is None or not part.swept:
        return flat
    shown: dict[str, Any] = {}
    for key, value in part.swept.items():
        dotted = key.replace("/", ".")
        own = {name: flat[name] for name in flat if name == dotted or name.startswith(f"{dotted}.")}
        shown |= {dotted: value, **own}  # the name of a group's option, and what it stands for
    return shown


def _flat_hyperparameters(config: dict[str, Any]) -> dict[str, Any]:
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
    for key in ("batch_size", "augment", "subset", "stamp", "generator"):
        walk(config["data"].get(key), f"data.{key}")
    for key in ("max_epochs", "precision"):
        walk(config["trainer"][key], f"trainer.{key}")
    return flat
