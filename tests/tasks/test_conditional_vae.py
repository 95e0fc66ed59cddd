"""The conditional VAE's training: the bound, its KL weight, what can be drawn from it, and whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn

import medassay
from medassay import cli
from medassay import config as configuration
from medassay.core.errors import ConfigError, TrainingError
from medassay.core.types import Sampler
from medassay.data.augment import BatchAugment
from medassay.data.modules import LabelledData
from medassay.data.sources import phantom_data
from medassay.nets.cvae import CVAE
from medassay.runs.check import check_training
from medassay.runs.load import build_task
from medassay.runs.samples import draw
from medassay.tasks import generator as generators
from medassay.tasks.conditional_vae import (
    ActiveUnits,
    ConditionalVAE,
    Terms,
    kl_divergence,
    kl_with_free_bits,
    reconstruction_loss,
)
from medassay.tasks.optim import adam, cosine
from medassay.training.callbacks import Autoencoder, FixedSampler, Reconstructions, SampleGrid
from medassay.training.checkpoints import load_weights
from medassay.training.fit import fit
from medassay.training.settings import Precision, TrainerSettings

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)
LATENT = 4
NEEDS_A_GPU = "16-mixed"


def vae_of(width: int = 2, *, seed: int = 0, **options: Any) -> ConditionalVAE:
    """A tiny VAE for chest phantoms."""
    torch.manual_seed(seed)
    return ConditionalVAE(CVAE(1, 2, width=width, latent=LATENT), **options)


def trained(task: ConditionalVAE, data: LabelledData, directory: Path, **options: Any) -> dict[str, float]:
    defaults: dict[str, Any] = {"max_epochs": 1, "log_to": "none", "settings": CPU}
    return fit(task, data, directory=directory, **{**defaults, **options}).values


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int = 5, channels: int = 1, classes: int = 2, size: int = 28) -> tuple[Tensor, Tensor]:
    return torch.rand((n, channels, size, size), generator=rng(8)), torch.arange(n) % classes


def one_hot_planes(labels: Tensor, classes: int, size: int) -> np.ndarray:
    planes = np.zeros((len(labels), classes, size, size))
    for row, label in enumerate(labels.tolist()):
        planes[row, label] = 1
    return planes


# --- what the configuration says -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def configured() -> dict[str, Any]:
    return check_training(configuration.compose("train", ["model=cvae"]))


def test_the_default_run_is_the_specified_one(configured: dict[str, Any]) -> None:
    model, data = configured["model"], configured["data"]
    assert (data["name"], data["size"], data["batch_size"]) == ("bloodmnist", 28, 128)
    assert (configured["trainer"]["max_epochs"], configured["seed"]) == (300, 0)
    assert (model["kl_weight"], model["kl_annealing_epochs"], model["free_bits"]) == (1, 0, 0)
    assert model["net"]["normalisation"] == "none"
    assert (model["optimizer"]["_target_"], model["optimizer"]["lr"]) == ("medassay.tasks.optim.adam", 1e-3)
    assert model["scheduler"]["_target_"] == "medassay.tasks.optim.cosine"
    assert (model["scheduler"]["warmup_steps"], model["scheduler"]["final_share"]) == (0, 0)
    assert configured["recipe"]["monitor"] is None


def test_no_augmentation_is_on_by_default(configured: dict[str, Any]) -> None:
    augment = configured["data"]["augment"]
    assert not any(value for name, value in augment.items() if name not in ("_target_", "erasing_size"))


def test_the_configured_net_has_the_specified_parameters(configured: dict[str, Any]) -> None:
    task = build_task(configured)
    assert sum(p.numel() for p in task.parameters()) == 3_348_811


def test_the_optimizer_without_configuration_is_adam_with_a_thousandth() -> None:
    optimizer = vae_of().configure_optimizers()
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (1e-3, (0.9, 0.999), 0)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_the_kl_divergence_is_that_of_torchs_distributions() -> None:
    mean, log_variance = 2 * torch.randn(7, 5, generator=rng(0)), 1.5 * torch.randn(7, 5, generator=rng(1))
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)


def test_the_kl_divergence_is_the_specified_formula_by_hand() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, math.log(4)]])
    by_hand = -0.5 * ((1 + 0 - 1 - 1) + (1 + math.log(4) - 4 - 4))
    assert float(kl_divergence(mean, log_variance)) == pytest.approx(by_hand)


def test_the_kl_divergence_of_the_prior_from_itself_is_zero() -> None:
    assert float(kl_divergence(torch.zeros(3, 4), torch.zeros(3, 4))) == 0


def test_the_reconstruction_loss_is_the_summed_cross_entropy_of_image_and_label_planes() -> None:
    images, labels = batch_of(6, 3, 8, 5)
    logits = 2 * torch.randn(6, 11, 5, 5, generator=rng(2))
    target = torch.cat([images, torch.from_numpy(one_hot_planes(labels, 8, 5)).float()], dim=1)
    per_image = F.binary_cross_entropy(logits.sigmoid(), target, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(reconstruction_loss(logits, images, labels, 8), per_image.mean())


def test_an_undecided_net_loses_a_bit_for_each_of_the_11_planes_pixels() -> None:
    images, labels = batch_of(4, 3, 8, 28)
    loss = reconstruction_loss(torch.zeros(4, 11, 28, 28), images, labels, 8)
    assert float(loss) == pytest.approx(11 * 28 * 28 * math.log(2), rel=1e-5)


def test_the_losses_do_not_depend_on_how_often_the_batch_is_repeated() -> None:
    images, labels = batch_of(3, 1, 2, 5)
    logits = torch.randn(3, 3, 5, 5, generator=rng(2))
    once = reconstruction_loss(logits, images, labels, 2)
    twice = reconstruction_loss(logits.repeat(2, 1, 1, 1), images.repeat(2, 1, 1, 1), labels.repeat(2), 2)
    torch.testing.assert_close(once, twice)


def test_the_reconstruction_loss_stays_finite_for_extreme_logits() -> None:
    images, labels = batch_of(2, 1, 2, 4)
    assert reconstruction_loss(torch.full((2, 3, 4, 4), 1e4), images, labels, 2).isfinite()


def test_the_terms_are_those_of_a_latent_drawn_by_mean_and_deviation() -> None:
    task, (images, labels) = vae_of(), batch_of()
    task.net.encoder.log_variance.bias.data.fill_(1.0)  # a deviation that is neither 1 nor the variance
    torch.manual_seed(5)
    reconstruction, kl, *_ = task.compute_terms((images, labels))
    torch.manual_seed(5)
    epsilon = torch.randn(5, LATENT)
    with torch.no_grad():
        mean, log_variance = task.net.encoder(images, labels)
        probabilities = task.net.decoder(mean + torch.sqrt(torch.exp(log_variance)) * epsilon, labels).sigmoid()
    target = torch.cat([images, torch.from_numpy(one_hot_planes(labels, 2, 28)).float()], dim=1)
    torch.testing.assert_close(reconstruction, F.binary_cross_entropy(probabilities, target, reduction="sum") / 5)
    posterior = torch.distributions.Normal(mean, torch.sqrt(torch.exp(log_variance)))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum() / 5
    torch.testing.assert_close(kl, expected)


def test_the_latent_is_the_mean_plus_noise_of_the_standard_deviation() -> None:
    task, (images, labels), latents = vae_of(), batch_of(), []
    task.net.encoder.log_variance.bias.data.fill_(1.0)  # a deviation that is neither 1 nor the variance
    task.net.decoder.register_forward_pre_hook(lambda _m, given: latents.append(given[0].detach()))
    torch.manual_seed(5)
    task.compute_terms((images, labels))
    torch.manual_seed(5)
    epsilon = torch.randn(5, LATENT)
    with torch.no_grad():
        mean, log_variance = task.net.encoder(images, labels)
    torch.testing.assert_close(latents[0], mean + torch.sqrt(torch.exp(log_variance)) * epsilon)


def test_every_image_has_noise_of_its_own() -> None:
    task, latents = vae_of(), []
    task.net.decoder.register_forward_pre_hook(lambda _m, given: latents.append(given[0].detach()))
    images, _ = batch_of(1)
    task.compute_terms((images.expand(6, -1, -1, -1), torch.zeros(6, dtype=torch.int64)))
    assert len(latents[0].unique(dim=0)) == 6


def test_gradients_reach_every_parameter() -> None:
    task = vae_of()
    reconstruction, kl, *_ = task.compute_terms(batch_of())
    (reconstruction + kl).backward()
    for name, parameter in task.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


# --- the KL weight ---------------------------------------------------------------------------------------------------


class Given(ConditionalVAE):
    """A reconstruction loss of 3 and a divergence of 5, whatever comes: the training loss then tells the weight."""

    def compute_terms(self, batch: Any) -> Terms:
        zero = sum(p.sum() for p in self.parameters()) * 0
        return Terms(zero + 3.0, zero + 5.0, torch.zeros(len(batch[0]), 1), torch.zeros(len(batch[0]), 1))


class Losses(Callback):
    """The training loss of every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(float(outputs["loss"]))


