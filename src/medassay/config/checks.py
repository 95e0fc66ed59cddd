"""Every constructor call of a configuration compared with the constructor's signature, before anything is loaded.

A constructor declares once, in its signature, which arguments it takes, of which type and range
(``lr: Annotated[float, Range(gt=0)]``).
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from medassay.config.moved import MOVED
from medassay.core.errors import ConfigError, suggest_nearest

TRUSTED_ENVIRONMENT_VARIABLE = "MEDASSAY_TRUSTED_PACKAGES"  # comma-separated packages whose classes a config may name


def list_trusted_targets() -> list[str]:
    """The patterns of constructors that a configuration may name; a run directory from elsewhere can call no others."""
    extra = [name.strip() for name in os.environ.get(TRUSTED_ENVIRONMENT_VARIABLE, "").split(",") if name.strip()]
    return [f"{package}.*" for package in ["medassay", *extra]]


def locate(target: str, key: str) -> Callable[..., Any]:
    """The constructor that ``target`` names, e.g. ``medassay.nets.block_cnn.BlockCNN``."""
    module_name, _, name = target.rpartition(".")
    if target in MOVED:  # of a node that Hydra builds itself, by the name that stands there
        raise ConfigError(f"{key}._target_={target}: it is called {MOVED[target]} now; change the yaml")
    packages = [pattern.removesuffix(".*") for pattern in list_trusted_targets()]
    if target.partition(".")[0] not in packages:
        raise ConfigError(
            f"{key}._target_={target}: constructors are taken from {', '.join(packages)} only; "
            f"name your own package in the environment variable {TRUSTED_ENVIRONMENT_VARIABLE}"
        )
    try:
        constructor = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{key}._target_={target}: no such class or function ({error})") from error
    if not callable(constructor):
        raise ConfigError(f"{key}._target_={target}: no such class or function (it is a {type(constructor).__name__})")
    return typing.cast(Callable[..., Any], constructor)


def check(node: Any, key: str = "") -> None:
    """Checks every constructor call in ``node`` (plain resolved values) against the constructor's signature.

    Raises:
        ConfigError: A key or value is wrong; the message, one line, names the first such key, its value and what is accepted.
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
    parameters = dict(inspect.signature(constructor).parameters)
    rest = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    options = _named_options(hints[rest]) if rest in hints else None
    if options is not None and rest is not None:  # **options: Unpack[…] takes these names and no others
        hints |= options
        del parameters[rest]
    open_ended = rest is not None and options is None
    names = [*parameters, *(options or ())]
    for name, value in node.items():
        if name.startswith("_") and name.endswith("_"):
            continue
        if name not in names:
            if not open_ended:
                raise ConfigError(
                    f"{prefix}{name}: unknown key.{suggest_nearest(name, names)} Accepted: {', '.join(names)}"
                )
            continue
        if name in hints and not conforms(value, hints[name]):
            advice = _advise_quotes(value, hints[name], f"{prefix}{name}")
            raise ConfigError(f"{prefix}{name}={_format_value(value)}: expected {describe(hints[name])}{advice}")
    for name, parameter in parameters.items():
        required = parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_KEYWORD,
            parameter.VAR_POSITIONAL,
        )
        if required and not partial and name not in node:
            raise ConfigError(f"{prefix}{name}: missing; expected {describe(hints.get(name, Any))}")


def takes_argument(target: str, name: str) -> bool:
    """Whether the constructor that ``target`` names has an argument ``name``."""
    constructor = locate(target, "")
    hints = typing.get_type_hints(constructor.__init__ if inspect.isclass(constructor) else constructor)
    parameters = inspect.signature(constructor).parameters.values()
    rest = next((hints.get(p.name) for p in parameters if p.kind is p.VAR_KEYWORD), None)
    return name in [*(p.name for p in parameters), *(_named_options(rest) or ())]


def _named_options(hint: Any) -> dict[str, Any] | None:
    """The names and annotations of ``Unpack[<TypedDict>]``, which all have defaults; None of any other annotation."""
    if typing.get_origin(hint) is not typing.Unpack:
        return None
    return typing.get_type_hints(typing.get_args(hint)[0], include_extras=True)


def _advise_quotes(value: Any, hint: Any, key: str) -> str:
    """How to write a list of texts that look like numbers; empty where that is not what is wrong."""
    if hint != list[str] or not isinstance(value, list) or not all(isinstance(v, (str, int, float)) for v in value):
        return ""
    texts = ",".join(f"'{_format_value(v)}'" for v in value)
    return f'; what looks like a number is quoted twice: {key}="[{texts}]"'


def _format_value(value: Any) -> str:
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
        return "one of " + ", ".join(_format_value(a) for a in arguments)
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
