"""Accuracy under attacks, signs that they work, and the smallest change that flips each image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from medassay.attacks.norms import Norm
from medassay.attacks.smallest import find_smallest_epsilon
from medassay.core.progress import track
from medassay.data.order import make_stratified_order
from medassay.metrics.chance import check_against_chance
from medassay.metrics.marks import MarkedShares, estimate, resample_marks
from medassay.protocols.adversarial import soundness, verdict
from medassay.protocols.adversarial.results import (
    AdversarialResults,
    Attack,
    Attacked,
    Check,
    Example,
    Pictures,
    SmallestEpsilons,
)
from medassay.protocols.adversarial.subject import Subject

ROUNDS = 7  # halvings of the largest distance
EVERYTHING = 255.0  # grey levels: the whole range
QUARTILES = (0.25, 0.5, 0.75)

Key: TypeAlias = tuple[Norm, Attack, float]  # the last are grey levels


class Hits(NamedTuple):
    """Which images are classified rightly, ``(N,) bool`` each.

    Attributes:
        plain: Before any attack.
        attacked: Under each attack.
        judged: The images that were right, after the judged attack, ``(M, C, H, W) float32``.
    """

    plain: Tensor
    attacked: dict[Key, Tensor]
    judged: Tensor

    @property
    def places(self) -> Tensor:
        """Places of the images that were right, ``(M,) int64``: those that are attacked."""
        return self.plain.nonzero()[:, 0]


def measure(subject: Subject, surrogate: tuple[str, nn.Module] | None = None) -> AdversarialResults:
    """All numbers, the checks and the verdict.

    Args:
        subject: What is attacked.
        surrogate: Name and net of another run, in evaluation mode on the subject's device; None for none.
    """
    settings, labels = subject.settings, subject.data.labels
    probabilities = subject.classify(subject.pixels)
    hits = mark_hits(subject, probabilities.argmax(1) == labels, None if surrogate is None else surrogate[1])
    chance = check_against_chance(probabilities, labels)
    shares = resample_marks(torch.stack([hits.plain, *hits.attacked.values()]), labels)
    attacked = list(summarise(subject, hits, shares, chance.chance))
    checks = list_checks(subject, hits, attacked)
    judged, noise = (find(attacked, ("linf", attack, verdict.JUDGED)) for attack in ("pgd", "noise"))
    counts = [n for n in torch.bincount(labels).tolist() if n]
    level, reason = verdict.judge(chance, judged, noise, checks, counts)
    examples, pictures = show_examples(subject, hits, probabilities)
    return AdversarialResults(
        split=settings.split,
        n=len(labels),
        shape=subject.shape,
        steps=settings.steps,
        restarts=settings.restarts,
        seed=settings.seed,
        norms=settings.norms,
        judged_at=verdict.JUDGED,
        surrogate=surrogate[0] if surrogate else None,
        chance=chance,
        accuracy=estimate(shares.plain[:, 0], len(labels)),
        balanced_accuracy=estimate(shares.balanced[:, 0], len(labels)),
        attacked=attacked,
        smallest=[one for norm in settings.norms for one in measure_smallest(subject, hits, norm)],
        checks=checks,
        examples=examples,
        rule=verdict.RULE,
        verdict=level,
        reason=reason,
        pictures=pictures,
    )


# --- accuracy --------------------------------------------------------------------------------------------------------


def mark_hits(subject: Subject, plain: Tensor, surrogate: nn.Module | None) -> Hits:
    """Attacks the images that are right, ``plain (N,) bool``, in every way, and puts noise on all."""
    found = Hits(plain, {}, torch.empty(0))
    index, everyone = found.places, torch.arange(len(plain))
    planned = [(norm, levels) for norm in subject.settings.norms for levels in subject.settings.levels]
    for norm, levels in track(planned, "attacking", "strengths"):
        strongest = subject.attack(norm, index, levels)
        found.attacked[norm, "fgsm", levels] = subject.mark_right(subject.attack_once(norm, index, levels), index)
        found.attacked[norm, "pgd", levels] = subject.mark_right(strongest, index)
        found.attacked[norm, "noise", levels] = subject.mark_right(subject.add_noise(norm, levels), everyone)
        if surrogate is not None:
            foreign = subject.attack(norm, index, levels, net=surrogate)
            found.attacked[norm, "transfer", levels] = subject.mark_right(foreign, index)
        if (norm, levels) == ("linf", verdict.JUDGED):
            found = found._replace(judged=strongest)
    return found


def summarise(subject: Subject, hits: Hits, shares: MarkedShares, chance: float) -> Iterator[Attacked]:
    """What each attack leaves.

    Args:
        subject: What was attacked.
        hits: What was right.
        shares: Accuracies on the plain images and then under each attack.
        chance: Balanced accuracy of guessing.
    """
    n = len(hits.plain)
    lead = shares.balanced[:, 0] - chance
    for place, (norm, attack, levels) in enumerate(hits.attacked, 1):
        kept = torch.where(lead > 0, (shares.balanced[:, place] - chance) / lead, torch.nan)
        yield Attacked(
            norm,
            attack,
            levels,
            subject.scale(levels, norm),
            estimate(shares.plain[:, place], n),
            estimate(shares.balanced[:, place], n),
            estimate(kept, n),
        )


def find(attacked: list[Attacked], key: Key) -> Attacked:
    """The images under this attack, which was tried."""
    return next(one for one in attacked if (one.norm, one.attack, one.epsilon) == key)


# --- signs that the attack works -------------------------------------------------------------------------------------


def list_checks(subject: Subject, hits: Hits, attacked: list[Attacked]) -> list[Check]:
    """All signs, each held or not."""
    settings, n = subject.settings, len(hits.plain)
    accuracies: dict[Attack, dict[Norm, dict[float, float]]] = {}
    for one in attacked:
        accuracies.setdefault(one.attack, {}).setdefault(one.norm, {})[one.epsilon] = one.accuracy.value
    by_steps = {
        norm: {
            steps: share_right(
                subject, norm, hits.places, subject.attack(norm, hits.places, verdict.JUDGED, steps=steps, restarts=1)
            )
            for steps in soundness.list_steps(settings.steps)
        }
        for norm in settings.norms
    }
    left = {norm: enlarge(subject, hits, norm) for norm in settings.norms}
    strong = accuracies["pgd"]
    return [
        soundness.check_steps(by_steps, n, verdict.JUDGED),
        soundness.check_growth(left),
        soundness.check_order(soundness.ORDER, accuracies["fgsm"], strong, n, ("FGSM", "PGD")),
        soundness.check_order(soundness.NOISE, accuracies["noise"], strong, n, ("random noise", "PGD")),
        soundness.check_order(soundness.TRANSFER, accuracies["transfer"], strong, n, ("the other net’s", "its own"))
        if "transfer" in accuracies
        else soundness.skip_transfer(),
    ]


def share_right(subject: Subject, norm: Norm, index: Tensor, images: Tensor) -> float:
    """The share of all images that are at ``index`` and right as ``images``."""
    return float(subject.mark_right(images, index).double().mean())


def enlarge(subject: Subject, hits: Hits, norm: Norm) -> dict[float, float]:
    """Share of images right at each distance and all smaller ones, the distance doubled until (nearly) none is left.

    Beyond the measured distances PGD has one start and attacks those alone that are left.
    """
    left, found = hits.plain, {}
    for levels in subject.settings.levels:
        left = left & hits.attacked[norm, "pgd", levels]
        found[levels] = float(left.double().mean())
    while found[levels] > soundness.ZERO and levels < EVERYTHING:
        levels = min(2 * levels, EVERYTHING)
        index = left.nonzero()[:, 0]
        left = subject.mark_right(subject.attack(norm, index, levels, restarts=1), index)
        found[levels] = float(left.double().mean())
    return found


# --- image by image --------------------------------------------------------------------------------------------------


def measure_smallest(subject: Subject, hits: Hits, norm: Norm) -> Iterator[SmallestEpsilons]:
    """The smallest distance that flips each image, for all together and for each class; PGD with one start."""
    index, largest = hits.places, subject.settings.levels[-1]

    def succeeds(members: Tensor, levels: Tensor) -> Tensor:
        if bool((levels == largest).all()):  # known already, with all starts
            return ~hits.attacked[norm, "pgd", largest][index[members]]
        images = subject.attack(norm, index[members], levels, restarts=1)
        return ~subject.mark_right(images, index[members])[index[members]]

    found = find_smallest_epsilon(succeeds, len(index), largest, ROUNDS)
    labels = subject.data.labels[index]
    yield summarise_smallest(norm, None, found, largest)
    for label in range(int(subject.data.labels.max()) + 1):
        yield summarise_smallest(norm, label, found[labels == label], largest)


def summarise_smallest(norm: Norm, label: int | None, found: Tensor, largest: float) -> SmallestEpsilons:
    """The distribution of the smallest distances ``found (M,)``; infinity where an image was not flipped."""
    rising = found.sort().values
    known = rising[rising.isfinite()]
    quartiles = [float(rising.quantile(q, interpolation="nearest")) if len(rising) else torch.inf for q in QUARTILES]
    return SmallestEpsilons(
        norm=norm,
        label=label,
        n=len(rising),
        largest=largest,
        resolution=largest / 2**ROUNDS,
        unflipped=len(rising) - len(known),
        quartiles=[q if q < torch.inf else None for q in quartiles],
        epsilons=known.tolist(),
    )


def show_examples(subject: Subject, hits: Hits, probabilities: Tensor) -> tuple[list[Example], Pictures]:
    """Some images that were right, classes in proportion, before and after the judged attack."""
    index, labels = hits.places, subject.data.labels
    chosen = make_stratified_order(labels[index], subject.settings.seed)[: subject.settings.shown].sort().values
    places, after = index[chosen], hits.judged[chosen]
    changed = subject.classify(after) if len(after) else probabilities[:0]
    examples = [
        Example(int(subject.positions[place]), int(labels[place]), probabilities[place].tolist(), new.tolist())
        for place, new in zip(places.tolist(), changed, strict=True)
    ]
    return examples, Pictures(subject.pixels[places], after)
