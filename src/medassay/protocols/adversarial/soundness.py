"""Signs that an attack works, after Carlini et al., *On evaluating adversarial robustness* (2019, arXiv:1902.06705), section 5.

Accuracy under an attack that does not work looks like robustness. Each sign is a relation between numbers that holds for every
net as long as the attack finds what is there; the limits are named below and were fixed before any net was reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medassay.attacks.norms import NAMES, Norm
from medassay.protocols.adversarial.results import Check
from medassay.reporting.numbers import format_percent

# of the images, or one image where that is more: what a comparison of accuracies may miss by. On a linear net FGSM is the best
# attack there is, and PGD from a random start in L2 falls a few per cent of the distance short of it.
SLACK = 0.02
ZERO = 0.01  # of the images: what may be left of the accuracy when everything may be changed

Accuracies = Mapping[float, float]  # accuracy by distance in grey levels


def list_steps(steps: int) -> list[int]:
    """The numbers of steps that are compared: a quarter of PGD's, as many, twice as many."""
    return sorted({max(1, steps // 4), steps, 2 * steps})


def check_steps(accuracies: Mapping[Norm, Mapping[int, float]], n: int, epsilon: float) -> Check:
    """More steps do not raise the accuracy: ``accuracies`` by number of steps, at one distance, from the same start."""
    pairs = [
        (found[more], found[fewer])
        for found in accuracies.values()
        for fewer, more in zip(sorted(found), sorted(found)[1:], strict=False)
    ]
    texts = [
        f"{NAMES[norm]}: {', '.join(f'{format_percent(found[steps])} after {steps}' for steps in sorted(found))}"
        for norm, found in accuracies.items()
    ]
    return Check(
        "More steps do not raise the accuracy.",
        all(_is_at_most(more, fewer, n) for more, fewer in pairs),
        f"Accuracy at {epsilon:g} of 255 grey levels by number of steps, one start. {'; '.join(texts)}.",
    )


def check_growth(left: Mapping[Norm, Accuracies]) -> Check:
    """The accuracy falls to 0: ``left`` is the share of images that were right at this and every smaller distance."""
    texts = [
        f"{NAMES[norm]}: {', '.join(f'{format_percent(share)} at {epsilon:g}' for epsilon, share in found.items())}"
        for norm, found in left.items()
    ]
    return Check(
        "With ever larger changes the accuracy falls to 0.",
        all(min(found.values()) <= ZERO for found in left.values()),
        f"Accuracy by grey levels, doubled until {format_percent(ZERO)} or less are right. {'; '.join(texts)}.",
    )


def check_order(
    name: str, weaker: Mapping[Norm, Accuracies], stronger: Mapping[Norm, Accuracies], n: int, words: tuple[str, str]
) -> Check:
    """The accuracy under a stronger attack is no higher than under a weaker one, at any distance.

    Args:
        name: The statement.
        weaker, stronger: Accuracies under both.
        n: Number of images.
        words: Names of both for a reader.
    """
    pairs = [
        (stronger[norm][epsilon], weaker[norm][epsilon], f"{NAMES[norm]}, {epsilon:g} of 255 grey levels")
        for norm in weaker
        for epsilon in weaker[norm]
    ]
    strong, weak, where = max(pairs, key=lambda pair: pair[0] - pair[1])
    return Check(
        name,
        all(_is_at_most(one, other, n) for one, other, _ in pairs),
        f"Where it comes nearest to failing ({where}): {format_percent(strong)} right under {words[1]}, "
        f"{format_percent(weak)} under {words[0]}.",
    )


def skip_transfer() -> Check:
    """What is said where there is no other net."""
    return Check(TRANSFER, None, "Not checked: give protocol.surrogate=<run>, another run on the same data.")


ORDER = "PGD is at least as strong as FGSM."
NOISE = "Random noise of the same size is weaker than PGD."
TRANSFER = "Images attacked on another net are weaker than those attacked on this one."


def list_failed(checks: Sequence[Check]) -> list[Check]:
    """The signs that are missing."""
    return [check for check in checks if check.passed is False]


def _is_at_most(accuracy: float, limit: float, n: int) -> bool:
    """Whether ``accuracy`` is no higher than ``limit``, up to the slack."""
    return round((accuracy - limit) * n) <= max(1, round(SLACK * n))
