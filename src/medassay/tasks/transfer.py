"""Transfer: which of a net's stages learn, when and at which rate, once it starts from the weights of another training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from torch import nn

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, Range
from medassay.nets.stages import Staged
from medassay.tasks.optim import RateGroup


@dataclass(frozen=True)
class Transfer:
    """What a classifier's net starts from, and how its stages go on from there.

    A frozen stage keeps its running statistics, too. :class:`medassay.nets.stages.Staged` says what a stage is.

    Attributes:
        weights: Run directory of a classifier, or ``imagenet`` for torchvision's weights; None starts from random ones. The
            task does not read them: :func:`medassay.load_pretrained` does.
        scratch: Whether to start from random weights all the same: what transfer is compared with.
        freeze_epochs: Number of first epochs in which the last layer alone learns.
        frozen_stages: Number of first stages that never learn; ``all`` trains the last layer alone.
        layer_decay: Factor of the learning rate from each stage to the one before it; the last layer has the full rate.
    """

    weights: str | None = None
    scratch: bool = False
    freeze_epochs: NonNegativeInt = 0
    frozen_stages: NonNegativeInt | Literal["all"] = 0
    layer_decay: Annotated[float, Range(gt=0, le=1)] = 1.0

    @property
    def source(self) -> str | None:
        """The weights to start from; None for random ones."""
        return None if self.scratch else self.weights

    @property
    def treats_stages_alike(self) -> bool:
        """Whether all of the net learns at one rate from the first epoch on."""
        return self.freeze_epochs == 0 and self.frozen_stages == 0 and self.layer_decay == 1

    def list_frozen(self, net: nn.Module, epoch: int | None = None) -> list[nn.Module]:
        """The layers that do not learn in ``epoch``, counted from 0; None: those that never do.

        Raises:
            ConfigError: The net does not know its stages, or has fewer.
        """
        if self.treats_stages_alike:
            return []
        stages = _list_stages(net)
        count = len(stages) if self.frozen_stages == "all" else self.frozen_stages
        if count > len(stages):
            raise ConfigError(
                f"model.transfer.frozen_stages={count}: this net has {len(stages)} stages before its last layer; give at most "
                f"{len(stages)}, or all"
            )
        waiting = epoch is not None and epoch < self.freeze_epochs
        return [layer for stage in (stages if waiting else stages[:count]) for layer in stage]

    def group_parameters(self, task: nn.Module, net: nn.Module) -> list[RateGroup] | None:
        """The weights of ``task`` that ever learn, by their rate; None where they have one rate."""
        if self.layer_decay == 1:
            return None
        stages = _list_stages(net)
        shares = {
            id(parameter): self.layer_decay ** (len(stages) - position)
            for position, stage in enumerate(stages)
            for layer in stage
            for parameter in layer.parameters()
        }
        groups: dict[float, list[nn.Parameter]] = {}
        for parameter in task.parameters():
            if parameter.requires_grad:
                groups.setdefault(shares.get(id(parameter), 1.0), []).append(parameter)
        return [RateGroup(share, parameters) for share, parameters in groups.items()]


def _list_stages(net: nn.Module) -> list[list[nn.Module]]:
    if not isinstance(net, Staged):
        raise ConfigError(
            f"model.transfer: {type(net).__name__} does not name its stages, so none can be frozen or slowed down; give it a "
            "head and list_stages(), or leave freeze_epochs, frozen_stages and layer_decay as they are"
        )
    return net.list_stages()
