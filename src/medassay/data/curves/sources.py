"""Curves by the function that a configuration names."""

from __future__ import annotations

from typing import Annotated, Unpack

from medassay.core.types import NonNegative, NonNegativeInt, PositiveInt, Range
from medassay.data.curves.csv_file import BeatsFile
from medassay.data.curves.modules import CurveData, CurveOptions
from medassay.data.curves.phantom import ECGPhantom


def ecg_phantom_data(
    name: str,
    beats: PositiveInt = 10,
    samples: Annotated[int, Range(ge=2)] = 100,
    noise: NonNegative = 0.02,
    variation: NonNegative = 1.0,
    phantom_seed: NonNegativeInt = 0,
    **options: Unpack[CurveOptions],
) -> CurveData:
    """Rendered beats of an ECG; see :class:`ECGPhantom` and :class:`CurveData`."""
    return CurveData(name, ECGPhantom(beats, samples, noise, variation, phantom_seed), **options)


def beats_data(name: str, file: str | None = None, **options: Unpack[CurveOptions]) -> CurveData:
    """Beats from a CSV file; see :class:`BeatsFile` and :class:`CurveData`."""
    return CurveData(name, BeatsFile(file), **options)
