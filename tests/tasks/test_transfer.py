"""Which stages of a classifier learn, when and at which rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from medassay.tasks.optim import adam, cosine, sgd
from medassay.tasks.transfer import Transfer
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]


def make_task(transfer: Transfer | None = None, *, seed: int = 0, **settings: Any) -> Classification:
    torch.manual_seed(seed)
    return Classification(BlockCNN(1, 2, width=4), 2, transfer=transfer, **settings)


class Watch(Callback):
    """The task's tensors at the end of every epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, Tensor]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        net: Any = pl_module.net
        self.epochs.append({name: value.clone() for name, value in net.state_dict().items()})


def train(task: Classification, data: LabelledData, path: Path, epochs: int, **options: Any) -> list[dict[str, Tensor]]:
    """The net's tensors before training and after each epoch."""
    watch = Watch()
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    fit(task, data, directory=path, max_epochs=epochs, settings=TrainerSettings(gpus=0), log_to="none",
        callbacks=[watch], **options)  # fmt: skip
    return [before, *watch.epochs]


def list_changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The stages, or ``head``, in which any tensor changed, running statistics included."""
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {".".join(name.split(".")[:2]) if name.startswith("blocks") else "head" for name in changed}


ALL = {"blocks.0", "blocks.1", "blocks.2", "head"}


@pytest.mark.parametrize(
    ("transfer", "changes"),
    [
        (Transfer(), [ALL, ALL]),
        (Transfer(freeze_epochs=1), [{"head"}, ALL]),
        (Transfer(frozen_stages=2), [{"blocks.2", "head"}] * 2),
        (Transfer(freeze_epochs=1, frozen_stages=1), [{"head"}, {"blocks.1", "blocks.2", "head"}]),
        (Transfer(frozen_stages="all"), [{"head"}] * 2),
    ],
    ids=["all learn", "frozen for an epoch", "two frozen for good", "both", "the last layer alone"],
)
def test_frozen_stages_keep_weights_and_running_statistics(
    transfer: Transfer, changes: list[set[str]], tiny_chest: Factory, tmp_path: Path
) -> None:
    states = train(make_task(transfer), tiny_chest(), tmp_path, epochs=2)
    assert [list_changed(a, b) for a, b in itertools.pairwise(states)] == changes


def test_a_run_resumed_while_its_features_are_frozen_ends_with_the_same_weights(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    transfer = Transfer(freeze_epochs=2, layer_decay=0.5)
    whole = train(make_task(transfer), tiny_chest(), tmp_path / "whole", epochs=3)
    train(make_task(transfer), tiny_chest(), tmp_path / "parts", epochs=1)
    other = make_task(transfer, seed=1)  # were it trained from the start, it would end with other weights
    parts = train(other, tiny_chest(), tmp_path / "parts", epochs=3, resume=True)
    assert all(torch.equal(whole[-1][name], parts[-1][name]) for name in whole[-1])


def test_the_learning_rate_falls_from_the_last_layer_to_the_first_by_a_factor_a_stage() -> None:
    task = make_task(Transfer(layer_decay=0.5), optimizer=adam(lr=0.1))
    groups = task.configure_optimizers().param_groups
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    net = task.net
    assert isinstance(net, BlockCNN)
    found = [{rates[id(p)] for p in layer.parameters()} for layer in (*net.blocks, net.head)]
    assert found == [{0.0125}, {0.025}, {0.05}, {0.1}]
    assert len(rates) == len(list(net.parameters()))


def test_a_schedule_keeps_the_ratios_of_the_rates(tiny_chest: Factory, tmp_path: Path) -> None:
    class Rates(Callback):
        def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
            rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    rates: list[list[float]] = []
    task = make_task(Transfer(layer_decay=0.1), optimizer=sgd(lr=1.0), scheduler=cosine())
    fit(task, tiny_chest(train=32), directory=tmp_path, max_epochs=2, settings=TrainerSettings(gpus=0), log_to="none",
        callbacks=[Rates()])  # fmt: skip
    assert rates[0][-1] > rates[2][-1] > 0
    assert all(math.isclose(step[0] / step[-1], 1e-3, rel_tol=1e-9) for step in rates[:3])


def test_a_training_after_one_that_ended_while_layers_were_frozen_trains_them(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    task = make_task(Transfer(freeze_epochs=1))
    train(task, tiny_chest(), tmp_path, epochs=1)
    before, _, after = train(task, tiny_chest(), tmp_path, epochs=2, overwrite=True)
    assert list_changed(before, after) == ALL


def test_frozen_weights_get_no_gradient_and_no_state(tiny_chest: Factory, tmp_path: Path) -> None:
    task = make_task(Transfer(frozen_stages="all"))
    assert [name for name, p in task.net.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    train(task, tiny_chest(), tmp_path, epochs=1)
    assert all(p.grad is None for name, p in task.net.named_parameters() if not name.startswith("head"))


def test_more_frozen_stages_than_there_are_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match=r"model.transfer.frozen_stages=4: this net has 3 stages .* at most 3, or all"
    ):
        make_task(Transfer(frozen_stages=4))


def test_a_net_without_stages_is_refused_only_where_they_are_needed() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 2))
    Classification(net, 2, transfer=Transfer(weights="anywhere"))
    with pytest.raises(ConfigError, match="Sequential does not name its stages"):
        Classification(net, 2, transfer=Transfer(frozen_stages=1))


@pytest.mark.long
def test_two_processes_freeze_and_thaw_like_one(tiny_chest: Factory, tmp_path: Path) -> None:
    settings = TrainerSettings(accelerator="cpu", devices=2, strategy="ddp")
    task = make_task(Transfer(freeze_epochs=1))
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    for epochs, changes in ((1, {"head"}), (2, ALL)):
        fit(task, tiny_chest(), directory=tmp_path, max_epochs=epochs, settings=settings, log_to="none", resume=True)
        assert list_changed(before, task.net.state_dict()) == changes
