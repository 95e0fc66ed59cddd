"""How far each method's heat maps can be trusted on one classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.core.progress import track
from medassay.explain.activation_maps import NAMES, ActivationMaps, Method, randomise_weights
from medassay.metrics import explanation
from medassay.metrics.chance import ChanceCheck, check_against_chance
from medassay.metrics.estimates import mean_over_images
from medassay.protocols.gradcam.results import (
    BASELINES,
    FOLLOWS,
    LOCATES,
    ClassScores,
    Comparison,
    MethodScores,
    Scores,
)
from medassay.protocols.gradcam.verdict import AT_CHANCE, FEWEST_MASKS, judge_method

STEPS = 28  # looks along a deletion or insertion curve
RANDOM_SEED = 0  # of the random baseline's maps


@dataclass(frozen=True)
class Subject:
    """A classifier and the images it is explained on.

    Attributes:
        net: Classifier, ``(B, C, H, W) in [0, 1] -> logits (B, K)``.
        images: Images, ``(N, C, H, W) float32 in [0, 1]``.
        labels, predicted: True and predicted classes, ``(N,) int64``.
        masks: True masks, ``(N, H, W) bool``, empty for an image without a true mask; None where none has one.
        grid: Height and width of the target layer's output.
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
        return torch.zeros(0, dtype=torch.int64) if self.masks is None else self.masks.flatten(1).any(1).nonzero()[:, 0]

    @property
    def true_masks(self) -> Tensor:
        """The masks of those images."""
        return self.images[:0, 0].bool() if self.masks is None else self.masks[self.masked]

    @torch.no_grad()
    def classify(self, images: Tensor) -> Tensor:
        """Class probabilities."""
        probabilities: Tensor = self.net(images.to(self.device)).softmax(1).cpu()
        return probabilities


def compare_methods(
    subject: Subject, classes: Sequence[str], methods: Sequence[Method], layer: str | None, randomisations: int
) -> Comparison:
    """The scores of some methods and of two baselines, and what the rule says of each method.

    ``layer`` is as of :func:`~medassay.explain.activation_maps.find_layer`, ``randomisations`` the number of random nets in
    the sanity check.
    """
    subject.net.to(subject.device).eval()
    unaware = make_baselines(subject)
    baselines = {key: follow_class(subject, maps) | locate(subject, maps) for key, maps in unaware.items()}
    if len(subject.masked):  # what a random map scores on average, without drawing one
        baselines["random"] |= dict.fromkeys(LOCATES, explanation.area_share(subject.true_masks))
    chance = check_against_chance(subject.classify(subject.images), subject.labels)
    rows = []
    for method in track(methods, "scoring heat maps", "methods"):
        scores = score_images(subject, method, layer, randomisations)
        means = average_scores(method, NAMES[method], subject, classes, scores)
        rows.append(judge(means, scores, baselines, len(subject.masked), chance))
    others = [average_scores(key, BASELINES[key], subject, classes, scores) for key, scores in baselines.items()]
    return Comparison(
        chance, len(subject.images), len(subject.masked), FEWEST_MASKS, STEPS, randomisations, rows, others
    )


# --- one score per image ---------------------------------------------------------------------------------------------


def score_images(subject: Subject, method: Method, layer: str | None, randomisations: int) -> dict[str, Tensor]:
    """Each score of a method's maps: ``pointing, energy`` of the images with a mask, the others of all, ``(n,) float64``.

    The maps are of the predicted class, but where a mask is compared of the true class, whose mask it is.
    """
    explain = ActivationMaps(subject.net, method, layer, subject.device)
    maps = explain.map_class(subject.images, subject.predicted)
    of_truth = maps.clone()
    wrong = subject.predicted != subject.labels
    of_truth[wrong] = explain.map_class(subject.images[wrong], subject.labels[wrong])
    nets = (randomise_weights(subject.net, seed) for seed in range(randomisations))
    unlearnt = (ActivationMaps(net, method, layer, subject.device) for net in nets)
    others = torch.stack([explainer.map_class(subject.images, subject.predicted) for explainer in unlearnt])
    return locate(subject, of_truth) | follow_class(subject, maps) | correlate(maps, others)


