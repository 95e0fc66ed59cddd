"""Results as frozen dataclasses, to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from medassay.core.errors import CheckpointError

Result = TypeVar("Result")

UNWRITTEN = {"written": False}  # metadata of a field that is drawn from and not kept


def to_json(value: Any) -> Any:
    """Plain values of a result: a dataclass by its fields, unless it has a ``to_json`` of its own.

    A field may be named otherwise in JSON by ``metadata={"name": …}``, or left out by ``metadata=UNWRITTEN``.
    """
    if hasattr(value, "to_json"):
        return to_json(value.to_json())
    if dataclasses.is_dataclass(value):
        fields = [field for field in dataclasses.fields(value) if field.metadata.get("written", True)]
        return {field.metadata.get("name", field.name): to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def from_json(kind: Any, value: Any) -> Any:
    """The result of type ``kind`` that :func:`to_json` wrote as ``value``; null where a number is expected is NaN.

    Raises:
        KeyError, TypeError, ValueError: ``value`` is no such result.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _first_fitting([one for one in arguments if one is not type(None)], value)
    if hasattr(kind, "from_json"):
        return kind.from_json(value)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return kind(**{name: _field(value, field, hint) for name, (field, hint) in _fields(kind).items()})
    if origin in (list, tuple):
        return origin(from_json(arguments[0], item) for item in value)
    if origin in (dict, Mapping):
        return {key: from_json(arguments[1], item) for key, item in value.items()}
    return math.nan if kind is float and value is None else value


def read_result(kind: type[Result], path: Path, advice: str, present: Mapping[str, Any] | None = None) -> Result:
    """The result of type ``kind`` in a JSON file that holds what :func:`to_json` gave.

    Args:
        kind: Type of the result, a dataclass.
        path: The file.
        advice: The next step where the file cannot be read; it ends the error's message.
        present: Values that are put in the place of the file's, by name.

    Raises:
        CheckpointError: The file cannot be read, or holds something else.
    """
    try:
        result: Result = from_json(kind, {**json.loads(path.read_text(encoding="utf-8")), **(present or {})})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}): {advice}") from error
    return result


def _first_fitting(kinds: Sequence[Any], value: Any) -> Any:
    """The value as the first of several types that it can be read as."""
    for kind in kinds[:-1]:
        with suppress(KeyError, TypeError, ValueError):
            return from_json(kind, value)
    return from_json(kinds[-1], value)


@cache
def _fields(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return {f.name: (f, hints[f.name]) for f in dataclasses.fields(kind) if f.metadata.get("written", True)}


def _field(values: Mapping[str, Any], field: dataclasses.Field[Any], hint: Any) -> Any:
    name = field.metadata.get("name", field.name)
    if name in values:
        return from_json(hint, values[name])
    if field.default is not dataclasses.MISSING:  # of a version that did not write it yet
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    raise KeyError(name)
