"""What one `train` does, from a checked configuration to the files it leaves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError
from medassay.core.files import atomic_write, write_json, write_text
from medassay.core.types import Sampler
from medassay.data.modules import ImageDataModule
from medassay.reporting import tensorboard
from medassay.runs.directory import Ending, RunDirectory
from medassay.runs.final_scores import score_split
from medassay.runs.load import build_task, device_for, training_data, with_overrides
from medassay.runs.table import single_numbers
from medassay.tasks.summary import count_parameters, summarise_model
from medassay.training.fit import Fit, fit
from medassay.training.settings import Recipe, TrainerSettings

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")


def train(config: dict[str, Any], path: Path, overrides: list[str], *, test: bool) -> dict[str, Any]:
    """Trains what ``config`` (checked) says into a new run directory ``path`` and gives its final numbers.

    Raises:
        UserError: see the functions it calls; the run's record then says failed and why.
    """
    run = RunDirectory(path)
    config = {**config, "test": test, "resume": None}
    run.create(config, overrides)
    with run.record_ending() as ending:
        return _fit_and_report(config, run, ending, resume=False)


def resume(path: str | Path, overrides: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Continues an interrupted run in place, or a finished one with more epochs in a new directory beside it.

    Gives the directory and the final numbers.

    Raises:
        CheckpointError: no run directory.
        ConfigError: an override that a run does not take, or a finished run without more epochs.
    """
    run = RunDirectory(path)
    saved, record = run.config(), run.record()
    if record.get("status") != "done":
        run.refuse_if_alive()
        given = {**record.get("resumed_with", {}), **overrides}  # an earlier resume's epochs still hold
        config = with_overrides(saved, given)
        if not run.last.exists():
            logger.info("%s has no finished epoch: starting over", path)
        run.update(resumed_with=given)
        with run.record_ending() as ending:
            numbers = _fit_and_report(config, run, ending, resume=True)
        return run.path, numbers
    config = with_overrides(saved, overrides)
    trained = int(run.metrics().get("epochs", saved["trainer"]["max_epochs"]))
    more = {"trainer.max_epochs", "trainer.max_time"} & set(overrides)
    if not more or config["trainer"]["max_epochs"] <= trained:
        raise ConfigError(
            f"resume={path}: this run is done after {trained} epochs; give more, e.g. trainer.max_epochs={2 * trained}"
        )
    if not run.last.exists():
        raise CheckpointError(f"resume={path}: this run is done and has no checkpoints/last.ckpt to continue from")
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    longer = RunDirectory(run.path.parent / f"{now}_{configuration.run_id(config['data']['name'])}")
    longer.create(config, [f"resume={path}", *(f"{k}={v}" for k, v in overrides.items())])
    longer.update(continues=str(path))
    with longer.record_ending() as ending:
        for name in ("last.ckpt", "best.ckpt"):
            with atomic_write(longer.path / "checkpoints" / name) as partial:
                shutil.copyfile(run.path / "checkpoints" / name, partial)
        numbers = _fit_and_report(config, longer, ending, resume=True)
    return longer.path, numbers


def _fit_and_report(config: dict[str, Any], run: RunDirectory, ending: Ending, *, resume: bool) -> dict[str, Any]:
    settings: TrainerSettings = configuration.build(config["trainer"])
    recipe: Recipe = configuration.build(config["model"]["recipe"])
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    data = training_data(config)
    device_for(settings)  # an absent GPU is said before any image is read
    _ = data.splits
    task = build_task(config["model"], config["seed"])
    provenance = data.provenance()
    run.update(data=provenance, parameters=count_parameters(task), threads=torch.get_num_threads())
    overview = _describe(task, data, provenance, run)
    callbacks: list[Callback] = [c for c in map(configuration.build, config["callbacks"].values()) if c is not None]
    fitted = fit(
        task,
        data,
        directory=run.path,
        settings=settings,
        monitor=recipe.monitor,
        mode=recipe.mode,
        callbacks=callbacks,
        log_to=config["logger"]["kind"],
        seed=config["seed"],
        resume=resume,
    )
    numbers: dict[str, Any] = {
        "model": config["model"]["name"],
        "data": data.name,
        "seed": config["seed"],
        "epochs": fitted.epochs,
        "best_epoch": None if fitted.best_epoch is None else fitted.best_epoch + 1,
        "chosen_by": recipe.monitor or "last epoch",
    }
    if fitted.pruned is not None:
        ending.status, ending.reason = "pruned", fitted.pruned
    pictures = _evaluate_fit(settings, run, task, data, fitted, numbers, test=config["test"] and not fitted.pruned)
    write_json(run.path / "metrics.json", numbers)
    if config["logger"]["kind"] == "tensorboard":
        tensorboard.add_results(
            run.path / "tensorboard",
            step=getattr(task, "images_seen", fitted.epochs),
            pictures=pictures,
            text={"model": f"```\n{overview}\n```"},
            hyperparameters=_flat_hyperparameters(config),
            metrics={name.replace("/", "_final/", 1): value for name, value in single_numbers(numbers, SPLITS).items()},
        )
    return numbers


def _evaluate_fit(
    settings: TrainerSettings,
    run: RunDirectory,
    task: LightningModule,
    data: ImageDataModule,
    fitted: Fit,
    numbers: dict[str, Any],
    *,
    test: bool,
) -> list[Path]:
    """Adds the final numbers to ``numbers`` and gives the pictures drawn."""
    if isinstance(task, Sampler):
        for split in ("train", "val"):
            logged = {k.removeprefix(f"{split}/"): v for k, v in fitted.values.items() if k.startswith(f"{split}/")}
            if logged:
                numbers[split] = logged
        if hasattr(task, "images_seen"):
            numbers["images_seen"] = task.images_seen
        return []
    pictures: list[Path] = []
    for split in ("val", "test") if test else ("val",):
        scores, drawn = score_split(task, data, split, settings, run.figures)
        numbers[split] = scores.to_json()
        pictures += drawn
    return pictures


def _describe(task: LightningModule, data: ImageDataModule, provenance: dict[str, Any], run: RunDirectory) -> str:
    """Prints and keeps the model summary, and says what the data are where they are not the published ones."""
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
    logger.info("%s", overview)
    logger.info("data: %s%s, train / val / test %s; training images: %s", data.name, origin, sizes, counts)
    return overview


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

    walk({k: v for k, v in config["model"].items() if k != "recipe"}, "model")
    for key in ("batch_size", "augment", "subset", "stamp", "generator"):
        walk(config["data"].get(key), f"data.{key}")
    for key in ("max_epochs", "precision"):
        walk(config["trainer"][key], f"trainer.{key}")
    return flat
