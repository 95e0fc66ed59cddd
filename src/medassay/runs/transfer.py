"""A classifier's first weights from another training: a run of ours, or torchvision's for ImageNet."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from pytorch_lightning import LightningModule
from torch import nn

from medassay.core.errors import CheckpointError, ConfigError
from medassay.nets.pretrained import Weights, adapt_normalisation, take_weights
from medassay.runs.directory import RunDirectory
from medassay.runs.load import find_weights
from medassay.runs.run import makes_images
from medassay.tasks.classification import Classification
from medassay.training.checkpoints import read_checkpoint

logger = logging.getLogger(__name__)

IMAGENET = "imagenet"
NET = "net."  # of the names in a task's checkpoint


def load_pretrained(task: LightningModule, classes: Sequence[str]) -> dict[str, Any] | None:
    """Puts the weights that ``task.transfer`` names into the task's net, and says which layers got them.

    Args:
        task: The task, with weights of its own; its average, if any, follows.
        classes: Names of its classes: another run's last layer is taken only where they are the same.

    Returns:
        Where the weights are from and what became of each layer, for the run's record; None where none are named.

    Raises:
        CheckpointError: The path is no run directory, or its weights are missing or damaged.
        ConfigError: The weights are a generator's or fit no layer, or there are none for ImageNet.
    """
    if not isinstance(task, Classification) or (name := task.transfer.weights) is None:
        return None
    net = task.net
    weights, theirs, source = _read_imagenet(net) if name == IMAGENET else _read_run(name)
    match = take_weights(net, weights, keep_head=theirs == list(classes))
    kernels = {layer for layer, module in net.named_modules() if isinstance(module, nn.Conv2d)}
    if not kernels & {*match.matched, *match.reshaped}:
        raise ConfigError(
            f"model.transfer.weights={name}: no convolution there has the name and shape of one of this net "
            f"({type(net).__name__}); give a run with the same model.net, or null"
        )
    if task.ema is not None:
        task.ema.net.load_state_dict(net.state_dict())
    logger.info("starts from %s: %s", name, match)
    return {**source, **dataclasses.asdict(match)}


def _read_run(path: str) -> tuple[Weights, list[str], dict[str, Any]]:
    """Weights, classes and record of the classifier in a run directory."""
    run = RunDirectory(path)
    config = run.config()
    if makes_images(config):
        raise ConfigError(
            f"model.transfer.weights={path} is a generator's run (model={config['recipe']['name']}): give a classifier's"
        )
    best = find_weights(run, "best")
    run.refuse_damaged(best)
    contents = read_checkpoint(best)
    weights = {name.removeprefix(NET): value for name, value in contents["state_dict"].items() if name.startswith(NET)}
    source = {"weights": path, "data": config["data"]["name"], "epoch": contents.get("epoch", -1) + 1 or None}
    return weights, list(config["data"]["classes"]), source


def _read_imagenet(net: nn.Module) -> tuple[Weights, list[str], dict[str, Any]]:
    """torchvision's weights under our names, no classes, and the record; downloaded where they are not in its cache."""
    key = f"model.transfer.weights={IMAGENET}"
    published = getattr(net, "published", None)
    if published is None:
        raise ConfigError(
            f"{key}: there are none for this net ({type(net).__name__}); choose model/net=alexnet, vgg, resnet, mobilenet_v2 "
            "or efficientnet in its published width, or give a run directory"
        )
    from torchvision.models import get_model_weights  # takes a second, and few trainings need it

    chosen = get_model_weights(published).DEFAULT
    try:
        found = chosen.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"{key}: {chosen.url} could not be fetched ({error}); put the file into {folder}, or give a run directory instead"
        ) from error
    names = rename_published(net, found)
    return names, [], {"weights": IMAGENET, "net": published, "url": chosen.url}


def rename_published(net: nn.Module, found: Weights) -> Weights:
    """torchvision's weights ``found`` by the names of ``net``, for images normalised our way; the last layer is left out."""
    places = {}
    for name in net.state_dict():
        theirs = name.removeprefix("body.").removeprefix("pooling.")
        if theirs in found:
            places[name] = found[theirs]
    stem = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return adapt_normalisation(places, stem)
