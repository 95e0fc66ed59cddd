"""The diffusion model's training: what is drawn for each image, its loss, its average, and the images it draws."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

import medassay.training.callbacks
from medassay import config as configuration
from medassay.core.errors import ConfigError, DataError, Interrupted, TrainingError
from medassay.core.files import sha256
from medassay.core.types import LabelledImages, Sampler
from medassay.data.modules import LabelledData
from medassay.data.symmetries import apply_symmetries
from medassay.nets.diffusion import DenoisingUNet
from medassay.runs.check import check_training
from medassay.tasks import generator as generators
from medassay.tasks.conditional_diffusion import ConditionalDiffusion
from medassay.tasks.edm import LEVELS, make_sigmas
from medassay.tasks.ema import compute_decay_by_images
from medassay.tasks.optim import adam, sgd
from medassay.training.callbacks import FixedSampler, SampleGrid
from medassay.training.checkpoints import load_weights, read_checkpoint
from medassay.training.fit import fit
from medassay.training.settings import TrainerSettings
from tests.helpers import Command, assert_one_line, list_differences

Factory = Callable[..., LabelledData]
CPU = TrainerSettings(gpus=0)


def diffusion_of(size: int = 28, *, width: int = 2, seed: int = 0, awake: bool = False, **options: Any) -> Any:
    """A tiny model of grey images of two classes; ``awake`` with no zero weights, in the average as well."""
    torch.manual_seed(seed)
    net = DenoisingUNet(1, 2, size, width=width)
    if awake:
        for parameter in net.parameters():
            if not parameter.any():
                nn.init.normal_(parameter, std=0.2)
    return ConditionalDiffusion(net, **options)


def trained(task: ConditionalDiffusion, data: LabelledData, directory: Path, **options: Any) -> dict[str, float]:
    defaults: dict[str, Any] = {"max_epochs": 1, "log_to": "none", "settings": CPU}
    return fit(task, data, directory=directory, **{**defaults, **options}).values


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(n: int = 6, size: int = 28) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, size, size, generator=rng(8)), torch.arange(n) % 2


class Recorded(nn.Module):
    """What a net was given, and what it answered."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, ...]] = []
        net.register_forward_hook(self.keep)

    def keep(self, _net: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        self.calls.append((*(part.detach() for part in given), answer.detach()))


# --- what the configuration says -------------------------------------------------------------------------------------


def test_the_default_run_is_the_papers_sampler_and_noise_on_blood_cells() -> None:
    config = check_training(configuration.compose("train", ["model=diffusion"]))
    model, data = config["model"], config["data"]
    assert (data["name"], data["size"], config["recipe"]["monitor"]) == ("bloodmnist", 28, None)
    assert (model["p_mean"], model["p_std"], model["rho"]) == (-1.2, 1.2, 7)
    assert (model["sigma_min"], model["sigma_max"], model["steps"]) == (0.002, 80, 8)
    assert (model["guidance"], model["label_dropout"], model["symmetries"]) == (0, 0.1, True)
    assert model["net"]["dropout"] == 0.1


@pytest.mark.parametrize(
    ("overrides", "facts"),
    [
        (["model.guidance=1", "model.label_dropout=0"], ["model.guidance=1", "model.label_dropout=0.1"]),
        (["model.sigma_min=90"], ["model.sigma_min=90", "model.sigma_max=80"]),
        (["data.augment.quarter_turn=0.5"], ["data.augment.quarter_turn=0.5", "model.symmetries=false"]),
        (["data.size=27"], ["model.net.image_size=27", "26 or 28"]),
        (["model.steps=0"], ["model.steps=0", "integer >= 1"]),
        (["model.label_dropout=1"], ["model.label_dropout=1", "< 1"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    overrides: list[str], facts: list[str], command: Command, tmp_path: Path
) -> None:
    small = ["data.train=16", "data.val=8", "data.test=8", "trainer.gpus=0", f"hydra.run.dir={tmp_path}/run"]
    assert_one_line(command("train", "model=diffusion", "data=blood_phantom", *small, *overrides), *facts)


# --- the training loss -----------------------------------------------------------------------------------------------


def test_the_loss_is_the_papers_of_what_was_drawn() -> None:
    task, (images, labels) = diffusion_of(awake=True), batch_of()
    task.sigma_data.fill_(0.3)
    task.data_mean.fill_(0.2)
    recorded = Recorded(task.net)
    found = float(task.compute_loss((images, labels)).detach())
    ((scaled, level, _, symmetry, answer),) = recorded.calls
    sigma = (4 * level.double()).exp()[:, None, None, None]
    clean = 2 * apply_symmetries(images, symmetry).double() - 1 - 0.2
    noisy = scaled.double() * (sigma**2 + 0.09).sqrt()
    denoised = 0.09 / (sigma**2 + 0.09) * noisy + sigma * 0.3 / (sigma**2 + 0.09).sqrt() * answer.double()
    weight = (sigma**2 + 0.09) / (sigma * 0.3) ** 2
    assert found == pytest.approx(float((weight * (denoised - clean) ** 2).mean()), rel=1e-3)


def drawn_for(n: int, **options: Any) -> tuple[ConditionalDiffusion, tuple[Tensor, ...], tuple[Tensor, Tensor]]:
    """What one large batch's net was given."""
    task, batch = diffusion_of(8, **options), batch_of(n, 8)
    recorded = Recorded(task.net)
    torch.manual_seed(4)
    task.compute_loss(batch)
    return task, recorded.calls[0], batch


def test_noise_levels_are_log_normal_and_noise_has_the_levels_deviation() -> None:
    task, (scaled, level, *_), (images, _) = drawn_for(4000, p_mean=-0.5, p_std=0.7, symmetries=False)
    logs = 4 * level
    assert float(logs.mean()) == pytest.approx(-0.5, abs=0.05)
    assert float(logs.std()) == pytest.approx(0.7, rel=0.05)
    sigma = logs.exp()[:, None, None, None]
    noise = (scaled * (sigma.square() + task.sigma_data.square()).sqrt() - task.centre(images)) / sigma
    assert float(noise.mean()) == pytest.approx(0, abs=0.01)
    assert float(noise.std()) == pytest.approx(1, rel=0.01)


def test_the_class_is_told_but_for_the_share_that_is_dropped() -> None:
    _, (_, _, classes, *_), (_, labels) = drawn_for(4000, label_dropout=0.2)
    told = classes.sum(1) > 0
    assert float(told.float().mean()) == pytest.approx(0.8, abs=0.03)
    assert torch.equal(classes[told].argmax(1), labels[told])
    assert torch.equal(drawn_for(64, label_dropout=0.0)[1][2], torch.eye(2)[torch.arange(64) % 2])


def test_the_net_is_told_which_symmetry_was_made_of_its_image() -> None:
    task, (scaled, level, _, symmetry, _), (images, _) = drawn_for(64, p_mean=-9.0, p_std=0.1)  # next to no noise
    seen = scaled * ((8 * level).exp()[:, None, None, None] + task.sigma_data.square()).sqrt()
    assert len(symmetry.unique(dim=0)) == 8
    torch.testing.assert_close(seen, task.centre(apply_symmetries(images, symmetry)), atol=2e-3, rtol=0)


def test_without_symmetries_images_stay_as_they_are_and_the_label_says_so() -> None:
    task, (scaled, _, _, symmetry, _), (images, _) = drawn_for(64, p_mean=-9.0, p_std=0.1, symmetries=False)
    assert not symmetry.any()
    torch.testing.assert_close(scaled * task.sigma_data, task.centre(images), atol=2e-3, rtol=0)


def test_a_net_that_has_learnt_nothing_has_a_loss_of_one_where_pixels_are_gaussian() -> None:
    task, deviation = diffusion_of(8), 0.1
    images = 0.5 + deviation * torch.randn(4000, 1, 8, 8, generator=rng())
    task.sigma_data.fill_(2 * deviation)
    assert float(task.compute_loss((images, torch.zeros(4000, dtype=torch.int64))).detach()) == pytest.approx(
        1, rel=0.02
    )


def test_gradients_reach_every_parameter_that_trains_and_no_averaged_one() -> None:
    task = diffusion_of(awake=True)
    task.compute_loss(batch_of()).backward()
    for name, parameter in task.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == name.startswith("net."), name


# --- the data's moments ----------------------------------------------------------------------------------------------


def test_deviation_and_mean_are_measured_on_the_training_images_and_kept(tiny_chest: Factory, tmp_path: Path) -> None:
    task, data = diffusion_of(), tiny_chest(train=32)
    trained(task, data, tmp_path)
    values = 2 * data.splits.train.images.numpy().astype(np.float64) / 255 - 1
    assert float(task.sigma_data) == pytest.approx(values.std(), rel=1e-5)
    assert float(task.data_mean) == pytest.approx(values.mean(), rel=1e-5)
    other = diffusion_of(seed=1)
    load_weights(other, tmp_path / "checkpoints" / "best.ckpt")
    assert torch.equal(other.sigma_data, task.sigma_data)
    assert torch.equal(other.data_mean, task.data_mean)
    labels = torch.arange(4) % 2
    assert torch.equal(other.sample(labels, rng=rng()), task.sample(labels, rng=rng()))


def test_images_of_one_colour_are_refused_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    data = tiny_chest(train=16)
    plain = LabelledImages(torch.full_like(data.splits.train.images, 7), data.splits.train.labels)
    data._splits = data.splits._replace(train=plain)
    with pytest.raises(DataError, match="all of one colour") as caught:
        trained(diffusion_of(), data, tmp_path)
    assert "\n" not in str(caught.value)


# --- the average -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "step", "decay"),
    [(0, 64, 0.0), (1000, 50, 0.5), (1000, 100, 0.25), (10**7, 500, 0.5**0.5), (10**7, 1000, 0.5)],
)
def test_the_decay_halves_per_half_life_or_per_a_twentieth_of_the_images_seen(
    seen: int, step: int, decay: float
) -> None:
    assert compute_decay_by_images(seen, step, half_life=1000, ramp_up=0.05) == pytest.approx(decay)


def test_the_decay_of_several_steps_is_that_of_one_of_their_size() -> None:
    once = compute_decay_by_images(10**6, 300, 1000, 0.05)
    assert compute_decay_by_images(10**6, 100, 1000, 0.05) ** 3 == pytest.approx(once)


def vector(net: nn.Module) -> np.ndarray:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).double().numpy()


class Steps(Callback):
    """The net's weights after each batch."""

    def __init__(self) -> None:
        self.weights: list[np.ndarray] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.weights.append(vector(pl_module.net))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_averages_by_images_seen_as_the_formula_in_plain_numpy(
    accumulate: int, tiny_chest: Factory, tmp_path: Path
) -> None:
    task, steps = diffusion_of(ema_half_life=40, ema_ramp_up=0.5), Steps()
    settings = TrainerSettings(gpus=0, accumulate=accumulate)
    trained(
        task, tiny_chest(train=56), tmp_path, max_epochs=2, settings=settings, callbacks=[steps]
    )  # 16, 16, 16 and 8 images
    sizes = [16, 16, 16, 8] if accumulate == 1 else [32, 24]
    average, seen = np.zeros(0), 0
    for weights, size in zip(steps.weights[accumulate - 1 :: accumulate], sizes * 2, strict=True):
        decay = 0.5 ** (size / min(40, 0.5 * seen)) if seen else 0.0
        average = decay * average + (1 - decay) * weights if seen else weights
        seen += size
    found = vector(task.ema.net)
    np.testing.assert_allclose(found, average, rtol=1e-4, atol=1e-6)
    assert not np.allclose(found, steps.weights[-1], atol=1e-5)
    assert task.images_seen == 112


def test_resuming_gives_the_weights_of_an_uninterrupted_run_bit_for_bit(tiny_chest: Factory, tmp_path: Path) -> None:
    trained(diffusion_of(), tiny_chest(train=24), tmp_path / "whole", max_epochs=2)
    trained(diffusion_of(), tiny_chest(train=24), tmp_path / "parts", max_epochs=1)
    trained(diffusion_of(seed=1), tiny_chest(train=24), tmp_path / "parts", max_epochs=2, resume=True)
    whole, parts = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "parts"))
    for key in ("state_dict", "optimizer_states", "images_seen"):
        assert list_differences(whole[key], parts[key], key) == []
    assert whole["images_seen"] == 48


