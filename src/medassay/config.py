"""The configuration: resolvers, checks before anything is loaded, and the one door to hydra's ``instantiate``.

A constructor declares once, in its signature, which arguments it takes, of which type and range
(``lr: Annotated[float, Range(gt=0)]``). :func:`check` compares every node that names a constructor by ``_target_`` with
that signature, so that a wrong key or value is one line before data is read.
"""

from __future__ import annotations

import collections.abc
import functools
import importlib
import inspect
import os
import re
import secrets
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import hydra
import hydra.utils
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from medassay.errors import ConfigError, UserError, nearest

TRUSTED_ENVIRONMENT_VARIABLE = "MEDASSAY_TRUSTED_PACKAGES"  # comma-separated packages whose classes a config may name


def trusted_targets() -> list[str]:
    """The patterns of constructors that a configuration may name; a run directory from elsewhere can call no others."""
    extra = [name.strip() for name in os.environ.get(TRUSTED_ENVIRONMENT_VARIABLE, "").split(",") if name.strip()]
    return [f"{package}.*" for package in ["medassay", *extra]]


def compose(name: str, overrides: Sequence[str]) -> tuple[DictConfig, Path]:
    """The configuration ``name`` (``train``, ``evaluate``) with ``overrides``, and its run directory; for Python callers."""
    cfg = compose_with_hydra(name, overrides)
    directory = Path(str(cfg.hydra.run.dir))
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg, directory


def compose_with_hydra(name: str, overrides: Sequence[str]) -> DictConfig:
    """The configuration ``name`` with ``overrides`` and the ``hydra`` node."""
    register_resolvers()
    with hydra.initialize_config_dir(str(conf_directory().resolve())):
        return hydra.compose(name, list(overrides), return_hydra_config=True)


def conf_directory() -> Path:
    """The folder with the yaml files: inside the installed package, else at the top of the clone."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "conf"


# --- resolvers -------------------------------------------------------------------------------------------------------


def run_id(data_name: str) -> str:
    """Four random hex digits, and the data set's name where it is a phantom: a phantom run says so in its name."""
    return secrets.token_hex(2) + (f"_{data_name}" if data_name.endswith("_phantom") else "")


