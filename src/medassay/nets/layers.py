"""Layers that several nets share, and the choices of activation and normalisation by name."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Activation = Literal["leaky_relu", "relu", "elu", "gelu", "silu"]
Normalisation = Literal["batch", "group", "instance", "none"]


class Normalise(nn.Module):
    """``(x - mean) / std`` with fixed numbers: a classifier's first layer, so that all its users serve images in [0, 1]."""

    def __init__(self, mean: float = 0.5, std: float = 0.5) -> None:
        super().__init__()
        self.mean = mean
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"


def make_activation(name: Activation, slope: float = 0.01) -> nn.Module:
    """The activation called ``name``; ``slope`` is that of the leaky ReLU's negative side."""
    if name == "leaky_relu":
        return nn.LeakyReLU(slope, inplace=True)
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU, "gelu": nn.GELU, "silu": nn.SiLU}
    return kinds[name]()


def make_normalisation(name: Normalisation, channels: int) -> nn.Module:
    """The normalisation called ``name`` for ``channels`` feature maps; groups are of 4 maps where that divides, else of 1."""
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "group":
        return nn.GroupNorm(channels // 4 if channels % 4 == 0 else channels, channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    return nn.Identity()


class SqueezeExcite(nn.Module):
    """Weighs feature maps by what they hold in all: ``(B, C, H, W) -> (B, C, H, W)`` (Hu et al. 2018, arXiv:1709.01507).

    The mean of each map, C / r units with ReLU, C units with a sigmoid: the factors of the maps.

    Args:
        channels: Number of feature maps, C.
        reduction: Factor of the reduction, r; at least one unit is left.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.reduce, self.restore = nn.Linear(channels, squeezed), nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        factors: Tensor = self.restore(self.reduce(x.mean((2, 3))).relu()).sigmoid()
        return x * factors[:, :, None, None]
