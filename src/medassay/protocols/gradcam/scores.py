"""How far each method's heat maps can be trusted on one classifier."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from medassay.explain.activation_maps import NAMES, ActivationMaps, Method, randomised
from medassay.metrics import explanation
from medassay.metrics.explanation import Mean, bootstrap_mean

SIMILAR = 0.5  # correlation with a random net's maps from which a map does not depend on what was learnt
FEWEST_MASKS = 10  # images with a true mask, below which an interval says nothing
STEPS = 28  # looks along a deletion or insertion curve
LOCATES = ("pointing", "energy")  # what needs a true mask
FOLLOWS = ("deletion", "insertion")
BASELINES = {"random": "random", "centre": "centre prior"}
RANDOM_SEED = 0  # of the random baseline's maps


@dataclass(frozen=True)
class Subject:
    """A classifier and the images it is explained on.

    Attributes:
        net: ``(B, C, H, W) in [0, 1] -> logits (B, K)``.
        device: where to compute.
        images: ``(N, C, H, W) float32 in [0, 1]``.
        labels: ``(N,) int64``.
        predicted: ``(N,) int64``.
        masks: ``(N, H, W) bool``, empty for an image without a true mask; None where none has one.
        grid: height and width of the target layer's output.
    """

    net: nn.Module
    device: torch.device
    images: Tensor
    labels: Tensor
    predicted: Tensor
    masks: Tensor | None
    grid: tuple[int, int]

    @property
    def masked(self) -> Tensor:
        """The indices of the images with a true mask."""
        if self.masks is None:
            return torch.zeros(0, dtype=torch.int64)
        return self.masks.flatten(1).any(1).nonzero()[:, 0]

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Class probabilities."""
        found: Tensor = self.net(images.to(self.device)).softmax(1).cpu()
        return found


def scores(
    subject: Subject, classes: Sequence[str], methods: Sequence[Method], layer: str | None, randomisations: int
) -> dict[str, Any]:
    """All scores as plain values: a row per method, two baselines, and what the rule says of each method.

    Args:
        subject: what is explained.
        classes: names.
        methods: which to score.
        layer: as :func:`~medassay.explain.activation_maps.target_layer`.
        randomisations: random nets of the sanity check.
    """
    subject.net.to(subject.device).eval()
    baselines = {key: follow(subject, maps) | locate(subject, maps) for key, maps in baseline_maps(subject).items()}
    if len(subject.masked):  # what a random map scores on average, without drawing one
        baselines["random"] |= dict.fromkeys(LOCATES, explanation.area_share(_masks(subject)))
    rows = []
    for method in tqdm(methods, desc="scoring heat maps", unit="method", disable=not sys.stderr.isatty()):
        found = per_image(subject, method, layer, randomisations)
        rows.append({"key": method, "name": NAMES[method], **row(subject, classes, found, baselines)})
    return {
        "images": len(subject.images),
        "with_mask": len(subject.masked),
        "fewest_masks": FEWEST_MASKS,
        "steps": STEPS,
        "randomisations": randomisations,
        "rows": rows,
        "baselines": [
            {"key": key, "name": BASELINES[key], **row(subject, classes, found, {})} for key, found in baselines.items()
        ],
    }


# --- one score per image ---------------------------------------------------------------------------------------------


def per_image(subject: Subject, method: Method, layer: str | None, randomisations: int) -> dict[str, Tensor]:
    """Each score of a method's maps: ``pointing, energy`` of the images with a mask, the others of all, ``(n,) float64``.

    The maps are of the predicted class, but where a mask is compared of the true class, whose mask it is.
    """
    explain = ActivationMaps(subject.net, method, layer, subject.device)
    maps = explain.of(subject.images, subject.predicted)
    of_truth = maps.clone()
    wrong = subject.predicted != subject.labels
    of_truth[wrong] = explain.of(subject.images[wrong], subject.labels[wrong])
    others = [
        ActivationMaps(randomised(subject.net, seed), method, layer, subject.device).of(
            subject.images, subject.predicted
        )
        for seed in range(randomisations)
    ]
    return locate(subject, of_truth) | follow(subject, maps) | similarity(maps, torch.stack(others))


