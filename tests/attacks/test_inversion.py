"""Gradient inversion: closed forms, plain autograd and hand-worked numbers."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.attacks.inversion import (
    Client,
    Mode,
    Search,
    find_last_layer,
    infer_labels,
    list_sent,
    measure_distance,
    measure_total_variation,
    reconstruct,
)
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.googlenet import GoogLeNet
from medassay.nets.lenet import LeNet
from medassay.nets.resnet import ResNet
from tests.helpers import list_differences

WEIGHTED = partial(F.cross_entropy, weight=torch.tensor([0.7, 1.3]))


def make_net(kind: str = "block_cnn", seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = {
        "block_cnn": lambda: BlockCNN(1, 2, image_size=16, width=4, blocks=2, squeeze_excite=2),
        "group": lambda: BlockCNN(1, 2, image_size=16, width=4, blocks=2, normalisation="group", activation="relu"),
        "lenet": lambda: LeNet(1, 2),
        "resnet": lambda: ResNet(1, 2, image_size=28, depth=18, width=4),
    }[kind]()
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.running_mean, part.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return net.eval()


def make_batches(groups: int, batch: int, side: int = 16) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(groups)
    labels = torch.arange(groups * batch).view(groups, batch) % 2
    return torch.rand(groups, batch, 1, side, side, generator=rng), labels


def compute_plain(net: nn.Module, images: Tensor, labels: Tensor, mode: Mode) -> Tensor:
    """One batch's gradient by backward alone."""
    net = copy.deepcopy(net).train(mode == "train").to(memory_format=torch.contiguous_format)
    WEIGHTED(net(images), labels).backward()
    gradients = [weight.grad for weight in net.parameters()]
    return torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


# --- what is sent ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("block_cnn", "eval"), ("block_cnn", "train"), ("group", "train"), ("resnet", "eval"), ("lenet", "eval")],
)
def test_what_is_sent_is_each_batch_s_gradient_of_the_loss(kind: str, mode: Mode) -> None:
    net = make_net(kind)
    before = copy.deepcopy(net.state_dict())
    images, labels = make_batches(2, 3, 28 if kind in ("lenet", "resnet") else 16)
    sent = Client(net, WEIGHTED, mode).share(images, labels)
    plain = torch.stack([compute_plain(net, *one, mode) for one in zip(images, labels, strict=True)])
    torch.testing.assert_close(sent, plain, rtol=1e-3, atol=1e-5)
    assert not list_differences(before, net.state_dict())
    assert not net.training
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_several_local_steps_send_the_change_of_the_weights() -> None:
    net, (images, labels) = make_net(), make_batches(1, 2)
    trained = copy.deepcopy(net)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        WEIGHTED(trained(images[0]), labels[0]).backward()
        optimizer.step()
    change = [old - new for old, new in zip(net.parameters(), trained.parameters(), strict=True)]
    sent = Client(net, WEIGHTED, local_steps=3, lr=0.05).share(images, labels)
    torch.testing.assert_close(sent[0] * 0.05, torch.cat([one.flatten() for one in change]), rtol=1e-3, atol=1e-6)


def test_weights_that_do_not_learn_are_not_sent() -> None:
    net, (images, labels) = make_net(), make_batches(1, 1)
    net.requires_grad_(False)
    assert isinstance(net.head, nn.Linear)
    net.head.requires_grad_(True)
    client = Client(net, WEIGHTED)
    assert client.names == ["head.weight", "head.bias"]
    parts = client.split(client.share(images, labels))
    assert {name: tuple(part.shape) for name, part in parts.items()} == {"head.weight": (1, 2, 8), "head.bias": (1, 2)}


class Tapped(nn.Module):
    """A net with a further classifier that has no part in its answers, and a weight that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 2, 3)
        self.auxiliary = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)
        self.head.bias.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean((2, 3)))
        return logits


def test_weights_that_no_gradient_reaches_are_not_sent() -> None:
    torch.manual_seed(0)
    net, (images, labels) = Tapped(), make_batches(2, 1)
    client = Client(net, WEIGHTED, image_shape=(1, 16, 16))
    assert client.names == list_sent(net, (1, 16, 16)) == ["body.weight", "body.bias", "head.weight"]
    sent = client.share(images, labels)
    assert sent.shape == (2, sum(client.sizes)) == (2, 18 + 2 + 4)
    assert all(bool((part != 0).any()) for part in client.split(sent).values())
    assert all(weight.grad is None for weight in net.parameters())


def test_auxiliary_classifiers_are_no_part_of_the_gradient() -> None:
    sent = list_sent(GoogLeNet(1, 2, image_size=16), (1, 16, 16))
    assert not any(name.startswith("auxiliaries") for name in sent)
    assert {"body.conv1.0.weight", "head.bias"} <= {*sent}


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "classes"), [("lenet", 9), ("cnn", 8)])
def test_the_bias_gradient_tells_the_label_of_every_class_and_image(kind: str, classes: int) -> None:
    torch.manual_seed(0)
    net = LeNet(1, classes) if kind == "lenet" else BlockCNN(1, classes, width=4)
    with torch.no_grad():
        for scale in (1.0, 100.0):  # in the second net softmax is 1 to float32's last digit
            net.head.weight.mul_(scale)
            images = torch.rand(12 * classes, 1, 1, 28, 28)
            labels = torch.arange(classes).repeat(12)[:, None]
            client = Client(net, F.cross_entropy)
            if kind == "lenet":  # features of both signs, so that the weights' gradients have none of their own
                features = net.features(images[:, 0])
                assert (features < 0).any()
                assert (features > 0).any()
            bias = client.split(client.share(images, labels))["head.bias"]
            assert torch.equal(infer_labels(bias), labels[:, 0])


def test_the_label_is_right_after_local_steps_and_with_class_weights() -> None:
    net, (images, labels) = make_net(), make_batches(40, 1)
    client = Client(net, WEIGHTED, local_steps=3, lr=0.05)
    assert torch.equal(infer_labels(client.split(client.share(images, labels))["head.bias"]), labels[:, 0])


def test_the_last_layer_is_found_by_its_name_or_its_outputs() -> None:
    assert find_last_layer(make_net(), 2) == "head"
    other = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    assert find_last_layer(other, 3) == "1"
    assert find_last_layer(other, 7) is None


# --- images ----------------------------------------------------------------------------------------------------------


class Linear(nn.Module):
    """Softmax regression on pixels."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.flatten(1))
        return logits


