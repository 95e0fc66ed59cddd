"""A classifier's first weights from another training: a run of ours, or torchvision's for ImageNet."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from pytorch_lightning import LightningModule
from torch import nn

from medassay.core.errors import CheckpointError, ConfigError
from medassay.nets.pretrained import Match, Weights, adapt_normalisation, take_weights
from medassay.runs.load import find_weights
from medassay.runs.run import IMAGENET, open_transfer_source
from medassay.tasks.classification import Classification
from medassay.training.checkpoints import read_checkpoint

logger = logging.getLogger(__name__)

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
        ConfigError: The weights are a generator's or fit no layer, there are none for ImageNet, or a layer that got none is
            to be frozen.
    """
    if not isinstance(task, Classification) or (name := task.transfer.source) is None:
        return None
    net = task.net
    weights, theirs, source = _read_imagenet(net) if name == IMAGENET else _read_run(name)
    match = take_weights(net, weights, keep_head=theirs == list(classes))
    _refuse_misfit(task, name, match)
    if task.ema is not None:
        task.ema.net.load_state_dict(net.state_dict())
    task.is_pretrained = True
    logger.info("starts from %s: %s", name, match)
    return {**source, **dataclasses.asdict(match)}


def _refuse_misfit(task: Classification, name: str, match: Match) -> None:
    """Raises :class:`ConfigError` where no layer before the head got weights, or a layer without is to be frozen."""
    layers = dict(task.net.named_modules())
    kernels = {layer for layer, module in layers.items() if isinstance(module, nn.Conv2d)}
    kind = "convolution" if kernels else "hidden layer"
    kernels = kernels or {layer for layer, part in layers.items() if isinstance(part, nn.Linear) and layer != "head"}
    if not kernels & {*match.matched, *match.reshaped}:
        raise ConfigError(
            f"model.transfer.weights={name}: no {kind} there has the name and shape of one of this net "
            f"({type(task.net).__name__}); give a run with the same model.net, or null"
        )
    frozen = {id(module) for layer in task.transfer.list_frozen(task.net, epoch=0) for module in layer.modules()}
    if random := [layer for layer in match.new if id(layers[layer]) in frozen]:
        raise ConfigError(
            f"model.transfer.weights={name} has nothing for {len(random)} layers that are to be frozen, {random[0]} first: "
            "they would keep random weights; make the nets alike (model.net.small_images=false for ImageNet's), or freeze none"
        )


def _read_run(path: str) -> tuple[Weights, list[str], dict[str, Any]]:
    """Weights, classes and record of the classifier in a run directory."""
    run = open_transfer_source(path)
    config = run.config()
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
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(chosen.url).name
    try:
        found = chosen.get_state_dict(progress=False, check_hash=True)
        digest = hash_file(file)
    except (URLError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{key}: {chosen.url} could not be fetched or read ({str(error).splitlines()[0]}); put the file into "
            f"{file.parent}, or give a run directory instead"
        ) from error
    if not digest.startswith(prefix := file.stem.rpartition("-")[2]):
        raise CheckpointError(
            f"{file} is not the published file (its SHA-256 begins with {digest[:8]}, not {prefix}): delete it so that it is "
            "downloaded anew"
        )
    return (
        rename_published(net, found),
        [],
        {"weights": IMAGENET, "net": published, "url": chosen.url, "sha256": digest},
    )


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, 64 hexadecimal digits; torchvision's file names end in its beginning."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def rename_published(net: nn.Module, found: Weights) -> Weights:
    """torchvision's weights ``found`` by the names of ``net``, for images normalised our way; the last layer is left out."""
    places = {}
    for name in net.state_dict():
        theirs = name.removeprefix("body.").removeprefix("pooling.")
        if theirs in found:
            places[name] = found[theirs]
    stem = next(name for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    return adapt_normalisation(places, stem)
