"""Two numbers of a generator in training, on real validation images: a quick TSTR, and the Fréchet distance.

TSTR is that of ``assay=quick test=false``, sample by sample. The Fréchet distance is measured in the features of an
assay's headline encoder, a classifier trained on the real training images; here it is that to validation images, which no
generator has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from medassay.core.types import Sampler
from medassay.evaluation import arms
from medassay.evaluation.encoders import Encoder, make_classifier_encoder, train_encoder
from medassay.evaluation.protocol import ComputeContext
from medassay.metrics import frechet
from medassay.protocols.assay.performance import Trainer
from medassay.protocols.assay.subjects import Real
from medassay.runs.samples import draw_splits
from medassay.training.epoch_scores import By


@dataclass(frozen=True)
class QuickScores:
    """Scores of a generator by what an epoch can be chosen by; no test image is looked at.

    Attributes:
        real: The real images, validation images in the place of test images.
        counts: Training images of each class, ``(K,) int64``; samples have their proportions.
        sizes: Number of samples that a classifier learns from (``train``), and that choose its best look (``val``).
        steps: Number of steps of the classifier.
        seed: Seed of samples and classifier.
        context: Where to compute and where to keep classifiers.
    """

    real: Real
    counts: Tensor
    sizes: Mapping[str, int]
    steps: int
    seed: int
    context: ComputeContext

    def __call__(self, generator: Sampler) -> dict[By, float]:
        with torch.no_grad():
            drawn = draw_splits(generator, self.counts, self.sizes, self.seed)
        arm = arms.Arm("TSTR", drawn["train"], drawn["val"], len(self.real.classes), self.seed, self.steps)
        trainer = Trainer(self.context, jobs=1)
        (task,) = trainer.train([arm])
        moments = frechet.compute_moments(self._encoder(drawn["train"].images))
        return {
            "tstr": float(trainer.test(task, self.real.test)["balanced_accuracy"]),
            "frechet": frechet.compare_moments(self._validation, moments),
        }

    @cached_property
    def _encoder(self) -> Encoder:
        place, real = self.context, self.real
        task = train_encoder(real.train, real.val, len(real.classes), place.cache, gpus=place.gpus)
        return make_classifier_encoder(task, place.device)

    @cached_property
    def _validation(self) -> frechet.Moments:
        """The moments of the real validation images."""
        return frechet.compute_moments(self._encoder(self.real.val.images))