def correlate(maps: Tensor, others: Tensor) -> dict[str, Tensor]:
    """Each map's mean rank correlation with those of random nets, ``(N, H, W)`` and ``(R, N, H, W)``.

    ``sanity``, which the verdict goes by, is over all pixels. ``sanity_reached`` leaves out those that no map of any net
    reaches: they are zero by the net's plan, not by its weights (a 2x2 pooling of 7x7 maps drops their last row and column,
    which then have no gradient), and make maps of different weights more alike than they are.
    """
    reached = (maps > 0).any(0) | (others > 0).any(0).any(0)
    where = reached if reached.any() else None
    return {
        score: torch.stack([explanation.spearman(maps, other, pixels) for other in others]).mean(0)
        for score, pixels in (("sanity", None), ("sanity_reached", where))
    }


def locate(subject: Subject, maps: Tensor) -> dict[str, Tensor]:
    """Where the maps ``(N, H, W)`` point, of the images with a true mask; nothing where there is none."""
    if not len(subject.masked):
        return {}
    chosen, masks = maps[subject.masked], subject.true_masks
    return {"pointing": explanation.pointing_game(chosen, masks), "energy": explanation.energy_inside(chosen, masks)}


def follow_class(subject: Subject, maps: Tensor) -> dict[str, Tensor]:
    """What the predicted class's probability does as pixels go and come in the maps' order."""
    inputs = (subject.classify, subject.images, maps, subject.predicted)
    return {
        "deletion": explanation.deletion_auc(*inputs, steps=STEPS),
        "insertion": explanation.insertion_auc(*inputs, steps=STEPS),
    }


def make_baselines(subject: Subject) -> dict[str, Tensor]:
    """Maps that know neither image nor net, ``(N, H, W)`` each: noise as coarse as the heat maps, and the centre.

    A classifier is disturbed more by scattered holes than by the same number of pixels in a patch, wherever they are: noise
    of single pixels would be compared by its grain.
    """
    n, _, height, width = subject.images.shape
    noise = torch.rand(n, 1, *subject.grid, generator=torch.Generator().manual_seed(RANDOM_SEED))
    enlarged = F.interpolate(noise, (height, width), mode="bilinear", align_corners=False)[:, 0]
    return {"random": enlarged, "centre": explanation.centre_prior(height, width).expand(n, -1, -1)}


# --- averages and the rule -------------------------------------------------------------------------------------------


def average_scores(
    key: str, name: str, subject: Subject, classes: Sequence[str], values_by_score: Mapping[str, Tensor]
) -> Scores:
    """The means of a method's or a baseline's scores over all images, and over those of each true class.

    ``values_by_score`` are the scores image by image.
    """
    labels = subject.labels[subject.masked]
    per_class = [
        ClassScores(classes[label], *(mean_over_images(values_by_score[score][labels == label]) for score in LOCATES))
        for label in sorted(set(labels.tolist()))
    ]
    return Scores(key, name, {score: mean_over_images(values) for score, values in values_by_score.items()}, per_class)


def judge(
    scores: Scores,
    per_image: Mapping[str, Tensor],
    baselines: Mapping[str, Mapping[str, Tensor]],
    with_mask: int,
    chance: ChanceCheck,
) -> MethodScores:
    """A method's scores with its gains over the baselines and the rule's verdict.

    ``per_image`` is what the scores are means of, image by image, and ``baselines`` the same of each baseline. No method is
    judged on a classifier that fails the ``chance`` check.
    """
    gains = {
        score: {
            key: mean_over_images(compute_gain(score, per_image[score], other[score]))
            for key, other in baselines.items()
        }
        for score in (*LOCATES, *FOLLOWS)
        if score in per_image
    }
    sanity, reached = scores.scores["sanity"].value, scores.scores["sanity_reached"].value
    trusted, reasons = judge_method(gains, sanity, with_mask) if chance.passed else (None, [AT_CHANCE])
    unlike = abs(reached - sanity) >= 0.005  # as written, with two decimals
    return MethodScores(**vars(scores), gain=gains, trusted=trusted, reasons=reasons, unlike=unlike)


def compute_gain(score: str, values: Tensor, baseline: Tensor) -> Tensor:
    """By how much each image's score is better than the baseline's; of deletion, less is better."""
    return baseline - values if score == "deletion" else values - baseline
