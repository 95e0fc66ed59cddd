"""The attack on each case: what a client sends, its defence, the label, the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medassay.attacks.defences import add_noise, prune
from medassay.attacks.inversion import Client, Loss, Reconstruction, Search, find_last_layer, infer_labels, reconstruct
from medassay.core.seeds import derive_seed
from medassay.protocols.inversion.cases import Case, Weights
from medassay.protocols.inversion.measures import Originals

_ROWS = 32  # images side by side: on one core an attack takes a third of its time alone
_ELEMENTS = 1 << 24  # gradients' elements side by side, for larger nets: 64 MiB, several times over


class Found(NamedTuple):
    """What the attack on a case found.

    Attributes:
        images: ``(G, B, C, H, W) float32 in [0, 1]``, on the CPU.
        distance: Mean distance, 1 - cosine, of what they give from what was sent.
        right_labels: Whether each label that was read off the gradient is the true one, ``(G,) bool``; None where labels were
            given.
    """

    images: Tensor
    distance: float
    right_labels: Tensor | None


@dataclass(frozen=True)
class Attack:
    """What an attacker has and how it searches.

    Attributes:
        nets: The net with each kind of weights.
        loss: The loss of the training.
        originals: The images that are sent for.
        search: How images are looked for.
        device: Device to compute on.
        bound: Largest norm of one image's gradient where noise follows.
        lr: Learning rate of local steps.
        bias: Name of the last layer's bias, from whose gradient labels of single images are read; None: labels are given.
    """

    nets: Mapping[Weights, nn.Module]
    loss: Loss
    originals: Originals
    search: Search
    device: torch.device
    bound: float
    lr: float
    bias: str | None

    def attack(self, cases: Sequence[Case]) -> list[Found]:
        """Attacks cases that differ in their defence alone, side by side.

        Raises:
            ValueError: batch statistics of one value, in a net whose maps are a single pixel somewhere.
        """
        first = cases[0]
        groups = len(self.originals) // first.batch
        channels, height, width = shape = self.originals.images.shape[1:]
        net = self.nets[first.weights].to(self.device)
        client = Client(net, self.loss, first.mode, first.local_steps, self.lr, (channels, height, width))
        images = self.originals.images[: groups * first.batch].view(groups, first.batch, *shape).to(self.device)
        labels = self.originals.labels[: groups * first.batch].view(groups, first.batch).to(self.device)
        sent = [self._defend(client, images, labels, case) for case in cases]
        used = [self._read_labels(client, one, labels) for one in sent]
        known = torch.cat(
            [
                one != 0 if case.pruned else torch.ones_like(one, dtype=torch.bool)
                for one, case in zip(sent, cases, strict=True)
            ]
        )
        found = self._search(client, torch.cat(sent), torch.cat(used), known)
        return [
            Found(
                found.images[start : start + groups],
                float(found.distances[start : start + groups].double().mean()),
                (own == labels)[:, 0].cpu() if self._reads_labels(labels) else None,
            )
            for start, own in zip(range(0, groups * len(cases), groups), used, strict=True)
        ]

    def attack_defined(self, cases: Sequence[Case]) -> dict[Case, Found]:
        """:meth:`attack` on those of the cases whose batch statistics are of more than one value.

        Where the net's last maps are a single pixel, one image has none; noise is put on the gradients of single images
        whatever the batch.
        """
        for tried in (cases, [case for case in cases if case.noise is None]):
            try:
                return dict(zip(tried, self.attack(tried), strict=True)) if tried else {}
            except ValueError as error:  # of batch normalisation alone
                if "more than 1 value per channel" not in str(error):
                    raise
        return {}

    def _defend(self, client: Client, images: Tensor, labels: Tensor, case: Case) -> Tensor:
        """What is sent of each batch, ``(G, P)``."""
        if case.noise is None:
            sent = _share(client, images, labels)
            return prune(sent, case.pruned) if case.pruned else sent
        rng = torch.Generator().manual_seed(derive_seed(self.search.seed, 1))
        singles = _share(client, images.flatten(0, 1)[:, None], labels.flatten()[:, None])
        return torch.stack([add_noise(own, self.bound, case.noise, rng) for own in torch.split(singles, case.batch)])

    def _reads_labels(self, labels: Tensor) -> bool:
        return self.bias is not None and labels.shape[1] == 1

    def _read_labels(self, client: Client, sent: Tensor, labels: Tensor) -> Tensor:
        """The labels that the attack uses, ``(G, B) int64``: of single images those that it reads, else the true ones."""
        if self.bias is None or not self._reads_labels(labels):
            return labels
        return infer_labels(client.split(sent)[self.bias])[:, None]

    def _search(self, client: Client, sent: Tensor, labels: Tensor, known: Tensor) -> Reconstruction:
        rows = max(1, min(_ROWS, _ELEMENTS // sum(client.sizes)) // (self.search.restarts * labels.shape[1]))
        channels, height, width = self.originals.images.shape[1:]
        parts = []
        for place, (some, own, mask) in enumerate(
            zip(torch.split(sent, rows), torch.split(labels, rows), torch.split(known, rows), strict=True)
        ):
            search = replace(self.search, seed=derive_seed(self.search.seed, 2, place))
            parts.append(
                reconstruct(client, some, own, (channels, height, width), search, None if bool(mask.all()) else mask)
            )
        return Reconstruction(*(torch.cat(pieces) for pieces in zip(*parts, strict=True)))


@torch.no_grad()
def _share(client: Client, images: Tensor, labels: Tensor) -> Tensor:
    return client.share(images, labels)


def find_bias(net: nn.Module, num_classes: int) -> str | None:
    """The name of the last layer's bias where it learns; None for none."""
    name = find_last_layer(net, num_classes)
    bias = None if name is None else net.get_submodule(name).bias
    return f"{name}.bias" if isinstance(bias, nn.Parameter) and bias.requires_grad else None
