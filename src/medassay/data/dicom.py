"""DICOM images by pydicom, an optional package: rescaled values, and the window that the file itself asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medassay.core.errors import DataError
from medassay.core.packages import explain_failed_import
from medassay.data.image_files import DICOM_ADVICE

_Array = np.ndarray[Any, np.dtype[Any]]


class DicomImage(NamedTuple):
    """The image of a DICOM file.

    Attributes:
        values: ``(H, W)`` after the rescaling that the file names (Hounsfield units of a CT), or ``(H, W, 3) uint8``.
        shown: The same as the file's own table shows them, if it has one; ``window`` is of these.
        window: Lowest and highest value to be shown, as the file says; else all values of up to 8 bits, or None.
        deep: Whether the file has more than 8 bits a value.
        inverted: Whether low values are white (MONOCHROME1).
    """

    values: _Array
    shown: _Array
    window: tuple[float, float] | None
    deep: bool
    inverted: bool


def read_dicom(file: Path) -> DicomImage:
    """Reads a DICOM file with one image.

    Raises:
        DataError: The package pydicom is not installed or broken, the file holds no image or several, or its colours are of a
            kind that is not read.
        Exception: The file is damaged, or compressed in a way that pydicom has no decoder for; pydicom's own errors, of any
            kind.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_modality_lut, apply_voi, pixel_array
    except ImportError as error:
        reason = explain_failed_import(error, "pydicom", DICOM_ADVICE)
        raise DataError(f"{file} is a DICOM file: {reason}") from error
    dataset = pydicom.dcmread(file)
    if "PixelData" not in dataset:
        raise DataError(f"{file} is a DICOM file without an image: remove it")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise DataError(f"{file} is a stack of {frames} images: save each as a file of its own")
    kind = str(dataset.PhotometricInterpretation)
    stored: _Array = pixel_array(dataset)  # YBR becomes RGB
    if stored.ndim == 3 and stored.dtype == np.uint8:
        return DicomImage(stored, stored, None, deep=False, inverted=False)
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{file} is a DICOM file of {kind} colours, which are not read: convert it to PNG")
    values: _Array = apply_modality_lut(stored, dataset)
    shown, window = values, _find_window(dataset)
    if "VOILUTSequence" in dataset:  # a table instead of a window
        shown = apply_voi(values, dataset)
        window = (0.0, 2.0 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    bits = int(dataset.BitsStored)
    if window is None and bits <= 8:
        ends = np.array([0, 2**bits - 1]) - (2 ** (bits - 1) if int(dataset.PixelRepresentation) else 0)
        low, high = sorted(apply_modality_lut(ends, dataset).tolist())
        window = (float(low), float(high))
    return DicomImage(values, shown, window, deep=bits > 8, inverted=kind == "MONOCHROME1")


def _find_window(dataset: Any) -> tuple[float, float] | None:
    """The first window of a file, as its lowest and highest value (DICOM PS3.3, C.11.2.1.2)."""
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None:
        return None
    if dataset.get("VOILUTFunction", "LINEAR") == "LINEAR":
        if width <= 1:  # a threshold
            return centre - 0.5, centre - 0.5 + 1e-6
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return centre - width / 2, centre + width / 2  # LINEAR_EXACT; of SIGMOID the straight line through its middle


def _first(value: Any) -> float | None:
    """A number, the first of several, or None."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except TypeError:
        return float(value[0]) if len(value) else None
