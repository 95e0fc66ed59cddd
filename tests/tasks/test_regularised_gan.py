"""The regularised GAN: penalties, their schedule, what the discriminator sees, how it ends and resumes, and what it costs."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from medassay import config as configuration
from medassay.core.errors import ConfigError, TrainingError
from medassay.data.modules import LabelledData
from medassay.nets.cgan import CGAN
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.runs.check import check_training
from medassay.runs.load import build_task
from medassay.tasks import conditional_gan
from medassay.tasks import regularised_gan as module
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.tasks.differentiable_augment import DifferentiableAugment
from medassay.tasks.gan_losses import gradient_penalty
from medassay.tasks.optim import cosine
from medassay.tasks.regularised_gan import RegularisedGAN, anneal
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings
from tests.helpers import list_differences

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)
LATENT = 4


def gan_of(*, seed: int = 0, **options: Any) -> RegularisedGAN:
    """A tiny GAN for chest phantoms whose blocks do something from the start."""
    torch.manual_seed(seed)
    net = ResidualCGAN(1, 2, width=2, discriminator_width=2, latent=LATENT)
    for name, parameter in net.named_parameters():
        if "conv2.weight" in name:
            nn.init.normal_(parameter, 0, 0.1)
    return RegularisedGAN(net, **options)


def trained(task: ConditionalGAN, data: LabelledData, directory: Path, **options: Any) -> dict[str, float]:
    settings = options.pop("settings", CPU)
    options = {"max_epochs": 1, "log_to": "none", **options}
    return fit(task, data, directory=directory, settings=settings, **options).values


# --- the penalty -----------------------------------------------------------------------------------------------------


def test_the_penalty_of_a_linear_discriminator_is_half_the_squared_norm_of_its_weights() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 3, 4, 4))
    images = torch.rand(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (2 * images - 1).mul(torch.from_numpy(weights)).sum((1, 2, 3))  # linear in what lies in [-1, 1]
    assert gradient_penalty(logits, images).item() == pytest.approx((weights**2).sum() / 2)


def test_the_penalty_and_its_gradient_are_those_of_a_closed_form() -> None:
    """D(x) = a * sum(u^3) / 3 of u = 2x - 1 has the gradient a * u^2 by u: the penalty is a^2 * mean(sum(u^4)) / 2."""
    scale = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    images = torch.rand(6, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    logits = scale * (2 * images - 1).pow(3).sum((1, 2, 3)) / 3
    penalty = gradient_penalty(logits, images)
    fourth = ((2 * images.detach().numpy() - 1) ** 4).sum((1, 2, 3)).mean()
    assert penalty.item() == pytest.approx(1.7**2 * fourth / 2)
    (by_scale,) = torch.autograd.grad(penalty, scale)
    assert by_scale.item() == pytest.approx(1.7 * fourth)


def test_gamma_falls_by_half_a_cosine_to_its_final_share() -> None:
    assert anneal(0.2, 0.1, 0.0) == pytest.approx(0.2)
    assert anneal(0.2, 0.1, 0.5) == pytest.approx(0.11)
    assert anneal(0.2, 0.1, 1.0) == pytest.approx(0.02)
    assert anneal(0.2, 0.1, 1.5) == pytest.approx(0.02)
    assert anneal(0.2, 1.0, 0.7) == pytest.approx(0.2)


class Steps(Callback):
    """Gamma and learning rates at every step."""

    def __init__(self) -> None:
        self.gammas: list[float] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.gammas.append(pl_module.compute_gamma(batch_idx))
        self.rates.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def test_gamma_and_both_learning_rates_follow_their_schedules_over_the_run(tiny_chest: Factory, tmp_path: Path) -> None:
    steps = Steps()
    task = gan_of(gradient_penalty=1.0, gradient_penalty_final=0.0, scheduler=cosine(final_share=0.25))
    trained(task, tiny_chest(train=32), tmp_path, max_epochs=2, callbacks=[steps])
    half_cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert steps.gammas == pytest.approx(half_cosine)
    expected = [2e-4 * (0.25 + 0.75 * share) for share in half_cosine]
    for player in zip(*steps.rates, strict=True):
        assert list(player) == pytest.approx(expected)


def test_the_schedules_go_on_where_an_interrupted_run_was(tiny_chest: Factory, tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.should_stop = trainer.current_epoch == 0 and stop

    options: dict[str, Any] = {"scheduler": cosine(), "augment": DifferentiableAugment()}
    stop = False
    data = tiny_chest(train=32, batch_size=8)
    trained(gan_of(**options), data, tmp_path / "straight", max_epochs=2)
    stop = True
    trained(gan_of(**options), data, tmp_path / "parts", max_epochs=2, callbacks=[Stop()])
    stop = False
    steps = Steps()
    trained(gan_of(**options), data, tmp_path / "parts", max_epochs=2, callbacks=[steps], resume=True)
    assert steps.gammas[0] == pytest.approx(0.55)  # half-way from 1 to a tenth
    first, second = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("straight", "parts")
    )
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "images_seen"):
        assert list_differences(first[key], second[key]) == []


# --- the discriminator's step ----------------------------------------------------------------------------------------


def alone(task: RegularisedGAN, *, epochs: int = 1) -> RegularisedGAN:
    """A task outside of any training, at the first step of ``epochs``."""
    task._trainer = SimpleNamespace(  # type: ignore[assignment]
        num_training_batches=8, max_epochs=epochs, current_epoch=0, precision_plugin=None
    )
    return task


def players_gradients(task: RegularisedGAN, batch_idx: int, given: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """The discriminator's gradients of loss and penalty at step ``batch_idx``."""
    judgement = task.judge_both(*given, batch_idx)
    loss = F.softplus(judgement.fake - judgement.real).mean()
    if judgement.penalty is not None:
        loss = loss + judgement.penalty
    task.net.discriminator.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in task.net.discriminator.parameters() if p.grad is not None]


