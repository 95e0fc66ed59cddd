"""Composing a configuration: Hydra's search path, our resolvers, and interpolations resolved to plain values."""

from __future__ import annotations

import functools
import re
import secrets
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from medassay.config.moved import update_targets
from medassay.core.errors import ConfigError, UserError, suggest_nearest
from medassay.core.paths import expand_home

PATH_KEYS = (
    "outputs",
    "eval_dir",
    "resume",
    "root",
    "file",
    "path",
    "generator",
    "images",
    "inception_weights",
    "groups",
)


def compose_with_hydra(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration ``name`` (``train``, ``evaluate``) with ``overrides``, Hydra's own node included."""
    register_resolvers()
    with hydra.initialize_config_dir(str(find_conf_directory().resolve())):
        return hydra.compose(name, list(overrides), return_hydra_config=True)


def compose_option(group: str, name: str, key: str) -> dict[str, Any]:
    """What ``<group>=<name>`` of ``evaluate`` stands for, plain values, wherever ``--config-dir`` of the command found it.

    Args:
        group: A group of configurations that ``evaluate`` takes.
        name: Name of one of them.
        key: The key that names it, for the message.

    Raises:
        ConfigError: There is no such configuration.
    """
    known = HydraConfig.get().searchpath if HydraConfig.initialized() else []
    own = [path for path in known if Path(path.removeprefix("file://")).is_dir()]
    folders = [find_conf_directory(), *(Path(path.removeprefix("file://")) for path in own)]
    names = sorted({file.stem for folder in folders for file in (folder / group).glob("*.yaml")})
    if name not in names:
        raise ConfigError(
            f"{key}: there is no {group} '{name}'.{suggest_nearest(name, names)} Accepted: {', '.join(names)}"
        )
    option: dict[str, Any] = resolve(compose_with_hydra("evaluate", [f"{group}={name}", f"hydra.searchpath={own}"]))[
        group
    ]
    return option


def drop_hydra(cfg: DictConfig) -> DictConfig:
    """A copy of a composed configuration without Hydra's own node."""
    return OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]) if "hydra" in cfg else cfg


def find_conf_directory() -> Path:
    """The folder with the yaml files: inside the installed package, else at the top of the clone."""
    inside = Path(__file__).parents[1] / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "conf"


def resolve(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain values, every interpolation resolved; Hydra's own node is left out.

    Raises:
        UserError: An interpolation points nowhere, a mandatory value (``???``) is missing, or a resolver refuses its argument.
    """
    with explain_interpolations():
        values = OmegaConf.to_container(drop_hydra(cfg), resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], expand_paths(update_targets(values)))


def leave_unresolved(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain values, interpolations and missing values as text; Hydra's own node is left out."""
    values = OmegaConf.to_container(drop_hydra(cfg), resolve=False)
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], update_targets(values))


def expand_paths(node: Any) -> Any:
    """``node`` (plain values) with ``~`` as the home directory in every value that is a path by its key.

    Raises:
        ConfigError: A path names the home directory of a user who does not exist.
    """
    if isinstance(node, dict):
        return {
            key: str(expand_home(value)) if key in PATH_KEYS and _is_in_home(value) else expand_paths(value)
            for key, value in node.items()
        }
    return [expand_paths(value) for value in node] if isinstance(node, list) else node


def _is_in_home(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("~")


@contextmanager
def explain_interpolations() -> Iterator[None]:
    """Turns an interpolation that fails inside into the error that its resolver raised, or into one line with its key."""
    try:
        yield
    except OmegaConfBaseException as error:
        if isinstance(error, MissingMandatoryValue):
            raise ConfigError(f"{error.full_key}: missing; give {error.full_key}=…") from error
        first = str(error).splitlines()[0]
        name, raised, message = first.partition(" raised while resolving interpolation: ")
        kinds = {kind.__name__: kind for kind in UserError.__subclasses__()}
        if raised and name in kinds:
            raise kinds[name](message) from error
        raise ConfigError(f"{error.full_key or 'configuration'}: {first}") from error


def quote_text(values: Any) -> Any:
    """Plain values in which OmegaConf finds no interpolation: a class folder may be called ``${oc.env:HOME}``."""
    if isinstance(values, str):
        return re.sub(r"(\\*)\$\{", lambda before: before[1] * 2 + "\\${", values)
    if isinstance(values, Mapping):
        return {key: quote_text(value) for key, value in values.items()}
    return [quote_text(value) for value in values] if isinstance(values, (list, tuple)) else values


# --- resolvers -------------------------------------------------------------------------------------------------------


def make_run_id(data_name: str) -> str:
    """Four random hex digits, and the data set's name where it is a phantom: a phantom run says so in its name."""
    return secrets.token_hex(2) + (f"_{data_name}" if data_name.endswith("_phantom") else "")


def make_slug(text: str, length: int = 60) -> str:
    """``text`` in the characters ``A-Za-z0-9._-`` alone, shortened; the name of a job's directory."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:length].rstrip("-.")


@functools.cache
def register_resolvers() -> None:
    """Makes ``${medassay.…:}`` known to OmegaConf, once per process."""
    OmegaConf.register_resolver("medassay.run_id", make_run_id, use_cache=True)
    OmegaConf.register_resolver("medassay.slug", make_slug)
    OmegaConf.register_resolver("medassay.len", lambda items: len(items))