def weights_of_steps(data: LabelledData, directory: Path, epochs: int, **options: Any) -> list[float]:
    losses = Losses()
    trained(Given(CVAE(1, 2, width=1, latent=1), **options), data, directory, max_epochs=epochs, callbacks=[losses])
    return [(loss - 3) / 5 for loss in losses.seen]


def test_without_annealing_the_weight_is_full_from_the_first_step(tiny_chest: Factory, tmp_path: Path) -> None:
    found = weights_of_steps(tiny_chest(train=32), tmp_path, 2, kl_weight=0.5)
    assert found == pytest.approx([0.5] * 4)


def test_annealing_raises_the_weight_step_by_step_from_zero_and_leaves_it_full(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    found = weights_of_steps(tiny_chest(train=64), tmp_path, 3, kl_weight=4.0, kl_annealing_epochs=2)  # 4 steps each
    assert found == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4, 4, 4])


@pytest.mark.parametrize(("epochs", "told"), [(1, False), (2, True)])
def test_a_weight_that_never_becomes_full_is_told_of(
    epochs: int, told: bool, tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained(vae_of(width=1, kl_annealing_epochs=epochs), tiny_chest(train=16), tmp_path, max_epochs=2)
    assert (f"kl_annealing_epochs={epochs}" in caplog.text) is told


def test_batch_normalisation_needs_no_number_of_images_that_leaves_a_rest_of_two(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    task = ConditionalVAE(CVAE(1, 2, width=1, latent=LATENT, normalisation="batch"))
    trained(task, tiny_chest(train=33, batch_size=16), tmp_path)


def test_annealing_continues_where_an_interrupted_run_was(tiny_chest: Factory, tmp_path: Path) -> None:
    options: dict[str, Any] = {"kl_annealing_epochs": 4, "width": 1}
    losses = Losses()
    trained(vae_of(**options), tiny_chest(train=32), tmp_path, max_epochs=2)
    resumed = vae_of(**options)
    resumed.compute_terms = Given.compute_terms.__get__(resumed)  # type: ignore[method-assign]
    trained(resumed, tiny_chest(train=32), tmp_path, max_epochs=3, resume=True, callbacks=[losses])
    assert [(loss - 3) / 5 for loss in losses.seen] == pytest.approx([2 / 4, 2.5 / 4])


@pytest.mark.parametrize("options", [{"kl_weight": 0.25}, {"kl_weight": 9.0, "kl_annealing_epochs": 7}])
def test_the_validation_loss_is_the_plain_bound_whatever_the_weight(
    options: dict[str, Any], tiny_chest: Factory, tmp_path: Path
) -> None:
    values = trained(Given(CVAE(1, 2, width=1, latent=1), **options), tiny_chest(train=16), tmp_path)
    assert values["val/loss"] == pytest.approx(8)
    assert values["train/loss"] == pytest.approx(3 + 5 * (0.25 if options["kl_weight"] == 0.25 else 0))


def test_what_is_logged_is_the_sum_of_its_terms(tiny_chest: Factory, tmp_path: Path) -> None:
    values = trained(vae_of(kl_weight=0.1), tiny_chest(), tmp_path)
    names = {f"{split}/{name}" for split in ("train", "val") for name in ("loss", "reconstruction", "kl")}
    assert set(values) == {*names, "val/active_units"}
    assert values["train/loss"] == pytest.approx(values["train/reconstruction"] + 0.1 * values["train/kl"])
    assert values["val/loss"] == pytest.approx(values["val/reconstruction"] + values["val/kl"])


def test_logged_values_are_means_over_images_not_over_batches(tiny_chest: Factory, tmp_path: Path) -> None:
    task, data = vae_of(), tiny_chest(train=24, val=24, batch_size=16)  # batches of 16 and 8
    values = trained(task, data, tmp_path, max_epochs=1)
    images, labels = data.splits.val.images.float() / 255, data.splits.val.labels
    with torch.no_grad():
        mean, log_variance = task.net.encoder(images, labels)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1).mean()
    assert values["val/kl"] == pytest.approx(float(expected), rel=1e-4)


# --- free bits and active units --------------------------------------------------------------------------------------


def posterior() -> tuple[Tensor, Tensor]:
    """Two images, three dimensions; of variance 1, so that a dimension's divergence is half the mean of the squared means.

    By dimension: (0.5 * 1 + 0) / 2 = 0.25, (0 + 0.02) / 2 = 0.01, (2 + 2) / 2 = 2 nats.
    """
    return torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.2, -2.0]]), torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (0.0, 0.25 + 0.01 + 2),
        (0.1, 0.25 + 0.1 + 2),  # the second dimension is short of a tenth; the first only in one of its images
        (0.3, 0.3 + 0.3 + 2),
        (5.0, 15.0),
    ],
)
def test_each_dimension_costs_its_mean_divergence_and_the_free_bits_at_least(free: float, expected: float) -> None:
    assert float(kl_with_free_bits(*posterior(), free)) == pytest.approx(expected)


