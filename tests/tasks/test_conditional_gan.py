"""The conditional GAN's training: who gets which gradient, the averaged generator, sampling, and when it stops."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

import medassay.training.callbacks
from medassay.core.errors import TrainingError
from medassay.core.seeds import derive_seed
from medassay.core.types import Sampler
from medassay.data.modules import LabelledData
from medassay.data.sources import phantom_data
from medassay.nets.cgan import CGAN
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.tasks import conditional_gan
from medassay.tasks import generator as generators
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.tasks.differentiable_augment import DifferentiableAugment
from medassay.tasks.ema import EMA, compute_decay
from medassay.tasks.gan_losses import discriminator_loss, generator_loss
from medassay.tasks.optim import adam
from medassay.tasks.regularised_gan import RegularisedGAN
from medassay.training.callbacks import SampleGrid
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)
LATENT = 4


def gan_of(width: int = 2, *, seed: int = 0, **options: Any) -> ConditionalGAN:
    """A tiny GAN for chest phantoms."""
    torch.manual_seed(seed)
    return ConditionalGAN(CGAN(1, 2, width=width, latent=LATENT), **options)


def trained(task: ConditionalGAN, data: LabelledData, directory: Path, **options: Any) -> dict[str, float]:
    return fit(task, data, directory=directory, settings=CPU, **{"max_epochs": 1, "log_to": "none", **options}).values


def weights(net: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in net.parameters()]


def gradients(net: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(
        a is b is None or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(first, second, strict=True)
    )


# --- whose turn it is ------------------------------------------------------------------------------------------------


@dataclass
class Turn:
    """Both players at the moment one of them steps."""

    player: str
    gradients: dict[str, list[Tensor | None]]
    before: dict[str, list[Tensor]]
    after: dict[str, list[Tensor]] = field(default_factory=dict)
    discriminator_learns: bool = True


def watched_training(data: LabelledData, directory: Path, loss: str = "bce") -> list[Turn]:
    """Trains one epoch with optimizers that look at both players whenever one of them steps."""
    turns: list[Turn] = []
    names = iter(("discriminator", "generator"))

    class Watching(torch.optim.Adam):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, lr=2e-4, betas=(0.5, 0.999))
            self.player = next(names)

        def step(self, closure: Any = None) -> Any:
            turn = Turn(
                self.player,
                {name: gradients(net) for name, net in players.items()},
                {name: weights(net) for name, net in players.items()},
                discriminator_learns=all(p.requires_grad for p in task.net.discriminator.parameters()),
            )
            result = super().step(closure)
            turn.after = {name: weights(net) for name, net in players.items()}
            turns.append(turn)
            return result

    task = gan_of(loss=loss, optimizer=Watching)
    players = {"discriminator": task.net.discriminator, "generator": task.net.generator}
    trained(task, data, directory)
    return turns


@pytest.fixture(scope="module", params=["bce", "hinge", "relativistic"])
def turns(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Turn]:
    """The turns of one training with each loss; tests only read them."""
    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=48, val=32, test=32, batch_size=16)
    return watched_training(data, tmp_path_factory.mktemp("turns"), request.param)


def test_the_players_take_turns_the_discriminator_first(turns: list[Turn]) -> None:
    assert [turn.player for turn in turns] == ["discriminator", "generator"] * 3


def test_the_discriminators_step_leaves_no_gradient_in_the_generator(turns: list[Turn]) -> None:
    assert all(gradient is None for gradient in turns[0].gradients["generator"])
    for before, now in zip(
        turns[1::2], turns[2::2], strict=False
    ):  # later, what the generator's last turn left is untouched
        assert same(before.gradients["generator"], now.gradients["generator"])


def test_the_generators_step_leaves_no_gradient_in_the_discriminator(turns: list[Turn]) -> None:
    for before, now in zip(turns[::2], turns[1::2], strict=True):
        assert same(before.gradients["discriminator"], now.gradients["discriminator"])


def test_each_step_moves_its_own_player_alone(turns: list[Turn]) -> None:
    for turn in turns:
        other = {"discriminator": "generator", "generator": "discriminator"}[turn.player]
        assert same(turn.before[other], turn.after[other])
        assert not same(turn.before[turn.player], turn.after[turn.player])


def test_the_discriminator_learns_again_after_the_generators_step(turns: list[Turn]) -> None:
    assert all(turn.discriminator_learns for turn in turns)


def gradient_descent(parameters: Any) -> torch.optim.Optimizer:
    """Adam would blow the rounding error of gradients that are zero (a bias before batch norm) up to whole steps."""
    return torch.optim.SGD(parameters, lr=0.1)


def textbook_batch(task: ConditionalGAN, images: Tensor, labels: Tensor, noise: Tensor) -> CGAN:
    """One batch of a conditional DCGAN as written in its papers, with torch's own loss, on a copy of the networks."""
    net = copy.deepcopy(task.net).train()
    criterion = nn.BCEWithLogitsLoss()
    judge, painter = gradient_descent(net.discriminator.parameters()), gradient_descent(net.generator.parameters())
    one, zero = torch.ones(len(images)), torch.zeros(len(images))
    real = nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    fake = net.generator(noise, labels)
    d_loss = criterion(net.discriminator(real, labels), one) + criterion(net.discriminator(fake.detach(), labels), zero)
    d_loss.backward()
    judge.step()
    net.zero_grad()
    criterion(net.discriminator(fake, labels), one).backward()
    painter.step()
    return net


