"""Values of more than 8 bits brought to 8: the range of values that is shown from black to white."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from medassay.core.errors import ConfigError

Window = tuple[float, float] | Literal["percentile"]
PERCENTILES = (0.5, 99.5)  # of one image's values, all channels together: a few hot pixels do not darken the rest

_Array = np.ndarray[Any, np.dtype[Any]]


def check_window(window: Window | None, key: str) -> None:
    """Raises :class:`ConfigError` where ``window`` shows no range of values."""
    if window is not None and window != "percentile" and not window[0] < window[1]:
        raise ConfigError(f"{key}={list(window)}: expected the lower value first, e.g. {key}=[0,4095], or percentile")


def apply_window(values: _Array, window: Window) -> _Array:
    """``values`` as ``uint8`` of the same shape: the range linearly from 0 to 255, what lies outside clipped.

    Args:
        values: Numbers of any type; NaN becomes 0.
        window: The lowest and the highest value shown, or ``percentile``: those of the image itself.
    """
    numbers = values.astype(np.float64)
    if isinstance(window, str):
        finite = numbers[np.isfinite(numbers)]
        low, high = np.percentile(finite, PERCENTILES) if finite.size else (0.0, 0.0)
    else:
        low, high = window
    scaled = (np.nan_to_num(numbers, nan=low, posinf=high, neginf=low) - low) / max(high - low, np.finfo(float).tiny)
    shown: _Array = (scaled.clip(0, 1) * 255).round().astype(np.uint8)
    return shown


def describe_window(window: Window) -> str:
    """What was done, for a report."""
    if isinstance(window, str):
        low, high = PERCENTILES
        return f"more than 8 bits: values from the image's {low:g}th to its {high:g}th percentile scaled to 8 bits"
    return f"more than 8 bits: values from {window[0]:g} to {window[1]:g} scaled to 8 bits"
