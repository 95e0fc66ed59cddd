"""Heat maps by the package, beside the papers' formulas computed here on the two halves of the net."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.core.errors import ConfigError
from medassay.explain import activation_maps
from medassay.explain.activation_maps import (
    METHODS,
    ActivationMaps,
    Method,
    compute_grad_cam_steps,
    find_layer,
    randomise_weights,
)
from medassay.nets.block_cnn import BlockCNN


def seeded(**changes: int) -> BlockCNN:
    """The course's net with random weights and statistics, by a seed with which no map below is empty."""
    torch.manual_seed(1)
    net = BlockCNN(1, 2, **changes)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return net.eval()


@pytest.fixture
def net() -> BlockCNN:
    return seeded()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def halves(net: BlockCNN) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The net up to the activation before the last pooling, and from there on, without hooks."""
    blocks = list(net.blocks)

    def before(images: Tensor) -> Tensor:
        found = net.normalise(images)
        for block in blocks[:-1]:
            found = block(found)
        return blocks[-1].features(found)

    return before, lambda maps: net.head(net.pool(blocks[-1].pool(maps)).flatten(1))


def maps_and_gradients(net: BlockCNN, images: Tensor, label: int) -> tuple[np.ndarray, np.ndarray]:
    before, after = halves(net)
    maps = before(images).detach().requires_grad_()
    after(maps)[:, label].sum().backward()
    assert maps.grad is not None
    return maps.detach().numpy(), maps.grad.numpy()


def scaled(values: np.ndarray) -> np.ndarray:
    """Each map from 0 to 1, enlarged to 28x28, and from 0 to 1 again."""

    def unit(found: np.ndarray) -> np.ndarray:
        lifted = found - found.min((1, 2), keepdims=True)
        return lifted / (1e-7 + lifted.max((1, 2), keepdims=True))

    enlarged = F.interpolate(torch.from_numpy(unit(values))[:, None], (28, 28), mode="bilinear", align_corners=False)
    return unit(enlarged[:, 0].numpy())


# --- the papers' formulas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [0, 1])
def test_grad_cam_is_the_relu_of_the_maps_weighted_by_their_averaged_gradients(
    net: BlockCNN, images: Tensor, label: int
) -> None:
    maps, gradients = maps_and_gradients(net, images, label)
    weighted = (gradients.mean((2, 3))[:, :, None, None] * maps).sum(1)
    expected = scaled(np.maximum(weighted, 0))
    found = ActivationMaps(net)(images, [label])[:, 0].numpy()
    assert expected.max((1, 2)).min() > 0.99
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        ("hirescam", lambda maps, gradients: (gradients * maps).sum(1)),
        ("layercam", lambda maps, gradients: (np.maximum(gradients, 0) * maps).sum(1)),
    ],
)
def test_methods_that_weigh_each_position_agree_with_their_formula(
    net: BlockCNN, images: Tensor, method: Method, formula: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    expected = scaled(np.maximum(formula(*maps_and_gradients(net, images, 1)), 0))
    np.testing.assert_allclose(ActivationMaps(net, method)(images, [1])[:, 0].numpy(), expected, atol=1e-5)


def test_score_cam_weighs_maps_by_the_logits_of_images_masked_with_them(net: BlockCNN, images: Tensor) -> None:
    image, (before, _) = images[:1], halves(net)
    with torch.no_grad():
        maps = before(image)
        masks = F.interpolate(maps, (28, 28), mode="bilinear", align_corners=True)[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        logits = net(image * ((masks - low) / (high - low + 1e-8))[:, None])[:, 1]
        weighted = (logits.softmax(0)[:, None, None] * maps[0]).sum(0, keepdim=True)
    expected = scaled(weighted.relu().numpy())
    np.testing.assert_allclose(ActivationMaps(net, "scorecam")(image, [1])[:, 0].numpy(), expected, atol=1e-4)


def test_score_cam_keeps_no_maps_of_masked_copies(
    net: BlockCNN, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ActivationMaps(net, "scorecam")(images, [1])
    kept: list[int] = []
    explain = ActivationMaps(net, "scorecam")
    hooked = explain._cam.activations_and_grads
    clear = hooked.clear
    monkeypatch.setattr(hooked, "clear", lambda: (kept.append(len(hooked.activations)), clear()))
    monkeypatch.setattr(activation_maps, "MASKED", 32 * 28 * 28)  # of one image
    assert torch.allclose(explain(images, [1]), together, atol=1e-6)
    assert kept == [1, 1, 1]


def test_eigen_cam_does_not_depend_on_the_sign_of_the_component(
    net: BlockCNN, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ActivationMaps(net, "eigencam")(images, [1])
    decompose = np.linalg.svd

    def negated(*args: Any, **kwargs: Any) -> Any:
        u, s, vt = decompose(*args, **kwargs)
        return -u, s, -vt

    monkeypatch.setattr(np.linalg, "svd", negated)
    assert torch.allclose(ActivationMaps(net, "eigencam")(images, [1]), before, atol=1e-5)


@pytest.mark.parametrize("in_steps", [False, True])
def test_a_layer_before_a_sum_in_place_is_seen_as_it_was(images: Tensor, in_steps: bool) -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.pool = nn.Conv2d(1, 4, 3, 4), nn.Conv2d(4, 4, 3, padding=1), nn.AvgPool2d(7)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            stem = self.stem(x)
            out = self.conv(stem)
            out += stem
            return self.head(self.pool(out.relu()).flatten(1))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    net = Residual().eval()
    with torch.no_grad():
        expected = net.conv(net.stem(images[:1]))[0]
    if in_steps:
        found = compute_grad_cam_steps(net, images[0], 1, "conv").maps
    else:
        explain = ActivationMaps(net, "gradcam", "conv")
        hooked, kept = explain._cam.activations_and_grads, []
        explain._cam.activations_and_grads.clear = lambda: kept.extend(hooked.activations)
        explain(images[:1], [1])
        found = kept[0][0]
    assert torch.allclose(found, expected, atol=1e-6)


def test_a_layer_before_an_in_place_activation_is_seen_as_it_was(net: BlockCNN, images: Tensor) -> None:
    block = net.blocks[1]
    normalised = block.features[:2](net.blocks[0](net.normalise(images))).detach().requires_grad_()
    rest = F.leaky_relu(normalised, 0.01)
    for layer in block.features[3:]:
        rest = layer(rest)
    net.head(net.pool(net.blocks[2](block.pool(rest))).flatten(1))[:, 1].sum().backward()
    assert normalised.grad is not None
    weighted = (normalised.grad.mean((2, 3), keepdim=True) * normalised).sum(1).relu()
    found = ActivationMaps(net, layer="blocks.1.features.1")(images, [1])[:, 0].numpy()
    np.testing.assert_allclose(found, scaled(weighted.detach().numpy()), atol=1e-5)


def test_the_steps_of_one_map_end_in_the_package_s_map(net: BlockCNN, images: Tensor) -> None:
    steps = compute_grad_cam_steps(net, images[0], 1)
    maps, gradients = maps_and_gradients(net, images[:1], 1)
    np.testing.assert_allclose(steps.maps.numpy(), maps[0], atol=1e-6)
    np.testing.assert_allclose(steps.alphas.numpy(), gradients[0].mean((1, 2)), atol=1e-7)
    np.testing.assert_allclose(steps.heat.numpy(), ActivationMaps(net)(images[:1], [1])[0, 0].numpy(), atol=1e-5)
    assert torch.equal(steps.relu, steps.total.clamp(min=0))


# --- what all methods share ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_map_from_0_to_1_per_image_and_class_and_prints_nothing(
    net: BlockCNN, images: Tensor, method: Method, capfd: pytest.CaptureFixture[str]
) -> None:
    found = ActivationMaps(net, method)(images)
    assert found.shape == (3, 2, 28, 28)
    assert found.dtype == torch.float32
    assert found.min() >= 0
    assert found.max() <= 1
    assert "".join(capfd.readouterr()) == ""


def test_a_class_asked_for_alone_has_the_map_it_has_among_all(net: BlockCNN, images: Tensor) -> None:
    explain = ActivationMaps(net)
    assert torch.equal(explain(images, [1])[:, 0], explain(images)[:, 1])


def test_a_class_per_image_is_picked_from_the_maps_of_all_classes(net: BlockCNN, images: Tensor) -> None:
    explain, labels = ActivationMaps(net), torch.tensor([1, 0, 1])
    assert torch.equal(explain.map_class(images, labels), explain(images)[torch.arange(3), labels])


def test_images_in_chunks_have_the_maps_they_have_together(
    net: BlockCNN, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ActivationMaps(net)(images)
    monkeypatch.setattr(activation_maps, "CHUNK", 2)
    torch.testing.assert_close(ActivationMaps(net)(images), together, atol=1e-5, rtol=0)


def test_no_images_have_no_maps(net: BlockCNN, images: Tensor) -> None:
    assert ActivationMaps(net)(images[:0]).shape == (0, 2, 28, 28)


def test_eigen_cam_ignores_the_class(net: BlockCNN, images: Tensor) -> None:
    found = ActivationMaps(net, "eigencam")(images)
    assert torch.equal(found[:, 0], found[:, 1])


def test_the_net_is_left_as_it_was(images: Tensor) -> None:
    net = seeded().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    ActivationMaps(net)(images)
    compute_grad_cam_steps(net, images[0], 0)
    assert net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert net.blocks[0].features[2].inplace
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_frozen_weights_and_a_caller_without_gradients_make_no_difference(net: BlockCNN, images: Tensor) -> None:
    expected = ActivationMaps(net)(images)
    net.requires_grad_(False)
    with torch.no_grad():
        assert torch.equal(ActivationMaps(net)(images), expected)


def test_a_layer_with_no_weights_before_it_can_be_explained(net: BlockCNN, images: Tensor) -> None:
    assert ActivationMaps(net, layer="normalise")(images).amax() > 0.9


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_default_layer_is_the_activation_before_the_last_pooling(blocks: int) -> None:
    net = seeded(blocks=blocks)
    assert net.get_submodule(find_layer(net)) is net.blocks[blocks - 1].features[5]


def test_the_default_layer_of_the_course_s_net_gives_32_maps_of_7_by_7(net: BlockCNN, images: Tensor) -> None:
    assert compute_grad_cam_steps(net, images[0], 0).maps.shape == (32, 7, 7)


def test_a_layer_is_found_by_its_dotted_name(net: BlockCNN) -> None:
    assert net.get_submodule(find_layer(net, "blocks.0.pool")) is net.blocks[0].pool
    assert find_layer(net, "blocks.0.pool") == "blocks.0.pool"


def test_a_wrong_layer_is_answered_with_near_names(net: BlockCNN) -> None:
    with pytest.raises(ConfigError, match=r"protocol\.layer=blocks\.2\.feature\b.*Did you mean 'blocks\.2\.features'"):
        ActivationMaps(net, layer="blocks.2.feature")


def test_a_net_without_pooling_asks_for_a_name() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 36, 2))
    with pytest.raises(ConfigError, match="no activation module before a pooling"):
        find_layer(net)


@pytest.mark.parametrize("layer", ["pool", "head"])
def test_a_layer_without_feature_maps_is_refused(net: BlockCNN, images: Tensor, layer: str) -> None:
    with pytest.raises(ConfigError, match=rf"protocol\.layer={layer}: its output is \(1, "):
        ActivationMaps(net, layer=layer)(images)


def test_a_layer_that_runs_twice_is_refused(images: Tensor) -> None:
    twice = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(1, 2, 3), twice, nn.Conv2d(2, 2, 3), twice, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match="runs 2 times per image"):
        ActivationMaps(net)(images)


# --- random weights --------------------------------------------------------------------------------------------------


def test_all_weights_and_statistics_are_drawn_anew_and_the_net_is_kept(net: BlockCNN) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn = randomise_weights(net, 5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    weights = [name for name, value in before.items() if value.ndim > 1]
    assert len(weights) == 7
    assert not any(torch.equal(drawn.state_dict()[name], before[name]) for name in weights)
    assert torch.equal(drawn.state_dict()["blocks.0.features.1.running_var"], torch.ones(8))


def test_random_weights_depend_on_the_seed_alone(net: BlockCNN) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (randomise_weights(net, seed).state_dict()["head.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_parameter_that_cannot_initialise_itself_is_shuffled() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.arange(50.0))

    net = Scale()
    shuffled = randomise_weights(net, 0).scale
    assert not torch.equal(shuffled, net.scale)
    assert torch.equal(shuffled.sort().values, net.scale)