def similarity(maps: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Each map's mean rank correlation with those of random nets, ``(N, H, W)`` and ``(R, N, H, W)``.

    ``sanity``, which the verdict goes by, is over all pixels. ``sanity_reached`` leaves out those that no map of any net
    reaches: they are zero by the net's plan, not by its weights (a 2x2 pooling of 7x7 maps drops their last row and column,
    which then have no gradient), and make maps of different weights more alike than they are.
    """
    reached = (maps > 0).any(0) | (others > 0).any(0).any(0)
    where = reached if reached.any() else None
    return {
        "sanity": torch.stack([explanation.spearman(maps, other) for other in others]).mean(0),
        "sanity_reached": torch.stack([explanation.spearman(maps, other, where) for other in others]).mean(0),
    }


def locate(subject: Subject, maps: Tensor) -> dict[str, Tensor]:
    """Where the maps ``(N, H, W)`` point, of the images with a true mask; nothing where there is none."""
    if not len(subject.masked):
        return {}
    chosen, masks = maps[subject.masked], _masks(subject)
    return {
        "pointing": explanation.pointing_game(chosen, masks),
        "energy": explanation.energy_inside(chosen, masks),
    }


def follow(subject: Subject, maps: Tensor) -> dict[str, Tensor]:
    """What the predicted class's probability does as pixels go and come in the maps' order."""
    given = (subject.classify, subject.images, maps, subject.predicted)
    return {
        "deletion": explanation.deletion_auc(*given, steps=STEPS),
        "insertion": explanation.insertion_auc(*given, steps=STEPS),
    }


def baseline_maps(subject: Subject) -> dict[str, Tensor]:
    """Maps that know neither image nor net, ``(N, H, W)`` each: noise as coarse as the heat maps, and the centre.

    A classifier is disturbed more by scattered holes than by the same number of pixels in a patch, wherever they are: noise
    of single pixels would be compared by its grain.
    """
    n, _, height, width = subject.images.shape
    noise = torch.rand(n, 1, *subject.grid, generator=torch.Generator().manual_seed(RANDOM_SEED))
    enlarged = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)[:, 0]
    return {"random": enlarged, "centre": explanation.centre_prior(height, width).expand(n, -1, -1)}


def _masks(subject: Subject) -> Tensor:
    assert subject.masks is not None
    return subject.masks[subject.masked]


# --- averages and the rule -------------------------------------------------------------------------------------------


def row(
    subject: Subject,
    classes: Sequence[str],
    found: Mapping[str, Tensor],
    baselines: Mapping[str, Mapping[str, Tensor]],
) -> dict[str, Any]:
    """A line of the table: means with intervals, also by true class; gains over the baselines; the rule's verdict.

    Args:
        subject: what is explained.
        classes: names.
        found: each score per image.
        baselines: the same of the baselines; empty for a baseline's own line, which has no verdict.
    """
    line: dict[str, Any] = {name: bootstrap_mean(values)._asdict() for name, values in found.items()}
    labels = subject.labels[subject.masked]
    line["per_class"] = [
        {"name": classes[label]}
        | {name: bootstrap_mean(found[name][labels == label])._asdict() for name in LOCATES if name in found}
        for label in sorted(set(labels.tolist()))
    ]
    if not baselines:
        return line
    gains = {
        name: {key: bootstrap_mean(gain(name, found[name], other[name])) for key, other in baselines.items()}
        for name in (*LOCATES, *FOLLOWS)
        if name in found
    }
    line["gain"] = {name: {key: mean._asdict() for key, mean in over.items()} for name, over in gains.items()}
    trusted, reasons = verdict(gains, line["sanity"]["mean"], len(subject.masked))
    unlike = abs(line["sanity_reached"]["mean"] - line["sanity"]["mean"]) >= 0.005  # as written, with two decimals
    return line | {"trusted": trusted, "reasons": reasons, "unlike": unlike}


def gain(score: str, values: Tensor, baseline: Tensor) -> Tensor:
    """By how much each image's score is better than the baseline's; of deletion, less is better."""
    return baseline - values if score == "deletion" else values - baseline


def verdict(
    gains: Mapping[str, Mapping[str, Mean]], similarity: float, with_mask: int
) -> tuple[bool | None, list[str]]:
    """Whether a method is to be trusted on this classifier, None where masks are too few to say, and why not.

    It is where its maps beat both baselines in the pointing game and in energy, the interval of the difference lying
    above 0, and it passes the sanity check: maps of random nets correlate with its own by less than 0.5.
    """
    reasons = []
    if not similarity < SIMILAR:
        reasons.append(f"a net with random weights gives similar maps (correlation {similarity:.2f})")
    if with_mask < FEWEST_MASKS:
        return (False if reasons else None), [*reasons, "too few true masks to say where it points"]
    names = {"pointing": "pointing game", "energy": "energy inside the mask"}
    for score in LOCATES:
        missed = [BASELINES[key] for key, mean in gains[score].items() if not mean.low > 0]
        if missed:
            reasons.append(f"{names[score]} not above {' and '.join(missed)}")
    return not reasons, reasons
