"""A composed training configuration, checked before any image is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from medassay import config as configuration
from medassay.core.errors import ConfigError
from medassay.runs.directory import RunDirectory
from medassay.runs.load import DATA_KEYS, data_node, task_node
from medassay.runs.run import makes_images, refuse_classifier
from medassay.runs.settings import RunSettings

# what may differ from the generator's own data
GENERATOR_KEYS = ("batch_size", "augment", "seed", "subset", "generator", "generator_seed")


def check_training(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration, every key and value checked; nothing is loaded yet.

    Raises:
        ConfigError: one line for the first thing that is wrong.
    """
    if OmegaConf.select(cfg, "data.generator") is not None:
        _take_data_from_generator(cfg, overrides)
    values = configuration.resolve(cfg)
    groups = ("data", "model", "trainer", "callbacks", "logger")
    settings = {key: value for key, value in values.items() if key not in groups}
    configuration.check_arguments(settings, RunSettings, "")
    configuration.check(settings.get("sweep"), "sweep")
    configuration.check(
        {
            "data": data_node(values["data"]),
            "model": task_node(values["model"]),
            "trainer": values["trainer"],
            "callbacks": values["callbacks"],
            "logger": values["logger"],
        }
    )
    configuration.check(values["model"]["recipe"], "model.recipe")
    _check_together(values)
    for key in ("root", "file", "path", "generator"):  # the run is used from other working directories later
        if values["data"].get(key) is not None:
            values["data"][key] = str(Path(values["data"][key]).expanduser().absolute())
    return values


def _check_together(values: dict[str, Any]) -> None:
    """What no constructor can see alone."""
    if values["resume"] is not None:
        raise ConfigError("resume= continues one run and stands alone: python train.py resume=<run directory>")
    for name, callback in values["callbacks"].items():
        if callback is not None and not (isinstance(callback, dict) and "_target_" in callback):
            raise ConfigError(f"callbacks.{name}={callback}: expected a node with a _target_, or null")
    if values["assay"] != "none" and not makes_images(values):
        raise ConfigError(
            f"assay={values['assay']}: model={values['model']['name']} makes no images to judge; leave it out, or train a "
            "generator, e.g. model=cgan"
        )
    model, data = values["model"], values["data"]
    for key, node, declared, of in (
        ("model.num_classes", model.get("num_classes"), len(data["classes"]), "data.classes"),
        ("model.net.num_classes", model["net"].get("num_classes"), len(data["classes"]), "data.classes"),
        ("model.net.in_channels", model["net"].get("in_channels"), data["channels"], "data.channels"),
        ("model.net.channels", model["net"].get("channels"), data["channels"], "data.channels"),
    ):
        if node is not None and node != declared:
            raise ConfigError(f"{key}={node}: the data have {declared}; leave it out, it follows {of}")


def _take_data_from_generator(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Puts the generator's own data node in place of ``cfg.data``: shape, classes and real test images are its.

    Raises:
        ConfigError: the command line asks for other data, or the run is no generator.
    """
    path = str(cfg.data.generator)
    saved = RunDirectory(path).config()
    refuse_classifier(path, saved)
    theirs = {k: v for k, v in saved["data"].items() if k not in GENERATOR_KEYS}
    given = [override.lstrip("+~").partition("=")[::2] for override in overrides]
    for override, (key, value) in zip(overrides, given, strict=True):
        other_set = key == "data" and value != theirs["name"]
        other_key = key.startswith("data.") and key.split(".")[1] not in (*GENERATOR_KEYS, *DATA_KEYS)
        if other_set or other_key:
            raise ConfigError(
                f"{override}: with data.generator the data are the generator's own ({theirs['name']}); leave it out"
            )
    own = OmegaConf.to_container(cfg.data, resolve=False)
    assert isinstance(own, dict)
    moved = {key.removeprefix("data.") for key, _ in given} & set(DATA_KEYS)
    with open_dict(cfg):
        cfg.data = {**theirs, **{k: v for k, v in own.items() if k in {*GENERATOR_KEYS, *moved}}}