def test_without_free_bits_the_divergence_is_the_plain_one() -> None:
    mean, log_variance = torch.randn(7, 5, generator=rng(0)), torch.randn(7, 5, generator=rng(1))
    torch.testing.assert_close(kl_with_free_bits(mean, log_variance, 0.0), kl_divergence(mean, log_variance))


def test_a_dimension_below_its_free_bits_gets_no_gradient_and_others_the_plain_one() -> None:
    found, plain = (posterior()[0].requires_grad_() for _ in range(2))
    kl_with_free_bits(found, torch.zeros(2, 3), 0.1).backward()
    kl_divergence(plain, torch.zeros(2, 3)).backward()
    assert found.grad is not None
    assert plain.grad is not None
    assert not found.grad[:, 1].any()
    assert torch.equal(found.grad[:, [0, 2]], plain.grad[:, [0, 2]])
    assert plain.grad[1, 1] != 0


@pytest.mark.parametrize("free_bits", [0.0, 3.0])
def test_training_charges_the_divergence_with_its_free_bits_and_logs_the_plain_one(
    free_bits: float, tiny_chest: Factory, tmp_path: Path
) -> None:
    values = trained(vae_of(free_bits=free_bits, kl_weight=2.0), tiny_chest(train=16), tmp_path)
    charged = LATENT * free_bits if free_bits else values["train/kl"]  # an untrained dimension has far less
    assert values["train/kl"] < LATENT * 3.0
    assert values["train/loss"] == pytest.approx(values["train/reconstruction"] + 2 * charged)
    assert values["val/loss"] == pytest.approx(values["val/reconstruction"] + values["val/kl"])


