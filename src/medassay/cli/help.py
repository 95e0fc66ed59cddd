"""What ``--help`` shows: what the command is for, examples, and the keys with their comments from ``conf/``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medassay import config as configuration
from medassay.config.command_line import list_override_texts
from medassay.runs.compose import choose_samples, register_resolvers

HELP = {"--help", "-h"}
PURPOSE = {
    "train": "Trains a model on medical images: a classifier, or a generator of images. Each run gets a directory of its own\n"
    "with weights, numbers and pictures; the epoch is chosen on validation images, the test images are looked at once.",
    "evaluate": "Judges finished runs, each protocol in its own way, and leaves a report.html in the run's directory.",
}
EXAMPLES = {
    "train": [
        ("data=chest_phantom", "the pneumonia CNN on rendered images: no file, no network"),
        ("model=cgan trainer.gpus=1", "a conditional GAN on BloodMNIST, on one GPU"),
        ("data=folder data.path=<directory>", "your own images: train/val/test/<class>/*.png, or <class>/*.png"),
        ("-m seed=0,1,2 model.optimizer.lr=1e-3,3e-4", "a sweep: a run for each combination, and one summary"),
        ("resume=outputs/pneumonia_cnn/<run>", "goes on with an interrupted run"),
    ],
    "evaluate": [
        ("run=outputs/pneumonia_cnn/<run>", "test results with intervals, threshold, calibration, mistakes"),
        ("run=outputs/pneumonia_cnn/<run> protocol=gradcam", "where the classifier looks, and which method to trust"),
        ("run=outputs/pneumonia_cnn/<run> protocol=predict protocol.images=<png, folder or npz>", "any images"),
        ("run=outputs/cgan/<run>", "the assay: are the generator's images any good?"),
        ("samples=<npz or folder> data=bloodmnist", "the assay of images made by any tool"),
    ],
}
GROUPS = {
    "train": (
        *("data", "model", "trainer", "callbacks", "logger", "experiment", "debug", "search"),
        *("model/net", "model/optimizer", "model/scheduler", "hydra/launcher", "hydra/sweeper"),
    ),
    "evaluate": ("protocol",),
}
OTHER = {"train": "model=cgan", "evaluate": "protocol=gradcam"}  # a choice that shows other keys
FLAGS = [
    ("-m", "a sweep: a list a,b,c is one run for each value; docs/sweeps.md"),
    ("--cfg job", "the configuration that a command line gives, as yaml"),
    ("--config-dir <folder>", "yamls of your own, in <folder>/<group>/<name>.yaml"),
    ("-sc install=bash", "completion of keys and values, for eval; docs/commands.md"),
]
WIDEST = 48  # characters before a comment
_LINE = re.compile(r"(?P<indent> *)(?P<key>[\w.]+):(?P<value>(?: .*?)?)(?:\s+# *(?P<comment>.*))?$")


def name_program(command: str) -> str:
    """What the user types to run ``train`` or ``evaluate``: the console script where that is what runs, else the file."""
    return f"medassay-{command}" if Path(sys.argv[0]).name.startswith("medassay-") else f"python {command}.py"


def describe_command(command: str, argv: Sequence[str]) -> str:
    """The help of ``train`` or ``evaluate``, with the keys of the groups that ``argv`` chooses.

    Raises:
        UserError: An argument is wrong.
    """
    register_resolvers()
    flags = {*HELP, "-m", "--multirun"}
    overrides = list_override_texts([argument for argument in argv if argument not in flags])
    cfg = configuration.compose(command, choose_samples(overrides) if command == "train" else overrides)
    name = name_program(command)
    examples = [f"{name} {arguments}" for arguments, _ in EXAMPLES[command]]
    lines = [PURPOSE[command], "", f"usage: {name} [group=name …] [key=value …]", "", "examples:"]
    for example, (_, purpose) in zip(examples, EXAMPLES[command], strict=True):
        lines += [f"  {example}", f"      {purpose}"]
    lines += ["", "groups, chosen by group=name:"]
    lines += _align((f"{group}=", _options(group)) for group in GROUPS[command])
    if command == "train":
        lines += ["", "flags:", *_align(FLAGS)]
    lines += [
        "",
        f"keys, changed by key=value (of what is chosen here; `{name} --help {OTHER[command]}` shows others):",
    ]
    return "\n".join([*lines, *_align(list_keys(command, cfg), comment="# ")])


def _options(group: str) -> str:
    return " | ".join(sorted(file.stem for file in (configuration.find_conf_directory() / group).glob("*.yaml")))


def _align(rows: Any, comment: str = "") -> list[str]:
    """Pairs of texts as two columns."""
    rows = list(rows)
    width = min(WIDEST, max(len(first) for first, _ in rows))
    return [f"  {first:<{width}}  {comment + said if said else ''}".rstrip() for first, said in rows]


# --- keys and their comments -----------------------------------------------------------------------------------------


def list_keys(command: str, cfg: DictConfig) -> Iterator[tuple[str, str]]:
    """``key=value`` of every key of ``cfg`` but Hydra's, and its comment; those of the command itself first."""
    conf = configuration.find_conf_directory()
    comments = dict(_read_comments(conf / f"{command}.yaml", ""))
    choices = {str(group): name for group, name in cfg.hydra.runtime.choices.items() if name is not None}
    # Of a net, then of the model that changes it; a model, last, may say why it changes its data
    for group in sorted(choices, key=lambda group: (-group.count("/"), group == "model")):
        folder, _, package = group.partition("@")
        file = conf / folder / f"{choices[group]}.yaml"
        if not folder.startswith("hydra/") and file.is_file():
            own = _read_comments(file, package or folder.replace("/", "."))
            comments |= {key: comment for key, comment in own if comment}
    values = OmegaConf.to_container(configuration.drop_hydra(cfg), resolve=False)
    explained: set[str] = set()
    for key, value in sorted(_flatten(values), key=lambda pair: "." in pair[0]):
        parts = key.split(".")
        for node in (".".join(parts[:depth]) for depth in range(1, len(parts))):
            if comments.get(node) and node not in explained:
                explained.add(node)
                yield f"{node}.…", comments[node]
        yield f"{key}={_format(value)}", comments.get(key, "")


def _read_comments(file: Path, package: str) -> Iterator[tuple[str, str]]:
    """The dotted keys of a yaml of ours, those of files that it takes as its own first, and the comment behind each."""
    text = file.read_text(encoding="utf-8")
    prefix = [] if "@package _global_" in text or not package else [package]
    for base in re.findall(r"^  - (\S+)@_here_$", text, flags=re.MULTILINE):
        yield from _read_comments(file.parent / f"{base}.yaml", package)
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            indent = len(match["indent"])
            path = [*((depth, key) for depth, key in path if depth < indent), (indent, match["key"])]
            yield ".".join([*prefix, *(key for _, key in path)]), match["comment"] or ""


def _flatten(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict) or not node:
        yield key, node
        return
    if set(node) == {"_target_"}:  # a constructor without settings
        yield key, "…"
        return
    for name, value in node.items():
        if name != "_target_":
            yield from _flatten(value, f"{key}.{name}" if key else str(name))


def _format(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