def test_a_linear_net_gives_its_image_away_in_closed_form_and_the_search_finds_the_same() -> None:
    torch.manual_seed(0)
    net, images, labels = Linear(36, 3), torch.rand(4, 1, 1, 6, 6), torch.tensor([[0], [1], [2], [0]])
    client = Client(net, F.cross_entropy)
    sent = client.share(images, labels).detach()
    parts = client.split(sent)
    exact = parts["head.weight"][:, 0] / parts["head.bias"][:, :1]  # d/dW = (p - y) x and d/db = p - y
    torch.testing.assert_close(exact.view_as(images), images, rtol=1e-4, atol=1e-5)
    found = reconstruct(client, sent, labels, (1, 6, 6), Search(steps=150, restarts=1, total_variation=0.0))
    assert float((found.images - exact.view_as(images)).abs().max()) < 0.01
    assert float(found.distances.max()) < 1e-4
    assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1


def test_the_search_is_the_same_by_the_same_seed_and_keeps_the_better_restart() -> None:
    net, (images, labels) = make_net(), make_batches(2, 1)
    client = Client(net, WEIGHTED)
    sent = client.share(images, labels).detach()
    search = partial(Search, steps=3, total_variation=0.0)
    runs = [reconstruct(client, sent, labels, (1, 16, 16), search(seed=seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].images, runs[1].images)
    assert not torch.equal(runs[0].images, runs[2].images)
    alone = reconstruct(client, sent, labels, (1, 16, 16), search(restarts=1, seed=1))
    assert (runs[0].distances <= alone.distances + 1e-6).all()
    given = client.share(runs[0].images, labels)
    torch.testing.assert_close(
        runs[0].distances, measure_distance(given, sent, client.sizes).detach(), atol=1e-5, rtol=0
    )


def test_only_known_entries_are_compared() -> None:
    torch.manual_seed(0)
    net, images, labels = Linear(16, 2), torch.rand(1, 1, 1, 4, 4), torch.tensor([[1]])
    client = Client(net, F.cross_entropy)
    sent = client.share(images, labels).detach()
    known = torch.ones_like(sent, dtype=torch.bool)
    known[:, 8:16] = False  # the lower half of the image in the first row of weights; the second row is known
    spoilt = sent.clone()
    spoilt[:, 8:16] = 7.0
    found = reconstruct(client, spoilt, labels, (1, 4, 4), Search(steps=150, restarts=1, total_variation=0.0), known)
    assert float((found.images - images).abs().max()) < 0.02


def test_the_distance_is_1_less_the_cosine_of_the_whole_and_of_each_tensor() -> None:
    given = torch.tensor([[1.0, 0.0, 5.0, 5.0, 2.0]])
    sent = torch.tensor([[1.0, 1.0, 1.0, 1.0, -3.0]])
    whole, tensors = 5 / (55 * 13) ** 0.5, [0.5**0.5, 1.0, -1.0]
    assert float(measure_distance(given, sent, [2, 2, 1])) == pytest.approx(1 - whole / 2 - sum(tensors) / 6)
    assert float(measure_distance(given, 0 * sent, [2, 2, 1])) == 1


def test_total_variation_is_the_mean_step_along_rows_and_columns() -> None:
    images = torch.tensor([[0.0, 1.0, 1.0], [0.5, 0.5, 0.0]]).view(1, 1, 1, 2, 3)
    rows, columns = [1.0, 0.0, 0.0, 0.5], [0.5, 0.5, 1.0]
    assert float(measure_total_variation(images)) == pytest.approx(sum(rows) / 4 + sum(columns) / 3)


def test_batches_are_searched_apart() -> None:
    net, (images, labels) = make_net("group"), make_batches(3, 2)
    client = Client(net, WEIGHTED)
    sent = client.share(images, labels).detach()
    together = measure_gradients(client, images, sent, labels)
    for place in range(3):
        part = slice(place, place + 1)
        single = measure_gradients(client, images[part], sent[part], labels[part])
        torch.testing.assert_close(together[part], single, rtol=1e-3, atol=1e-6)


def measure_gradients(client: Client, images: Tensor, sent: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the distance by images that are darker than the true ones."""
    darker = (0.5 * images).requires_grad_(True)
    distance = measure_distance(client.share(darker, labels), sent, client.sizes)
    return torch.autograd.grad(distance.sum(), darker)[0]
