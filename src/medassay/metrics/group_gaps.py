"""How differently a classifier treats groups of images: gaps between their rates, and how large gaps are by chance.

For a positive class c and decisions Ŷ, labels Y and groups G (Hardt, Price & Srebro, *Equality of opportunity in supervised
learning*, 2016; Agarwal et al., *A reductions approach to fair classification*, 2018), each the largest of a group less the
smallest:

* demographic parity: of the shares called c, P(Ŷ = c | G);
* equal opportunity: of the sensitivities, P(Ŷ = c | Y = c, G);
* equalised odds: of the sensitivities or of the false positive rates P(Ŷ = c | Y ≠ c, G), whichever differ more;
* accuracy: of the accuracies P(Ŷ = Y | G): the best group's less the worst one's.

With several positive classes a gap is that of the class where it is largest. A group without images of a class has no
sensitivity there (NaN) and is left out of that comparison.

The largest of several differences is never 0, so each gap stands beside its *null*: the gaps after the groups were dealt out
anew at random. For demographic parity they are dealt over all images: the question is whether Ŷ and G are independent. For the
others they are dealt within each true class, so that a group keeps its number of images of each class: the question is whether
Ŷ and G are independent given Y, and a group with more of a difficult class is no finding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medassay.metrics.bootstrap import CHUNK_ELEMENTS, draw_resample_weights

GAPS = ("demographic_parity", "equal_opportunity", "equalised_odds", "accuracy")
WITHIN_CLASS = ("equal_opportunity", "equalised_odds", "accuracy")  # gaps whose null keeps each group's classes


class GroupedDecisions(NamedTuple):
    """Decisions to be compared between groups.

    Attributes:
        decisions, labels: Decided and true class, ``(N,) int64``.
        groups: Group of each image, ``(N,) int64`` in 0..``num_groups`` - 1.
        num_groups: Number of groups.
        positives: Classes whose detection is compared; one for two classes.
        least: Images of a class, or of the others, without which a group's rate of them is left out: of two images a rate is 0,
            a half or 1, and would drown what differs between larger groups.
    """

    decisions: Tensor
    labels: Tensor
    groups: Tensor
    num_groups: int
    positives: Sequence[int]
    least: int = 1

    @property
    def events(self) -> Tensor:
        """What is counted of each image, ``(N, 2 + 3 P) float64``: itself, a hit; of each positive: is, is called, both."""
        hit = self.decisions == self.labels
        columns = [torch.ones_like(hit), hit]
        for label in self.positives:
            own, called = self.labels == label, self.decisions == label
            columns += [own, called, own & called]
        return torch.stack(columns, 1).double()


class Rates(NamedTuple):
    """Rates by group, B times: accuracy ``(B, G)``; the others of each positive class ``(B, P, G)``; NaN where undefined."""

    accuracy: Tensor
    called: Tensor
    sensitivity: Tensor
    false_positive: Tensor

    def list_rates(self, gap: str) -> Tensor:
        """The rates of which the one that differs most makes a gap, ``(B, R, G)``."""
        return {
            "demographic_parity": self.called,
            "equal_opportunity": self.sensitivity,
            "equalised_odds": torch.cat([self.sensitivity, self.false_positive], 1),
            "accuracy": self.accuracy[:, None],
        }[gap]

    def compute_gaps(self) -> dict[str, Tensor]:
        """The gaps by name, ``(B,) float64`` each; NaN where fewer than two groups have the rate."""
        gaps = {name: _spread(self.list_rates(name)).amax(1) for name in GAPS}
        return {name: gap.masked_fill(gap == -torch.inf, torch.nan) for name, gap in gaps.items()}


def _spread(rates: Tensor) -> Tensor:
    """The largest less the smallest along the last axis, NaN left out; -inf where fewer than two are left."""
    unknown = rates.isnan()
    largest = rates.masked_fill(unknown, -torch.inf).amax(-1)
    spread = largest - rates.masked_fill(unknown, torch.inf).amin(-1)
    return spread.masked_fill((~unknown).sum(-1) < 2, -torch.inf)


def _compute_rates(counts: Tensor, least: int = 1) -> Rates:
    """The rates of ``counts (B, G, 2 + 3 P)``, see :attr:`GroupedDecisions.events`; NaN where they are of fewer images."""
    total, hits = counts[..., 0], counts[..., 1]
    own, called, both = counts[..., 2:].reshape(*counts.shape[:2], -1, 3).movedim(-2, 1).unbind(-1)  # (B, P, G) each
    everyone = total[:, None]
    others = everyone - own
    sensitivity = (both / own).where(own >= least, torch.nan)
    false_positive = ((called - both) / others).where(others >= least, torch.nan)
    return Rates(hits / total, called / everyone, sensitivity, false_positive)


def compute_rates(images: GroupedDecisions) -> Rates:
    """The rates of all images, B = 1."""
    return _compute_rates(_one_hot(images).T.matmul(images.events)[None], images.least)


def find_extremes(images: GroupedDecisions) -> dict[str, tuple[int, int, int]]:
    """By gap, the row of :meth:`Rates.list_rates` that makes it, and the groups with the highest and the lowest rate there.

    A gap that no two groups define is left out.
    """
    observed, found = compute_rates(images), {}
    for name in GAPS:
        rates = observed.list_rates(name)[0]
        spread = _spread(rates)
        row = int(spread.argmax())
        high, low = int(rates[row].nan_to_num(-torch.inf).argmax()), int(rates[row].nan_to_num(torch.inf).argmin())
        if spread[row] > -torch.inf:
            found[name] = (row, high, low)
    return found


def find_unlinked(images: GroupedDecisions) -> list[int]:
    """Groups that are not compared with most of the others by any permutation.

    Dealt out within each true class, images change places between groups that have the same classes. Groups of which fewer
    than ``least`` images can do so are not linked, but perhaps through others; between sets of groups without a link no null
    says how far chance alone takes their rates.

    Returns:
        The groups outside the largest set of linked ones; all of them where no two are linked.
    """
    counts = _one_hot(images).T @ torch.nn.functional.one_hot(images.labels).double()  # (G, K)
    linked = torch.minimum(counts[:, None], counts).sum(-1) >= images.least
    linked.fill_diagonal_(True)
    for _ in range(images.num_groups):  # through others
        linked = linked.double() @ linked.double() > 0
    sizes = linked.sum(1)
    most = (
        linked[int(sizes.argmax())]
        if int(sizes.max()) > 1 or images.num_groups == 1
        else torch.zeros_like(sizes).bool()
    )
    unlinked: list[int] = (~most).nonzero()[:, 0].tolist()
    return unlinked


def resample_gaps(images: GroupedDecisions, *, resamples: int, seed: int) -> dict[str, Tensor]:
    """The gaps of bootstrap resamples of the images, ``(resamples,) float64`` by name; NaN where undefined.

    Each is the difference between the same two groups, those that make the gap of all images: it may be negative. The largest
    difference of each resample would be larger than that of the images in almost all of them.
    """
    member, events = _one_hot(images), images.events
    columns = (member[:, :, None] * events[:, None]).flatten(1)  # (N, G E)
    drawn = draw_resample_weights(len(events), resamples=resamples, seed=seed)
    counts = torch.cat([weights @ columns for weights in drawn])
    resampled = _compute_rates(counts.reshape(resamples, images.num_groups, -1))
    differences = {name: torch.full((resamples,), torch.nan, dtype=torch.float64) for name in GAPS}
    for name, (row, high, low) in find_extremes(images).items():
        of_row = resampled.list_rates(name)[:, row]
        differences[name] = of_row[:, high] - of_row[:, low]
    return differences


def permute_gaps(images: GroupedDecisions, *, permutations: int, seed: int) -> dict[str, Tensor]:
    """The gaps with the groups dealt out anew, ``(permutations,) float64`` by name; how, the module's docstring says."""
    nulls: dict[str, Tensor] = {}
    for within in (False, True):
        strata = images.labels if within else torch.zeros_like(images.labels)
        counts = _count_permuted(images, strata, permutations, seed + within)
        gaps = _compute_rates(counts, images.least).compute_gaps()
        nulls |= {name: gaps[name] for name in GAPS if (name in WITHIN_CLASS) == within}
    return nulls