class OneProcess(ConditionalVAE):
    """Outside of any training."""

    def __init__(self) -> None:
        super().__init__(CVAE(1, 2, width=1, latent=1))
        self._trainer = SimpleNamespace(strategy=SingleDeviceStrategy())  # type: ignore[assignment]


def test_a_unit_is_active_where_its_mean_varies_by_more_than_a_hundredth() -> None:
    """Variances of four images in two batches: 0.0121, 0.0081, 0 (a mean far from the prior's is no use by itself), 1."""
    units = ActiveUnits()
    units.add(torch.tensor([[0.11, 0.09, 5.0, 1.0], [-0.11, -0.09, 5.0, -1.0]]))
    units.add(torch.tensor([[0.11, 0.09, 5.0, 1.0], [-0.11, -0.09, 5.0, -1.0]]))
    task = OneProcess()
    assert int(units.count(task)) == 2
    units.add(torch.zeros(3, 4))  # counted anew
    assert int(units.count(task)) == 0


def test_active_units_are_counted_over_all_validation_images(tiny_chest: Factory, tmp_path: Path) -> None:
    task, data = vae_of(optimizer=adam(lr=0.02)), tiny_chest(train=48, val=24, batch_size=16)
    values = trained(task, data, tmp_path, max_epochs=2)
    images, labels = data.splits.val.images.float() / 255, data.splits.val.labels
    variances = means_of(task, images, labels).numpy().astype(np.float64).var(0)
    assert values["val/active_units"] == (variances > 0.01).sum()


# --- learning --------------------------------------------------------------------------------------------------------


class Overfitted(NamedTuple):
    """A net that has seen the same few images again and again, and the reconstruction loss of every step."""

    task: ConditionalVAE
    images: Tensor
    labels: Tensor
    losses: list[float]


@pytest.fixture(scope="module")
def overfitted() -> Overfitted:
    """200 steps of a small net on 32 phantoms, half of each class darkened and half lightened: not told by the label."""
    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=32, val=8, test=8)
    images, labels = data.splits.train.images.float() / 255, data.splits.train.labels
    for label in (0, 1):
        own = torch.nonzero(labels == label)[:, 0]
        images[own[::2]] *= 0.2
        images[own[1::2]] = 1 - 0.2 * (1 - images[own[1::2]])
    torch.manual_seed(0)
    task, losses = ConditionalVAE(CVAE(1, 2, width=4, latent=LATENT)), []
    optimizer = adam(lr=5e-3)(task.parameters())
    for _ in range(200):
        reconstruction, kl, *_ = task.compute_terms((images, labels))
        optimizer.zero_grad()
        (reconstruction + 0.1 * kl).backward()
        optimizer.step()
        losses.append(reconstruction.item())
    return Overfitted(task, images, labels, losses)


@pytest.mark.long
def test_two_hundred_steps_bring_the_reconstruction_loss_near_its_least(overfitted: Overfitted) -> None:
    images, losses = overfitted.images, overfitted.losses
    least = float(F.binary_cross_entropy(images, images, reduction="sum")) / 32  # grey values have an entropy
    assert np.mean(losses[-20:]) - least < 0.15 * (losses[0] - least)


