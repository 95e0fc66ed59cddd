"""A composed training configuration, checked before any image is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from medassay import config as configuration
from medassay.config.moved import KEYS, PLACES
from medassay.core.errors import ConfigError
from medassay.core.paths import expand_home
from medassay.data.curves.modules import CurveData
from medassay.data.segmentation.modules import SegmentationData
from medassay.nets.unet import UNet
from medassay.runs.directory import RunDirectory
from medassay.runs.run import (
    IMAGENET,
    find_data_kind,
    fits_curves,
    makes_images,
    open_transfer_source,
    refuse_classifier,
    segments_images,
)
from medassay.runs.settings import RunSettings
from medassay.tasks.tiles import list_tiles

NODES = ("data", "model", "recipe", "trainer", "callbacks", "logger", "sweep")  # what their constructors take


def check_training(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration, every key and value checked; nothing is loaded yet.

    Raises:
        UserError: Something is wrong; the message, one line, names the first such thing.
    """
    _check_kinds(configuration.leave_unresolved(cfg))  # a net's input may follow what the other kind of data has not
    values = configuration.resolve(cfg)
    settings = {key: value for key, value in values.items() if key not in NODES}
    configuration.check_arguments(settings, RunSettings, "")
    for before, now in KEYS.items():  # in a yaml of one's own
        group, _, key = before.partition(".")
        if key in values[group]:
            raise ConfigError(f"{before}: it is called {now} now")
    configuration.check({name: values[name] for name in NODES})
    _check_together(values)
    if (stamp := values["data"].get("stamp")) is not None:
        configuration.build(stamp).refuse_unused("data.stamp")
    for key in (*PLACES, "generator", "groups"):  # the run is used from other working directories later
        if values["data"].get(key) is not None:
            values["data"][key] = str(Path(values["data"][key]).absolute())
    transfer = values["model"].get("transfer") or {}
    if transfer.get("weights") not in (None, IMAGENET):
        transfer["weights"] = str(expand_home(transfer["weights"]).absolute())
    return values


def _check_together(values: dict[str, Any]) -> None:
    """What no constructor can see alone."""
    if values["resume"] is not None:
        raise ConfigError("resume= continues one run and stands alone: python train.py resume=<run directory>")
    for group in ("callbacks", "logger"):
        for name, node in values[group].items():
            if node is not None and not (isinstance(node, dict) and "_target_" in node):
                raise ConfigError(f"{group}.{name}={node}: expected a node with a _target_, or null")
    if values["assay"] != "none" and not makes_images(values):
        raise ConfigError(
            f"assay={values['assay']}: model={values['recipe']['name']} makes no images to judge; leave it out, or train a "
            "generator, e.g. model=cgan"
        )
    _check_selection(values)
    model, data = values["model"], values["data"]
    if data.get("generator") is not None:
        refuse_classifier(data["generator"], RunDirectory(data["generator"]).config())
    _check_net(values)
    _check_transfer(model.get("transfer") or {}, values["trainer"]["max_epochs"])
    _check_symmetries(model.get("symmetries", False), data.get("augment") or {})
    if fits_curves(values):
        return
    for key, node, declared, of in (
        ("model.num_classes", model.get("num_classes"), len(data["classes"]), "data.classes"),
        ("model.net.num_classes", model["net"].get("num_classes"), len(data["classes"]), "data.classes"),
        ("model.net.in_channels", model["net"].get("in_channels"), data["channels"], "data.channels"),
        ("model.net.channels", model["net"].get("channels"), data["channels"], "data.channels"),
    ):
        if node is not None and node != declared:
            raise ConfigError(f"{key}={node}: the data have {declared}; leave it out, it follows {of}")


def _check_selection(values: dict[str, Any]) -> None:
    """Refuses to choose an epoch by samples where the model makes none, or something else chooses it."""
    by = (values["callbacks"].get("tstr_selection") or {}).get("by")
    if by is None:
        return
    key, recipe = f"callbacks.tstr_selection.by={by}", values["recipe"]
    if not makes_images(values):
        raise ConfigError(
            f"{key}: model={recipe['name']} makes no images to measure; leave it out, or train a generator, e.g. model=cgan"
        )
    if recipe["monitor"] is not None:
        raise ConfigError(f"{key}: recipe.monitor={recipe['monitor']} chooses the epoch already; give one of the two")


def _check_transfer(transfer: dict[str, Any], max_epochs: int) -> None:
    """Refuses weights that are no classifier's, and layers that would stay random and frozen."""
    weights = None if transfer.get("scratch") else transfer.get("weights")
    freeze_epochs, frozen = transfer.get("freeze_epochs", 0), transfer.get("frozen_stages", 0)
    if weights is None and (freeze_epochs or frozen):
        key = f"freeze_epochs={freeze_epochs}" if freeze_epochs else f"frozen_stages={frozen}"
        raise ConfigError(
            f"model.transfer.{key}: the frozen layers would keep random weights; name a run to start from with "
            "model.transfer.weights=, or leave it out"
        )
    if freeze_epochs >= max_epochs:
        raise ConfigError(
            f"model.transfer.freeze_epochs={freeze_epochs}: training ends after {max_epochs} epochs, so nothing would thaw; "
            "give fewer, or model.transfer.frozen_stages=all"
        )
    if weights not in (None, IMAGENET):
        open_transfer_source(weights)


