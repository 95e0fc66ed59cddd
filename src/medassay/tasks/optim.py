"""Optimizers and learning-rate schedules with declared ranges; each function returns a factory for a task to call.

Factories can be pickled: training with a process per device sends the task to each.

Schedules step once per optimizer step, so that a checkpoint at the end of an epoch holds all there is to know of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.optimizer import ParamsT

from medassay.core.types import NonNegative, NonNegativeInt, Positive, Probability, Range

OptimizerFactory = Callable[[ParamsT], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer, int], LRScheduler]  # (optimizer, steps of the whole run)

Beta = Annotated[float, Range(ge=0, lt=1)]


@dataclass(frozen=True)
class _Bound:
    """``function`` with its keyword arguments; a closure could not be pickled, a partial Hydra would not let be pickled."""

    function: Callable[..., Any]
    arguments: dict[str, Any]

    def __call__(self, *inputs: Any) -> Any:
        return self.function(*inputs, **self.arguments)


def _bind_fused(kind: type[torch.optim.Optimizer], **arguments: Any) -> OptimizerFactory:
    """A factory of optimizers that update all weights in one pass of compiled code: reproducible, and the fastest kind."""
    return _Bound(kind, {**arguments, "fused": True})


def adam(
    lr: Positive = 1e-3, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NonNegative = 0.0
) -> OptimizerFactory:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980)."""
    return _bind_fused(torch.optim.Adam, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)


def adamw(
    lr: Positive = 1e-3, betas: tuple[Beta, Beta] = (0.9, 0.999), weight_decay: NonNegative = 1e-2
) -> OptimizerFactory:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    return _bind_fused(torch.optim.AdamW, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)


def sgd(
    lr: Positive = 1e-2, momentum: Beta = 0.9, nesterov: bool = True, weight_decay: NonNegative = 0.0
) -> OptimizerFactory:
    """Stochastic gradient descent with momentum; ``nesterov`` says nothing where the momentum is 0."""
    return _bind_fused(
        torch.optim.SGD, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, weight_decay=weight_decay
    )


def constant() -> None:
    """No schedule: the learning rate stays."""


def cosine(warmup_steps: NonNegativeInt = 0, final_share: Probability = 0.0) -> SchedulerFactory:
    """A linear rise over ``warmup_steps``, then half a cosine down to ``final_share`` of the learning rate at the end."""
    arguments = {"warmup_steps": warmup_steps, "final_share": final_share}
    return _Bound(_make_schedule, {"factor": _cosine_factor, "arguments": arguments})


def step_decay(milestones: list[Probability], factor: Annotated[float, Range(gt=0, lt=1)] = 0.1) -> SchedulerFactory:
    """The learning rate times ``factor`` at each of the ``milestones``, given as shares of the run."""
    return _Bound(
        _make_schedule, {"factor": _step_factor, "arguments": {"milestones": list(milestones), "factor": factor}}
    )


class RateGroup(NamedTuple):
    """Weights that learn at ``share`` of the optimizer's learning rate."""

    share: float
    parameters: list[nn.Parameter]


def configure_optimizer(
    task: LightningModule,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    groups: Sequence[RateGroup] | None = None,
) -> Any:
    """What ``configure_optimizers`` of a task with one optimizer gives Lightning; the schedule steps with the optimizer.

    Args:
        task: The task to train.
        optimizer: Factory of the optimizer.
        scheduler: Factory of the learning-rate schedule; None for none.
        groups: The weights to train, where they learn at several rates; None trains all that need a gradient at one.
    """
    groups = groups or [RateGroup(1.0, [parameter for parameter in task.parameters() if parameter.requires_grad])]
    built = optimizer([{"params": group.parameters} for group in groups])
    for param_group, group in zip(built.param_groups, groups, strict=True):
        param_group["lr"] *= group.share
    if task._trainer is not None and task.trainer.gradient_clip_val:
        # to be clipped, scaled gradients are unscaled before the step, not by it
        built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    if scheduler is None:
        return built
    schedule = scheduler(built, int(task.trainer.estimated_stepping_batches))
    return {"optimizer": built, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _make_schedule(
    optimizer: torch.optim.Optimizer, total_steps: int, *, factor: Callable[..., float], arguments: dict[str, Any]
) -> LRScheduler:
    return LambdaLR(optimizer, lambda step: factor(step, total_steps, **arguments))


def _cosine_factor(step: int, total_steps: int, *, warmup_steps: int, final_share: float) -> float:
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def _step_factor(step: int, total_steps: int, *, milestones: list[float], factor: float) -> float:
    return float(factor ** sum(step >= share * total_steps for share in milestones))
