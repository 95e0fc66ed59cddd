"""What an assay offers to a training: the epoch of a generator chosen by its samples, on validation images.

The configuration names :func:`select_epoch`, so that training need not know of assays. Importing this imports nothing that
only an assay needs: every training does so, and most choose no epoch this way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import NonNegativeInt, PositiveInt, Range
from medassay.data.modules import LabelledData
from medassay.training.epoch_scores import By
from medassay.training.selection import EpochSelection, Measure

KEY = "callbacks.tstr_selection"


def select_epoch(
    by: By | None,
    every_n_epochs: PositiveInt = 5,
    samples: PositiveInt | None = None,
    steps: Annotated[int, Range(ge=20)] = 300,
    seed: NonNegativeInt = 0,
    outputs: str = "outputs",
) -> EpochSelection | None:
    """The callback that chooses a generator's epoch on validation images; None where nothing is to choose it.

    Args:
        by: What chooses the epoch, ``tstr`` or ``frechet``; the other one is measured beside it. None for neither.
        every_n_epochs: Number of epochs from one measurement to the next; the last epoch is always measured.
        samples: Number of images drawn to learn from; None for as many as there are training images.
        steps: Number of steps of the classifier, a multiple of 20.
        seed: Seed of the samples and of the classifier, the same in every epoch.
        outputs: Trained classifiers are kept in ``<outputs>/.cache``.

    Raises:
        ConfigError: ``steps`` is no multiple of 20.
    """
    if by is None:
        return None
    from medassay.evaluation.arms import LOOKS

    if steps % LOOKS:
        raise ConfigError(f"{KEY}.steps={steps}: expected a multiple of {LOOKS}, e.g. {steps - steps % LOOKS}")
    return EpochSelection(by, PrepareQuickScores(samples, steps, seed, Path(outputs) / ".cache"), every_n_epochs)


@dataclass(frozen=True)
class PrepareQuickScores:
    """Makes what measures a generator once the data are there; see :func:`select_epoch` for its settings."""

    samples: int | None
    steps: int
    seed: int
    cache: Path

    def __call__(self, data: LabelledData, device: torch.device) -> Measure:
        """Raises :class:`DataError` where there are too few real images, :class:`ConfigError` where too few are drawn."""
        from medassay.evaluation.protocol import ComputeContext
        from medassay.protocols.assay.quick_scores import QuickScores
        from medassay.protocols.assay.subjects import Real
        from medassay.runs.samples import make_proportional_labels

        real, counts = Real.from_data(data, "val"), data.class_counts()
        samples = len(real.train) if self.samples is None else self.samples
        sizes = {"train": samples, "val": min(samples, len(real.val))}

        def lacks_a_class(n: int) -> bool:
            return len(set(make_proportional_labels(counts, n).tolist())) < data.num_classes

        if lacks_a_class(len(real.val)):
            raise ConfigError(
                f"{KEY} draws no more samples than there are validation images, {len(real.val)}: too few for some of every "
                f"class; train on data with more of them, or leave the selection out: {KEY}.by=null"
            )
        if lacks_a_class(samples):
            raise ConfigError(
                f"{KEY}.samples={samples}: too few for some of every class; give more, or null for {len(real.train)}"
            )
        gpus: int | list[int] = [device.index or 0] if device.type == "cuda" else 0
        return QuickScores(real, counts, sizes, self.steps, self.seed, ComputeContext(device, gpus, self.cache))