def _check_symmetries(told: bool, augment: dict[str, Any]) -> None:
    """Refuses flips and turns that a net which is told of its own would not be told of."""
    untold = next((key for key in ("horizontal_flip", "vertical_flip", "quarter_turn") if augment.get(key)), None)
    if told and untold is not None:
        raise ConfigError(
            f"data.augment.{untold}={augment[untold]}: this model turns and mirrors its training images itself, and tells the "
            "net, so that samples are not turned; leave it out, or give model.symmetries=false"
        )


def _check_kinds(values: dict[str, Any]) -> None:
    """Refuses a model on data of another kind, and a net of another kind of model; nothing need be resolved yet."""
    if not all(isinstance(values.get(key), dict) and "_target_" in values[key] for key in ("model", "data")):
        return  # said by what checks the whole configuration
    data, kind = values["data"], find_data_kind(values)
    segments, has_pixels = segments_images(values), kind is SegmentationData
    if fits_curves(values) != (kind is CurveData):
        _refuse_curves(values, kind)
    if segments and not has_pixels:
        raise ConfigError(
            f"model={values['recipe']['name']} gives each pixel a class, and data={data['name']} have one class an image; "
            "choose data=cell_phantom, nuclei, membranes or segmentation_folder"
        )
    if has_pixels and not segments:
        raise ConfigError(
            f"data={data['name']} have a class for each pixel, and model={values['recipe']['name']} gives an image one; choose "
            "model=unet"
        )
    node = values["model"].get("net")
    net = str(node.get("_target_")) if isinstance(node, dict) else ""
    if fits_curves(values) and net.startswith("medassay.") and not net.endswith(".MLP"):
        raise ConfigError(f"model.net={net}: model={values['recipe']['name']} needs numbers in, e.g. model/net=mlp")


def _refuse_curves(values: dict[str, Any], kind: type) -> None:
    """Raises :class:`ConfigError` where one of model and data is about a curve, and the other about images."""
    model, data = values["recipe"]["name"], values["data"]["name"]
    if kind is CurveData:
        raise ConfigError(f"data={data} is a curve, and model={model} takes images; choose model=curve")
    raise ConfigError(f"model={model} fits a curve, and data={data} are images; choose data=ecg_phantom or qrs")


def _check_net(values: dict[str, Any]) -> None:
    """Refuses a net of the other kind, and patches that a U-Net cannot answer; of a curve's, inputs and outputs but one."""
    model, data, segments = values["model"], values["data"], segments_images(values)
    if fits_curves(values):
        _check_curve_net(model["net"])
        return
    is_unet = model["net"]["_target_"].endswith(".UNet")
    if is_unet != segments:
        wanted = "model/net=unet" if segments else "another, e.g. model/net=block_cnn"
        raise ConfigError(f"model.net={model['net']['_target_']}: model={values['recipe']['name']} needs {wanted}")
    if segments:
        with torch.device("meta"):  # its shapes alone
            net: UNet = configuration.build(model["net"])
        _check_patch(net, data["patch"], data["margin"])
        if "tile" in model and "overlap" in model:  # what is left out has a default that fits
            _check_tiles(net, {key: model[key] for key in ("tile", "overlap")})


def _check_curve_net(net: dict[str, Any]) -> None:
    for key, wanted in (("inputs", [1]), ("outputs", 1)):
        if key in net and net[key] != wanted:
            raise ConfigError(f"model.net.{key}={net[key]}: a curve has one number in and one out; leave it out")


def _check_tiles(net: UNet, given: dict[str, int]) -> None:
    """Refuses tiles in which no image larger than one could be segmented, as validation would after the first epoch."""
    side = net.find_input_size(given["tile"] + 2 * given["overlap"])
    try:
        list_tiles(net, side + 1, side + 1, side, given["overlap"])  # an image that one tile does not answer for
    except ConfigError as error:
        key, _, reason = str(error).partition("=")
        raise ConfigError(f"model.{key}={given[key]}: {reason.partition(': ')[2]}") from error


def _check_patch(net: UNet, patch: int, margin: int) -> None:
    fitting = net.find_input_size(patch) - 2 * net.margin
    if (patch, margin) != (fitting, net.margin):
        raise ConfigError(
            f"data.patch={patch} data.margin={margin}: this U-Net takes {net.margin} pixels off on each side and answers for "
            f"sides such as {fitting}; give data.patch={fitting} data.margin={net.margin}"
        )