def test_one_batch_moves_both_networks_as_the_textbook_does(tiny_chest: Factory, tmp_path: Path) -> None:
    data = tiny_chest(train=16, batch_size=16)
    task = gan_of(optimizer=gradient_descent)
    start = task.net.state_dict()["discriminator.to_logit.weight"].clone()
    images, labels = next(iter(data.train_dataloader()))
    torch.manual_seed(derive_seed(0, 0, 3, 0))
    expected = textbook_batch(task, images, labels, torch.randn(16, LATENT))
    trained(task, data, tmp_path)
    for (name, found), value in zip(task.net.state_dict().items(), expected.state_dict().values(), strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.allclose(start, expected.discriminator.to_logit.weight, atol=1e-4)


def test_real_and_generated_images_pass_the_discriminator_in_batches_of_their_own(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    data = tiny_chest(train=16, batch_size=16)
    task = gan_of()
    seen: list[Tensor] = []
    task.net.discriminator.register_forward_pre_hook(lambda _m, given: seen.append(given[0].detach().clone()))
    trained(task, data, tmp_path)
    images, _ = next(iter(data.train_dataloader()))
    real = nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    assert [len(batch) for batch in seen] == [16, 16, 16]
    assert [torch.equal(batch, real) for batch in seen] == [True, False, False]
    assert torch.equal(seen[1], seen[2])  # the generator is judged by the images the discriminator learnt from


def test_images_seen_counts_every_training_image_of_every_epoch(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of()
    trained(task, tiny_chest(train=41, batch_size=16), tmp_path, max_epochs=3)
    assert task.images_seen == 123


def test_logged_values_are_finite_and_probabilities_lie_between_zero_and_one(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    values = trained(gan_of(), tiny_chest(), tmp_path)
    expected = {"d_loss", "g_loss", "d_real", "d_fake", "d_gradient_norm", "g_gradient_norm", "spread"}
    assert set(values) == {f"train/{name}" for name in expected}
    assert np.isfinite(list(values.values())).all()
    assert 0 < values["train/d_fake"] < 1
    assert 0 < values["train/d_real"] < 1


def test_the_scatter_is_within_the_classes_of_a_batch() -> None:
    images = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.75]).view(5, 1, 1, 1).expand(5, 1, 2, 2)
    labels = torch.tensor([0, 0, 2, 1, 1])  # means 0.5, 0.5 and the image itself
    assert float(conditional_gan.compute_scatter(images, labels, 4)) == pytest.approx(
        4 * (0.25 + 0.25 + 0.0625 + 0.0625)
    )


def test_a_generator_that_draws_one_image_again_and_again_is_told_of(
    tiny_chest: Factory, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained(gan_of(), tiny_chest(), tmp_path / "young")
    assert "again and again" not in caplog.text
    monkeypatch.setattr(conditional_gan, "YOUNG", 0)

    def forget_noise(net: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(inputs[0]), inputs[1]

    task = gan_of()
    task.net.generator.register_forward_pre_hook(forget_noise)
    assert trained(task, tiny_chest(), tmp_path)["train/spread"] < 0.05
    assert "nearly the same image again and again" in caplog.text


def test_the_logged_gradient_norm_is_the_euclidean_norm_of_all_gradients() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    net(torch.rand(4, 3)).sum().backward()
    flat = np.concatenate([p.grad.numpy().ravel() for p in net.parameters()])
    assert float(conditional_gan.compute_gradient_norm(net)) == pytest.approx(float(np.sqrt((flat**2).sum())))


def test_under_float16_the_norms_are_those_without_the_losses_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_norms(scale: float) -> list[float]:
        task = gan_of()
        scaler = SimpleNamespace(get_scale=lambda: scale)
        task._trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))  # type: ignore[assignment]
        players = (task.net.discriminator, task.net.generator)
        optimizers = [torch.optim.SGD(player.parameters(), lr=0.0) for player in players]
        monkeypatch.setattr(ConditionalGAN, "optimizers", lambda _: optimizers)
        monkeypatch.setattr(ConditionalGAN, "manual_backward", lambda _, loss: (scale * loss).backward())
        rng, labels = torch.Generator().manual_seed(0), torch.arange(4) % 2
        real = torch.rand(4, 1, 32, 32, generator=rng)
        fake = task.net.generator(torch.randn(4, LATENT, generator=rng), labels)
        *_, d_norm = task._discriminator_step(real, fake.detach(), labels, 0)
        _, g_norm = task._generator_step(real, fake, labels)
        return [float(d_norm), float(g_norm)]

    assert find_norms(1024.0) == pytest.approx(find_norms(1.0), rel=1e-4)


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def logits() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return 3 * torch.randn(50, generator=rng), 3 * torch.randn(50, generator=rng)


def test_the_binary_losses_are_torchs_cross_entropy_with_logits(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = logits
    criterion = nn.BCEWithLogitsLoss()
    d_loss = criterion(real, torch.ones(50)) + criterion(fake, torch.zeros(50))
    torch.testing.assert_close(discriminator_loss("bce", real, fake), d_loss)
    torch.testing.assert_close(generator_loss("bce", real, fake), criterion(fake, torch.ones(50)))


def test_the_hinge_losses_are_those_of_the_formula(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = (x.numpy().astype(np.float64) for x in logits)
    expected = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
    assert float(discriminator_loss("hinge", *logits)) == pytest.approx(expected, rel=1e-5)
    assert float(generator_loss("hinge", *logits)) == pytest.approx(-fake.mean(), rel=1e-5)


def test_the_relativistic_losses_compare_each_real_image_with_the_fake_beside_it(logits: tuple[Tensor, Tensor]) -> None:
    real, fake = (x.numpy().astype(np.float64) for x in logits)
    d_loss = -np.log(1 / (1 + np.exp(-(real - fake)))).mean()
    g_loss = -np.log(1 / (1 + np.exp(-(fake - real)))).mean()
    assert float(discriminator_loss("relativistic", *logits)) == pytest.approx(d_loss, rel=1e-5)
    assert float(generator_loss("relativistic", *logits)) == pytest.approx(g_loss, rel=1e-5)


def test_the_losses_stay_finite_for_extreme_logits() -> None:
    real, fake = torch.tensor([1e4, -1e4]), torch.tensor([-1e4, 1e4])
    for kind in ("bce", "hinge", "relativistic"):
        assert discriminator_loss(kind, real, fake).isfinite()
        assert generator_loss(kind, real, fake).isfinite()


# --- the averaged generator ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("updates", "decay"), [(0, 0.1), (1, 2 / 11), (90, 0.91), (8990, 0.999), (10**6, 0.999)])
def test_the_decay_warms_up_from_a_tenth(updates: int, decay: float) -> None:
    assert compute_decay(updates) == pytest.approx(decay)


@pytest.mark.parametrize("maximum", [0.999, 0.3, 0.0])
def test_the_average_follows_the_formula_of_plain_numpy(maximum: float) -> None:
    rng = np.random.default_rng(0)
    net = nn.Linear(3, 2)
    ema = EMA(net, maximum)
    expected = [p.detach().numpy().astype(np.float64) for p in net.parameters()]
    for t in range(12):
        for p in net.parameters():
            p.data = torch.tensor(rng.normal(size=p.shape), dtype=torch.float32)
        ema.update(net)
        decay = min(maximum, (1 + t) / (10 + t))
        expected = [
            decay * e + (1 - decay) * p.detach().numpy() for e, p in zip(expected, net.parameters(), strict=True)
        ]
    assert ema.updates == 12
    for found, value in zip(ema.net.parameters(), expected, strict=True):
        np.testing.assert_allclose(found.detach().numpy(), value, rtol=1e-5, atol=1e-6)


def test_averaging_leaves_the_net_itself_alone() -> None:
    net = nn.Linear(3, 2)
    before = weights(net)
    ema = EMA(net)
    net.weight.data.add_(1)
    ema.update(net)
    assert torch.equal(net.weight, before[0] + 1)
    assert not torch.equal(ema.net.weight, net.weight)


def test_the_average_stays_in_evaluation_mode_and_learns_nothing() -> None:
    ema = EMA(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    ema.train()
    nn.ModuleList([ema]).train()
    assert not any(m.training for m in ema.modules())
    assert not any(p.requires_grad for p in ema.parameters())


def test_the_count_of_updates_is_saved_with_the_weights() -> None:
    net = nn.Linear(2, 2)
    ema, other = EMA(net), EMA(net)
    for _ in range(3):
        ema.update(net)
    other.load_state_dict(ema.state_dict())
    assert other.updates == 3


def test_training_averages_once_per_batch(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of()
    trained(task, tiny_chest(train=41, batch_size=16), tmp_path, max_epochs=2)
    assert task.ema.updates == 6


def test_refreshed_statistics_are_the_plain_mean_over_the_batches() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    ema = EMA(net)
    ema.net[0].running_mean.fill_(7)  # stale: must not enter
    batches = [(k + 1) * torch.randn(8, 3, 4, 4) + k for k in range(4)]
    ema.refresh_batch_norm(lambda given: [given(batch) for batch in batches])

    inputs = [batch.numpy().astype(np.float64) for batch in batches]
    for layer in (0, 2):
        means = np.stack([x.mean((0, 2, 3)) for x in inputs])
        variances = np.stack([x.var((0, 2, 3), ddof=1) for x in inputs])
        np.testing.assert_allclose(ema.net[layer].running_mean.numpy(), means.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ema.net[layer].running_var.numpy(), variances.mean(0), rtol=1e-4)
        inputs = [  # what the next batch norm sees: normalised by the batch's own statistics, then rectified
            np.maximum(0, (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5))
            for x in inputs
        ]


def test_refreshing_changes_no_weight_and_ends_in_evaluation_mode_with_the_momentum_as_before() -> None:
    ema = EMA(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, momentum=0.25)))
    before = weights(ema)
    ema.refresh_batch_norm(lambda net: net(torch.rand(4, 1, 8, 8)))
    assert same(weights(ema), before)
    assert not any(m.training for m in ema.net.modules())
    assert ema.net[1].momentum == 0.25


def test_a_trained_average_has_statistics_of_its_own_weights(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of(optimizer=adam(lr=1e-2, betas=(0.5, 0.999)))
    trained(task, tiny_chest(train=90), tmp_path, max_epochs=2)
    probe = copy.deepcopy(task.ema.net).train()
    norms = [m for m in probe.modules() if isinstance(m, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = {m: [] for m in norms}
    for m in norms:
        m.register_forward_hook(lambda m, given, _o: seen[m].append(given[0].mean((0, 2, 3))))
    rng = torch.Generator().manual_seed(99)  # noise of the test's own
    with torch.no_grad():
        for _ in range(40):
            probe(torch.randn(256, LATENT, generator=rng), torch.randint(0, 2, (256,), generator=rng))
    for m, kept in zip(norms, (m for m in task.ema.net.modules() if isinstance(m, nn.BatchNorm2d)), strict=True):
        expected, scale = torch.stack(seen[m]).mean(0), kept.running_var.sqrt()
        assert ((kept.running_mean - expected).abs() < 0.15 * scale).all()


def test_the_progress_grid_shows_what_sampling_will_show(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    real = medassay.training.callbacks.figures.draw_image_grid

    def recording(images: Tensor, **options: Any) -> Any:
        drawn.append(images.clone())
        return real(images, **options)

    monkeypatch.setattr(medassay.training.callbacks.figures, "draw_image_grid", recording)
    task = gan_of(grid_rows=2)
    trained(task, tiny_chest(), tmp_path, callbacks=[SampleGrid(1)])
    images, _ = task.fixed_samples()
    torch.testing.assert_close(drawn[-1], images)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["plain", "strong"])
def generator(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ConditionalGAN:
    """A GAN trained for one epoch, so that its average and statistics are not those of the start."""
    data = phantom_data("chest_phantom", "chest", ["normal", "pneumonia"], 1, train=64, val=8, test=8, batch_size=16)
    optimizer = adam(lr=5e-3, betas=(0.5, 0.999))
    task = gan_of(4, optimizer=optimizer)
    if request.param == "strong":
        net = ResidualCGAN(1, 2, width=4, discriminator_width=4, latent=LATENT)
        task = RegularisedGAN(net, optimizer, augment=DifferentiableAugment())
    trained(task, data, tmp_path_factory.mktemp("gan"))
    return task


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_are_images_of_the_data_sets_shape_between_zero_and_one(generator: ConditionalGAN) -> None:
    images = generator.sample(torch.arange(10) % 2, rng=rng())
    assert images.shape == (10, 1, 28, 28)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not images.requires_grad


def test_the_task_is_a_sampler_as_others_know_it(generator: ConditionalGAN) -> None:
    assert isinstance(generator, Sampler)
    assert (generator.num_classes, generator.image_shape) == (2, (1, 28, 28))


def test_the_same_generator_state_draws_the_same_images_and_another_state_others(generator: ConditionalGAN) -> None:
    labels = torch.arange(6) % 2
    first = generator.sample(labels, rng=rng(1))
    torch.rand(3)
    assert torch.equal(generator.sample(labels, rng=rng(1)), first)
    assert (generator.sample(labels, rng=rng(2)) != first).flatten(1).any(1).all()


def test_sampling_leaves_the_global_random_state_alone(generator: ConditionalGAN) -> None:
    before = torch.get_rng_state()
    generator.sample(torch.zeros(3, dtype=torch.int64), rng=rng())
    assert torch.equal(torch.get_rng_state(), before)


def test_each_image_depends_on_its_own_noise_and_label_alone(generator: ConditionalGAN) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    mixed = generator.sample(labels, rng=rng(3))
    for label in (0, 1):  # the same noise, one class throughout
        pure = generator.sample(torch.full((8,), label), rng=rng(3))
        torch.testing.assert_close(mixed[labels == label], pure[labels == label])
        assert not torch.isclose(mixed[labels != label], pure[labels != label]).flatten(1).all(1).any()


def test_samples_come_from_the_average_and_not_from_the_learning_generator(generator: ConditionalGAN) -> None:
    labels = torch.zeros(4, dtype=torch.int64)
    drawn = generator.sample(labels, rng=rng(5))
    noise = torch.randn(4, LATENT, generator=rng(5))
    with torch.no_grad():
        averaged = generator.net.crop(generator.ema.net(noise, labels))
        learning = generator.net.crop(copy.deepcopy(generator.net.generator).eval()(noise, labels))
    torch.testing.assert_close(drawn, averaged)
    assert not torch.allclose(drawn, learning, atol=1e-4)


def test_a_large_draw_in_chunks_is_the_same_as_in_one_piece(
    generator: ConditionalGAN, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(23) % 2
    whole = generator.sample(labels, rng=rng(4))
    monkeypatch.setattr(generators, "CHUNK", 5)
    torch.testing.assert_close(generator.sample(labels, rng=rng(4)), whole)


def test_the_progress_grid_uses_the_same_noise_for_ever_and_keeps_it_in_the_checkpoint() -> None:
    task, other = gan_of(grid_rows=3, seed=0), gan_of(grid_rows=3, seed=1)
    assert torch.equal(task.state_dict()["grid_noise"], other.state_dict()["grid_noise"])
    assert task.grid_noise.shape == (6, LATENT)
    images, labels = task.fixed_samples()
    assert images.shape == (6, 1, 28, 28)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(task.fixed_samples()[0], images)
    task.state_dict()["grid_noise"].add_(1)
    other.load_state_dict(task.state_dict())
    assert torch.equal(other.grid_noise, task.grid_noise)


# --- when it stops ---------------------------------------------------------------------------------------------------


def test_a_collapse_stops_in_one_line_and_earlier_epochs_are_kept(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of(collapse_loss=1e9, collapse_epochs=3)
    with pytest.raises(TrainingError, match=r"under model\.collapse_loss=1e\+09\) for 3 epochs") as caught:
        trained(task, tiny_chest(train=32), tmp_path, max_epochs=9)
    assert "\n" not in str(caught.value)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["images_seen"]) == (1, 64)


def test_a_discriminator_that_still_loses_does_not_stop_the_run(tiny_chest: Factory, tmp_path: Path) -> None:
    task = gan_of(collapse_loss=1e-9, collapse_epochs=1)
    trained(task, tiny_chest(train=32), tmp_path, max_epochs=2)
    assert task.collapsed_for == 0


def test_collapsed_epochs_count_across_a_resumption(tiny_chest: Factory, tmp_path: Path) -> None:
    started: list[int] = []

    class Remember(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            started.append(trainer.current_epoch)

    options: dict[str, Any] = {"collapse_loss": 1e9, "collapse_epochs": 2}
    trained(gan_of(**options), tiny_chest(train=32), tmp_path, max_epochs=1)
    with pytest.raises(TrainingError, match="for 2 epochs"):
        trained(gan_of(**options), tiny_chest(train=32), tmp_path, max_epochs=2, resume=True, callbacks=[Remember()])
    assert started == [1]


def test_only_collapsed_epochs_in_a_row_count(tiny_chest: Factory, tmp_path: Path) -> None:
    class Recover(Callback):
        """Lets the second epoch pass as healthy."""

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.collapse_loss = 0.0 if trainer.current_epoch == 1 else 1e9

    task = gan_of(collapse_loss=1e9, collapse_epochs=2)
    trained(task, tiny_chest(train=32), tmp_path, max_epochs=3, callbacks=[Recover()])
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["collapsed_for"] == 1
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert (best["epoch"], best["collapsed_for"]) == (1, 0)  # what was good before stays the best


@pytest.mark.parametrize(("player", "part"), [("generator", "to_image"), ("discriminator", "to_logit")])
def test_a_loss_that_is_no_number_stops_and_the_last_good_checkpoint_stays(
    player: str, part: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    class Poison(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                getattr(getattr(pl_module.net, player), part).bias.data.fill_(float("nan"))

    with pytest.raises(TrainingError, match="loss is not finite in epoch 2") as caught:
        trained(gan_of(), tiny_chest(train=32), tmp_path, max_epochs=3, callbacks=[Poison()])
    assert "\n" not in str(caught.value)
    for name in ("last.ckpt", "best.ckpt"):
        kept = torch.load(tmp_path / "checkpoints" / name, weights_only=True)
        assert kept["epoch"] == 0
        assert all(value.isfinite().all() for value in kept["state_dict"].values() if isinstance(value, Tensor))