def slug(text: str, length: int = 60) -> str:
    """``text`` in the characters ``A-Za-z0-9._-`` alone, shortened; the name of a job's directory."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:length].rstrip("-.")


def class_folders(path: str | None) -> list[str]:
    """The class names of a folder data set: sub-folders of ``path/train``, or of ``path`` itself."""
    if path is None:
        raise ConfigError("data=folder needs data.path=<directory with train/val/test/<class>/*.png or <class>/*.png>")
    top = Path(path).expanduser()
    inner = top / "train" if (top / "train").is_dir() else top
    if not top.is_dir():
        raise ConfigError(f"data.path={path} is not a directory: give one that holds <class>/*.png")
    return sorted(p.name for p in inner.iterdir() if p.is_dir() and not p.name.startswith("."))


@functools.cache
def register_resolvers() -> None:
    """Makes ``${medassay.…:}`` known to OmegaConf, once per process."""
    OmegaConf.register_resolver("medassay.run_id", run_id, use_cache=True)
    OmegaConf.register_resolver("medassay.slug", slug)
    OmegaConf.register_resolver("medassay.len", lambda items: len(items))
    OmegaConf.register_resolver("medassay.class_folders", class_folders)


# --- checking --------------------------------------------------------------------------------------------------------


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """``cfg`` as plain values, every interpolation resolved.

    Raises:
        ConfigError: an interpolation points nowhere, or a mandatory value (``???``) is missing.
    """
    try:
        values = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        _, raised, message = first.partition("ConfigError raised while resolving interpolation: ")
        raise ConfigError(message if raised else f"{error.full_key or 'configuration'}: {first}") from error
    assert isinstance(values, dict)
    return typing.cast(dict[str, Any], values)


def locate(target: str, key: str) -> Callable[..., Any]:
    """The constructor that ``target`` names, e.g. ``medassay.nets.block_cnn.BlockCNN``."""
    module_name, _, name = target.rpartition(".")
    packages = [pattern.removesuffix(".*") for pattern in trusted_targets()]
    if target.partition(".")[0] not in packages:
        raise ConfigError(
            f"{key}._target_={target}: constructors are taken from {', '.join(packages)} only; "
            f"name your own package in the environment variable {TRUSTED_ENVIRONMENT_VARIABLE}"
        )
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_={target}: no such class or function ({error})") from error
    if not callable(found):
        raise ConfigError(f"{key}._target_={target}: no such class or function (it is a {type(found).__name__})")
    return typing.cast(Callable[..., Any], found)


def check(node: Any, key: str = "") -> None:
    """Checks every constructor call in ``node`` (plain resolved values) against the constructor's signature.

    Raises:
        ConfigError: one line naming the first wrong key, its value, and what is accepted.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            constructor = locate(str(node["_target_"]), key)
            check_arguments(node, constructor, key, partial=bool(node.get("_partial_", False)))
        for name, value in node.items():
            check(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for position, value in enumerate(node):
            check(value, f"{key}[{position}]")


def check_arguments(
    node: Mapping[str, Any], constructor: Callable[..., Any], key: str, *, partial: bool = False
) -> None:
    """Checks the keys and values of ``node`` against the signature of ``constructor``; raises :class:`ConfigError`."""
    prefix = f"{key}." if key else ""
    function = constructor.__init__ if inspect.isclass(constructor) else constructor
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = inspect.signature(constructor).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name, value in node.items():
        if name.startswith("_") and name.endswith("_"):
            continue
        if name not in parameters:
            if not open_ended:
                known = ", ".join(parameters)
                raise ConfigError(f"{prefix}{name}: unknown key.{nearest(name, parameters)} Accepted: {known}")
            continue
        if name in hints and not conforms(value, hints[name]):
            raise ConfigError(f"{prefix}{name}={_shown(value)}: expected {describe(hints[name])}")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and not partial and name not in node:
            raise ConfigError(f"{prefix}{name}: missing; expected {describe(hints.get(name, Any))}")


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def conforms(value: Any, hint: Any) -> bool:
    """Whether the plain value ``value`` may be passed where the annotation ``hint`` stands."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        inner, *extras = arguments
        ranges = [extra for extra in extras if hasattr(extra, "accepts")]
        return conforms(value, inner) and (value is None or all(_in_range(value, limit) for limit in ranges))
    if origin in (typing.Union, types.UnionType):
        return any(conforms(value, choice) for choice in arguments)
    if origin is Literal:
        return value in arguments and type(value) in {type(a) for a in arguments}
    if hint in (None, type(None)):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint in (str, Path):
        return isinstance(value, str)
    if (origin or hint) in (list, tuple, collections.abc.Sequence):
        return _conforms_sequence(value, origin, arguments)
    if (origin or hint) in (dict, collections.abc.Mapping):
        return isinstance(value, Mapping) and "_target_" not in value
    if hint is Any:
        return True
    return isinstance(value, Mapping) and "_target_" in value  # any other class: built from a node of its own


def _in_range(value: Any, limit: Any) -> bool:
    values = value if isinstance(value, (list, tuple)) else [value]
    return all(limit.accepts(v) for v in values)


def _conforms_sequence(value: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    if origin is tuple and Ellipsis not in arguments:
        return len(value) == len(arguments) and all(map(conforms, value, arguments))
    return not arguments or all(conforms(item, arguments[0]) for item in value)


def describe(hint: Any) -> str:
    """The annotation ``hint`` in words: ``an integer >= 1 or null``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        limits = " ".join(str(extra) for extra in arguments[1:] if hasattr(extra, "accepts"))
        return f"{describe(arguments[0])} {limits}".strip()
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(_shown(a) for a in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return f"a list of {len(arguments)} values, each {describe(arguments[0])}"
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list, each {describe(arguments[0])}"
    if origin in (dict, collections.abc.Mapping):
        return "a mapping"
    names = {
        int: "an integer",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        type(None): "null",
        list: "a list",
        tuple: "a list",
        dict: "a mapping",
        Any: "any value",
    }
    return names.get(hint) or f"a node with a _target_ that builds a {getattr(hint, '__name__', hint)}"


def build(node: Mapping[str, Any] | None, **extra: Any) -> Any:
    """The object that ``node`` (checked, plain values) describes, nested nodes included; ``extra`` arguments as given.

    Raises:
        UserError: as raised by the constructor.
    """
    if node is None:
        return None
    try:
        return hydra.utils.instantiate(
            OmegaConf.create(dict(node), flags={"allow_objects": True}),
            **extra,
            _convert_="all",
            _execution_whitelist_=trusted_targets(),
        )
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:  # hydra wraps what a constructor raises
            if isinstance(cause, UserError):
                raise cause from None
            cause = cause.__cause__
        raise
