"""What tests of several rooms share: command lines and scripts in this process, predictions to draw, tiny images."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
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


def images_of(*values: int, channels: int = 1) -> Tensor:
    """Images ``(N, channels, 2, 3)`` that rise from ``values``, pixel by pixel."""
    first = torch.tensor(values)[:, None]
    return (first + torch.arange(6 * channels)).to(torch.uint8).reshape(len(values), channels, 2, 3)


def split_of(*values: int, labels: list[int] | None = None, channels: int = 1) -> LabelledImages:
    return LabelledImages(
        images_of(*values, channels=channels), torch.tensor(labels or [0] * len(values), dtype=torch.int64)
    )
