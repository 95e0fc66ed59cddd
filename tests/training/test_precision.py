"""Every arithmetic that can be asked for trains every kind of model, or says in one line that it cannot; what is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.data.curves.sources import ecg_phantom_data
from medassay.data.modules import LabelledData
from medassay.data.segmentation.sources import cell_phantom_data
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.cgan import CGAN
from medassay.nets.cvae import CVAE
from medassay.nets.diffusion import DenoisingUNet
from medassay.nets.mlp import MLP
from medassay.nets.residual_cgan import ResidualCGAN
from medassay.nets.unet import UNet
from medassay.tasks.classification import Classification
from medassay.tasks.conditional_diffusion import ConditionalDiffusion
from medassay.tasks.conditional_gan import ConditionalGAN
from medassay.tasks.conditional_vae import ConditionalVAE
from medassay.tasks.differentiable_augment import DifferentiableAugment
from medassay.tasks.generator import ConditionalGenerator
from medassay.tasks.predictions import predict
from medassay.tasks.regression import Regression
from medassay.tasks.regularised_gan import RegularisedGAN
from medassay.tasks.segmentation import Segmentation
from medassay.training import trainer
from medassay.training.callbacks import Pictures, Reconstructions
from medassay.training.checkpoints import load_weights
from medassay.training.curve_fits import CurveFits
from medassay.training.fit import Fit, fit
from medassay.training.segmented_images import SegmentedImages
from medassay.training.settings import Precision, TrainerSettings

Factory = Callable[..., LabelledData]
NEEDS_A_GPU = "16-mixed"
ON_THE_CPU = pytest.mark.parametrize("precision", [name for name in get_args(Precision) if name != NEEDS_A_GPU])


def classifier(*, seed: int = 0) -> Classification:
    torch.manual_seed(seed)
    return Classification(BlockCNN(1, 2, width=2), 2)


def gan(*, seed: int = 0) -> ConditionalGAN:
    torch.manual_seed(seed)
    return ConditionalGAN(CGAN(1, 2, width=2, latent=4))


def diffusion(*, seed: int = 0) -> ConditionalDiffusion:
    torch.manual_seed(seed)
    return ConditionalDiffusion(DenoisingUNet(1, 2, width=2))


def strong_gan(*, seed: int = 0) -> RegularisedGAN:
    torch.manual_seed(seed)
    net = ResidualCGAN(1, 2, width=2, discriminator_width=2, latent=4)
    return RegularisedGAN(net, augment=DifferentiableAugment())


def two_batches(task: LightningModule, data: LabelledData, directory: Path, **options: Any) -> Fit:
    """Epochs of two batches on the CPU, one if ``max_epochs`` is not given; ``settings`` are the trainer's."""
    settings = TrainerSettings(gpus=0, limit_batches=2, **options.pop("settings"))
    return fit(task, data, directory=directory, log_to="none", settings=settings, **{"max_epochs": 1, **options})


def moved(before: Mapping[str, Tensor], task: LightningModule) -> bool:
    """Whether training changed any of the net's weights; all of them finite."""
    after = dict(task.net.named_parameters())
    assert all(bool(value.isfinite().all()) for value in after.values())
    return any(not torch.equal(before[name], value.float()) for name, value in after.items())


def weights_of(task: LightningModule) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.net.named_parameters()}


def differences(first: Fit, second: Fit) -> list[str]:
    """The names of the last epoch's weights and averages that are not equal bit for bit."""
    a, b = (torch.load(fit.last, weights_only=True)["state_dict"] for fit in (first, second))
    assert a.keys() == b.keys()
    return [
        name for name in a if not (torch.equal(a[name], b[name]) if isinstance(a[name], Tensor) else a[name] == b[name])
    ]


