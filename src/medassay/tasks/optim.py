"""Optimizers and learning-rate schedules with declared ranges; each function returns a factory for a task to call.

Factories are partial applications of module-level functions, not closures: a process per device has to unpickle them.

Schedules step once per optimizer step, so that a checkpoint at the end of an epoch holds all there is to know of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from medassay.types import NonNegative, NonNegativeInt, Positive, Probability, Range

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer, int], LRScheduler]  # (optimizer, steps of the whole run)

Beta = Annotated[float, Range(ge=0, lt=1)]


def adam(
    lr: Positive = 1e-3, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NonNegative = 0.0
) -> OptimizerFactory:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""
    return partial(torch.optim.Adam, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)


def adamw(
    lr: Positive = 1e-3, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NonNegative = 1e-2
) -> OptimizerFactory:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    return partial(torch.optim.AdamW, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)


def sgd(
    lr: Positive = 1e-2, momentum: Beta = 0.9, nesterov: bool = True, weight_decay: NonNegative = 0.0
) -> OptimizerFactory:
    """Stochastic gradient descent with momentum; ``nesterov`` says nothing where the momentum is 0."""
    return partial(
        torch.optim.SGD, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
    )


def cosine(warmup_steps: NonNegativeInt = 0, final_share: Probability = 0.0) -> SchedulerFactory:
    """A linear rise over ``warmup_steps``, then half a cosine down to ``final_share`` of the learning rate at the end."""
    return partial(_schedule, partial(_cosine_factor, warmup_steps, final_share))


def step_decay(milestones: list[Probability], factor: Annotated[float, Range(gt=0, lt=1)] = 0.1) -> SchedulerFactory:
    """The learning rate times ``factor`` at each of the ``milestones``, given as shares of the run."""
    return partial(_schedule, partial(_step_factor, tuple(milestones), factor))


def _schedule(factor: Callable[[int, int], float], optimizer: torch.optim.Optimizer, total_steps: int) -> LRScheduler:
    return LambdaLR(optimizer, partial(factor, total_steps))


def _cosine_factor(warmup_steps: int, final_share: float, total_steps: int, step: int) -> float:
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def _step_factor(milestones: tuple[float, ...], factor: float, total_steps: int, step: int) -> float:
    return float(factor ** sum(step >= share * total_steps for share in milestones))
