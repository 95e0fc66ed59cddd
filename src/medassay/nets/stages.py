"""A net's layers grouped into stages, first to last: what transfer freezes, or slows down, together."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from torch import nn

NORMALISATIONS = (nn.BatchNorm2d, nn.GroupNorm, nn.InstanceNorm2d, nn.LayerNorm)


@runtime_checkable
class Staged(Protocol):
    """A net that knows its stages, and the last layer ``head``, which is in none of them."""

    head: nn.Module

    def list_stages(self) -> list[list[nn.Module]]:
        """The layers with weights between images and features, in order; each stage a list of layers."""


def group_layers(layers: Iterable[nn.Module]) -> list[list[nn.Module]]:
    """Stages of ``layers``: each layer with weights is one, and a normalisation belongs to the layer before it."""
    stages: list[list[nn.Module]] = []
    for layer in layers:
        if stages and isinstance(layer, NORMALISATIONS):
            stages[-1].append(layer)
        elif any(True for _ in layer.parameters()):
            stages.append([layer])
    return stages
