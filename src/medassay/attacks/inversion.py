"""Images from the gradient that a client of federated learning sends.

A server that knows the weights, and gets a gradient of the loss, looks for images that give the same one. Source: Geiping,
Bauermeister, Dröge & Moeller, *Inverting Gradients: How easy is it to break privacy in federated learning?* (2020,
arXiv:2003.14053), equation 4; the label of a single image by Zhao, Mopuri & Bilen, *iDLG* (2020, arXiv:2001.02610).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, vmap
from torch.nn import functional as F

from medassay.core.types import NonNegative, Positive, PositiveInt, Range

Mode = Literal["eval", "train"]
Loss = Callable[[Tensor, Tensor], Tensor]
"""``logits (B, K), labels (B,) int64 -> scalar``."""


class Client:
    """What a client of federated learning sends, as a function of its images that can be differentiated.

    It holds a copy of the net; the net given stays as it is, its mode and its running statistics included.

    Args:
        net: A classifier of images in [0, 1]; weights that do not learn are not sent.
        loss: The loss of a batch.
        mode: Mode of the net: with ``train`` batch normalisation takes the statistics of the batch. Dropout is off in both.
        local_steps: Steps of gradient descent before the change of the weights is sent, each on all images of the batch.
        lr: Learning rate of these steps; the server knows it.
        image_shape: ``(C, H, W)`` of the images: what :func:`list_sent` does not name is not sent either. None: all weights
            that learn are sent, those that no gradient reaches as zeros.

    Attributes:
        names: Names of the weights that are sent.
        sizes: The number of elements of each.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: Loss,
        mode: Mode = "eval",
        local_steps: PositiveInt = 1,
        lr: Positive = 0.01,
        image_shape: tuple[int, int, int] | None = None,
    ) -> None:
        learned = {name for name, weight in net.named_parameters() if weight.requires_grad}
        if image_shape is not None:
            learned &= {*list_sent(net, image_shape)}
        self._net = copy.deepcopy(net).eval().requires_grad_(False)
        if mode == "train":  # of a copy without running statistics, which always takes those of the batch
            replace_all_batch_norm_modules_(self._net)
            for layer in self._net.modules():
                layer.train(isinstance(layer, nn.modules.batchnorm._BatchNorm))
        _prepare(self._net)
        weights = {name: weight.detach().contiguous() for name, weight in self._net.named_parameters()}
        self._sent = {name: weight for name, weight in weights.items() if name in learned}
        self._fixed = {name: weight for name, weight in weights.items() if name not in learned}
        self._fixed |= dict(self._net.named_buffers())
        self._loss, self._steps, self._lr = loss, local_steps, lr
        self._is_batched = True

    @property
    def names(self) -> list[str]:
        return [*self._sent]

    @property
    def sizes(self) -> list[int]:
        return [weight.numel() for weight in self._sent.values()]

    def share(self, images: Tensor, labels: Tensor) -> Tensor:
        """What is sent of each of G batches: the gradient, or of several steps the change of the weights over ``-lr``.

        Args:
            images: ``(G, B, C, H, W) float`` in [0, 1].
            labels: ``(G, B) int64``.

        Returns:
            ``(G, P)``, the weights in the order of ``names``, each flattened.
        """
        if self._is_batched:
            with suppress(_NoBatchingRule), _refused_fallbacks():
                sent: Tensor = vmap(self._share_one)(images, labels)
                return sent
            self._is_batched = False
        return torch.stack([self._share_one(*one) for one in zip(images, labels, strict=True)])

    def differentiate(self, objective: Callable[[], Tensor], images: Tensor) -> Tensor:
        """The gradient by ``images`` of a scalar made of what :meth:`share` gives of them."""
        with suppress(_NoBatchingRule), _refused_fallbacks():
            return torch.autograd.grad(objective(), images)[0]
        self._is_batched = False
        return torch.autograd.grad(objective(), images)[0]

    def split(self, sent: Tensor) -> dict[str, Tensor]:
        """``(G, P)`` by the names of the weights, ``(G, …)`` each in its shape."""
        parts = torch.split(sent, self.sizes, 1)
        return {
            name: part.view(-1, *weight.shape) for (name, weight), part in zip(self._sent.items(), parts, strict=True)
        }

    def _share_one(self, images: Tensor, labels: Tensor) -> Tensor:
        weights = self._sent
        for _ in range(self._steps):
            gradients = grad(self._measure_loss)(weights, images, labels)
            weights = {name: weight - self._lr * gradients[name] for name, weight in weights.items()}
        if self._steps > 1:
            gradients = {name: (weight - weights[name]) / self._lr for name, weight in self._sent.items()}
        return torch.cat([gradient.flatten() for gradient in gradients.values()])

    def _measure_loss(self, weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return self._loss(functional_call(self._net, ({**weights, **self._fixed},), (images,)), labels)


def list_sent(net: nn.Module, image_shape: tuple[int, int, int]) -> list[str]:
    """The names of the weights of ``net`` that learn and that a gradient of its answers reaches, in their order.

    Classifiers that only train the net have weights as well, and no part in its answers.

    Args:
        net: A classifier of images in [0, 1]; it stays as it is.
        image_shape: ``(C, H, W)`` of its images.
    """
    copied = copy.deepcopy(net).eval()
    weights = {name: weight for name, weight in copied.named_parameters() if weight.requires_grad}
    image = torch.rand(1, *image_shape, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        answers = copied(image.to(next(copied.parameters())))
        gradients = torch.autograd.grad(answers.sum(), [*weights.values()], allow_unused=True)
    return [name for name, gradient in zip(weights, gradients, strict=True) if gradient is not None]


class _Affine(nn.Module):
    """Batch normalisation by its running statistics, ``(B, C, …)``; torch's own takes more steps to differentiate twice."""

    scale: Tensor
    shift: Tensor

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.weight, self.bias = layer.weight, layer.bias
        scale = (layer.running_var + layer.eps).rsqrt()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", -layer.running_mean * scale)

    def forward(self, maps: Tensor) -> Tensor:
        shape = (-1, *[1] * (maps.ndim - 2))
        return maps * (self.weight * self.scale).view(shape) + (self.bias + self.weight * self.shift).view(shape)


class _Mean(nn.Module):
    """``nn.AdaptiveAvgPool2d(1)``, which may set strides in place: ``vmap`` has no rule for that."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((-2, -1), keepdim=True)


def _prepare(net: nn.Module) -> None:
    """Makes layers of ``net`` fit for gradients of gradients, many batches side by side; the answers stay the same."""
    for name, layer in [*net.named_modules()]:
        if getattr(layer, "inplace", False) is True:  # the value that it overwrites is needed once more
            layer.inplace = False
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size in (1, (1, 1)):
            net.set_submodule(name, _Mean())
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.affine and layer.running_mean is not None:
            net.set_submodule(name, _Affine(layer))


class _NoBatchingRule(Exception):
    """``vmap`` has no rule for some operation."""


@contextmanager
def _refused_fallbacks() -> Iterator[None]:
    """Raises :class:`_NoBatchingRule` where torch would work around a missing rule, and warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="There is a performance drop")
        try:
            yield
        except UserWarning as warning:
            raise _NoBatchingRule from warning


# --- labels ----------------------------------------------------------------------------------------------------------


def find_last_layer(net: nn.Module, num_classes: int) -> str | None:
    """The name of the last linear layer with an output for each class; None for none."""
    layers = [
        name for name, part in net.named_modules() if isinstance(part, nn.Linear) and part.out_features == num_classes
    ]
    return "head" if "head" in layers else layers[-1] if layers else None


def infer_labels(bias_gradients: Tensor) -> Tensor:
    """The labels of single images from the gradient of the last layer's bias, ``(G, K) -> (G,) int64``.

    The cross-entropy's gradient is ``p - onehot(y)``: negative for the true class alone. iDLG takes the weights' gradient,
    which is this one times the features, and needs features of one sign; a leaky ReLU gives both.
    """
    return bias_gradients.argmin(1)


# --- images ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """How images are looked for.

    Attributes:
        steps: Number of steps of Adam on the sign of the gradient.
        restarts: Number of random images to start from; the one whose gradient ends nearest to what was sent is kept.
        lr: First step, in grey levels from 0 to 1; it falls to 0 along a half cosine.
        total_variation: Weight of the mean difference between neighbouring pixels: how large its gradient is, on average over
            an image, beside that of the cosine. The step takes the sign alone, so that only this ratio matters; a weight in the
            objective itself would be too small for one net and too large for the next, by a factor of a thousand.
        seed: Seed of the random images.
    """

    steps: PositiveInt = 500
    restarts: PositiveInt = 2
    lr: Annotated[float, Range(gt=0, le=1)] = 0.05
    total_variation: NonNegative = 1.0
    seed: int = 0


class Reconstruction(NamedTuple):
    """Images ``(G, B, C, H, W) float32 in [0, 1]``, and how far what they give is from what was sent, ``(G,)``."""

    images: Tensor
    distances: Tensor


def reconstruct(
    client: Client,
    sent: Tensor,
    labels: Tensor,
    image_shape: tuple[int, int, int],
    search: Search,
    known: Tensor | None = None,
) -> Reconstruction:
    """Images that give what was sent, by the cosine between the two and by total variation; all batches side by side.

    Args:
        client: What the client computes; the server has the same net.
        sent: What was sent of each batch, ``(G, P)``.
        labels: Labels of the images, ``(G, B) int64``.
        image_shape: ``(C, H, W)``.
        search: How to look.
        known: Which entries are compared, ``(G, P) bool``; None for all.
    """
    groups, batch = labels.shape
    rng = torch.Generator().manual_seed(search.seed)
    start = torch.rand(search.restarts, groups, batch, *image_shape, generator=rng).flatten(0, 1)
    images = start.to(sent).requires_grad_(True)
    mask = None if known is None else known.repeat(search.restarts, 1)
    target, wanted = sent.repeat(search.restarts, 1), labels.repeat(search.restarts, 1)
    target = target if mask is None else target * mask
    optimizer = torch.optim.Adam([images], lr=search.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, search.steps)

    def measure() -> Tensor:
        given = client.share(images, wanted)
        return measure_distance(given if mask is None else given * mask, target, client.sizes)

    for _ in range(search.steps):
        gradient = _scale(client.differentiate(lambda: measure().sum(), images))
        (smoothing,) = torch.autograd.grad(measure_total_variation(images).sum(), images)
        images.grad = (gradient + search.total_variation * _scale(smoothing)).sign()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            images.clamp_(0, 1)
    with torch.no_grad():
        distance = measure().view(search.restarts, groups)
    best = distance.nan_to_num(torch.inf).argmin(0)
    each = torch.arange(groups, device=best.device)
    found = images.detach().view(search.restarts, groups, batch, *image_shape)[best, each]
    return Reconstruction(found.cpu(), distance[best, each].cpu())


def measure_distance(given: Tensor, sent: Tensor, sizes: list[int]) -> Tensor:
    """1 - cosine of the whole (Geiping et al. 2020) and, on average, of each tensor of weights; half of each.

    The first convolutions know where in the image something is, and their gradients may be small beside those of the last
    layers: tensor by tensor all count alike. The whole keeps how large they are beside each other, which tells brightness.

    Args:
        given, sent: ``(G, P)``.
        sizes: Number of elements of each tensor.

    Returns:
        ``(G,)``; a tensor that is 0 in one of the two has the cosine 0.
    """

    def compare(first: Tensor, second: Tensor) -> Tensor:
        return F.cosine_similarity(first, second, dim=1, eps=1e-30)

    parts = zip(torch.split(given, sizes, 1), torch.split(sent, sizes, 1), strict=True)
    return 1 - (compare(given, sent) + torch.stack([compare(*pair) for pair in parts]).mean(0)) / 2


def _scale(gradient: Tensor) -> Tensor:
    """``(G, …)`` with a mean absolute value of 1 in each batch; zeros stay zeros."""
    sizes = gradient.abs().flatten(1).mean(1).clamp(min=torch.finfo(gradient.dtype).tiny)
    return gradient / sizes.view(-1, *[1] * (gradient.ndim - 1))


def measure_total_variation(images: Tensor) -> Tensor:
    """The mean absolute difference between neighbours along rows and along columns, ``(G, B, C, H, W) -> (G,)``."""
    return sum((images.diff(dim=axis).abs().flatten(1).mean(1) for axis in (-2, -1)), images.new_zeros(()))