def assert_loads(fresh: LightningModule, trained: LightningModule, checkpoint: Path) -> None:
    """A new task takes the weights of a trained one from its checkpoint, as float32."""
    load_weights(fresh, checkpoint)
    assert {value.dtype for value in fresh.parameters()} == {torch.float32}
    for a, b in zip(trained.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


@ON_THE_CPU
def test_a_classifier_trains_in_every_precision_and_predicts_float32_probabilities(
    precision: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    task, data = classifier(), tiny_chest(train=32)
    before = weights_of(task)
    fitted = two_batches(task, data, tmp_path, settings={"precision": precision}, monitor="val/auroc")
    assert moved(before, task)
    found = predict(task, data.splits.val, torch.device("cpu")).probabilities
    assert found.dtype == torch.float32
    assert found.shape == (32, 2)
    assert found.min() >= 0
    assert found.max() <= 1
    torch.testing.assert_close(found.sum(1), torch.ones(32))
    assert_loads(classifier(seed=1), task, fitted.best)


@ON_THE_CPU
@pytest.mark.parametrize("make", [gan, strong_gan, diffusion])
def test_a_generator_trains_in_every_precision_and_draws_float32_images(
    make: Callable[..., ConditionalGenerator], precision: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    task = make()
    before = weights_of(task)
    fitted = two_batches(task, tiny_chest(train=32), tmp_path, settings={"precision": precision})
    assert moved(before, task)
    drawn = task.sample(torch.tensor([0, 1, 1]), rng=torch.Generator().manual_seed(0))
    grid, labels = task.fixed_samples()
    assert drawn.shape == (3, 1, 28, 28)
    assert grid.shape == (16, 1, 28, 28)
    assert labels.tolist() == [0] * 8 + [1] * 8
    for images in (drawn, grid):
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        assert images.std() > 0
    assert_loads(make(seed=1), task, fitted.best)


@pytest.mark.parametrize(
    "precision",  # how 32-bit runs resume is tested with the rest of their training
    [
        pytest.param(name, marks=[pytest.mark.long] * (name == "32-true"))
        for name in get_args(Precision)
        if name != NEEDS_A_GPU
    ],
)
@pytest.mark.parametrize("make", [classifier, gan, strong_gan, diffusion])
def test_a_run_in_any_precision_resumes_to_the_weights_of_an_uninterrupted_one(
    make: Callable[..., LightningModule], precision: str, tiny_chest: Factory, tmp_path: Path
) -> None:
    settings = {"precision": precision}
    straight = two_batches(make(), tiny_chest(train=32), tmp_path / "straight", settings=settings, max_epochs=2)
    two_batches(make(), tiny_chest(train=32), tmp_path / "parts", settings=settings)
    other = make(seed=1)  # were it trained from the start, it would end with other weights
    parts = two_batches(other, tiny_chest(train=32), tmp_path / "parts", settings=settings, max_epochs=2, resume=True)
    assert differences(straight, parts) == []


def draw_in_double_precision(task: LightningModule, data: Any, directory: Path, shown: Pictures) -> None:
    """Trains two batches in double precision, with a picture; the weights stay double."""
    two_batches(task, data, directory, settings={"precision": "64-true"}, callbacks=[shown])
    assert list((directory / "figures").glob("*.png"))
    task.double()


def test_a_curve_is_drawn_of_a_net_in_double_precision_and_its_answers_are_float32(tmp_path: Path) -> None:
    task = Regression(MLP([1], 1, [4], mean=0.0, std=1.0))
    draw_in_double_precision(task, ecg_phantom_data("p"), tmp_path, CurveFits(1))
    assert task.regress(torch.zeros(3, 1)).dtype == torch.float32


def test_segmented_images_are_drawn_of_a_net_in_double_precision_and_its_probabilities_are_float32(
    tmp_path: Path,
) -> None:
    task = Segmentation(UNet(1, 2, width=2, depth=1, padding="same"), 2)
    data = cell_phantom_data("cells", ["background", "cell"], 1, size=32, train=2, val=1, test=1, patch=16)
    draw_in_double_precision(task, data, tmp_path, SegmentedImages(1))
    assert task.segment(torch.zeros(1, 9, 11)).dtype == torch.float32


def test_reconstructions_are_drawn_of_a_net_in_double_precision_and_are_float32(
    tiny_chest: Factory, tmp_path: Path
) -> None:
    task = ConditionalVAE(CVAE(1, 2, width=2, latent=2))
    draw_in_double_precision(task, tiny_chest(train=32), tmp_path, Reconstructions(1))
    assert task.reconstruct(torch.zeros(2, 1, 28, 28), torch.tensor([0, 1])).dtype == torch.float32


@pytest.mark.parametrize("make", [classifier, gan])
def test_half_precision_is_refused_on_the_cpu_in_one_line(
    make: Callable[[], LightningModule], tiny_chest: Factory, tmp_path: Path
) -> None:
    """Lightning would warn, and train in another precision than the one on record."""
    with pytest.raises(ConfigError, match=r"trainer\.precision=16-mixed") as caught:
        two_batches(make(), tiny_chest(train=32), tmp_path, settings={"precision": NEEDS_A_GPU})
    assert "\n" not in str(caught.value)


# --- trainer.compile -------------------------------------------------------------------------------------------------


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that are asked to compile themselves; none does, since that takes a compiler and a minute."""
    asked: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **kwargs: asked.append(self))
    return asked


def test_compiling_a_classifier_compiles_its_net(
    compiled: list[nn.Module], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = classifier()
    two_batches(task, tiny_chest(train=32), tmp_path, settings={"compile": True})
    assert [id(module) for module in compiled] == [id(task.net)]


def test_compiling_a_gan_compiles_both_players_and_not_what_holds_or_averages_them(
    compiled: list[nn.Module], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = gan()
    two_batches(task, tiny_chest(train=32), tmp_path, settings={"compile": True})
    assert {id(module) for module in compiled} == {id(task.net.generator), id(task.net.discriminator)}
    assert len(compiled) == 2


def test_compiling_a_diffusion_model_compiles_its_net_and_not_the_average(
    compiled: list[nn.Module], tiny_chest: Factory, tmp_path: Path
) -> None:
    task = diffusion()
    two_batches(task, tiny_chest(train=32), tmp_path, settings={"compile": True})
    assert [id(module) for module in compiled] == [id(task.net)]


@pytest.mark.parametrize("make", [classifier, gan])
def test_nothing_is_compiled_unless_asked_for(
    make: Callable[[], LightningModule], compiled: list[nn.Module], tiny_chest: Factory, tmp_path: Path
) -> None:
    two_batches(make(), tiny_chest(train=32), tmp_path, settings={})
    assert compiled == []


@pytest.mark.parametrize(
    ("supported", "accelerator", "said"), [(False, "cpu", True), (False, "cuda", False), (True, "cpu", False)]
)
def test_a_cpu_that_only_emulates_bfloat16_is_said_to_be_slow(
    supported: bool,
    accelerator: str,
    said: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    monkeypatch.setattr(trainer, "choose_devices", lambda *_: (accelerator, 1))
    monkeypatch.setattr(trainer, "Trainer", lambda **_: SimpleNamespace(fit_loop=SimpleNamespace()))
    task = classifier()
    settings = TrainerSettings(precision="bf16-mixed", loop="lightning")
    trainer.make_trainer(task, tmp_path, settings, [], [])
    assert ("no instructions for bfloat16" in caplog.text) == said
