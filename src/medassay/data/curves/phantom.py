"""Rendered beats of an ECG: a QRS complex as a sum of Gaussians, with noise and small differences between beats.

After the model of McSharry et al. (IEEE Transactions on Biomedical Engineering 50:289, 2003), in which each wave of a beat is a
Gaussian; here in time, not in phase, and without the rhythm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medassay.core.seeds import derive_seed
from medassay.data.curves.modules import Axis, CurveSource, Repetitions

RATE = 360.0  # samples a second, as in the MIT-BIH arrhythmia database
AMPLITUDE_SD = 0.05  # of each wave, relative
DELAY_SD = 1.5  # of each wave, in ms
BASELINE_SD = 0.02  # of a whole beat, in mV


class Wave(NamedTuple):
    """A Gaussian: height in mV, middle and standard deviation in ms after the R peak."""

    height: float
    middle: float
    width: float


BASELINE = -0.3  # mV
WAVES = (
    Wave(0.06, -115.0, 14.0),  # the end of P
    Wave(-0.12, -27.0, 8.0),  # Q
    Wave(1.25, 0.0, 11.0),  # R
    Wave(-0.28, 27.0, 9.0),  # S
    Wave(0.10, 160.0, 45.0),  # the beginning of T
)


@dataclass
class ECGPhantom(CurveSource):
    """Beats around one QRS complex that is known: :meth:`compute_truth` is the complex without noise and differences.

    Attributes:
        beats: Number of beats.
        samples: Number of points of each, 360 a second, the R peak in their middle.
        noise: Standard deviation of the noise of each point, in mV.
        variation: Size of the differences between beats: at 1 each wave's height varies by 5 %, its place by 1.5 ms, a beat's
            baseline by 0.02 mV (standard deviations); at 0 beats differ by noise alone.
        phantom_seed: Seed of the rendering.
    """

    beats: int = 10
    samples: int = 100
    noise: float = 0.02
    variation: float = 1.0
    phantom_seed: int = 0

    def read(self) -> Repetitions:
        rng = torch.Generator().manual_seed(derive_seed(self.phantom_seed, 5))
        x = (torch.arange(self.samples, dtype=torch.float64) - self.samples // 2) * 1000 / RATE

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, dtype=torch.float64)

        heights = 1 + self.variation * AMPLITUDE_SD * draw(self.beats, len(WAVES))
        delays = self.variation * DELAY_SD * draw(self.beats, len(WAVES))
        baselines = self.variation * BASELINE_SD * draw(self.beats, 1)
        y = baselines + render_complex(x, heights, delays) + self.noise * draw(self.beats, self.samples)
        return Repetitions(x, y, Axis("time", "ms"), Axis("voltage", "mV"))

    def compute_truth(self, x: Tensor) -> Tensor:
        return render_complex(x, torch.ones(1, len(WAVES)).double(), torch.zeros(1, len(WAVES)).double())[0]

    def provenance(self) -> dict[str, Any]:
        return {"phantom": True, "phantom_seed": self.phantom_seed, "published": False}


def render_complex(x: Tensor, heights: Tensor, delays: Tensor) -> Tensor:
    """Voltages ``(R, P)`` in mV at ``x (P,)`` ms of beats with relative ``heights (R, W)`` and ``delays (R, W)`` in ms."""
    waves = torch.tensor(WAVES, dtype=torch.float64)
    height, middle, width = waves[:, 0] * heights, waves[:, 1] + delays, waves[:, 2]
    distance = (x[None, None] - middle[:, :, None]) / width[:, None]
    return BASELINE + (height[:, :, None] * torch.exp(-(distance**2) / 2)).sum(1)