def test_a_reconstruction_is_nearer_to_its_image_than_the_mean_of_its_class_is(overfitted: Overfitted) -> None:
    task, images, labels, _ = overfitted
    means = torch.stack([images[labels == label].mean(0) for label in (0, 1)])[labels]
    error = float((task.reconstruct(images, labels) - images).square().mean())
    assert error < 0.6 * float((means - images).square().mean())


class LearningRates(Callback):
    """The learning rate with which every step was made."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_the_cosine_schedule_falls_with_every_step_and_ends_at_zero(tiny_chest: Factory, tmp_path: Path) -> None:
    rates = LearningRates()
    task = vae_of(optimizer=adam(lr=1e-3), scheduler=cosine())
    trained(task, tiny_chest(train=48), tmp_path, max_epochs=2, callbacks=[rates])
    assert rates.seen == pytest.approx([1e-3 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)])
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-12)


def test_without_a_schedule_the_learning_rate_stays(tiny_chest: Factory, tmp_path: Path) -> None:
    rates = LearningRates()
    trained(vae_of(optimizer=adam(lr=2e-3)), tiny_chest(train=32), tmp_path, max_epochs=2, callbacks=[rates])
    assert rates.seen == [2e-3] * 4


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> ConditionalVAE:
    """A VAE whose weights are large enough for images and classes to differ visibly."""
    task = vae_of(4)
    for parameter in task.net.parameters():
        parameter.data.mul_(2)
    return task


def test_samples_are_images_of_the_data_sets_shape_between_zero_and_one(generator: ConditionalVAE) -> None:
    images = generator.sample(torch.arange(10) % 2, rng=rng())
    assert images.shape == (10, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not images.requires_grad


def test_the_task_is_a_sampler_as_others_know_it(generator: ConditionalVAE) -> None:
    assert isinstance(generator, Sampler)
    assert (generator.num_classes, generator.image_shape) == (2, (1, 28, 28))


def test_the_task_shows_fixed_samples_and_reconstructions(generator: ConditionalVAE) -> None:
    assert isinstance(generator, FixedSampler)
    assert isinstance(generator, Autoencoder)


def test_samples_are_the_decoders_means_for_latents_of_the_prior(generator: ConditionalVAE) -> None:
    labels = torch.tensor([0, 1, 1])
    with torch.no_grad():
        logits = generator.net.decoder(torch.randn(3, LATENT, generator=rng(6)), labels)
    expected = 1 / (1 + np.exp(-logits[:, :1].numpy().astype(np.float64)))
    np.testing.assert_allclose(generator.sample(labels, rng=rng(6)).numpy(), expected, rtol=1e-5)


def test_the_same_generator_state_draws_the_same_images_and_another_state_others(generator: ConditionalVAE) -> None:
    labels = torch.arange(6) % 2
    first = generator.sample(labels, rng=rng(1))
    torch.rand(3)
    assert torch.equal(generator.sample(labels, rng=rng(1)), first)
    assert (generator.sample(labels, rng=rng(2)) != first).flatten(1).any(1).all()


def test_sampling_leaves_the_global_random_state_alone(generator: ConditionalVAE) -> None:
    before = torch.get_rng_state()
    generator.sample(torch.zeros(3, dtype=torch.int64), rng=rng())
    assert torch.equal(torch.get_rng_state(), before)


def test_each_image_depends_on_its_own_noise_and_label_alone(generator: ConditionalVAE) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    mixed = generator.sample(labels, rng=rng(3))
    for label in (0, 1):  # the same noise, one class throughout
        pure = generator.sample(torch.full((8,), label), rng=rng(3))
        torch.testing.assert_close(mixed[labels == label], pure[labels == label])
        assert not torch.isclose(mixed[labels != label], pure[labels != label]).flatten(1).all(1).any()


def test_a_large_draw_in_chunks_is_the_same_as_in_one_piece(
    generator: ConditionalVAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(23) % 2
    whole = generator.sample(labels, rng=rng(4))
    monkeypatch.setattr(generators, "CHUNK", 5)
    torch.testing.assert_close(generator.sample(labels, rng=rng(4)), whole)


def test_drawing_nothing_gives_no_images_of_the_right_shape(generator: ConditionalVAE) -> None:
    assert generator.sample(torch.zeros(0, dtype=torch.int64), rng=rng()).shape == (0, 1, 28, 28)


def test_a_label_that_is_no_class_is_refused(generator: ConditionalVAE) -> None:
    with pytest.raises(RuntimeError):
        generator.sample(torch.tensor([2]), rng=rng())


def test_drawn_bytes_are_the_samples_rounded(generator: ConditionalVAE) -> None:
    labels = torch.arange(7) % 2
    images = draw(generator, labels, seed=9)
    expected = np.rint(255 * generator.sample(labels, rng=rng(9)).numpy())
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), expected)


def test_the_progress_grid_uses_the_same_latents_for_ever_and_keeps_them_in_the_checkpoint() -> None:
    task, other = vae_of(grid_rows=3, seed=0), vae_of(grid_rows=3, seed=1)
    assert torch.equal(task.state_dict()["grid_latent"], other.state_dict()["grid_latent"])
    images, labels = task.fixed_samples()
    assert images.shape == (6, 1, 28, 28)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(task.fixed_samples()[0], images)
    task.state_dict()["grid_latent"].add_(1)
    other.load_state_dict(task.state_dict())
    assert torch.equal(other.grid_latent, task.grid_latent)


def test_the_progress_grid_shows_different_images_of_each_class(generator: ConditionalVAE) -> None:
    images, _ = generator.fixed_samples()
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert len(images.flatten(1).unique(dim=0)) == 16


# --- encoding --------------------------------------------------------------------------------------------------------


def decoded(task: ConditionalVAE, latent: Tensor, labels: Tensor) -> Tensor:
    """The image channels of the decoder's answer as probabilities, in plain numpy."""
    with torch.no_grad():
        logits = task.net.decoder(latent, labels)[:, : task.image_shape[0]].numpy().astype(np.float64)
    return torch.from_numpy((1 / (1 + np.exp(-logits))).astype(np.float32))


