"""FGSM and PGD: closed forms on linear nets, foolbox on convolutional ones, and what an attack leaves as it was."""

from __future__ import annotations

import copy
import warnings
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.attacks.gradient import ascend, compute_gradient, fgsm, measure_log_odds, pgd
from medassay.attacks.norms import NORMS, Norm, draw_start, measure_size
from medassay.attacks.smallest import find_smallest_epsilon
from medassay.nets.block_cnn import BlockCNN
from tests.helpers import list_differences

DIRECTION = torch.tensor(
    [[0.5, -2.0, 0.0, 1.0, -0.25, 3.0]], dtype=torch.float64
)  # gradient of the second class's lead


class Linear(nn.Module):
    """Logits ``(0, DIRECTION · x + offset)`` of images of 2 x 3 pixels."""

    def __init__(self, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([torch.zeros_like(DIRECTION), DIRECTION]))
        self.offset = offset

    def forward(self, x: Tensor) -> Tensor:
        logits = x.flatten(1).double() @ self.weight.T
        return logits + torch.tensor([0.0, self.offset], dtype=torch.float64)


def middle_images(n: int = 5) -> Tensor:
    """Images whose pixels may change by 0.3 and stay in [0, 1]."""
    return 0.3 + 0.4 * torch.rand(n, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def small_net(classes: int = 3, channels: int = 1, seed: int = 0) -> BlockCNN:
    """A net in double precision whose batch normalisations are not the identity."""
    torch.manual_seed(seed)
    net = BlockCNN(channels, classes, width=4)
    net.train()
    net(torch.rand(32, channels, 28, 28))
    return net.double().eval()


def random_images(n: int = 6, channels: int = 1) -> Tensor:
    """Images with black and white pixels among others."""
    rng = torch.Generator().manual_seed(1)
    return (2 * torch.rand(n, channels, 28, 28, generator=rng, dtype=torch.float64) - 0.5).clamp(0, 1)


# --- closed forms ----------------------------------------------------------------------------------------------------


def test_the_cross_entropy_is_a_rising_function_of_the_log_odds() -> None:
    logits, labels = torch.randn(20, 4, dtype=torch.float64), torch.arange(20) % 4
    found = F.softplus(measure_log_odds(logits, labels))
    torch.testing.assert_close(found, F.cross_entropy(logits, labels, reduction="none"))


def test_the_log_odds_have_a_gradient_where_the_cross_entropys_is_rounded_to_0() -> None:
    def sure(images: Tensor) -> Tensor:
        return torch.stack([200 * images[:, 0, 0, 0], -images[:, 0, 0, 1]], 1)

    images, labels = torch.full((1, 1, 2, 2), 0.6), torch.tensor([0])
    pixels = images.clone().requires_grad_()
    (rounded,) = torch.autograd.grad(F.cross_entropy(sure(pixels), labels), pixels)
    assert float(rounded.abs().max()) == 0
    expected = torch.tensor([[[[-200.0, -1.0], [0.0, 0.0]]]])
    torch.testing.assert_close(compute_gradient(sure, images, labels), expected)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_net_fgsm_is_the_best_change_there_is(norm: Norm, label: int) -> None:
    images, labels, sign = middle_images(), torch.full((5,), label), 1 - 2 * label
    best = DIRECTION.sign() if norm == "linf" else DIRECTION / DIRECTION.norm()
    attacked = fgsm(Linear(), images, labels, 0.2, norm=norm)
    torch.testing.assert_close(attacked - images, (0.2 * sign * best).view(1, 1, 2, 3).expand(5, -1, -1, -1))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_on_a_linear_net_pgd_raises_the_log_odds_by_epsilon_times_the_dual_norm(norm: Norm, dual: int) -> None:
    net, images, labels = Linear(), middle_images(), torch.tensor([0, 1, 0, 1, 0])
    epsilon = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.25], dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    attacked = pgd(net, images, labels, epsilon, norm=norm, steps=40, restarts=2, rng=rng)
    rise = measure_log_odds(net(attacked), labels) - measure_log_odds(net(images), labels)
    reached = rise.detach() / (epsilon * torch.linalg.vector_norm(DIRECTION, dual))
    assert 1 - (1e-9 if norm == "linf" else 0.03) <= float(reached.min()) <= float(reached.max()) <= 1 + 1e-9
    from_itself = ascend(
        net, images, labels, epsilon, images, norm=norm, steps=5
    )  # in L2 nothing sideways is left to lose
    torch.testing.assert_close(from_itself, fgsm(net, images, labels, epsilon, norm=norm))


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_smallest_distance_is_the_margin_over_the_dual_norm(norm: Norm, dual: int) -> None:
    net, images = Linear(offset=-0.4), middle_images(8)
    labels = net(images).argmax(1)
    margins = -measure_log_odds(net(images), labels).detach()
    expected = margins / torch.linalg.vector_norm(DIRECTION, dual)
    largest = float(expected.sort().values[5]) * 1.01

    def succeeds(members: Tensor, epsilon: Tensor) -> Tensor:
        attacked = fgsm(net, images[members], labels[members], epsilon, norm=norm)
        return net(attacked).argmax(1) != labels[members]

    found = find_smallest_epsilon(succeeds, 8, largest, rounds=10)
    assert bool((found.isinf() == (expected > largest)).all())
    assert int(found.isinf().sum()) == 2
    excess = (found - expected)[found.isfinite()]
    assert 0 <= float(excess.min()) <= float(excess.max()) <= largest / 2**10


