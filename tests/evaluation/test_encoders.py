"""Encoders: what features they give, that they are always the same, and what a wrong file of weights says."""

from __future__ import annotations

import builtins
import hashlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor

from medassay.core.errors import ConfigError, DataError
from medassay.core.types import LabelledImages
from medassay.evaluation import arms, encoders
from medassay.evaluation.encoders import (
    fit_principal_components,
    make_classifier_encoder,
    make_inception_encoder,
    make_pixels_encoder,
    make_random_conv_encoder,
    train_encoder,
)
from medassay.nets.block_cnn import BlockCNN
from medassay.tasks.classification import Classification
from tests.helpers import flip_byte

CPU = torch.device("cpu")
PINNED = [-0.0596746, 0.6017727, -0.1293202, -0.0116674]  # feature maps 0, 1, 31, 63; computed once by by_hand below


def images(n: int, channels: int = 3, size: int = 12, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, channels, size, size), generator=rng, dtype=torch.uint8)


def split_of(n: int, channels: int = 3, size: int = 12, seed: int = 0) -> LabelledImages:
    return LabelledImages(images(n, channels, size, seed), torch.arange(n) % 2)


def task_of(channels: int, seed: int = 0) -> Classification:
    """A classifier whose batch statistics are not the initial ones."""
    torch.manual_seed(seed)
    task = Classification(BlockCNN(channels, 4), 4)
    task.net.train()
    task.net(images(8, channels) / 255)
    return task


def pairwise_distances(features: Any) -> Any:
    rows = np.asarray(features, dtype=np.float64)
    return np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))


# --- all of them -----------------------------------------------------------------------------------------------------


def made(name: str, channels: int, cache: Path) -> encoders.Encoder:
    found = encoders.make_encoders([name], split_of(80, channels), task_of(channels), CPU, cache)  # type: ignore[list-item]
    return found[0]


NAMES = pytest.mark.parametrize(("name", "dimensions"), [("classifier", 32), ("random_conv", 64), ("pixels", 64)])


@NAMES
@pytest.mark.parametrize("channels", [1, 3])
def test_features_are_one_row_of_float32_per_image(name: str, dimensions: int, channels: int, tmp_path: Path) -> None:
    features = made(name, channels, tmp_path)(images(5, channels, seed=1))
    assert (features.shape, features.dtype, features.device.type) == ((5, dimensions), torch.float32, "cpu")
    assert features.isfinite().all()
    assert len(features.unique(dim=0)) == 5


@NAMES
def test_the_same_images_have_the_same_features_whatever_was_drawn_before(
    name: str, dimensions: int, tmp_path: Path
) -> None:
    first = made(name, 3, tmp_path / "a")(images(5))
    torch.rand(7)
    assert torch.equal(made(name, 3, tmp_path / "b")(images(5)), first)


