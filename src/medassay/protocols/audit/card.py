"""The model card of a run, filled in from its record.

Source: Mitchell et al., *Model cards for model reporting* (FAT* 2019, arXiv:1810.03993).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medassay.core.estimate import Estimate
from medassay.core.types import LabelledImages
from medassay.data.origins import Origin, find_origin
from medassay.evaluation.about import list_data_warnings
from medassay.evaluation.protocol import Part
from medassay.metrics.scores import ClassificationScores
from medassay.protocols.classification.measures import ClassificationResults
from medassay.runs.run import Run

FIGURES = ("accuracy", "balanced_accuracy", "auroc", "recall", "specificity", "f1", "ece")  # those of the card
SPLITS = {"train": "training", "val": "validation", "test": "test"}
UNSTATED = "not stated"
_OF_DATA = ("num_classes", "in_channels", "channels", "image_size")  # of a net's settings: what the data say
_UNUSED_ALONE = ("erasing_size",)  # of the augmentation: changes nothing by itself


@dataclass(frozen=True)
class Statements:
    """What no record says: see :class:`medassay.protocols.audit.protocol.Audit`."""

    intended_use: str
    excluded_use: str
    author: str | None
    data_source: str | None


@dataclass(frozen=True)
class ModelCard:
    """What a reader must know of a classifier.

    Attributes:
        run, model, task: Name of the run's directory, of the model, and what it does in words.
        author: Who answers for it.
        started, ended, seconds, status, notes, tags: Of the training, as recorded.
        data: Name of the data set.
        origin: Where its images come from.
        provenance: Of the images, as recorded: files with their md5, seed of phantoms, a stamp.
        classes: Names, by label.
        images: Number of images of each class by split.
        groups: By attribute, the names of groups that the test images have; None where they are not known.
        training: The recipe: net, parameters, optimizer, epochs, augmentation and so on.
        selection: How the epoch was chosen.
        scores: Test figures with their 95 % intervals, by name; empty where there are none.
        scores_of: What they were measured on.
        limits: What must be said against the classifier, or is not known of it.
        intended_use, excluded_use: What it is for, and what it must not be used for.
        code, environment: Version of the code that trained it; Python, packages, hardware and threads then.
    """

    run: str
    model: str
    task: str
    author: str
    started: str | None
    ended: str | None
    seconds: float | None
    status: str
    notes: str | None
    tags: list[str]
    data: str
    origin: Origin
    provenance: dict[str, Any]
    classes: list[str]
    images: dict[str, list[int]]
    groups: dict[str, list[str]] | None
    training: dict[str, Any]
    selection: str
    scores: dict[str, Estimate]
    scores_of: str
    limits: list[str]
    intended_use: str
    excluded_use: str
    code: str
    environment: dict[str, Any]


def make_card(run: Run, parts: Sequence[Part], limits: Sequence[str], stated: Statements) -> ModelCard:
    """The card of a finished classifier.

    Args:
        run: The run.
        parts: Reports on it; the classification's scores are those of the card.
        limits: What the reports say against it.
        stated: What no record says.
    """
    record, data = run.directory.record(), run.data
    images = {name: data.split(name) for name in SPLITS}
    provenance = dict(record.get("data") or data.provenance())
    origin = find_origin(provenance, run.config["data"].get("flag") or _read_real_flag(run.config))
    if stated.data_source is not None:
        origin = replace(origin, source=stated.data_source)
    scores, scores_of = find_scores(run, parts)
    return ModelCard(
        run=run.directory.path.resolve().name,
        model=run.config["recipe"]["name"],
        task=f"Gives an image one of {len(data.classes)} classes: {', '.join(data.classes)}. {_describe_images(run)}",
        author=stated.author or UNSTATED,
        started=record.get("started"),
        ended=record.get("ended"),
        seconds=record.get("seconds"),
        status=record.get("status", "unknown"),
        notes=record.get("notes"),
        tags=list(record.get("tags") or ()),
        data=str(provenance.get("name", data.name)),
        origin=origin,
        provenance=provenance,
        classes=data.classes,
        images={name: split.counts(data.num_classes).tolist() for name, split in images.items()},
        groups=list_groups(images["test"]),
        training=describe_training(run),
        selection=describe_selection(run),
        scores=scores,
        scores_of=scores_of,
        limits=[*list_data_warnings(provenance.get("real", provenance)), *limits],
        intended_use=stated.intended_use,
        excluded_use=stated.excluded_use,
        code=record.get("code", "unknown"),
        environment={key: record[key] for key in ("python", "packages", "hardware", "threads") if key in record},
    )


def _read_real_flag(config: Mapping[str, Any]) -> str | None:
    """MedMNIST's name of the set that a generator learnt from, of a run on its samples."""
    flag: str | None = (config["data"].get("real") or {}).get("flag")
    return flag


def _describe_images(run: Run) -> str:
    colour = "grey" if run.data.channels == 1 else "RGB"
    return f"Images are {colour}, {run.data.size} × {run.data.size} pixels."


