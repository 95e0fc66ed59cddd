"""What the pages of evaluations share: the command to repeat it, warnings, nested values as text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medassay.reporting import html


def command(record: Mapping[str, Any]) -> str | None:
    """What to type to repeat the evaluation, every setting named; None where no command is recorded."""
    what = "run" if "run" in record else "samples"
    if what not in record or "protocol" not in record:
        return None
    protocol, given = record["protocol"], record.get("overrides") or {}
    settings = {key: value for key, value in protocol.items() if key not in ("_target_", "name")}
    words = [
        _argument(what, record[what]),
        *(given if isinstance(given, list) else (_argument(key, value) for key, value in given.items())),
        *(["resize=true"] if record.get("resize") else []),
        f"protocol={protocol.get('name')}",
        *(_argument(f"protocol.{key}", value) for key, value in settings.items() if value is not None),
    ]
    return "python evaluate.py " + " ".join(map(shlex.quote, words))


def _argument(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it."""
    return f"{key}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_value, value))}]"
    text = "null" if value is None else str(value)
    return text if re.fullmatch(r"[\w./:+-]*", text) else "'" + text.replace("'", "\\'") + "'"


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as ``name: value``."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}: ")
        else:
            said = html.DASH if value is None else ("no", "yes")[value] if isinstance(value, bool) else value
            yield f"{prefix}{key}".replace("_", " "), said


def origin(provenance: Mapping[str, Any]) -> str | None:
    """What a reader must know of the images that numbers were measured on; None of a published file."""
    if provenance.get("phantom"):
        return "The data are rendered phantoms, not real images: the numbers say nothing about patients."
    if not provenance.get("published"):
        md5 = provenance.get("md5", "unknown")
        return f"The data are not a published file (md5 {md5}): do not compare with published results."
    return None


def unfinished(record: Mapping[str, Any]) -> str | None:
    """What a reader must know of a run that is not done."""
    status = record.get("status", "done")
    return None if status == "done" else f"The run's status is {status}: the model was judged before it was finished."


def said(*warnings: str | None) -> Sequence[str]:
    """The warnings that there are."""
    return [text for text in warnings if text is not None]