@NAMES
def test_an_images_features_do_not_depend_on_those_beside_it(
    name: str, dimensions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = made(name, 3, tmp_path)
    together = encoder(images(7))
    monkeypatch.setattr(encoders, "CHUNK", 3)
    torch.testing.assert_close(encoder(images(7)), together, rtol=1e-5, atol=1e-6)


def test_encoding_leaves_the_images_and_builds_no_gradients(tmp_path: Path) -> None:
    given = images(3)
    features = made("classifier", 3, tmp_path)(given)
    assert torch.equal(given, images(3))
    assert not features.requires_grad


def test_encoders_come_in_the_order_asked_for_and_say_what_they_are(tmp_path: Path) -> None:
    found = encoders.make_encoders(["pixels", "classifier"], split_of(80), task_of(3), CPU, tmp_path)
    assert [encoder.name for encoder in found] == ["pixels", "classifier"]
    assert "64 principal components" in found[0].description
    assert "32 features" in found[1].description
    assert not any("FID" in encoder.description for encoder in found)


# --- classifier ------------------------------------------------------------------------------------------------------


def test_the_classifiers_features_are_what_its_last_layer_sees() -> None:
    task = task_of(3)
    given = images(6, seed=1)
    features = make_classifier_encoder(task, CPU)(given)
    seen: list[Tensor] = []
    task.net.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[union-attr]
    task.eval()
    with torch.no_grad():
        task.net(given.float() / 255)
    assert torch.equal(features, seen[0])


def test_the_classifiers_batch_statistics_stay_as_they_were() -> None:
    task = task_of(3)
    before = {key: value.clone() for key, value in task.state_dict().items()}
    make_classifier_encoder(task, CPU)(images(6))
    assert all(torch.equal(value, before[key]) for key, value in task.state_dict().items())


def test_the_classifier_behind_the_encoder_is_the_arm_trtr_with_full_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[arms.Arm] = []

    def trained(wanted: list[arms.Arm], cache: Path, **_: Any) -> list[Classification]:
        asked.extend(wanted)
        assert cache == tmp_path
        return [task_of(3)]

    monkeypatch.setattr(arms, "train_arms", trained)
    train_encoder(split_of(130), split_of(20), 2, tmp_path, seed=5)
    (arm,) = asked
    assert (len(arm.train), len(arm.held_out), arm.num_classes, arm.seed) == (130, 20, 2, 5)
    assert arm.steps == 20 * 3


# --- random convolutions ---------------------------------------------------------------------------------------------


def by_hand(given: Tensor) -> Tensor:
    """The documented net, layer by layer, from weights drawn anew."""
    rng = torch.Generator().manual_seed(0)
    x = (given.float() / 255 - 0.5) / 0.5
    for before, after, halved in ((given.shape[1], 32, True), (32, 64, True), (64, 64, False)):
        weight = math.sqrt(2 / (9 * before)) * torch.randn(after, before, 3, 3, generator=rng)
        x = F.leaky_relu(F.conv2d(x, weight, padding=1), 0.2)
        x = F.avg_pool2d(x, 2) if halved else x
    return x.mean((2, 3))


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 28), (3, 64), (1, 9)])
def test_random_features_are_those_of_the_net_computed_by_hand(channels: int, size: int) -> None:
    given = images(4, channels, size)
    torch.testing.assert_close(make_random_conv_encoder(channels, CPU)(given), by_hand(given), rtol=1e-5, atol=1e-6)


def test_random_features_never_change_between_versions_and_machines() -> None:
    ramp = (torch.arange(3 * 28 * 28) * 7 % 256).to(torch.uint8).reshape(1, 3, 28, 28)
    found = make_random_conv_encoder(3, CPU)(ramp)[0, [0, 1, 31, 63]].tolist()
    assert found == pytest.approx(PINNED, abs=1e-5)


# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "channels", "size"), [(200, 1, 12), (40, 3, 8), (100, 1, 6)])
def test_pixel_features_have_the_distances_of_scikit_learns_components(
    n: int, channels: int, size: int, tmp_path: Path
) -> None:
    train, given = split_of(n, channels, size), images(30, channels, size, seed=1)
    dimensions = min(64, n - 1, channels * size * size)
    pca = PCA(dimensions, svd_solver="full").fit(train.images.flatten(1).double().numpy() / 255)
    expected = pca.transform(given.flatten(1).double().numpy() / 255)
    features = make_pixels_encoder(train, CPU, tmp_path)(given)
    assert features.shape == (30, dimensions)
    np.testing.assert_allclose(pairwise_distances(features), pairwise_distances(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n", [50, 6])
def test_principal_axes_are_scikit_learns_up_to_the_sign(n: int) -> None:
    rows = torch.randn(n, 8, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 9)
    mean, axes = fit_principal_components(rows, 3)
    pca = PCA(3, svd_solver="full").fit(rows.numpy())
    np.testing.assert_allclose(mean.numpy(), pca.mean_, rtol=1e-12)
    np.testing.assert_allclose(np.abs(axes.numpy()), np.abs(pca.components_.T), atol=1e-9)
    assert (axes.gather(0, axes.abs().argmax(0, keepdim=True)) > 0).all()


def test_components_are_fitted_on_the_training_images_alone(tmp_path: Path) -> None:
    encoder = make_pixels_encoder(split_of(80), CPU, tmp_path)
    features = encoder(split_of(80).images)
    assert features.mean(0).abs().max() < 1e-4
    spread = features.var(0)
    assert (spread[:-1] >= spread[1:] - 1e-6).all()


def test_components_are_fitted_once_per_training_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, given = split_of(80), images(3, seed=1)
    first = make_pixels_encoder(train, CPU, tmp_path)(given)
    monkeypatch.setattr(encoders, "fit_principal_components", lambda *_: pytest.fail("fitted again"))
    assert torch.equal(make_pixels_encoder(train, CPU, tmp_path)(given), first)
    with pytest.raises(pytest.fail.Exception, match="fitted again"):
        make_pixels_encoder(split_of(80, seed=9), CPU, tmp_path)


def test_kept_components_that_are_damaged_are_fitted_anew_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = images(3, seed=1)
    first = make_pixels_encoder(split_of(80), CPU, tmp_path)(given)
    (file,) = (tmp_path / "encoders").iterdir()
    flip_byte(file)
    assert torch.equal(make_pixels_encoder(split_of(80), CPU, tmp_path)(given), first)
    assert f"{file} is damaged and is made anew" in caplog.text


# --- inception -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for torch-fidelity's network."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Kept(Exception):
        pass

    kept: list[torch.nn.Module] = []

    def keep(self: torch.nn.Module, *_: Any, **__: Any) -> None:
        kept.append(self)
        raise Kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", keep)
        torch.manual_seed(0)
        with pytest.raises(Kept):
            module.FeatureExtractorInceptionV3("inception", ["2048"])
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(kept[0].state_dict(), path)
    return path


def test_inception_features_are_torch_fidelitys_own_and_name_the_file(weights: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    encoder = make_inception_encoder(str(weights), CPU)
    net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    given = torch.arange(256, dtype=torch.uint8).repeat(12)[: 3 * 784].reshape(1, 3, 28, 28)  # every grey value
    features = encoder(given)
    assert (features.shape, features.dtype) == ((1, 2048), torch.float32)
    assert torch.equal(features, net(given)[0])
    assert hashlib.sha256(weights.read_bytes()).hexdigest()[:12] in encoder.description
    assert "FID" in encoder.description
    grey = images(1, 1)
    assert torch.equal(encoder(grey), net(grey.repeat(1, 3, 1, 1))[0])


def error_of_inception(kind: type[Exception], named: str | None) -> str:
    with pytest.raises(kind) as caught:
        make_inception_encoder(named, CPU)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_inception_without_a_file_says_which_key_names_it() -> None:
    message = error_of_inception(ConfigError, None)
    assert "protocol.inception_weights=<path>" in message
    assert "pt_inception-2015-12-05-6726825d.pth" in message


def test_a_missing_file_of_weights_is_one_line(tmp_path: Path) -> None:
    assert f"protocol.inception_weights={tmp_path / 'none.pth'}" in error_of_inception(
        DataError, str(tmp_path / "none.pth")
    )


def test_a_damaged_file_of_weights_is_one_line(weights: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(weights.read_bytes()[:5000])
    assert f"protocol.inception_weights={cut} cannot be read" in error_of_inception(DataError, str(cut))


def test_weights_of_another_network_are_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"a": torch.zeros(1)}, other)
    assert f"protocol.inception_weights={other} cannot be read" in error_of_inception(DataError, str(other))


class Harmful:
    """What a pickled file can do to whoever reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_a_file_of_weights_runs_no_code(tmp_path: Path) -> None:
    file, trace = tmp_path / "harmful.pth", tmp_path / "trace"
    torch.save({"a": Harmful(trace)}, file)
    error_of_inception(DataError, str(file))
    assert not trace.exists()


def test_without_the_package_inception_says_what_to_install(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "torch_fidelity":
            raise ModuleNotFoundError(name, name="torch_fidelity")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    message = error_of_inception(ConfigError, str(weights))
    assert "torch-fidelity is missing" in message
    assert "medassay[inception]" in message


def test_a_package_of_inception_that_is_broken_says_why(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "torch_fidelity.feature_extractor_inceptionv3"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    message = error_of_inception(ConfigError, str(weights))
    assert "the package torch_fidelity cannot be imported (cannot import name" in message
    assert "pip install" not in message


def test_one_line_names_inception_where_no_file_is_given_with_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.inception_weights="):
        encoders.make_encoders(["random_conv", "inception"], split_of(4), task_of(3), CPU, tmp_path)
