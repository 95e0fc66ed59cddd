"""Configurations of older versions: constructors that have moved, and keys that stand elsewhere now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {
    "medassay.data.modules.FolderData": "medassay.data.sources.folder_data",
    "medassay.data.modules.MedMNISTData": "medassay.data.sources.medmnist_data",
    "medassay.data.modules.PhantomData": "medassay.data.sources.phantom_data",
    "medassay.launchers.local_parallel.LocalParallelLauncher": "medassay.sweeps.launchers.local_parallel.LocalParallelLauncher",
    "medassay.launchers.ray.RayLauncher": "medassay.sweeps.launchers.ray.RayLauncher",
    "medassay.launchers.serial.SerialLauncher": "medassay.sweeps.launchers.serial.SerialLauncher",
    "medassay.launchers.slurm.SlurmLauncher": "medassay.sweeps.launchers.slurm.SlurmLauncher",
    "medassay.sweepers.arguments.ArgumentsSweeper": "medassay.sweeps.sweepers.arguments.ArgumentsSweeper",
    "medassay.sweepers.optuna_study.OptunaStudySweeper": "medassay.sweeps.sweepers.optuna_study.OptunaStudySweeper",
    "medassay.protocols.assay.AssaySettings": "medassay.protocols.assay.protocol.Assay",
    "medassay.protocols.classification.ClassificationSettings": "medassay.protocols.classification.protocol.ClassifierScores",
    "medassay.protocols.predict.PredictSettings": "medassay.protocols.predict.protocol.Predict",
    "medassay.protocols.sample.SampleSettings": "medassay.protocols.sample.protocol.Sample",
    "medassay.callbacks.Reconstructions": "medassay.training.callbacks.Reconstructions",
    "medassay.callbacks.SampleGrid": "medassay.training.callbacks.SampleGrid",
    "medassay.callbacks.early_stopping": "medassay.training.callbacks.early_stopping",
    "medassay.protocols.gradcam.GradcamSettings": "medassay.protocols.gradcam.protocol.GradCAM",
    "medassay.protocols.shortcut.ShortcutSettings": "medassay.protocols.shortcut.protocol.Shortcut",
    "medassay.pruning.median_pruning": "medassay.sweeps.pruning.median_pruning",
    "medassay.settings.Recipe": "medassay.training.settings.Recipe",
    "medassay.settings.SweepSettings": "medassay.runs.settings.SweepSettings",
    "medassay.settings.TrainerSettings": "medassay.training.settings.TrainerSettings",
}


LOGGERS = ("medassay.settings.LoggerSettings", "medassay.training.settings.LoggerSettings")  # one kind, by name
FIRST = {now: before for before, now in MOVED.items()}
KEYS = {"model.recipe": "recipe", "model.name": "recipe.name"}  # on the command line: before, now
SAMPLES = "medassay.runs.samples.generated_data"
CONSTANT = "medassay.tasks.optim.constant"
OWN_KEYS = ("batch_size", "augment", "seed", "subset")  # of a run on a generator's samples; the rest are its data's
PLACES = ("root", "file", "path")  # of a data set: where its images lie
DEVICE_KEYS = ("gpus", "accelerator", "devices")  # of the trainer: where samples are drawn


def find_present_key(key: str) -> str | None:
    """What the key of an older version is called now; None where it has not moved."""
    for before, now in KEYS.items():
        if key == before or key.startswith(f"{before}."):
            return now + key.removeprefix(before)
    return None


def update_targets(node: Any) -> Any:
    """``node`` (plain values) with every ``_target_`` that has moved under its present name."""
    return _rename(node, MOVED)


def update_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run, of whatever version, as this one writes it."""
    values: dict[str, Any] = update_targets(dict(config))
    if "recipe" not in values:
        model = dict(values["model"])
        values["recipe"] = {**model.pop("recipe"), "name": model.pop("name")}
        values["model"] = model
    if "generator" in values["data"] and values["data"].get("_target_") != SAMPLES:
        values["data"] = _update_data(values)
    logger = values.get("logger") or {}
    if logger.get("_target_") in LOGGERS:
        kind = logger["kind"]
        target = f"medassay.training.loggers.log_to_{kind}"
        values["logger"] = {} if kind == "none" else {kind: {"_target_": target}}
    return values


def _update_data(config: Mapping[str, Any]) -> dict[str, Any]:
    real = dict(config["data"])
    generator, generator_seed = real.pop("generator"), real.pop("generator_seed")
    if generator is None:
        return real
    return {
        "_target_": SAMPLES,
        **{key: real[key] for key in OWN_KEYS},
        "generator": generator,
        "generator_seed": generator_seed,
        "real": real,
        **dict.fromkeys(PLACES),
        "name": f"synthetic_{real['name']}",
        **{key: real[key] for key in ("classes", "channels", "size")},
        "outputs": config["outputs"],
        **{key: config["trainer"][key] for key in DEVICE_KEYS},
    }


def restore_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration (present form) in the form it had first: what a hash of it may depend on."""
    values = dict(config)
    model, recipe, data = dict(values["model"]), dict(values.pop("recipe")), dict(values["data"])
    if (model.get("scheduler") or {}).get("_target_") == CONSTANT:
        model["scheduler"] = None
    values["model"] = {**model, "name": recipe.pop("name"), "recipe": recipe}
    if data.get("_target_") == SAMPLES:
        moved = {key: data[key] for key in PLACES if data[key] is not None}
        own = {key: data[key] for key in (*OWN_KEYS, "generator", "generator_seed")}
        later = {"steps": data["steps"]} if data.get("steps") is not None else {}
        values["data"] = {**data["real"], **moved, **own, **later}
    else:
        values["data"] = {**data, "generator": None, "generator_seed": 0}
    first: dict[str, Any] = _rename(values, FIRST)
    return first


def _rename(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        renamed = {key: _rename(value, names) for key, value in node.items()}
        if isinstance(target := renamed.get("_target_"), str):
            renamed["_target_"] = names.get(target, target)
        return renamed
    return [_rename(value, names) for value in node] if isinstance(node, list) else node