def means_of(task: ConditionalVAE, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return task.net.encoder(images, labels)[0]


def test_a_reconstruction_is_the_decoded_mean(generator: ConditionalVAE) -> None:
    images, labels = batch_of()
    found = generator.reconstruct(images, labels)
    assert (found.shape, found.dtype, found.requires_grad) == (images.shape, torch.float32, False)
    torch.testing.assert_close(found, decoded(generator, means_of(generator, images, labels), labels))


def test_a_reconstruction_draws_nothing(generator: ConditionalVAE) -> None:
    images, labels = batch_of()
    before = torch.get_rng_state()
    first = generator.reconstruct(images, labels)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(generator.reconstruct(images, labels), first)


def test_reconstructing_leaves_the_images_alone(generator: ConditionalVAE) -> None:
    images, labels = batch_of()
    before = images.clone()
    generator.reconstruct(images, labels)
    assert torch.equal(images, before)


def test_a_reconstruction_of_colour_images_leaves_the_label_planes_out() -> None:
    torch.manual_seed(0)
    task = ConditionalVAE(CVAE(3, 8, image_size=17, width=1, latent=2))
    images, labels = batch_of(4, 3, 8, 17)
    found = task.reconstruct(images, labels)
    assert found.shape == (4, 3, 17, 17)
    torch.testing.assert_close(found, decoded(task, means_of(task, images, labels), labels))


@pytest.fixture(scope="module")
def line(generator: ConditionalVAE) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three pairs, their labels, and the 3 x 5 images between them."""
    (first, _), labels = batch_of(3), torch.tensor([1, 0, 1])
    second = torch.rand((3, 1, 28, 28), generator=rng(77)).square()
    return first, second, labels, generator.interpolate(first, second, labels, 5)


def test_an_interpolation_has_as_many_images_as_asked_for_one_pair_after_another(
    line: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    images = line[-1]
    assert (images.shape, images.dtype, images.requires_grad) == ((15, 1, 28, 28), torch.float32, False)
    assert 0 <= images.min() < images.max() <= 1


def test_an_interpolations_ends_are_the_reconstructions(
    generator: ConditionalVAE, line: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    first, second, labels, images = line
    torch.testing.assert_close(images[::5], generator.reconstruct(first, labels))
    torch.testing.assert_close(images[4::5], generator.reconstruct(second, labels))
    assert not torch.allclose(images[::5], images[4::5], atol=1e-4)


def test_an_interpolation_is_a_straight_line_in_latent_space_in_equal_steps(
    generator: ConditionalVAE, line: tuple[Tensor, Tensor, Tensor, Tensor]
) -> None:
    first, second, labels, images = line
    start, end = means_of(generator, first, labels), means_of(generator, second, labels)
    for step in range(5):
        expected = decoded(generator, (4 - step) / 4 * start + step / 4 * end, labels)
        torch.testing.assert_close(images[step::5], expected)


# --- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [name for name in get_args(Precision) if name != NEEDS_A_GPU])
def test_every_precision_of_the_cpu_trains_draws_and_shows_float32_images_and_resumes(
    precision: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    def options() -> dict[str, Any]:
        settings = TrainerSettings(gpus=0, precision=precision, limit_batches=2)  # type: ignore[arg-type]
        return {"settings": settings, "callbacks": [SampleGrid(1), Reconstructions(1)]}

    task = vae_of()
    before = [p.detach().clone() for p in task.parameters()]
    values = trained(task, tiny_chest(train=32), tmp_path / "whole", max_epochs=2, **options())
    assert np.isfinite(list(values.values())).all()
    assert {p.dtype for p in task.parameters()} == {torch.float32}
    assert not any(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))
    images, labels = batch_of()
    pair = (images[:1], images[1:2], labels[:1])
    for drawn in (task.sample(labels, rng=rng()), task.reconstruct(images, labels), task.interpolate(*pair, steps=3)):
        assert drawn.dtype == torch.float32
        assert 0 <= drawn.min() < drawn.max() <= 1
    for name in ("samples", "reconstructions", "interpolations"):
        assert (tmp_path / "whole" / "figures" / f"{name}_epoch_0002.png").exists()
    trained(vae_of(), tiny_chest(train=32), tmp_path / "parts", **options())
    resumed = vae_of(seed=1)
    trained(resumed, tiny_chest(train=32), tmp_path / "parts", max_epochs=2, resume=True, **options())
    for a, b in zip(task.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_is_refused_on_the_cpu_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    settings = TrainerSettings(gpus=0, precision=NEEDS_A_GPU)
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed") as caught:
        trained(vae_of(), tiny_chest(train=32), tmp_path, settings=settings)
    assert "\n" not in str(caught.value)


def test_compiling_compiles_encoder_and_decoder(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **kwargs: asked.append(self))
    task = vae_of()
    trained(task, tiny_chest(train=16), tmp_path, settings=TrainerSettings(gpus=0, compile=True))
    assert [id(module) for module in asked] == [id(task.net.encoder), id(task.net.decoder)]


def test_two_batches_accumulated_are_one_of_twice_the_size(tiny_chest: Factory, tmp_path: Path) -> None:
    class NoNoise(ConditionalVAE):
        def compute_terms(self, batch: Any) -> Terms:
            images, labels = batch
            mean, log_variance = self.net.encoder(images, labels)
            loss = reconstruction_loss(self.net.decoder(mean, labels), images, labels, 2)
            return Terms(loss, kl_divergence(mean, log_variance), mean, log_variance)

    def weights(name: str, batch_size: int, accumulate: int) -> list[Tensor]:
        torch.manual_seed(0)
        task = NoNoise(CVAE(1, 2, width=2, latent=LATENT), optimizer=lambda p: torch.optim.SGD(p, lr=1e-5))
        settings = TrainerSettings(gpus=0, accumulate=accumulate)
        trained(task, tiny_chest(train=64, batch_size=batch_size), tmp_path / name, settings=settings)
        return list(task.parameters())

    for a, b in zip(weights("twice", 16, 2), weights("once", 32, 1), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


# --- interruptions and ends ------------------------------------------------------------------------------------------


class PowerCutError(Exception):
    """What ends a run from outside."""


class PowerCut(Callback):
    """Ends the run in the middle of its third epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (2, 1):
            raise PowerCutError


class Ways(NamedTuple):
    """The last checkpoints and logged values of one run made in one piece and in two."""

    whole: dict[str, Any]
    resumed: dict[str, Any]
    whole_values: dict[str, float]
    resumed_values: dict[str, float]


@pytest.fixture(scope="module")
def both_ways(tmp_path_factory: pytest.TempPathFactory) -> Ways:
    """A run with everything random or stateful switched on, without and with a power cut."""
    top = tmp_path_factory.mktemp("both_ways")

    def run(name: str, *callbacks: Callback, seed: int = 0, resume: bool = False) -> tuple[dict[str, Any], Any]:
        augment = BatchAugment(horizontal_flip=0.5, rotation=10, brightness=0.1)
        sizes: dict[str, Any] = {"train": 75, "val": 32, "test": 8, "batch_size": 16}
        data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, **sizes, augment=augment, seed=3)
        options: dict[str, Any] = {"optimizer": adam(lr=3e-3), "scheduler": cosine(warmup_steps=2)}
        task = vae_of(seed=seed, kl_weight=2.0, kl_annealing_epochs=3, **options)
        shown = [SampleGrid(1), Reconstructions(1), *callbacks]
        values = trained(task, data, top / name, max_epochs=4, callbacks=shown, seed=7, resume=resume)
        return torch.load(top / name / "checkpoints" / "last.ckpt", weights_only=True), values

    whole, whole_values = run("whole")
    with pytest.raises(PowerCutError):
        run("cut", PowerCut())
    torch.manual_seed(999)  # nothing of the first process's state is left
    resumed, resumed_values = run("cut", seed=1, resume=True)
    return Ways(whole, resumed, whole_values, resumed_values)