def list_groups(images: LabelledImages) -> dict[str, list[str]] | None:
    """By attribute, the groups that images are of; None where they are not known."""
    if images.groups is None:
        return None
    present = {name: images.groups.cross([name]) for name in images.groups.levels}  # those without images are left out
    return {name: list(groups.levels[name]) for name, groups in present.items()}


def find_scores(run: Run, parts: Sequence[Part]) -> tuple[dict[str, Estimate], str]:
    """The card's figures and what they were measured on: the classification's, else those recorded after training."""
    for part in parts:
        results = part.report.results
        if isinstance(results, ClassificationResults):
            return _choose_figures(results.scores), f"{results.n:,} {SPLITS[results.split]} images"
    recorded = run.directory.metrics().get("test")
    if run.checkpoint == "best" and isinstance(recorded, Mapping) and "interval_95" in recorded:
        scores = ClassificationScores.from_json(recorded)
        return _choose_figures(scores), f"{scores.n:,} test images, after training"
    return {}, "nothing: classification is no part of this audit, or failed, and the run recorded no test"


def _choose_figures(scores: ClassificationScores) -> dict[str, Estimate]:
    return {name: scores.estimates[name] for name in FIGURES if name in scores.estimates}


# --- the training ----------------------------------------------------------------------------------------------------


def describe_training(run: Run) -> dict[str, Any]:
    """The recipe of a run, by name."""
    config, record, metrics = run.config, run.directory.record(), run.directory.metrics()
    model, data, trainer = config["model"], config["data"], config["trainer"]
    transfer = record.get("transfer")
    unused = () if model.get("adversarial_epsilon") else ("adversarial_steps",)
    return {
        "net": describe_node(model["net"], leave_out=_OF_DATA),
        "parameters": record.get("parameters"),
        "start": f"{transfer['weights']}, trained on {transfer.get('data', 'ImageNet')}"
        if transfer
        else "random weights",
        "optimizer": describe_node(model.get("optimizer")),
        "scheduler": describe_node(model.get("scheduler")),
        "frozen layers": _describe_freezing(model.get("transfer") or {}),
        "loss": ", ".join(_list_settings(model, leave_out=(*_OF_DATA, *unused))) or "the task's own",
        "epochs": metrics.get("epochs"),
        "largest number of epochs": trainer["max_epochs"],
        "batch size": data.get("batch_size"),
        "augmentation": describe_augmentation(data.get("augment")),
        "training images used": data.get("subset") or "all",
        "balance of batches": data.get("balance") or "none",
        "precision": trainer["precision"],
        "seed": config["seed"],
    }


def _describe_freezing(transfer: Mapping[str, Any]) -> str:
    """What of a net that started from given weights was held back, and for how long."""
    usual = {"freeze_epochs": 0, "frozen_stages": 0, "layer_decay": 1.0}
    changed = {key: transfer[key] for key, value in usual.items() if transfer.get(key, value) != value}
    return ", ".join(_list_settings(changed)) or "none"


def describe_node(node: Mapping[str, Any] | None, leave_out: Sequence[str] = ()) -> str:
    """A node of a configuration in words: ``BlockCNN (width 8, blocks 3)``; none where there is none."""
    if node is None:
        return "none"
    name = str(node.get("_target_", "")).rpartition(".")[2]
    settings = ", ".join(_list_settings(node, leave_out))
    return f"{name} ({settings})" if settings else name


def describe_augmentation(node: Mapping[str, Any] | None) -> str:
    """The random changes of training images that are on."""
    shown = [text for text in _list_settings(node or {}, _UNUSED_ALONE) if not text.endswith((" 0.0", " 0", " off"))]
    return ", ".join(shown) or "none"


def _list_settings(node: Mapping[str, Any], leave_out: Sequence[str] = ()) -> Iterator[str]:
    """The single values and lists of a node as ``name value``; what is null and nodes inside are left out."""
    for key, value in node.items():
        if key.startswith("_") or key in leave_out or value is None or isinstance(value, Mapping):
            continue
        shown = ("off", "on")[value] if isinstance(value, bool) else value
        yield f"{key.replace('_', ' ')} {shown}"


def describe_selection(run: Run) -> str:
    """How the epoch of the weights was chosen."""
    metrics, recipe = run.directory.metrics(), run.config["recipe"]
    if run.checkpoint != "best":
        which = "" if run.epoch is None else f" (epoch {run.epoch})"
        return f"The weights are those of checkpoint={run.checkpoint}{which}; nothing chose them."
    chosen, epoch, epochs = metrics.get("chosen_by"), metrics.get("best_epoch"), metrics.get("epochs")
    if chosen is None or epoch is None:
        return "Not recorded: the training was not finished."
    if chosen != recipe.get("monitor"):
        return f"Epoch {epoch} of {epochs}, chosen by: {chosen}."
    best = {"max": "largest", "min": "smallest"}[recipe.get("mode", "max")]
    return (
        f"Epoch {epoch} of {epochs}: the {best} {chosen}, on validation images. Test images took no part in the choice."
    )
