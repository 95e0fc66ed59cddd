"""Constructors that have moved: what configurations of older versions call them, and where they are now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MOVED = {
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
    "medassay.settings.LoggerSettings": "medassay.training.settings.LoggerSettings",
    "medassay.settings.Recipe": "medassay.training.settings.Recipe",
    "medassay.settings.SweepSettings": "medassay.runs.settings.SweepSettings",
    "medassay.settings.TrainerSettings": "medassay.training.settings.TrainerSettings",
}


FIRST = {now: before for before, now in MOVED.items()}


def current_targets(node: Any) -> Any:
    """``node`` (plain values) with every ``_target_`` that has moved under its present name."""
    return _rename(node, MOVED)


def first_targets(node: Any) -> Any:
    """``node`` with every ``_target_`` under the name it had first: what a hash of a configuration may depend on."""
    return _rename(node, FIRST)


def _rename(node: Any, names: Mapping[str, str]) -> Any:
    if isinstance(node, dict):
        renamed = {key: _rename(value, names) for key, value in node.items()}
        if isinstance(target := renamed.get("_target_"), str):
            renamed["_target_"] = names.get(target, target)
        return renamed
    return [_rename(value, names) for value in node] if isinstance(node, list) else node