def batch_of(n: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    real, fake = torch.rand((2, n, 1, 28, 28), generator=rng)
    return real, fake, torch.arange(n) % 2


def textbook_gradients(task: RegularisedGAN, sides: str, weight: float) -> list[Tensor]:
    """The same written out with torch's own functions, image by image."""
    discriminator = copy.deepcopy(task.net.discriminator)
    real, fake, labels = batch_of()
    loss = -F.logsigmoid(discriminator(real, labels) - discriminator(fake, labels)).mean()
    for name, images in (("real", real), ("fake", fake)):
        for image, label in zip(images, labels, strict=True):
            if name in sides:
                scaled = (2 * image - 1).requires_grad_()
                logit = discriminator((scaled[None] + 1) / 2, label[None])
                (gradient,) = torch.autograd.grad(logit.sum(), scaled, create_graph=True)
                loss = loss + weight / 2 * gradient.pow(2).sum() / len(images)
    return list(torch.autograd.grad(loss, list(discriminator.parameters()), allow_unused=True))


@pytest.mark.parametrize(("on", "sides"), [("both", "real fake"), ("real", "real"), ("fake", "fake")])
def test_a_penalised_step_is_the_papers_loss_written_out(on: Any, sides: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    task = alone(gan_of(gradient_penalty=0.7, gradient_penalty_every=3, gradient_penalty_on=on))
    found = players_gradients(task, 0, batch_of())
    # three of the epoch's eight steps have penalties
    expected = [gradient for gradient in textbook_gradients(task, sides, 8 / 3 * 0.7) if gradient is not None]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_only_every_so_many_steps_are_penalised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    task = alone(gan_of(gradient_penalty_every=3))
    found = [task.judge_both(*batch_of(), step).penalty is not None for step in range(7)]
    assert found == [True, False, False, True, False, False, True]
    task = alone(gan_of(gradient_penalty=0.0))
    assert not task.differentiates_twice
    assert all(task.judge_both(*batch_of(), step).penalty is None for step in range(7))


def test_the_penalty_is_computed_in_float32_under_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    task = alone(gan_of())
    real, fake, labels = batch_of()
    exact = task.judge_both(real, fake.bfloat16().float(), labels, 0).penalty
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = task.judge_both(real, fake.bfloat16(), labels, 0).penalty
        coarse = task.judge_both(real, fake, labels, 1).real
    assert exact is not None
    assert mixed is not None
    assert torch.equal(exact, mixed)
    assert not torch.equal(coarse, task.judge_both(real, fake, labels, 1).real)  # other steps are in bfloat16


@pytest.mark.parametrize(("steps", "every", "penalised"), [(8, 3, 3), (8, 4, 2), (2, 4, 1), (1, 4, 1), (9, 1, 9)])
def test_penalties_have_their_weight_in_the_mean_over_an_epochs_steps(
    steps: int, every: int, penalised: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    monkeypatch.setattr(module, "gradient_penalty", lambda *_: torch.tensor(0.5))
    task = alone(gan_of(gradient_penalty=0.7, gradient_penalty_final=1.0, gradient_penalty_every=every))
    task.trainer.num_training_batches = steps
    found = [task.judge_both(*batch_of(2), step).penalty for step in range(steps)]
    weights = [float(penalty) for penalty in found if penalty is not None]  # of R1 and R2, a half each
    assert len(weights) == penalised
    assert sum(weights) / steps == pytest.approx(0.7)


def test_the_generator_gets_no_gradient_from_the_discriminators_step_with_penalties(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    monkeypatch.setattr(conditional_gan, "check_finite", lambda *_, **__: None)
    monkeypatch.setattr(RegularisedGAN, "manual_backward", lambda _, loss: loss.backward())
    task = alone(gan_of())
    generator, discriminator = (list(player.parameters()) for player in (task.net.generator, task.net.discriminator))
    reached: list[bool] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:
            reached.append(any(p.grad is not None for p in generator))

    monkeypatch.setattr(RegularisedGAN, "optimizers", lambda _: [Watching(discriminator), Watching(generator)])
    real, _, labels = batch_of()
    task.training_step((real, labels), 0)
    assert reached == [False, True]
    assert all(p.grad is not None for p in discriminator)
    assert not real.requires_grad


# --- what the discriminator sees -------------------------------------------------------------------------------------


class Darkening(DifferentiableAugment):
    """Halves every value, and counts."""

    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        type(self).calls += 1
        return images / 2


@pytest.mark.parametrize("penalty", [0.0, 0.2])
def test_real_and_generated_images_are_augmented_in_both_players_turns(
    penalty: float, tiny_chest: Factory, tmp_path: Path
) -> None:
    Darkening.calls = 0
    task = gan_of(augment=Darkening(), gradient_penalty=penalty)
    seen: list[Tensor] = []
    task.net.discriminator.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    data = tiny_chest(train=16, batch_size=16)
    trained(task, data, tmp_path)
    images, _ = next(iter(data.train_dataloader()))
    assert Darkening.calls == len(seen) == 4
    assert [torch.equal(batch, images / 2) for batch in seen] == [True, False, True, False]
    assert torch.equal(seen[1], seen[3])
    assert all(batch.max() <= 0.5 for batch in seen)


def test_gradients_reach_the_generator_through_the_augmentation(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of(augment=DifferentiableAugment(probability=1.0))
    before = [p.detach().clone() for p in task.net.generator.parameters()]
    trained(task, tiny_chest(train=32), tmp_path)
    assert not any(torch.equal(a, b) for a, b in zip(before, task.net.generator.parameters(), strict=True))


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_what_is_logged_tells_the_players_loss_from_the_penalties(tiny_chest: Factory, tmp_path: Path) -> None:
    values = trained(gan_of(gradient_penalty=1e3), tiny_chest(train=32), tmp_path)
    both = {"d_loss", "g_loss", "d_real", "d_fake", "d_gradient_norm", "g_gradient_norm", "spread"}
    assert set(values) == {f"train/{name}" for name in {*both, "d_right", "r1", "r2", "gamma"}}
    assert np.isfinite(list(values.values())).all()
    assert values["train/d_loss"] == pytest.approx(math.log(2), abs=0.3)  # a heavy penalty is no part of it
    assert 0 <= values["train/d_right"] <= 1
    assert values["train/gamma"] == pytest.approx(1e3)
    assert min(values["train/r1"], values["train/r2"]) > 0


def test_a_discriminator_that_wins_every_pair_stops_the_run_however_large_the_penalties_are(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    class Winning(RegularisedGAN):
        def judge_both(self, *given: Any) -> Any:
            judgement = super().judge_both(*given)
            return judgement._replace(real=judgement.real + 50)

    task = Winning(gan_of().net, gradient_penalty=1e3)
    with pytest.raises(
        TrainingError, match=r"under model\.collapse_loss=0\.01\) for 2 epochs.*model\.gradient_penalty"
    ):
        trained(task, tiny_chest(train=32), tmp_path, max_epochs=9)


def test_a_penalty_that_is_no_number_stops_the_run(tiny_chest: Factory, tmp_path: Path) -> None:
    class Poison(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.augment = lambda images: images + (images * 0).sqrt()  # of infinite slope

    with pytest.raises(TrainingError, match="gradient penalty r1 is not finite in epoch 1"):
        trained(gan_of(), tiny_chest(train=32), tmp_path, callbacks=[Poison()])


def test_the_course_nets_can_be_penalised_too(tiny_chest: Factory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = RegularisedGAN(CGAN(1, 2, width=2, latent=LATENT), loss="bce")
    values = trained(task, tiny_chest(train=32), tmp_path)
    assert values["train/r1"] > 0
    assert np.isfinite(list(values.values())).all()


def test_compiling_is_refused_in_one_line_where_second_derivatives_are_needed(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    settings = TrainerSettings(gpus=0, compile=True)
    with pytest.raises(ConfigError, match=r"trainer\.compile=true.*model\.gradient_penalty=0") as caught:
        trained(gan_of(), tiny_chest(train=32), tmp_path, settings=settings)
    assert "\n" not in str(caught.value)


# --- what it costs ---------------------------------------------------------------------------------------------------


class NoModules:
    """Counts all under one name: hooks of modules do not bear gradients of gradients."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def configured(*overrides: str) -> Any:
    return build_task(check_training(configuration.compose("train", ["data=blood_phantom", *overrides])))


def count_plain() -> int:
    """Multiply-adds per image of a step of the plain GAN by hand: kernels of 16, maps of one side, channels in and out."""
    up = [(16, 100, 256), (16, 8, 256), (16 * 16, 512, 256), (64 * 16, 256, 128), (256 * 16, 128, 3)]  # generator
    down = [(256 * 16, 3, 64), (256 * 16, 8, 64), (64 * 16, 128, 256), (16 * 16, 256, 512), (16, 512, 1)]
    generator, discriminator = (sum(a * b * c for a, b, c in layers) for layers in (up, down))
    # every layer forward, for its weights, for its inputs: the generator's once each, the discriminator's on two batches; then
    # forward and for its inputs on the generator's turn
    return 3 * generator + 8 * discriminator


def multiply_adds(task: ConditionalGAN, step: int, monkeypatch: pytest.MonkeyPatch, batch: int = 2) -> float:
    """Multiply-adds of both players' turns per image at a training step; shapes alone, without values."""
    alone(task.to("meta"))  # type: ignore[arg-type]
    players = task.net.discriminator, task.net.generator
    optimizers = [torch.optim.SGD(player.parameters()) for player in players]  # the configured one refuses mere shapes
    monkeypatch.setattr(type(task), "optimizers", lambda _: optimizers)
    monkeypatch.setattr(type(task), "lr_schedulers", lambda _: [])
    monkeypatch.setattr(type(task), "manual_backward", lambda _, loss: loss.backward())
    images = torch.empty((batch, 3, 28, 28), device="meta")
    labels = torch.empty(batch, dtype=torch.int64, device="meta")
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = NoModules()  # type: ignore[assignment]
    with counter:
        task.training_step((images, labels), step)
    return counter.get_total_flops() / 2 / batch


@pytest.fixture
def shapes_alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """What looks at values is left out."""
    monkeypatch.setattr(module, "check_finite", lambda *_, **__: None)
    monkeypatch.setattr(conditional_gan, "check_finite", lambda *_, **__: None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    return monkeypatch


def test_a_step_has_no_more_multiply_adds_than_the_plain_gans_and_less_than_twice_its_parameters(
    shapes_alone: pytest.MonkeyPatch,
) -> None:
    plain, strong = configured("model=cgan"), configured("model=cgan_strong")
    size = [sum(p.numel() for p in task.net.parameters()) for task in (plain, strong)]
    assert size[0] == 3_072_643 + 2_643_329
    assert size[1] <= 2 * size[0]
    limit = multiply_adds(plain, 0, shapes_alone)
    assert limit == pytest.approx(count_plain(), rel=0.04)  # the first layers' inputs want no gradient
    with_penalty, without = (multiply_adds(strong, step, shapes_alone) for step in (0, 1))
    assert without < with_penalty <= limit  # so that penalties at every step would be within it, too
    every = strong.gradient_penalty_every
    assert (with_penalty + (every - 1) * without) / every <= 0.8 * limit


INGREDIENTS: dict[str, Callable[[RegularisedGAN], bool]] = {  # what leaves it out: whether it is there
    "model.loss=bce": lambda task: task.loss == "relativistic",
    "model.optimizer.betas=[0.5,0.999]": lambda task: betas_of(task) == (0.0, 0.99),
    "model.scheduler.final_share=1": lambda task: task._scheduler.arguments["arguments"]["final_share"] < 1,  # type: ignore[union-attr]
    "model.gradient_penalty=0": lambda task: task.gradient_penalty > 0,
    "model.gradient_penalty_final=1": lambda task: task.gradient_penalty_final < 1,
    "model.gradient_penalty_every=1": lambda task: task.gradient_penalty_every > 1,
    "model.gradient_penalty_on=real": lambda task: task.gradient_penalty_on == "both",
    "model.net.projection=false": lambda task: task.net.discriminator.embedding is not None,
    "model.net.normalisation=batch": lambda task: (
        not any(isinstance(module, nn.BatchNorm2d) for module in task.net.discriminator.modules())
    ),
    "model.augment.flip=false": lambda task: task.augment.flip,  # type: ignore[union-attr]
    "model.augment.quarter_turn=false": lambda task: task.augment.quarter_turn,  # type: ignore[union-attr]
    "model.augment.translation=0": lambda task: task.augment.translation > 0,  # type: ignore[union-attr]
    "model.augment.cutout=0": lambda task: task.augment.cutout > 0,  # type: ignore[union-attr]
    "model.ema_decay=0": lambda task: task.ema.maximum > 0,
}


def betas_of(task: RegularisedGAN) -> tuple[float, float]:
    found: tuple[float, float] = task._optimizer([nn.Parameter(torch.zeros(1))]).defaults["betas"]
    return found


@pytest.mark.parametrize("override", [None, *INGREDIENTS])
def test_each_ingredient_is_left_out_by_one_override_and_no_other_with_it(override: str | None) -> None:
    task = configured("model=cgan_strong", "model.net.width=2", *([override] if override else []))
    assert [key for key, is_there in INGREDIENTS.items() if not is_there(task)] == ([override] if override else [])
