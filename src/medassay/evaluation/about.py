"""What was evaluated, by what command, and what a reader must know of it before any number."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medassay import config as configuration
from medassay.config.command_line import parse, quote_value
from medassay.core.errors import ConfigError
from medassay.data.duplicates import describe_duplicates
from medassay.data.sources import GeneratedSamples
from medassay.reporting.numbers import DASH
from medassay.runs.run import Run


@dataclass(frozen=True)
class About:
    """What was evaluated.

    Attributes:
        name: Name of the run's directory, or of the samples.
        model: Name of the model; None for images from elsewhere.
        seed: Seed of the run.
        data: Provenance of the images judged, or of those that the run was made with where none of its own were judged.
        generated: Whether the model learnt from generated images.
        classes: Names, by label.
        weights: The epoch of the weights and what it was chosen by.
        start: Where the net's first weights were from and what they had been trained on; None for random ones.
        given: Whether the weights were written down, and nothing was learnt.
    """

    name: str
    model: str | None
    seed: int | None
    data: dict[str, Any]
    generated: bool
    classes: list[str]
    weights: dict[str, Any]
    start: tuple[str, str] | None = None
    given: bool = False


def describe_run(run: Run, split: str | None) -> About:
    """What is known of ``run``, judged on ``split`` (None: on none of its own images, so that these need not be read)."""
    trained = run.directory.metrics()
    generated = isinstance(run.data.source, GeneratedSamples)
    transfer = run.directory.record().get("transfer")
    recorded = run.directory.record().get("data") or {"name": str(run.data.name)}
    duplicates = {
        key: value for key, value in recorded.items() if key == "duplicates"
    }  # of the run, whatever is judged
    return About(
        name=run.directory.path.resolve().name,
        model=run.config["recipe"]["name"],
        seed=run.config["seed"],
        data=recorded if split is None else {**run.data.data_of(split).provenance(), **duplicates},
        generated=generated,
        classes=run.data.classes,
        weights={"epoch": trained.get("best_epoch"), "chosen_by": trained.get("chosen_by")}
        if run.checkpoint == "best"
        else {"epoch": run.epoch, "chosen_by": f"checkpoint={run.checkpoint}"},
        start=(transfer["weights"], transfer.get("data", "ImageNet")) if transfer else None,
        given=bool(run.config.get("model", {}).get("frozen")),
    )


def list_warnings(about: About, record: Mapping[str, Any], split: str | None) -> list[str]:
    """What a reader must know of the run and its data; ``split`` is None where none of the run's own images were judged."""
    source = about.data.get("real", about.data)
    origin = None
    if split is not None:
        origin = describe_origin(source)
    elif not about.given:
        origin = _describe_origin_of_learning(source)
    warnings = [origin, describe_duplicates(about.data)]
    if about.start is not None:
        warnings.append(
            f"The net did not start from random weights but from {about.start[0]}, trained on {about.start[1]}."
        )
    if split is not None and {"data.file", "data.path"} & set(record.get("overrides") or ()):
        warnings.append("The data were named anew for this evaluation and may differ from the run's own.")
    if split is not None and "data.groups" in (record.get("overrides") or ()):
        warnings.append("The groups were named for this evaluation: the training may have had others, or none.")
    if about.generated and split is not None:
        judged = "the validation images are generated too" if split == "val" else "the test images are real"
        warnings.append(f"The model learnt from generated images only; {judged}.")
    if (checkpoint := record.get("checkpoint", "best")) != "best":
        epoch = "" if about.weights["epoch"] is None else f" (epoch {about.weights['epoch']})"
        warnings.append(f"The weights are those of checkpoint={checkpoint}{epoch}, not the ones that training chose.")
    drawn = {key: value for key, value in (record.get("changes") or {}).items() if key.startswith("model.")}
    if drawn:
        settings = ", ".join(f"{key}={value}" for key, value in drawn.items())
        warnings.append(f"The images were drawn with {settings}, not as the run was trained.")
    status = record.get("status", "done")
    if status != "done":
        warnings.append(f"The run's status is {status}: the model was judged before its training was finished.")
    return [text for text in warnings if text is not None]