class Cut(Callback):
    """Ends the second epoch after its first batch."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise KeyboardInterrupt


def test_the_same_task_goes_on_after_a_broken_off_epoch_as_if_there_had_been_none(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    trained(diffusion_of(), tiny_chest(train=40), tmp_path / "whole", max_epochs=2)
    task = diffusion_of()
    with pytest.raises(Interrupted):
        trained(task, tiny_chest(train=40), tmp_path / "cut", max_epochs=2, callbacks=[Cut()])
    trained(task, tiny_chest(train=40), tmp_path / "cut", max_epochs=2, resume=True)
    whole, cut = (read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("whole", "cut"))
    for key in ("state_dict", "images_seen"):
        assert list_differences(whole[key], cut[key], key) == []
    whole_rows, cut_rows = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "cut"))
    assert whole_rows == cut_rows


# --- what is logged --------------------------------------------------------------------------------------------------


def test_the_validation_loss_is_the_averages_at_fixed_noise_whatever_the_epoch_and_the_batch_size(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    found = []
    for batch_size, epochs in ((16, 2), (24, 1)):
        task, directory = diffusion_of(awake=True, optimizer=sgd(lr=1e-12)), tmp_path / f"{batch_size}"
        trained(task, tiny_chest(train=32, val=40, batch_size=batch_size), directory, max_epochs=epochs)
        found += [row["val/loss"] for row in json.loads((directory / "history.json").read_text())["rows"]]
    assert found == pytest.approx([found[0]] * 3, rel=1e-4)


def test_the_validation_loss_is_the_formula_at_the_quantiles_for_the_average(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    task = diffusion_of(awake=True, optimizer=adam(lr=1e-2), ema_half_life=40, ema_ramp_up=1.0)
    data = tiny_chest(train=32, val=40)
    values = trained(task, data, tmp_path)
    val = data.splits.val
    clean = task.centre(val.images.float() / 255)
    sigma = task.levels[torch.arange(40) % LEVELS][:, None, None, None]
    noisy = clean + sigma * torch.randn(clean.shape, generator=rng(0))
    variance = task.sigma_data.square()

    def loss_of(net: nn.Module) -> float:
        given = noisy / (sigma.square() + variance).sqrt(), sigma.log().flatten() / 4, torch.eye(2)[val.labels]
        with torch.no_grad():
            answer = net.eval()(*given, torch.zeros(40, 3))
        denoised = variance / (sigma.square() + variance) * noisy
        denoised += sigma * task.sigma_data / (sigma.square() + variance).sqrt() * answer
        return float(((sigma.square() + variance) / (sigma.square() * variance) * (denoised - clean).square()).mean())

    assert values["val/loss"] == pytest.approx(loss_of(task.ema.net), rel=1e-3)
    assert values["val/loss"] != pytest.approx(loss_of(task.net), rel=1e-2)
    assert set(values) == {"train/loss", "val/loss"}


@pytest.mark.parametrize("loop", ["lean", "lightning"])
def test_both_losses_are_shown_by_the_images_seen(loop: Any, tiny_chest: Factory, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    settings = TrainerSettings(gpus=0, loop=loop)
    trained(diffusion_of(), tiny_chest(train=24), tmp_path, max_epochs=2, log_to="tensorboard", settings=settings)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("train/loss", "val/loss"):
        assert [point.step for point in events.Scalars(name)] == [24, 48]


def test_a_loss_that_is_no_number_stops_in_one_line(tiny_chest: Factory, tmp_path: Path) -> None:
    task = diffusion_of()
    task.net.to_image.bias.data.fill_(math.nan)
    with pytest.raises(TrainingError, match="the loss is not finite in epoch 1") as caught:
        trained(task, tiny_chest(train=32), tmp_path)
    assert "\n" not in str(caught.value)


# --- sampling --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generator() -> ConditionalDiffusion:
    """A model whose average differs from its net; classes and images differ visibly."""
    task = diffusion_of(8, width=4, awake=True)
    for parameter in task.ema.net.parameters():
        parameter.data.mul_(1.5)
    return task  # type: ignore[no-any-return]


def test_samples_are_images_of_the_data_sets_shape_between_zero_and_one(generator: ConditionalDiffusion) -> None:
    images = generator.sample(torch.arange(10) % 2, rng=rng())
    assert images.shape == (10, 1, 8, 8)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1
    assert not images.requires_grad


def test_the_task_is_a_sampler_as_others_know_it(generator: ConditionalDiffusion) -> None:
    assert isinstance(generator, Sampler)
    assert isinstance(generator, FixedSampler)
    assert (generator.num_classes, generator.image_shape) == (2, (1, 8, 8))


def test_the_same_generator_state_draws_the_same_images_and_another_state_others(
    generator: ConditionalDiffusion,
) -> None:
    labels = torch.arange(6) % 2
    first = generator.sample(labels, rng=rng(1))
    torch.rand(3)
    assert torch.equal(generator.sample(labels, rng=rng(1)), first)
    assert (generator.sample(labels, rng=rng(2)) != first).flatten(1).any(1).all()


def test_sampling_leaves_the_global_random_state_alone(generator: ConditionalDiffusion) -> None:
    before = torch.get_rng_state()
    generator.sample(torch.zeros(3, dtype=torch.int64), rng=rng())
    assert torch.equal(torch.get_rng_state(), before)


def test_each_image_depends_on_its_own_noise_and_label_alone(generator: ConditionalDiffusion) -> None:
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    mixed = generator.sample(labels, rng=rng(3))
    for label in (0, 1):  # the same noise, one class throughout
        pure = generator.sample(torch.full((8,), label), rng=rng(3))
        torch.testing.assert_close(mixed[labels == label], pure[labels == label])
        assert not torch.isclose(mixed[labels != label], pure[labels != label]).flatten(1).all(1).any()


def test_a_large_draw_in_chunks_is_the_same_as_in_one_piece(
    generator: ConditionalDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = torch.arange(23) % 2
    whole = generator.sample(labels, rng=rng(4))
    monkeypatch.setattr(generators, "CHUNK", 5)
    torch.testing.assert_close(generator.sample(labels, rng=rng(4)), whole)


def test_drawing_nothing_gives_no_images_of_the_right_shape(generator: ConditionalDiffusion) -> None:
    assert generator.sample(torch.zeros(0, dtype=torch.int64), rng=rng()).shape == (0, 1, 8, 8)


def test_a_label_that_is_no_class_is_refused(generator: ConditionalDiffusion) -> None:
    with pytest.raises(RuntimeError):
        generator.sample(torch.tensor([2]), rng=rng())


def test_samples_come_from_the_average_alone_told_the_class_and_no_symmetry(generator: ConditionalDiffusion) -> None:
    averaged, learning = Recorded(generator.ema.net), Recorded(generator.net)
    labels = torch.tensor([0, 1, 1])
    generator.sample(labels, rng=rng())
    assert len(learning.calls) == 0
    assert len(averaged.calls) == 15
    for _, _, classes, symmetry, _ in averaged.calls:
        assert torch.equal(classes, torch.eye(2)[labels])
        assert not symmetry.any()


def test_samples_of_a_net_of_zeros_are_gaussian_datas_exact_ones() -> None:
    """The net of zeros is ideal for pixels N(mean, deviation^2), whose flow shrinks noise by deviation / total deviation."""
    task = diffusion_of(8, width=1, steps=32)
    task.sigma_data.fill_(0.25)
    task.data_mean.fill_(0.1)
    noise = torch.randn(5, 64, generator=rng(6)).unflatten(1, (1, 8, 8))
    pixels = 0.1 + 80 * noise * 0.25 / math.sqrt(80**2 + 0.25**2)
    expected = ((pixels + 1) / 2).clamp(0, 1)
    torch.testing.assert_close(task.sample(torch.zeros(5, dtype=torch.int64), rng=rng(6)), expected, atol=1e-2, rtol=0)


def test_the_multistep_solver_calls_the_net_once_a_step_and_comes_to_nearly_the_same_images() -> None:
    labels, images = torch.arange(4) % 2, []
    for solver, calls in (("heun", 79), ("multistep", 40)):
        task = diffusion_of(8, awake=True, steps=40, solver=solver)
        recorded = Recorded(task.ema.net)
        images.append(task.sample(labels, rng=rng()))
        assert len(recorded.calls) == calls
    assert float((images[0] - images[1]).abs().mean()) < 0.02


def one_step(guidance: float, labels: Tensor) -> tuple[Tensor, int]:
    """Images of one step from noise of deviation 1, not clamped, and the number of calls of the net."""
    task = diffusion_of(8, width=4, awake=True, steps=1, sigma_max=1.0, guidance=guidance)
    recorded = Recorded(task.ema.net)
    with torch.no_grad():
        return task.draw(torch.randn(3, 64, generator=rng()), labels), len(recorded.calls)


def test_guidance_goes_on_from_no_class_through_the_class_by_its_amount() -> None:
    labels = torch.tensor([0, 1, 1])
    plain, calls = one_step(0.0, labels)
    assert calls == 1
    guided, calls = one_step(2.0, labels)
    assert calls == 2
    half, _ = one_step(0.5, labels)
    torch.testing.assert_close(half - plain, (guided - plain) / 4)
    task = diffusion_of(8, width=4, awake=True)
    x, level = torch.randn(3, 64, generator=rng()).unflatten(1, (1, 8, 8)), torch.ones(1, 1, 1, 1)
    with torch.no_grad():
        none = task.denoise(task.ema, x, level, torch.zeros(3, 2), torch.zeros(3, 3))
    of_any_class = (none + 1) / 2
    torch.testing.assert_close(guided, of_any_class + 3 * (plain - of_any_class))
    assert not torch.allclose(plain, of_any_class, atol=1e-3)


def test_no_guidance_is_plain_conditional_sampling_even_where_label_dropout_would_allow_it() -> None:
    labels = torch.arange(4) % 2
    images = [diffusion_of(8, awake=True, label_dropout=share).sample(labels, rng=rng()) for share in (0.0, 0.1)]
    assert torch.equal(images[0], images[1])


def test_the_progress_grid_shows_what_sampling_will_show_and_is_kept(
    tiny_chest: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Tensor] = []
    real = medassay.training.callbacks.figures.draw_image_grid
    monkeypatch.setattr(
        medassay.training.callbacks.figures,
        "draw_image_grid",
        lambda images, **options: (drawn.append(images.clone()), real(images, **options))[1],
    )
    task = diffusion_of(grid_rows=1)
    trained(task, tiny_chest(train=16), tmp_path, callbacks=[SampleGrid(1)])
    images, labels = task.fixed_samples()
    assert labels.tolist() == [0, 1]
    torch.testing.assert_close(drawn[-1], images)
    assert torch.equal(task.state_dict()["grid_noise"], diffusion_of(grid_rows=1, seed=1).state_dict()["grid_noise"])


def test_equal_weights_that_draw_by_other_settings_have_other_files(tiny_chest: Factory, tmp_path: Path) -> None:
    """Caches of samples know a generator by its checkpoint's checksum."""
    task, sums = diffusion_of(), set()
    trained(task, tiny_chest(train=16), tmp_path)
    for guidance in (0.0, 1.0, 1.0):
        checkpoint = read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
        assert checkpoint["sampling"] == {"solver": "heun", "sigmas": make_sigmas(8, 0.002, 80, 7), "guidance": 0}
        task.guidance = guidance
        task.on_save_checkpoint(checkpoint)
        torch.save(checkpoint, tmp_path / "again.ckpt")
        sums.add(sha256(tmp_path / "again.ckpt"))
    assert len(sums) == 2