def test_bisection_attacks_only_what_the_largest_distance_flips() -> None:
    asked: list[list[int]] = []

    def succeeds(members: Tensor, epsilon: Tensor) -> Tensor:
        asked.append(members.tolist())
        return epsilon >= torch.tensor([3.0, 9.0, 0.1])[members]

    found = find_smallest_epsilon(succeeds, 3, 8.0, rounds=3)
    assert found.tolist() == [3.0, torch.inf, 1.0]
    assert asked == [[0, 1, 2], [0, 2], [0, 2], [0, 2]]
    assert find_smallest_epsilon(succeeds, 0, 8.0, rounds=3).tolist() == []


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_stay_within_their_distance_and_in_0_to_1(norm: Norm) -> None:
    net, images, labels = small_net(), random_images(), torch.tensor([0, 1, 2, 0, 1, 2])
    epsilon = torch.tensor([0.01, 0.02, 0.1, 0.3, 1.0, 2.0], dtype=torch.float64) * (5 if norm == "l2" else 1)
    rng = torch.Generator().manual_seed(0)
    for attacked in (
        fgsm(net, images, labels, epsilon, norm=norm),
        pgd(net, images, labels, epsilon, norm=norm, steps=5, restarts=2, rng=rng),
    ):
        assert bool((measure_size(attacked - images, norm) <= epsilon + 1e-12).all())
        assert 0 <= float(attacked.min()) <= float(attacked.max()) <= 1
        assert bool((measure_size(attacked - images, norm) > 0.3 * epsilon)[:4].all())  # and use it


