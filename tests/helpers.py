"""What tests of several rooms share: command lines and scripts in this process, predictions to draw."""

from __future__ import annotations

import importlib.util
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

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


def flip_byte(path: Path) -> None:
    """Damages a zip archive as a failing disk does: one byte in the middle of its largest array, the size unchanged."""
    with zipfile.ZipFile(path) as archive:
        arrays = (member for member in archive.infolist() if not member.filename.endswith(".pkl"))
        largest = max(arrays, key=lambda member: member.compress_size)
    content = bytearray(path.read_bytes())
    name, extra = struct.unpack_from("<HH", content, largest.header_offset + 26)
    content[largest.header_offset + 30 + name + extra + largest.compress_size // 2] ^= 0x40
    path.write_bytes(content)


def load_script(name: str) -> ModuleType:
    """The module scripts/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def predictions(k: int, *, n: int = 300, strength: float = 2.0) -> tuple[Tensor, Tensor]:
    """Probabilities ``(n, k)``, better than chance by ``strength``, and labels ``(n,)``."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(k, (n,), generator=rng)
    return (torch.randn(n, k, generator=rng) + strength * F.one_hot(labels, k)).softmax(1), labels
