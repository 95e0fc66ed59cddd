"""Training on attacked images: what the attack is, what it leaves alone, what it is good for, and resuming it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.attacks.gradient import fgsm
from medassay.data.modules import LabelledData
from medassay.nets.block_cnn import BlockCNN
from medassay.runs.check import check_training
from medassay.runs.compose import compose_training
from medassay.tasks.classification import Classification
from medassay.tasks.optim import adam
from medassay.tasks.transfer import Transfer
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line, list_differences

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)


def make_task(seed: int = 0, **settings: Any) -> Classification:
    """A small task that trains on images attacked by 4 grey levels, ready for a step without a trainer."""
    torch.manual_seed(seed)
    given: dict[str, Any] = {"adversarial_epsilon": 4, "adversarial_steps": 3, **settings}
    task = Classification(BlockCNN(1, 2, width=2, dropout=0.3), 2, optimizer=adam(lr=1e-2), **given)
    task._trainer = SimpleNamespace(num_training_batches=9, current_epoch=0)  # type: ignore[assignment]
    return task.train()


def some_batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return torch.rand(8, 1, 28, 28, generator=rng), torch.tensor([0, 1] * 4)


def attack_plainly(net: nn.Module, images: Tensor, labels: Tensor, epsilon: float, steps: int) -> Tensor:
    """PGD by the cross-entropy, as in Madry et al., from a start drawn from torch's generator."""
    attacked = (images + epsilon * (2 * torch.rand(images.shape) - 1)).clamp(0, 1)
    for _ in range(steps):
        attacked = attacked.detach().requires_grad_()
        F.cross_entropy(net(attacked), labels).backward()
        assert attacked.grad is not None
        moved = attacked.detach() + 2.5 * epsilon / steps * attacked.grad.sign()
        attacked = torch.minimum(torch.maximum(moved, images - epsilon), images + epsilon).clamp(0, 1)
    net.zero_grad(set_to_none=True)
    return attacked.detach()


def test_a_steps_loss_is_that_of_the_attacked_batch() -> None:
    task, (images, labels) = make_task(), some_batch()
    other = copy.deepcopy(task)
    torch.manual_seed(5)
    loss = task.training_step((images, labels), 0)
    torch.manual_seed(5)
    attacked = attack_plainly(other.net.eval(), images, labels, 4 / 255, 3)
    expected = other.train().loss(other(attacked), labels)  # with the same dropout: the same was drawn before
    torch.testing.assert_close(loss, expected)
    assert float((attacked - images).abs().max()) == pytest.approx(4 / 255, abs=1e-6)


def test_the_attack_leaves_running_statistics_gradients_and_modes_alone() -> None:
    task, (images, labels) = make_task(transfer=Transfer(frozen_stages=1), ema_decay=0.9), some_batch()
    before, modes = copy.deepcopy(task.state_dict()), [module.training for module in task.modules()]
    attacked = task._attack(images, labels, 4 / 255)
    assert not list_differences(before, task.state_dict())
    assert [module.training for module in task.modules()] == modes
    assert not all(modes)  # the average and the frozen stage are in evaluation mode throughout
    assert all(parameter.grad is None for parameter in task.parameters())
    assert not attacked.requires_grad


def test_batch_normalisation_sees_each_batch_once() -> None:
    task = make_task()
    task.training_step(some_batch(), 0)
    counts = [
        int(m.num_batches_tracked)
        for m in task.net.modules()
        if isinstance(m, nn.BatchNorm2d) and m.num_batches_tracked is not None
    ]
    assert counts == [1] * 6


def test_without_it_a_step_draws_nothing_and_sees_the_plain_images() -> None:
    task, batch = make_task(adversarial_epsilon=None), some_batch()
    task.net.dropout = nn.Identity()
    state = torch.get_rng_state()
    loss = task.training_step(batch, 0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(loss, task.loss(task(batch[0]), batch[1]))


class Flat(nn.Module):
    """A linear net on pixels, so that robust accuracy has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.flatten(1) - 0.5)
        return logits


def make_toy(n: int = 512) -> tuple[Tensor, Tensor]:
    """One pixel that tells the class clearly in nine of ten images, and 63 that tell it always, by 3 grey levels each.

    After Tsipras et al. 2019 (arXiv:1805.12152): a change of 4 grey levels turns the weak pixels and not the clear one.
    """
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    sign = (2 * labels - 1)[:, None].float()
    images = 0.5 + 3 / 255 * sign + 2 / 255 * torch.randn(n, 64, generator=rng)
    images[:, 0] = 0.5 + 0.2 * sign[:, 0] * torch.where(torch.rand(n, generator=rng) < 0.9, 1.0, -1.0)
    return images.view(n, 1, 8, 8).clamp(0, 1), labels


def test_it_raises_the_accuracy_under_attack() -> None:
    images, labels = make_toy()
    accuracies = {}
    for epsilon in (None, 4.0):
        torch.manual_seed(0)
        task = make_task(adversarial_epsilon=epsilon)
        task.net = Flat()
        optimizer = torch.optim.Adam(task.net.parameters(), lr=0.04)
        for _ in range(80):
            optimizer.zero_grad()
            task.training_step((images, labels), 0).backward()
            optimizer.step()
        attacked = fgsm(task.net, images, labels, 4 / 255, norm="linf")  # the best attack there is on a linear net
        accuracies[epsilon] = [float((task.net(x).argmax(1) == labels).float().mean()) for x in (images, attacked)]
    plain, robust = accuracies[None], accuracies[4.0]
    assert plain[0] > robust[0] - 0.02
    assert robust[1] > plain[1] + 0.3


class PowerCutError(Exception):
    """What ends a run from outside."""


class PowerCut(Callback):
    """Ends the run in the middle of its second epoch."""

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        if trainer.current_epoch == 1 and trainer.global_step % 2 == 1:
            raise PowerCutError


def test_a_resumed_run_goes_on_as_if_uninterrupted(tiny_chest: Factory, tmp_path: Path) -> None:
    def train(name: str, task: Classification, *callbacks: Callback, resume: bool = False) -> dict[str, Tensor]:
        data = tiny_chest(train=32, val=16)
        fitted = fit(
            task, data, directory=tmp_path / name, max_epochs=2, settings=CPU, callbacks=callbacks, log_to="none",
            resume=resume,
        )  # fmt: skip
        return torch.load(fitted.last, weights_only=True)["state_dict"]  # type: ignore[no-any-return]

    whole = train("whole", make_task())
    with pytest.raises(PowerCutError):
        train("cut", make_task(), PowerCut())
    again = train("cut", make_task(seed=9), resume=True)
    assert not list_differences(whole, again)
    assert list_differences(whole, train("plain", make_task(adversarial_epsilon=None)))


@pytest.mark.parametrize("model", ["pneumonia_cnn", "tstr", "oct_classifier"])
def test_every_classifier_has_the_keys(model: str) -> None:
    values = check_training(compose_training([f"model={model}", "model.adversarial_epsilon=2"]))
    assert (values["model"]["adversarial_epsilon"], values["model"]["adversarial_steps"]) == (2, 7)


@pytest.mark.parametrize("value", ["0", "256"])
def test_a_wrong_distance_is_one_line(value: str, command: Command, tmp_path: Path) -> None:
    result = command("train", "data=chest_phantom", f"model.adversarial_epsilon={value}", f"hydra.run.dir={tmp_path}")
    assert_one_line(result, f"model.adversarial_epsilon={value}", "> 0 and <= 255 or null")