@pytest.mark.parametrize("norm", NORMS)
def test_of_several_starts_the_misclassified_and_then_the_highest_loss_is_kept(norm: Norm) -> None:
    net, images, labels = small_net(), random_images(12), torch.arange(12) % 3
    epsilon = torch.full((12,), 0.02 if norm == "linf" else 0.4, dtype=torch.float64)
    kept = pgd(net, images, labels, epsilon, norm=norm, steps=3, restarts=4, rng=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(0)
    single = []
    for _ in range(4):
        start = draw_start(images, epsilon, norm, rng)
        single.append(ascend(net, images, labels, epsilon, start, norm=norm, steps=3))
    logits = torch.stack([net(one) for one in single]).detach()
    chosen = []
    for i, label in enumerate(labels.tolist()):
        ranks = [(int(z[i].argmax()) != label, float(F.cross_entropy(z[i], labels[i]))) for z in logits]
        chosen.append(ranks.index(max(ranks)))
    assert len(set(chosen)) > 1
    torch.testing.assert_close(kept, torch.stack([single[k][i] for i, k in enumerate(chosen)]))


def test_a_misclassified_result_is_kept_although_another_has_a_higher_loss() -> None:
    logits = iter([torch.tensor([[1.0, 0.9, 0.9]]), torch.tensor([[0.0, 0.1, -9.0]])])

    def net(images: Tensor) -> Tensor:
        return next(logits) if not torch.is_grad_enabled() else images.flatten(1)[:, :3]

    losses = [
        F.cross_entropy(z, torch.tensor([0])) for z in ([1.0, 0.9, 0.9], [0.0, 0.1, -9.0]) for z in [torch.tensor([z])]
    ]
    assert losses[0] > losses[1]
    images = torch.full((1, 1, 2, 3), 0.5)
    rng = torch.Generator().manual_seed(0)
    kept = pgd(net, images, torch.tensor([0]), 0.1, norm="linf", steps=1, restarts=2, rng=rng)
    rng = torch.Generator().manual_seed(0)
    starts = [draw_start(images, 0.1, "linf", rng) for _ in range(2)]
    torch.testing.assert_close(kept[0, 0, 1], starts[1][0, 0, 1])  # the second row has no gradient and stays


# --- foolbox ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foolbox() -> ModuleType:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setenv("GIT_PYTHON_REFRESH", "quiet")  # it clones models, which nobody asks for; git need not be there
        warnings.simplefilter("ignore", DeprecationWarning)  # it imports from a place that SciPy 2 removes
        import foolbox  # type: ignore[import-not-found]  # a second, for these tests alone
    return foolbox  # type: ignore[no-any-return]


@pytest.mark.parametrize(("norm", "name"), [("linf", "Linf"), ("l2", "L2")])
@pytest.mark.parametrize("channels", [1, 3])
def test_fgsm_and_pgd_are_foolboxs(foolbox: ModuleType, norm: Norm, name: str, channels: int) -> None:
    net, images, labels = small_net(channels=channels), random_images(channels=channels), torch.arange(6) % 3
    model, epsilon = foolbox.PyTorchModel(net, bounds=(0, 1)), 0.02 if norm == "linf" else 0.5
    one_step = getattr(foolbox.attacks, f"{name}FastGradientAttack")()
    many_steps = getattr(foolbox.attacks, f"{name}PGD")(rel_stepsize=2.5 / 7, steps=7, random_start=False)
    expected = [attack(model, images, labels, epsilons=epsilon)[1] for attack in (one_step, many_steps)]
    found = [
        fgsm(net, images, labels, epsilon, norm=norm),
        ascend(net, images, labels, epsilon, images, norm=norm, steps=7),
    ]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


# --- what stays as it was --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trainable", [True, False])
def test_weights_get_no_gradient_and_require_one_as_before(trainable: bool) -> None:
    net, images, labels = small_net(), random_images(), torch.arange(6) % 3
    for parameter in list(net.parameters())[::2]:
        parameter.requires_grad_(trainable)
    before, required = copy.deepcopy(net.state_dict()), [p.requires_grad for p in net.parameters()]
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        attacked = pgd(net, images, labels, 0.02, norm="linf", steps=2, restarts=2, rng=rng)
    assert not attacked.requires_grad
    assert not images.requires_grad
    assert [p.requires_grad for p in net.parameters()] == required
    assert [p.grad for p in net.parameters()] == [None] * len(required)
    assert not list_differences(before, net.state_dict())
    assert not net.training


def test_the_same_seed_gives_the_same_images() -> None:
    net, images, labels = small_net(), random_images(), torch.arange(6) % 3
    first, again, other = (
        pgd(net, images, labels, 0.02, norm="linf", steps=2, restarts=1, rng=torch.Generator().manual_seed(seed))
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