def test_sixty_steps_teach_the_classes_their_brightness() -> None:
    """Class 0 is dark, class 1 bright: samples are, too, and the loss has fallen."""
    torch.manual_seed(0)
    # more noise than usual: in so few steps the largest levels would hardly be seen
    task = ConditionalDiffusion(DenoisingUNet(1, 2, 8, width=8), p_mean=0.5, p_std=1.5)
    labels = torch.arange(16) % 2
    images = torch.tensor([0.25, 0.75])[labels, None, None, None].expand(-1, 1, 8, 8)
    optimizer, losses = adam(lr=1e-2)(task.net.parameters()), []
    for _ in range(60):
        loss = task.compute_loss((images, labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:5])
    task.ema.update(task.net, decay=0.0)
    brightness = task.sample(labels, rng=rng()).mean((1, 2, 3))
    assert brightness[labels == 0].mean() < 0.4
    assert brightness[labels == 1].mean() > 0.6


@pytest.mark.parametrize(
    ("options", "key"), [({"guidance": 1.0, "label_dropout": 0.0}, "guidance"), ({"sigma_min": 81.0}, "sigma_min")]
)
def test_constructors_refuse_the_same(options: dict[str, float], key: str) -> None:
    with pytest.raises(ConfigError, match=rf"model\.{key}"):
        diffusion_of(8, **options)