def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one_bit_for_bit(both_ways: Ways) -> None:
    assert both_ways.whole["epoch"] == both_ways.resumed["epoch"] == 3
    for name, value in both_ways.whole["state_dict"].items():
        assert torch.equal(value, both_ways.resumed["state_dict"][name]), name


def test_a_resumed_run_has_the_optimizers_state_of_an_uninterrupted_one_bit_for_bit(both_ways: Ways) -> None:
    (first,), (second,) = both_ways.whole["optimizer_states"], both_ways.resumed["optimizer_states"]
    assert first["param_groups"] == second["param_groups"]
    for key, state in first["state"].items():
        assert all(torch.equal(value, second["state"][key][name]) for name, value in state.items()), key
    assert both_ways.whole["lr_schedulers"] == both_ways.resumed["lr_schedulers"]


def test_a_resumed_run_logs_what_an_uninterrupted_one_logs(both_ways: Ways) -> None:
    assert both_ways.whole_values == both_ways.resumed_values


def test_checkpoints_load_without_pickled_code_into_a_new_task(tiny_chest: Factory, tmp_path: Path) -> None:
    task, fresh = vae_of(seed=0), vae_of(seed=1)
    trained(task, tiny_chest(train=16), tmp_path, max_epochs=1)
    for name in ("best.ckpt", "last.ckpt"):
        path = tmp_path / "checkpoints" / name
        assert torch.serialization.get_unsafe_globals_in_checkpoint(path) == []
        torch.load(path, weights_only=True)
    load_weights(fresh, tmp_path / "checkpoints" / "best.ckpt")
    labels = torch.arange(4) % 2
    assert torch.equal(task.sample(labels, rng=rng()), fresh.sample(labels, rng=rng()))


