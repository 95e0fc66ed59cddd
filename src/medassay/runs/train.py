"""The way of one training, from a checked configuration to the files it leaves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule

from medassay import config as configuration
from medassay.core.errors import CheckpointError, ConfigError, DataError, OutputError
from medassay.core.files import atomic_write, write_json
from medassay.core.types import Sampler
from medassay.data.curves.modules import CurveData
from medassay.data.kinds import AnyData
from medassay.data.segmentation.modules import SegmentationData
from medassay.runs import curve_scores, region_scores
from medassay.runs.directory import RunDirectory
from medassay.runs.final_scores import score_split
from medassay.runs.load import (
    apply_overrides,
    build_any_data,
    build_task,
    choose_device,
    join_overrides,
    make_places_absolute,
)
from medassay.runs.recorded_data import is_other_data, refuse_changed_data
from medassay.runs.recording import (
    SweepPart,
    collect_logged_numbers,
    describe_fit,
    describe_purpose,
    list_hyperparameters,
    record_start,
    show_results,
)
from medassay.runs.transfer import load_pretrained
from medassay.training.fit import OWN, fit
from medassay.training.loggers import LoggerFactory
from medassay.training.settings import Recipe, TrainerSettings

logger = logging.getLogger(__name__)


def train(
    config: dict[str, Any], path: Path, overrides: list[str], part: SweepPart | None = None, *, resume: bool = False
) -> None:
    """Trains what ``config`` says into a new run directory.

    Args:
        config: The checked configuration; ``test`` None looks at the test set.
        path: The run directory.
        overrides: Overrides of the command line, for the record.
        part: The run's part in a sweep; None for a single run.
        resume: Whether a training that is there is this run's, whose record was lost, and goes on.

    Raises:
        UserError: Something in the configuration, the data or the place of the run is wrong; its record then says failed and
            why.
    """
    run = RunDirectory(path)
    found = [name for name in (*OWN, "history.json") if (path / name).exists()]
    if found and not resume and not run.record():
        raise OutputError(
            f"{path} already holds {' and '.join(found)}, which a training would replace: choose another hydra.run.dir, or "
            f"move {'it' if len(found) == 1 else 'them'} away"
        )
    config = {**config, "test": config["test"] is not False, "resume": None}
    _ = _build_loggers(config)  # an extra that is not installed is said before anything is written
    run.create(config, overrides)
    train_in(run, config, resume=resume, part=part)


def train_in(
    run: RunDirectory,
    config: dict[str, Any],
    *,
    resume: bool = False,
    part: SweepPart | None = None,
    named: Collection[str] = (),
    undo: Mapping[str, Any] | None = None,
) -> None:
    """Trains in the directory of a run that has been created: data, task, fit, test, record.

    Args:
        run: The directory.
        config: The checked configuration.
        resume: Whether to continue from ``last.ckpt`` where that exists.
        part: The run's part in a sweep; None for a single run.
        named: Keys that this resumption is given: ``data.file``, ``data.path`` and ``data.groups`` ask for other data.
        undo: What the record says of data and earlier changes, put back where those of now turn out to be mistaken before
            an epoch is trained.

    Raises:
        DataError: Training is to go on, and the data are not the recorded ones.
        UserError: Something else in the configuration, the data or the place of the run is wrong.
    """
    with run.record_ending() as ending:
        recipe: Recipe = configuration.build(config["recipe"])
        hyperparameters = list_hyperparameters(config, part)
        with _undoing(run, undo):
            settings: TrainerSettings = configuration.build(config["trainer"])
            if settings.threads is not None:
                torch.set_num_threads(settings.threads)
            data, task = _prepare(run, config, settings, resume=resume, named=named)
            overview = record_start(run, data, task, show_table=part is None or part.is_first)
            fitted = fit(
                task,
                data,
                directory=run.path,
                settings=settings,
                monitor=recipe.monitor,
                mode=recipe.mode,
                callbacks=_build_callbacks(config),
                log_to=_build_loggers(config),
                hyperparameters={**hyperparameters, **describe_purpose(config)},
                seed=config["seed"],
                resume=resume,
                overwrite=not resume,  # the directory is this run's own
                starts_anew="continues" in run.record() and not run.history(),  # a finished run is given more epochs
            )
        if fitted.pruned is not None:
            ending.status, ending.reason = "pruned", fitted.pruned

        numbers = describe_fit(config, data, fitted, recipe)
        pictures: list[Path] = []
        if isinstance(task, Sampler):
            numbers |= collect_logged_numbers(task, fitted)
        else:
            scored = ("train", "val") if isinstance(data, CurveData) else ("val",)
            for split in (*scored, "test") if config["test"] and fitted.pruned is None else scored:
                numbers[split], drawn = _score(task, data, split, settings, run.figures)
                pictures += drawn
        write_json(run.path / "metrics.json", numbers)
        step = getattr(task, "images_seen", fitted.epochs)
        show_results(run, config, hyperparameters, numbers, pictures, overview, step, fitted)


@contextmanager
def _undoing(run: RunDirectory, before: Mapping[str, Any] | None) -> Iterator[None]:
    """Puts back what the record said ``before`` where a mistake in it ends the work inside before an epoch is trained."""
    trained = run.history()
    try:
        yield
    except (ConfigError, DataError):
        if before is not None and run.history() == trained:
            run.update(**before)
        raise


def _prepare(
    run: RunDirectory, config: Mapping[str, Any], settings: TrainerSettings, *, resume: bool, named: Collection[str]
) -> tuple[AnyData, LightningModule]:
    """The data, read, and the task, with the weights that it starts from."""
    choose_device(settings)  # an absent GPU is said before any image is read
    data = build_any_data(config)
    task = build_task(config, config["seed"])
    goes_on = resume and run.last.exists()
    if not goes_on and (transfer := load_pretrained(task, data.classes)) is not None:
        run.update(transfer=transfer)
    _ = data.splits
    if goes_on and (recorded := run.record().get("data")):  # a split drawn anew would test on images that were learnt
        refuse_changed_data(data, recorded, named)
        run.update(other_data=bool(run.record().get("other_data")) or is_other_data(data, recorded))
        if "real" in recorded and recorded.get("md5") != data.provenance().get("md5"):
            logger.warning("warning: the generator's images are other ones than those this run has learnt from so far")
    elif resume and run.record().get("other_data") is not None:
        run.update(other_data=None)  # nothing was learnt from what was there before
    return data, task


def _score(
    task: LightningModule, data: AnyData, split: str, settings: TrainerSettings, directory: Path
) -> tuple[dict[str, Any], list[Path]]:
    """The group of a split in ``metrics.json``, and the pictures in ``directory``."""
    if isinstance(data, CurveData):
        fitted, drawn = curve_scores.score_split(task, data, split, settings, directory)
        return fitted.to_json(), drawn
    if isinstance(data, SegmentationData):
        regions, drawn = region_scores.score_split(task, data, split, settings, directory)
        return regions.to_json(), drawn
    scores, drawn = score_split(task, data, split, settings, directory)
    numbers = scores.to_json()
    if absent := [name for name, row in zip(data.classes, scores.confusion, strict=True) if not sum(row)]:
        numbers["classes_without_images"] = absent
    return numbers, drawn


def resume(path: str | Path, overrides: Mapping[str, Any], part: SweepPart | None = None) -> Path:
    """Continues an interrupted run in place, or a finished one with more epochs in a new directory beside it.

    Args:
        path: The run directory.
        overrides: Changes of its configuration, by key.
        part: The run's part in a sweep; None for a single run.

    Returns:
        The directory.

    Raises:
        CheckpointError: The path is no run directory, or a checkpoint is damaged.
        DataError: The data are not those of the training, and no others are named.
        ConfigError: A run does not take one of the overrides, or the run is finished and no further epochs are asked for.
    """
    run = RunDirectory(path)
    saved, record = run.config(), run.record()
    before, overrides = record.get("resumed_with", {}), make_places_absolute(overrides)
    changes = join_overrides(before, overrides)  # an earlier resume's epochs still hold
    config = apply_overrides(saved, changes)
    if record.get("status") != "done":
        run.refuse_if_alive()
        if run.last.exists():
            _refuse_damaged(run)
        else:
            logger.info("%s has no finished epoch: starting over", path)
        run.update(resumed_with=changes)
        undo = {"resumed_with": before, "other_data": record.get("other_data")}
        if "data" in record:
            undo["data"] = record["data"]
        train_in(run, config, resume=True, part=part, named=[*overrides], undo=undo)
        return run.path
    trained = int(run.metrics().get("epochs", saved["trainer"]["max_epochs"]))
    more = {"trainer.max_epochs", "trainer.max_time"} & set(overrides)
    if not more or config["trainer"]["max_epochs"] <= trained:
        raise ConfigError(
            f"resume={path}: this run is done after {trained} epochs; give more, e.g. trainer.max_epochs={2 * trained}"
        )
    if not run.last.exists():
        raise CheckpointError(f"resume={path}: this run is done and has no checkpoints/last.ckpt to continue from")
    _refuse_damaged(run)
    if config["trainer"]["max_time"] is not None and "trainer.max_time" not in overrides:
        logger.info(
            "trainer.max_time=%s was the first training's: this one has no limit", config["trainer"]["max_time"]
        )
        config["trainer"]["max_time"] = None
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    longer = RunDirectory(run.path.absolute().parent / f"{now}_{configuration.make_run_id(config['data']['name'])}")
    for name in ("last.ckpt", "best.ckpt"):
        with atomic_write(longer.path / "checkpoints" / name) as partial:
            shutil.copyfile(run.path / "checkpoints" / name, partial)
    if (curve := run.path / "csv" / "metrics.csv").is_file():  # which goes on, as history.json does
        with atomic_write(longer.path / "csv" / "metrics.csv") as partial:
            shutil.copyfile(curve, partial)
    longer.create(config, [f"resume={path}", *(f"{k}={v}" for k, v in overrides.items())])
    longer.update(continues=str(path), **{key: record[key] for key in ("transfer", "data") if key in record})
    try:
        train_in(longer, config, resume=True, named=[*overrides])
    except (ConfigError, DataError):
        if not longer.history():  # refused: nothing was trained
            shutil.rmtree(longer.path, ignore_errors=True)
        raise
    return longer.path


def _refuse_damaged(run: RunDirectory) -> None:
    """Raises :class:`CheckpointError` where a checkpoint is damaged, or the chosen epoch's is missing."""
    if not run.best.exists():
        raise CheckpointError(f"{run.best} is missing: restore it from a copy, or {run.explain_new_start()}")
    for checkpoint in (run.last, run.best):
        run.refuse_damaged(checkpoint)


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


def _build_loggers(config: Mapping[str, Any]) -> list[LoggerFactory]:
    """The factories that the configuration names; raises :class:`ConfigError` where a package is missing."""
    return [factory for node in config["logger"].values() if (factory := configuration.build(node)) is not None]
