"""MedAssay: train a model on medical images, let it explain itself, and assay what it generates.

From Python::

    import medassay

    run = medassay.load_run("outputs/pneumonia_cnn/<run>")           # .config, .data, .task with its weights
    run = medassay.train_run("model=cgan", "data=blood_phantom")     # what train.py does
    cfg = medassay.compose("model=cgan", "data=blood_phantom")       # the configuration alone …
    data, task = medassay.build(cfg.data), medassay.build(cfg.model) # … and what its nodes describe
    medassay.fit(task, data, directory="outputs/mine", max_epochs=3) # objects of your own, no configuration
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medassay.cli.train import compose as compose
    from medassay.cli.train import train_run as train_run
    from medassay.config.construction import build as build
    from medassay.runs.load import load_run as load_run
    from medassay.runs.transfer import load_pretrained as load_pretrained
    from medassay.training.fit import fit as fit
    from medassay.training.settings import TrainerSettings as TrainerSettings

_HOMES = {
    "build": "medassay.config.construction",
    "compose": "medassay.cli.train",
    "load_run": "medassay.runs.load",
    "load_pretrained": "medassay.runs.transfer",
    "train_run": "medassay.cli.train",
    "fit": "medassay.training.fit",
    "TrainerSettings": "medassay.training.settings",
}
__all__ = ["TrainerSettings", "build", "compose", "fit", "load_pretrained", "load_run", "train_run"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # torch and Lightning take seconds to import: only where something of theirs is asked for
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'medassay' has no attribute {name!r}")