def _describe_origin_of_learning(provenance: Mapping[str, Any]) -> str | None:
    """What a reader must know of the images that a model learnt from, where it speaks of others."""
    if provenance.get("phantom"):
        of = provenance.get("of", "images")
        return f"The model learnt from rendered phantoms, not real {of}: what it says of real {of} means nothing."
    return None


def describe_origin(provenance: Mapping[str, Any]) -> str | None:
    """What a reader must know of the images that numbers were measured on; None of a published file."""
    if provenance.get("phantom"):
        of = provenance.get("of", "images")
        return f"The data are rendered phantoms, not real {of}: the numbers say nothing about patients."
    parts = []
    if not provenance.get("published"):
        md5 = provenance.get("md5", "unknown")
        parts.append(f"The data are not a published file (md5 {md5}): do not compare with published results.")
    if (side := provenance.get("resized_from")) is not None:
        parts.append(f"The images were resized from {side} pixels a side: do not compare with results at other sizes.")
    return " ".join(parts) or None


def list_data_warnings(provenance: Mapping[str, Any]) -> list[str]:
    """What a reader must know of a run's recorded data; for tables of many runs."""
    return [text for text in (describe_origin(provenance), describe_duplicates(provenance)) if text is not None]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested dictionaries as ``name: value``, for a reader."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}: ")
        else:
            shown = DASH if value is None else ("no", "yes")[value] if isinstance(value, bool) else value
            yield f"{prefix}{key}".replace("_", " "), shown


# --- the command -----------------------------------------------------------------------------------------------------


def format_command(record: Mapping[str, Any]) -> str | None:
    """What to type to repeat the evaluation, every setting named; None where no command is recorded."""
    what = "run" if "run" in record else "samples"
    if what not in record or "protocol" not in record:
        return None
    overrides, protocol = record.get("overrides") or {}, record["protocol"]
    checkpoint, option = record.get("checkpoint", "best"), _find_option(protocol)
    words = [
        _format_argument(what, record[what]),
        *(
            overrides
            if isinstance(overrides, list)
            else (_format_argument(key, value) for key, value in overrides.items())
        ),
        *(["resize=true"] if record.get("resize") else []),
        *([_format_argument("checkpoint", checkpoint)] if checkpoint != "best" else []),
        f"protocol={option}",
        *(
            _format_argument(f"protocol.{key}", value)
            for key, value in _list_settings(protocol)
            if key != "name" or value != option
        ),
    ]
    return "python evaluate.py " + " ".join(map(shlex.quote, words))


def _find_option(protocol: Mapping[str, Any]) -> str | None:
    """What ``protocol=`` takes: of a protocol of ours the name of its class, which a setting may have replaced."""
    target, name = str(protocol.get("_target_", "")), protocol.get("name")
    ours = configuration.locate(target, "protocol") if target.startswith("medassay.") else None
    option: str | None = getattr(ours, "name", None) or name
    return option


def _list_settings(node: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a node, those of nodes inside it by dotted keys; null where that is the default is left out."""
    target = node.get("_target_")  # a table of values has none
    known = inspect.signature(configuration.locate(target, "protocol")).parameters if target else {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", one) for name, one in _list_settings(value))
        elif not key.startswith("_") and (value is not None or (key in known and known[key].default is not None)):
            yield key, value


def _format_argument(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it."""
    return f"{key}={_format_value(value)}"


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_format_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_format_value(one)}' for key, one in value.items())}}}"
    if value is None:
        return "null"
    text = str(value)
    return text if isinstance(value, (int, float)) or _is_read_back(text) else quote_value(text)


def _is_read_back(text: str) -> bool:
    """Whether Hydra takes ``text`` without quotes for this text, and not for a number, a truth value or null."""
    if not re.fullmatch(r"[\w./:+-]+", text, re.ASCII):
        return False
    try:
        (override,) = parse([f"key=[{text}]"])
    except ConfigError:
        return False
    read = override.value()
    return isinstance(read, list) and read == [text]
