"""Orders of a data set's images."""

from __future__ import annotations

import torch
from torch import Tensor


def make_stratified_order(labels: Tensor, seed: int) -> Tensor:
    """All indices in an order whose every beginning holds the classes in about their overall proportions."""
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        members = shuffled[labels[shuffled] == label]
        place[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return place.argsort(stable=True)
