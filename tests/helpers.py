"""What tests of several rooms share: command lines and scripts in this process, predictions to draw."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
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


def load_script(name: str) -> ModuleType:
    """The module scripts/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
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
