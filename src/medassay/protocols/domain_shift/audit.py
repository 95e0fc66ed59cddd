"""The measuring itself: a net on unchanged images, on every corruption of them, and on another set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from medassay.core.progress import track
from medassay.core.types import LabelledImages
from medassay.data import corruptions
from medassay.data.corruptions import Corruption
from medassay.metrics.mmd import choose_bandwidth
from medassay.protocols.domain_shift import measures, monitors, verdict
from medassay.protocols.domain_shift.external import ExternalImages
from medassay.protocols.domain_shift.measures import CLEAN_SEED, OTHER_SEED, Measured, Observed
from medassay.protocols.domain_shift.remedy import has_batch_norm, reestimate_batch_norm
from medassay.protocols.domain_shift.results import (
    METRICS,
    BatchTest,
    Condition,
    CorruptionError,
    External,
    Remedy,
)
from medassay.tasks.predictions import predict_logits

UNCHANGED = "unchanged"


@dataclass(frozen=True)
class Audit:
    """A net, the images it is judged on, and what changed images are compared with.

    Attributes:
        net: The net that answers; never changed.
        split: The unchanged images.
        reference: Training images, for neighbours.
        device: Device to compute on.
        trials: Number of batches drawn for each batch test.
        seed: Seed of corruptions and batches.
    """

    net: nn.Module
    split: LabelledImages
    reference: LabelledImages
    device: torch.device
    trials: int
    seed: int

    @cached_property
    def missing_features(self) -> str | None:
        """Why the net gives no features; None where it does."""
        return measures.explain_missing_features(self.net, self.split, self.device)

    @cached_property
    def has_batch_norm(self) -> bool:
        return has_batch_norm(self.net)

    @cached_property
    def observed(self) -> Observed:
        """The unchanged images."""
        return self.observe(self.split)

    @cached_property
    def measured(self) -> Measured:
        return measures.measure(self.observed)

    @cached_property
    def reference_features(self) -> Tensor | None:
        return self.observe(self.reference).features

    @cached_property
    def scores(self) -> dict[str, Tensor]:
        """How unusual each unchanged image looks, by score."""
        return monitors.score_images(self.observed.logits, self.observed.features, self.reference_features)

    @cached_property
    def bandwidth(self) -> float:
        """Of the batch test's kernel, from unchanged images alone: a monitor is set up before anything unusual comes in."""
        assert self.observed.features is not None
        return choose_bandwidth(self.observed.features)

    def observe(self, split: LabelledImages) -> Observed:
        return measures.observe(self.net, split, self.device, features=self.missing_features is None)

    def test_batches(self, usual: Observed, batch: Observed, *, same: bool) -> list[BatchTest]:
        """The batch test of ``batch`` beside ``usual``; nothing for a net without features."""
        if usual.features is None or batch.features is None:
            return []
        return monitors.count_alarms(
            usual.features,
            batch.features,
            same=same,
            sizes=monitors.SIZES,
            trials=self.trials,
            bandwidth=self.bandwidth,
            seed=self.seed,
        )

    @cached_property
    def clean(self) -> Condition:
        """The unchanged images; their batch tests are false alarms."""
        return Condition(
            key="clean",
            name=UNCHANGED,
            severity=None,
            parameter="",
            n=len(self.split),
            scores={name: self.measured.estimate(name) for name in METRICS},
            confidence=self.measured.estimate("confidence"),
            recall=self.measured.recall,
            fall=None,
            detection={},
            batch_tests=self.test_batches(self.observed, self.observed, same=True),
            remedy=self.measure_remedy(self.split, self.observed, CLEAN_SEED),
            level=None,
            noticed=None,
        )

    def measure_remedy(self, split: LabelledImages, observed: Observed, seed: int) -> Remedy | None:
        """The accuracy with batch-norm statistics of the images themselves; None for a net without batch norm."""
        if not self.has_batch_norm or len(split) < 2:
            return None
        adapted = reestimate_batch_norm(self.net, split.images, self.device, seed=self.seed)
        right = Observed(predict_logits(adapted, split.images, self.device), split.labels).right
        return Remedy(*measures.compare_pairs(observed.right, right, seed=seed))

    def measure_changed(
        self,
        split: LabelledImages,
        observed: Observed,
        *,
        key: str,
        name: str,
        severity: int | None = None,
        parameter: str = "",
        judged: bool,
    ) -> Condition:
        """All numbers of changed images; without a ``severity`` they are other images."""
        same = severity is not None
        seed = CLEAN_SEED if same else OTHER_SEED
        measured = measures.measure(observed, seed=seed)
        fall = measures.compare(self.measured, measured)
        scores = monitors.score_images(observed.logits, observed.features, self.reference_features)
        tests = self.test_batches(self.observed, observed, same=same)
        return Condition(
            key=key,
            name=name,
            severity=severity,
            parameter=parameter,
            n=len(split),
            scores={metric: measured.estimate(metric) for metric in METRICS},
            confidence=measured.estimate("confidence"),
            recall=measured.recall,
            fall=fall,
            detection=monitors.compare_scores(self.scores, scores, paired=same),
            batch_tests=tests,
            remedy=self.measure_remedy(split, observed, seed),
            level=verdict.judge(fall) if judged else None,
            noticed=verdict.judge_monitor(tests, self.clean.batch_tests),
        )

    def corrupt(self, corruption: Corruption, severity: int) -> LabelledImages:
        """The unchanged images after a corruption."""
        images = corruptions.corrupt_stored(self.split.images, corruption, severity, seed=self.seed)
        return LabelledImages(images, self.split.labels)

    def measure_corruptions(
        self,
        chosen: Sequence[Corruption],
        severities: Sequence[int],
        *,
        judged: bool,
        baseline: nn.Module | None = None,
        named: tuple[str, str] | None = None,
    ) -> tuple[list[Condition], CorruptionError]:
        """Every corruption at every severity, and the errors over all of them.

        Args:
            chosen: The corruptions.
            severities: The severities.
            judged: Whether levels are given.
            baseline: A net that errors are relative to; None for this net's own error on unchanged images.
            named: The baseline's path, and its model and data in words.
        """
        conditions: list[Condition] = []
        own: dict[str, list[Tensor]] = {}
        theirs: dict[str, list[Tensor]] = {}
        for corruption in track(chosen, "corrupting", "corruptions"):
            for severity in severities:
                split = self.corrupt(corruption, severity)
                observed = self.observe(split)
                condition = self.measure_changed(
                    split,
                    observed,
                    key=corruption,
                    name=corruptions.TABLE[corruption].name,
                    severity=severity,
                    parameter=corruptions.describe(corruption, severity),
                    judged=judged,
                )
                conditions.append(condition)
                own.setdefault(corruption, []).append(1 - observed.right)
                if baseline is not None:
                    theirs.setdefault(corruption, []).append(self._find_mistakes(baseline, split))
        beside = None if baseline is None else (self._find_mistakes(baseline, self.split), theirs)
        return conditions, measures.measure_errors(1 - self.observed.right, own, beside, named)

    def _find_mistakes(self, net: nn.Module, split: LabelledImages) -> Tensor:
        return 1 - measures.observe(net, split, self.device, features=False).right

    def measure_external(self, given: ExternalImages, path: str, *, judged: bool) -> External:
        """Another set's images."""
        condition = self.measure_changed(
            given.images, self.observe(given.images), key="external", name="the other set", judged=judged
        )
        return External(
            path=path,
            md5=given.md5,
            classes=given.classes,
            named=given.named,
            n_by_class=given.images.counts(len(given.classes)).tolist(),
            converted=given.converted,
            condition=condition,
        )

    def test_against(self, usual: LabelledImages) -> list[BatchTest]:
        """The unchanged images in batches beside other ``usual`` images, such as validation images."""
        return self.test_batches(self.observe(usual), self.observed, same=False)
