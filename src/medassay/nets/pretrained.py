"""Weights of one net put into another: what fits is taken, the first convolution adapted, the rest left as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medassay.nets.stages import NORMALISATIONS

Weights = Mapping[str, Tensor]
LAST = ("head.", "auxiliaries.")  # of names: layers that tell classes apart
# of ImageNet's images in [0, 1], by channel: what torchvision's nets are given images normalised by
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN, STD = 0.5, 0.5  # what our nets normalise by; see medassay.nets.layers.Normalise


@dataclass(frozen=True)
class Match:
    """Which layers of a net got other weights; dotted names of the layers.

    Attributes:
        matched: Layers that were taken as they are.
        reshaped: Layers that were adapted to another number of image channels.
        new: Layers that keep the weights they had: the other net has none of that name and shape.
        unused: Layers of the other net that this one has no place for.
    """

    matched: list[str]
    reshaped: list[str]
    new: list[str]
    unused: list[str]

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} layers taken"]
        for names, what in ((self.reshaped, "adapted to the image channels"), (self.new, "new")):
            if names:
                parts.append(f"{len(names)} {what} ({_shorten(names)})")
        if self.unused:
            parts.append(f"{len(self.unused)} of the other net not used ({_shorten(self.unused)})")
        return ", ".join(parts)


def take_weights(net: nn.Module, weights: Weights, *, keep_head: bool) -> Match:
    """Puts the ``weights`` that fit by name and shape into ``net``.

    Args:
        net: The net that gets them.
        weights: Weights and buffers by the names that ``net`` gives its own.
        keep_head: Whether the last layer's are taken, too, and auxiliary classifiers': where both tell the same classes apart.
    """
    own = net.state_dict()
    stem = next((name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)), None)
    taken: dict[str, Tensor] = {}
    adapted: set[str] = set()
    for name, value in weights.items():
        if name not in own or (name.startswith(LAST) and not keep_head):
            continue
        if value.shape == own[name].shape:
            taken[name] = value
        elif name == f"{stem}.weight" and (fitting := adapt_channels(value, own[name])) is not None:
            taken[name] = fitting
            adapted.add(_layer(name))
    layers = list(dict.fromkeys(map(_layer, own)))
    complete = {layer for layer in layers if all(name in taken for name in own if _layer(name) == layer)}
    complete -= _list_orphans(net, complete)
    net.load_state_dict({name: value for name, value in taken.items() if _layer(name) in complete}, strict=False)
    return Match(
        [layer for layer in layers if layer in complete - adapted],
        [layer for layer in layers if layer in complete & adapted],
        [layer for layer in layers if layer not in complete],
        list(dict.fromkeys(layer for name in weights if (layer := _layer(name)) not in complete)),
    )


def _list_orphans(net: nn.Module, complete: set[str]) -> set[str]:
    """Normalisations after a layer that is not in ``complete``: their statistics are those of other values."""
    orphans, before = set(), None
    for name, module in net.named_modules():
        if isinstance(module, NORMALISATIONS):
            if before is not None and before not in complete:
                orphans.add(name)
        elif any(True for _ in module.parameters(recurse=False)):
            before = name
    return orphans


def adapt_channels(kernel: Tensor, like: Tensor) -> Tensor | None:
    """A first convolution's ``kernel (M, c, h, w)`` for 3 channels instead of 1, or 1 instead of 3; None if that does not fit.

    The answer to a grey image stays the same, with its values in one channel or copied into three.
    """
    sizes = (kernel.shape[1], like.shape[1])
    if kernel.shape[0] != like.shape[0] or kernel.shape[2:] != like.shape[2:] or sizes not in ((1, 3), (3, 1)):
        return None
    return kernel.sum(1, keepdim=True) if sizes == (3, 1) else kernel.expand(-1, 3, -1, -1) / 3


def adapt_normalisation(weights: Weights, stem: str) -> dict[str, Tensor]:
    """torchvision's ``weights`` for images normalised our way, by rewriting the first convolution ``stem``.

    With x = MEAN + STD y, (x - m) / s = (STD / s) y + (MEAN - m) / s: the factor goes into the kernel; the rest, the same
    everywhere but at the border, into the bias, or out of the running mean that is subtracted next.
    """
    kernel = weights[f"{stem}.weight"].double()
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    constant = (kernel * (MEAN - mean) / std).sum((1, 2, 3))
    changed = {**weights, f"{stem}.weight": (kernel * STD / std).to(weights[f"{stem}.weight"])}
    if (bias := f"{stem}.bias") in weights:
        changed[bias] = (weights[bias].double() + constant).to(weights[bias])
    else:
        name = next(name for name in weights if name.endswith("running_mean"))
        changed[name] = (weights[name].double() - constant).to(weights[name])
    return changed


def _layer(name: str) -> str:
    """The dotted name of the layer that a weight belongs to."""
    return name.rpartition(".")[0]


def _shorten(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])}, …, {names[-1]}"
