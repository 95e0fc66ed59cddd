"""What tests of several rooms share: command lines and scripts in this process, predictions to draw, tiny images."""

from __future__ import annotations

import errno
import importlib.util
import io
import os
import struct
import sys
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from medassay.core.types import LabelledImages

SCRIPTS = Path(__file__).parents[1] / "scripts"
TWO = ["normal", "pneumonia"]
EIGHT = [
    "basophil",
    "eosinophil",
    "erythroblast",
    "immature granulocyte",
    "lymphocyte",
    "monocyte",
    "neutrophil",
    "platelet",
]


class Result(NamedTuple):
    """What one command left."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


def assert_one_line(result: Result, *facts: str) -> None:
    assert result.code == 2, result
    assert result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err
    for fact in facts:
        assert fact in result.err


def close_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nobody see what lies below a folder, as without the permission to enter it; its listing can be read."""
    look = Path.stat

    def refuse(path: Path, **options: Any) -> os.stat_result:
        if folder in path.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)


def flip_byte(path: Path) -> None:
    """Damages a zip archive as a failing disk does: one byte in the middle of its largest array, the size unchanged."""
    with zipfile.ZipFile(path) as archive:
        arrays = (member for member in archive.infolist() if not member.filename.endswith(".pkl"))
        largest = max(arrays, key=lambda member: member.compress_size)
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    content[largest.header_offset + 30 + name + extra + largest.compress_size // 2] ^= 0x40
    path.write_bytes(content)


def write_lying_npz(path: Path, key: str) -> None:
    """An ``.npz`` of one array whose header promises a million million images, and which holds four bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**12, 28, 28)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{key}.npy", header.getvalue() + b"four")
        for other in ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"):
            if other != key:
                content = io.BytesIO()
                np.save(content, np.zeros((4, 28, 28) if "images" in other else (4, 1), dtype=np.uint8))
                archive.writestr(f"{other}.npy", content.getvalue())


def load_script(name: str) -> ModuleType:
    """The module scripts/<name>.py."""
    spec = importlib.util.spec_from_file_location(f"scripts_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def assert_ticks_apart(figure: Figure, gap: float = 3.0) -> None:
    """No label of a horizontal axis is nearer than ``gap`` dots to the next."""
    figure.canvas.draw()
    for axes in figure.axes:
        boxes = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
        boxes.sort(key=lambda box: box.x0)
        assert all(right.x0 - left.x1 >= gap for left, right in pairwise(boxes)), axes.get_xticklabels()


def predictions(k: int, *, n: int = 300, strength: float = 2.0) -> tuple[Tensor, Tensor]:
    """Probabilities ``(n, k)``, better than chance by ``strength``, and labels ``(n,)``."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n,), generator=rng)
    return (torch.randn(n, k, generator=rng) + strength * F.one_hot(labels, k)).softmax(1), labels


def images_of(*values: int, channels: int = 1) -> Tensor:
    """Images ``(N, channels, 2, 3)`` that rise from ``values``, pixel by pixel."""
    first = torch.tensor(values)[:, None]
    return (first + torch.arange(6 * channels)).to(torch.uint8).reshape(len(values), channels, 2, 3)


def split_of(*values: int, labels: list[int] | None = None, channels: int = 1) -> LabelledImages:
    return LabelledImages(
        images_of(*values, channels=channels), torch.tensor(labels or [0] * len(values), dtype=torch.int64)
    )


def make_run_config(seed: int, model: dict[str, Any], monitor: str = "val/auroc", mode: str = "max") -> dict[str, Any]:
    """What ``config.yaml`` of a run holds, as far as the files of a sweep are made from it."""
    return {
        "seed": seed,
        "model": {"_target_": "x", **model},
        "recipe": {"name": "cnn", "monitor": monitor, "mode": mode},
        "data": {"_target_": "x", "name": "chest_phantom", "seed": seed},
        "trainer": {"_target_": "x"},
        "callbacks": {},
    }


def list_differences(first: Any, second: Any, where: str = "") -> list[str]:
    """The paths at which two nested structures of tensors and plain values are not equal bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [where]
    if type(first) is not type(second):
        return [f"{where}: {type(first).__name__} and {type(second).__name__}"]
    if isinstance(first, dict):
        if first.keys() != second.keys():
            return [f"{where}: keys {sorted(map(str, first.keys() ^ second.keys()))}"]
        return [d for key in first for d in list_differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [f"{where}: lengths"]
        return [
            d
            for i, (a, b) in enumerate(zip(first, second, strict=True))
            for d in list_differences(a, b, f"{where}/{i}")
        ]
    return [] if first == second else [f"{where}: {first} and {second}"]


# --- resuming --------------------------------------------------------------------------------------------------------