def test_a_loss_that_is_no_number_stops_in_one_line_and_the_last_good_checkpoint_stays(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    class Poison(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.net.encoder.mean.bias.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="loss is not finite in epoch 2") as caught:
        trained(vae_of(), tiny_chest(train=32), tmp_path, max_epochs=3, callbacks=[Poison()])
    assert "\n" not in str(caught.value)
    for name in ("last.ckpt", "best.ckpt"):
        kept = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
        assert kept["epoch"] == 0
        assert all(value.isfinite().all() for value in kept["state_dict"].values())


# --- whole runs ------------------------------------------------------------------------------------------------------


TINY = ("data.train=48", "data.val=32", "data.test=32", "data.batch_size=16", "debug=fast", "trainer.gpus=0")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small run by the command line."""
    top = tmp_path_factory.mktemp("cvae")
    argv = ["model=cvae", "data=blood_phantom", "model.net.width=2", *TINY]
    assert cli.main("train", [*argv, f"outputs={top}/outputs", f"hydra.run.dir={top}/run"]) == 0
    return top / "run"


def test_a_run_leaves_all_that_a_generators_run_promises(run: Path) -> None:
    names = ["run.json", "metrics.json", "model.txt", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
    names += [f"figures/{name}_epoch_0001.png" for name in ("samples", "reconstructions", "interpolations")]
    assert [name for name in names if not (run / name).stat().st_size] == []
    assert "CVAE" in (run / "model.txt").read_text()


def test_a_run_shows_its_pictures_in_tensorboard(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    accumulator.Reload()
    assert {"samples", "reconstructions", "interpolations"} <= set(accumulator.Tags()["images"])


def test_a_loaded_run_draws_and_encodes(run: Path) -> None:
    task = medassay.load_run(run).task
    labels = torch.arange(8)
    images = task.sample(labels, rng=rng())
    assert images.shape == task.reconstruct(images, labels).shape == (8, 3, 28, 28)


def test_the_sample_protocol_draws_the_classes_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [f"run={run}", "protocol=sample", "protocol.n=3", "protocol.labels=[monocyte,7]"]
    assert cli.main("evaluate", argv) == 0
    directory = Path(capsys.readouterr().out.rpartition("results: ")[2].strip())
    with np.load(directory / "samples.npz") as file:
        assert file["train_images"].shape == (6, 28, 28, 3)
        assert file["train_labels"].tolist() == [[5]] * 3 + [[7]] * 3
    assert {p.name for p in directory.glob("*.png")} == {"overview.png", "class_5_monocyte.png", "class_7_platelet.png"}


@pytest.mark.long
def test_a_classifier_is_trained_on_its_samples(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["model=tstr", f"data.generator={run}", "debug=fast", "trainer.gpus=0", "logger=none"]
    assert cli.main("train", [*argv, f"hydra.run.dir={tmp_path}/tstr"]) == 0, capsys.readouterr().err
    assert (tmp_path / "tstr" / "metrics.json").exists()
    (file,) = (tmp_path / "outputs" / ".cache" / "samples").iterdir()
    with np.load(file) as drawn:
        assert drawn["train_images"].shape == (48, 28, 28, 3)
        assert np.bincount(drawn["train_labels"][:, 0]).tolist() == [6] * 8
