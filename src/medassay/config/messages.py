"""Errors of Hydra, OmegaConf and the operating system as the one line that a user needs."""

from __future__ import annotations

import re
from io import TextIOWrapper
from pathlib import Path
from traceback import walk_tb
from typing import Any

from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medassay.config.composition import compose_with_hydra
from medassay.config.moved import find_present_key
from medassay.core.errors import UserError, output_error, suggest_nearest, system_error

ELSEWHERE = {  # keys of other programs' command lines, and what does that here
    **dict.fromkeys(
        ("ckpt_path", "checkpoint", "ckpt", "resume_from", "resume_from_checkpoint", "weights"),
        "a training goes on with: python train.py resume=<run directory>; a finished run is evaluated with: "
        "python evaluate.py run=<run directory>",
    ),
    "train": "train.py always trains; a finished run is evaluated with: python evaluate.py run=<run directory>",
    "validate": "validation data choose the epoch in every training; leave it out",
    "hparams_search": "a ready sweep is chosen by search=<name>, with -m",
    **dict.fromkeys(
        ("task_name", "output_dir", "save_dir"), "runs go to outputs=<directory>, one to hydra.run.dir=<directory>"
    ),
}


def explain_foreign_key(key: str) -> str | None:
    """What to say of a key of other programs' command lines; None of any other."""
    return f"{key}: there is no such key; {ELSEWHERE[key]}" if key in ELSEWHERE else None


def explain(error: BaseException) -> str | None:
    """``error`` as the one line a user needs, or None if it is none of the user's making."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _explain_missing(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return _explain_composition(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which this module need not import
        return (
            "the GPU's memory is full: lower data.batch_size or the model's width, or use trainer.precision=bf16-mixed"
        )
    if type(error).__name__ == "ProcessExitedException":
        return "one of the training processes was ended from outside; continue with resume=<run directory>"
    if isinstance(error, ValueError) and isinstance(error.__cause__, OSError):  # of logging: its file cannot be opened
        return str(output_error(error.__cause__, error.__cause__.filename or "the output"))
    if isinstance(error, OSError):
        return str(system_error(error))
    if type(error).__module__.partition(".")[0] == "yaml":  # OmegaConf's parser, which is no dependency of ours
        return _explain_yaml(error)
    if isinstance(error, UnicodeDecodeError) and (file := _find_open_yaml(error)) is not None:
        read, *_ = file.read_bytes().decode(errors="replace").partition("\N{REPLACEMENT CHARACTER}")
        return f"{file}, line {read.count(chr(10)) + 1}: this is no text in UTF-8: save the file as UTF-8"
    return None


def explain_unreadable(argument: str) -> str:
    """What to say of an override that Hydra cannot parse: how to quote it."""
    key, separator, value = argument.partition("=")
    if not separator:
        return f"'{argument}': expected key=value"
    quoted = value.replace("'", "\\'")
    return (
        f"cannot read '{argument}': put a value with = , spaces, commas or brackets in quotes, and for the shell once more: "
        f"\"{key}='{quoted}'\""
    )


def _explain_yaml(error: BaseException) -> str:
    """A fault in the text of a yaml: where it was noticed, and where what it is in begins."""
    mark, begin = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    if mark is None:  # of a character that no yaml may hold
        return f"{getattr(error, 'name', 'a yaml')}: no valid YAML ({str(error).splitlines()[0]}): correct it"
    problem = getattr(error, "problem", None) or "it cannot be read"
    if begin is not None and begin.line < mark.line:
        problem += f", {getattr(error, 'context', '')} that begins in line {begin.line + 1}"
    return f"{mark.name}, line {mark.line + 1}: no valid YAML ({problem}): correct it"


def _find_open_yaml(error: BaseException) -> Path | None:
    """The yaml that was being read when ``error`` was raised; an error of its encoding does not name it."""
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, TextIOWrapper) and str(value.name).endswith(".yaml"):
                return Path(value.name)
    return None


def _explain_missing(error: MissingConfigException) -> str:
    text = str(error)
    match = re.search(r"Could not find '(.+)'", text)
    group, _, name = (match.group(1) if match else str(error.missing_cfg_file)).rpartition("/")
    options = list(error.options or re.findall(r"^\t(?!provider)(\S+)$", text, re.MULTILINE))
    return f"{group}={name}: there is no such choice.{suggest_nearest(name, options)} Accepted: {', '.join(sorted(options))}"


def _explain_composition(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = error.__cause__
    match = re.match(r"Could not override '(.+)'", lines[0]) if lines else None
    if match:
        key = match.group(1)
        if (now := find_present_key(key)) is not None:
            return f"{key}: it is called {now} now"
        if (elsewhere := explain_foreign_key(key)) is not None:
            return elsewhere
        if key.startswith("data.generator"):
            return f"{key}: it belongs to data=samples, a generator's images: give that, too"
        hint = _suggest_key(key, _known_keys())
        if not hint and cause is not None and (suggested := re.search(r"Did you mean: '(.+?)'", str(cause))):
            hint = f" Did you mean '{key.rpartition('.')[0]}.{suggested.group(1)}'?".replace("'.", "'")
        if cause is not None and "is not in struct" not in str(cause):
            return f"{key}: {str(cause).splitlines()[0]}"
        return f"{key}: unknown key.{hint} See all with --cfg job"
    detail = f" ({str(cause).splitlines()[0]})" if cause is not None and str(cause) else ""
    key = re.search(r"full_key: (\S+)", f"{error} {cause}")
    return (f"{key.group(1)}: " if key else "") + " ".join(lines[:1]) + detail


def _suggest_key(key: str, known: list[str]) -> str:
    """The known key that ends in ``key``, where it is the only one, else the nearest in spelling.

    What a model recommends (``recipe.``) is followed by the keys that are to be set, and not suggested.
    """
    ending = [one for one in known if one.endswith(f".{key}") and not one.startswith("recipe.")]
    return f" Did you mean '{ending[0]}'?" if len(ending) == 1 else suggest_nearest(key, known)


def _known_keys() -> list[str]:
    """All keys and groups of the default configuration, dotted."""
    cfg = compose_with_hydra("train", [])
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for name in node:
            if name == "hydra":
                continue
            key = f"{prefix}{name}"
            keys.append(key)
            child = OmegaConf.to_container(node, resolve=False)
            if isinstance(child, dict) and isinstance(child[name], dict):
                walk(node[name], f"{key}.")

    walk(cfg, "")
    return keys