def _count_permuted(images: GroupedDecisions, strata: Tensor, permutations: int, seed: int) -> Tensor:
    """The counts ``(permutations, G, 2 + 3 P)`` with the groups shuffled within each stratum ``(N,) int64``."""
    rng, n, events = torch.Generator().manual_seed(seed), len(strata), images.events
    places = strata.argsort(
        stable=True
    )  # by stratum; each row of `order` below lists the same strata in the same places
    base = strata.double()
    rows = max(1, CHUNK_ELEMENTS // n)
    counts = []
    for start in range(0, permutations, rows):
        size = min(rows, permutations - start)
        order = (base + torch.rand(size, n, dtype=torch.float64, generator=rng)).argsort(1)
        shuffled = torch.empty(size, n, dtype=torch.int64)
        shuffled[:, places] = images.groups[order]
        of_groups = [(shuffled == group).double() @ events for group in range(images.num_groups)]
        counts.append(torch.stack(of_groups, 1))
    return torch.cat(counts)


def _one_hot(images: GroupedDecisions) -> Tensor:
    return torch.nn.functional.one_hot(images.groups, images.num_groups).double()


def compute_p_value(observed: float, null: Tensor) -> float:
    """The share of ``null (B,)`` that is at least as large as what was observed, this one counted among them.

    Source: Phipson & Smyth, *Permutation p-values should never be zero* (2010): (b + 1) / (B + 1).
    """
    reached = int((null >= observed - 1e-9).sum())  # sums of the same shares in another order differ in the last digits
    return (reached + 1) / (len(null) + 1)


def correct_by_holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number (Holm, *A simple sequentially rejective multiple test procedure*, 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
