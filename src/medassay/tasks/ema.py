"""An exponential moving average of a net's weights, with warm-up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def compute_decay(updates: int, maximum: float = 0.999) -> float:
    """``min(maximum, (1 + t) / (10 + t))`` for the ``t``-th update from 0; without the warm-up a short run samples noise."""
    return min(maximum, (1 + updates) / (10 + updates))


def compute_decay_by_images(seen: int, step: int, half_life: float, ramp_up: float) -> float:
    """``0.5 ** (step / min(half_life, ramp_up * seen))``: a decay for any batch size (Karras et al. 2022).

    Args:
        seen: Number of training images before this step; at the first one the average is the net's own weights.
        step: Number of images of this step.
        half_life: Number of images after which weights count half.
        ramp_up: Largest half-life as a share of the images seen, so that the average forgets how training started.
    """
    horizon = min(half_life, ramp_up * seen)
    return float(0.5 ** (step / horizon)) if horizon > 0 else 0.0


class EMA(nn.Module):
    """A copy of ``net`` whose weights follow it: ``ema <- decay * ema + (1 - decay) * net`` (Polyak & Juditsky 1992).

    Args:
        net: The net to follow.
        maximum: The decay after the warm-up.
        with_buffers: Whether buffers follow too: running statistics are averaged like weights, counts copied. Without, batch
            normalisation waits for :meth:`refresh_batch_norm`.
    """

    def __init__(self, net: nn.Module, maximum: float = 0.999, *, with_buffers: bool = False) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.maximum = maximum
        self.with_buffers = with_buffers
        self.updates = 0

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float | None = None) -> None:
        """One step of the average, after the optimizer's step of ``net``; ``decay`` None takes the warm-up's."""
        weight = 1 - (compute_decay(self.updates, self.maximum) if decay is None else decay)
        torch._foreach_lerp_(list(self.net.parameters()), list(net.parameters()), weight)
        if self.with_buffers:
            for own, theirs in zip(self.net.buffers(), net.buffers(), strict=True):
                if own.is_floating_point():
                    own.lerp_(theirs, weight)
                else:
                    own.copy_(theirs)
        self.updates += 1

    @torch.no_grad()
    def refresh_batch_norm(self, run: Callable[[nn.Module], None]) -> None:
        """Estimates the running statistics of batch normalisation anew: averaged weights have statistics of their own.

        Args:
            run: A function that calls the net it is given on the batches to average over.
        """
        norms = [m for m in self.net.modules() if isinstance(m, nn.BatchNorm2d)]
        if not norms:
            return
        momenta = [m.momentum for m in norms]
        for m in norms:
            m.reset_running_stats()
            m.momentum = None  # the plain average over the batches
        self.net.train()
        run(self.net)
        self.net.eval()
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.net(*inputs)  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> EMA:
        """Stays in evaluation mode: the average is looked at, never trained."""
        return super().train(False)

    def get_extra_state(self) -> dict[str, Any]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
