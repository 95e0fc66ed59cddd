"""Stages of nets, and weights put from one net into another."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from medassay.nets.alexnet import AlexNet
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.efficientnet import EfficientNet
from medassay.nets.googlenet import GoogLeNet
from medassay.nets.lenet import LeNet
from medassay.nets.mobilenet import MobileNetV2
from medassay.nets.pretrained import IMAGENET_MEAN, IMAGENET_STD, adapt_normalisation, take_weights
from medassay.nets.resnet import ResNet
from medassay.nets.stages import Staged
from medassay.nets.vgg import VGG
from medassay.runs.transfer import rename_published

NETS = {  # constructor, number of stages
    "block_cnn": (lambda: BlockCNN(1, 2), 3),
    "lenet": (lambda: LeNet(1, 2), 4),
    "alexnet": (lambda: AlexNet(1, 2), 5 + 1),
    "vgg": (lambda: VGG(1, 2, depth=11, batch_norm=True, upscale=32), 8 + 1),
    "googlenet": (lambda: GoogLeNet(1, 2), 3 + 9),
    "resnet": (lambda: ResNet(1, 2, width=4), 5),
    "mobilenet_v2": (lambda: MobileNetV2(1, 2, width=0.25), 19),
    "efficientnet": (lambda: EfficientNet(1, 2), 9),
}


@pytest.mark.parametrize("name", NETS)
def test_the_stages_hold_every_weight_but_the_last_layers_once_in_order(name: str) -> None:
    make, count = NETS[name]
    with torch.device("meta"):
        net = make()
    assert isinstance(net, Staged)
    stages = net.list_stages()
    assert len(stages) == count
    listed = [id(p) for stage in stages for layer in stage for p in layer.parameters()]
    apart = [*net.head.parameters(), *getattr(net, "auxiliaries", nn.Module()).parameters()]
    expected = [id(p) for p in net.parameters() if all(p is not other for other in apart)]
    assert listed == expected


def test_weights_of_the_same_net_are_all_taken() -> None:
    source, net = ResNet(1, 2, width=4), ResNet(1, 2, width=4)
    match = take_weights(net, source.state_dict(), keep_head=True)
    assert (match.reshaped, match.new, match.unused) == ([], [], [])
    assert "body.layer1.0.conv1" in match.matched
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), source.state_dict().values(), strict=True))


def test_the_last_layer_of_other_classes_stays_new() -> None:
    source, net = BlockCNN(1, 2), BlockCNN(1, 2)
    before = net.head.weight.clone()
    match = take_weights(net, source.state_dict(), keep_head=False)
    assert match.new == ["head"]
    assert match.unused == ["head"]
    assert torch.equal(net.head.weight, before)


def test_a_layer_of_another_shape_stays_new_and_the_report_names_it() -> None:
    source, net = BlockCNN(1, 2, blocks=3), BlockCNN(1, 4, blocks=2, squeeze_excite=4)
    match = take_weights(net, source.state_dict(), keep_head=True)
    assert match.new == ["blocks.0.excite.reduce", "blocks.0.excite.restore", "blocks.1.excite.reduce",
                         "blocks.1.excite.restore", "head"]  # fmt: skip
    assert match.unused[-1] == "head"
    assert "blocks.2.features.0" in match.unused
    assert "new (blocks.0.excite.reduce, blocks.0.excite.restore, …, head)" in str(match)


def test_a_normalisation_goes_with_the_layer_before_it() -> None:
    source, net = ResNet(1, 2, width=4, small_images=False), ResNet(1, 2, width=4)
    match = take_weights(net, source.state_dict(), keep_head=True)
    assert match.new == ["body.conv1", "body.bn1"]
    assert match.unused == ["body.conv1", "body.bn1"]


def test_auxiliary_classifiers_of_other_classes_stay_new() -> None:
    net = GoogLeNet(1, 2)
    match = take_weights(net, net.state_dict(), keep_head=False)
    layers = [name for name, module in net.named_modules() if module._parameters]
    assert match.new == [name for name in layers if name.startswith(("head", "auxiliaries"))]


@pytest.mark.parametrize(("theirs", "ours"), [(1, 3), (3, 1)])
def test_the_first_convolution_answers_grey_images_as_before_in_the_other_number_of_channels(
    theirs: int, ours: int
) -> None:
    source, net = BlockCNN(theirs, 2).eval(), BlockCNN(ours, 2).eval()
    match = take_weights(net, source.state_dict(), keep_head=True)
    assert match.reshaped == ["blocks.0.features.0"]
    grey = torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        expected = source(grey.expand(-1, theirs, -1, -1))
        torch.testing.assert_close(net(grey.expand(-1, ours, -1, -1)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: ResNet(3, 5, small_images=False), lambda: torchvision.models.resnet18()),
        (lambda: AlexNet(3, 5, image_size=64, small_images=False), lambda: torchvision.models.alexnet()),
    ],
    ids=["without a bias", "with a bias"],
)
def test_torchvisions_weights_give_its_answers_away_from_the_border(ours, theirs) -> None:  # type: ignore[no-untyped-def]
    net, original = ours().eval(), theirs().eval()
    for norm in (m for m in original.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.running_mean, -1, 1)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    match = take_weights(net, rename_published(net, original.state_dict()), keep_head=False)
    assert match.new == ["head"]
    assert match.reshaped == []
    images = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    first = nn.Sequential(original.conv1, original.bn1) if hasattr(original, "conv1") else original.features[0]
    own = nn.Sequential(net.body.conv1, net.body.bn1) if hasattr(net.body, "conv1") else net.body.features[0]
    with torch.no_grad():
        expected, found = first((images - mean) / std), own(net.normalise(images))
    torch.testing.assert_close(found[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], rtol=1e-4, atol=1e-5)


def test_the_rewritten_convolution_keeps_its_type() -> None:
    weights = {"stem.weight": torch.randn(4, 3, 3, 3), "stem.bias": torch.zeros(4)}
    changed = adapt_normalisation(weights, "stem")
    assert {value.dtype for value in changed.values()} == {torch.float32}
