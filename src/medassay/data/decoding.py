"""One image file as 8-bit pixels: upright, of any bit depth, DICOM included; grey or RGB, square or of its own size."""

from __future__ import annotations

import contextlib
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medassay.core.errors import DataError
from medassay.data.dicom import read_dicom
from medassay.data.image_files import DICOM
from medassay.data.window import Window, apply_window, describe_window

if TYPE_CHECKING:
    from PIL import Image

LOST_SCALING = (
    "holds 0 and 1 only: images scaled to 0..1 and then cut to whole numbers look like this; save them from 0 to 255 "
    "(before the conversion: (255 * images).round().astype('uint8'))"
)
_Array = np.ndarray[Any, np.dtype[Any]]


class DecodedImage(NamedTuple):
    """An image file as pixels.

    Attributes:
        picture: 8 bits a channel, upright, of any mode.
        steps: What was done to the file's own pixels, in words.
    """

    picture: Image.Image
    steps: tuple[str, ...]


@dataclass(frozen=True)
class ImageReader:
    """Reads image files as a data set needs them.

    Attributes:
        size: Side of the images in pixels; None leaves each in its own size.
        channels: 1 (grey) or 3 (RGB).
        exact: Whether to refuse images of another size instead of cropping and resizing them.
        window: Range of the values that are shown of images of more than 8 bits; None refuses these. Images of 8 bits are read
            as they are.
        window_key: Key that chooses the range on the command line; None where that is not possible.
    """

    size: int | None
    channels: int
    exact: bool = False
    window: Window | None = None
    window_key: str | None = "data.window"

    def read(self, file: Path) -> Tensor:
        """The image in ``file``, ``(C, size, size) uint8``, or in its own size where that is None.

        Raises:
            DataError: The image cannot be read, has more than 8 bits without a window, or another size where that is refused.
        """
        return self.fit(self.decode(file).picture, file)

    def decode(self, file: Path) -> DecodedImage:
        """The image in ``file`` before it is cropped, resized and brought to grey or RGB.

        Raises:
            DataError: The image cannot be read, or has more than 8 bits without a window.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, about tags that are not needed
                return self._decode_dicom(file) if file.suffix.lower() in DICOM else self._decode_picture(file)
        except DataError:
            raise
        except Exception as error:  # a damaged file can make a decoder raise anything
            reason = str(error) or type(error).__name__
            raise DataError(f"{file} cannot be read as an image ({reason}): replace it, or remove it") from error

    def fit(self, picture: Image.Image, file: Path) -> Tensor:
        """A picture as ``(C, size, size) uint8``, or in its own size where that is None; transparency is dropped.

        Raises:
            DataError: The picture has another size, where that is refused.
        """
        if picture.mode == "LAB":  # goes to no other mode but RGB
            picture = picture.convert("RGB")
        if picture.mode == "P":  # a palette may hold transparency, which only RGBA can take
            picture = picture.convert("RGBA")
        colours = picture.convert("L" if self.channels == 1 else "RGB")
        if self.size is None:
            return _to_tensor(colours)
        if self.exact and colours.size != (self.size, self.size):
            width, height = colours.size
            raise DataError(
                f"{file} is {width}x{height}, the data set {self.size}x{self.size}: give resize=true to crop and resize"
            )
        return fit_to_square(colours, self.size)

    def _decode_picture(self, file: Path) -> DecodedImage:
        from PIL import Image

        with Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            if image.format in ("TIFF", "WEBP") and frames > 1:
                raise DataError(f"{file} is a stack of {frames} images: save each as a file of its own")
            turned = read_orientation(image)  # Pillow turns a TIFF upright while it is loaded
            if _is_deep(image, file):
                values = _read_deep(image, file)
                pixels = self._show(values, file)
                is_negative = image.format == "TIFF" and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
                # PhotometricInterpretation: low values are white, which Pillow undoes of up to 8 bits
                picture: Image.Image = Image.fromarray(255 - pixels if is_negative else pixels)
                steps = [describe_window(self.window)] if self.window is not None else []
            else:
                image.load()
                picture, steps = image, []
            rest = read_orientation(image)
            if turned or rest:
                steps.append("turned upright, as its orientation tag says")
            return DecodedImage(picture.transpose(rest) if rest is not None else picture.copy(), tuple(steps))

    def _decode_dicom(self, file: Path) -> DecodedImage:
        from PIL import Image

        dicom = read_dicom(file)
        has_own = dicom.deep and self.window is not None
        values, window = (dicom.values, self.window) if has_own else (dicom.shown, dicom.window)
        if window is not None:
            pixels = apply_window(values, window)
            steps = [f"DICOM, {describe_window(window).removeprefix('more than 8 bits: ')}"]
        else:
            pixels, steps = (self._show(values, file) if dicom.deep else values), []
        return DecodedImage(Image.fromarray(255 - pixels if dicom.inverted else pixels), tuple(steps))

    def _show(self, values: _Array, file: Path) -> _Array:
        """Values of more than 8 bits as the window shows them."""
        if self.window is not None:
            return apply_window(values, self.window)
        key = self.window_key
        choose = f"choose the range to show, {key}=[low,high] or {key}=percentile, or " if key else ""
        value_range = f"values {values.min():g} to {values.max():g}"
        raise DataError(f"{file} has more than 8 bits per channel ({value_range}): {choose}save it with 8 bits")


def read_orientation(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright by its orientation tag; None where there is nothing to do or the tag cannot be read."""
    from PIL import Image

    with contextlib.suppress(Exception):  # damaged EXIF can make Pillow raise anything, and says nothing of the pixels
        return {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }.get(image.getexif().get(0x0112, 1))
    return None


def fit_to_square(image: Image.Image, size: int) -> Tensor:
    """The largest centred square of a grey or RGB image, ``(C, size, size) uint8``; resized where its side differs."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    return _to_tensor(square)


def _to_tensor(image: Image.Image) -> Tensor:
    """A grey or RGB image as ``(C, H, W) uint8``."""
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def has_lost_scaling(images: Tensor | _Array) -> bool:
    """Whether images of 8 bits hold 0 and 1 only, both of them: see ``LOST_SCALING``."""
    return bool(len(images)) and int(images.max()) == 1 and int(images.min()) == 0


# --- more than 8 bits ------------------------------------------------------------------------------------------------


def _is_deep(image: Image.Image, file: Path) -> bool:
    """Whether the file has more than 8 bits a channel; Pillow's mode does not say so of colour."""
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "PNG":
        with file.open("rb") as stream:
            return bool(stream.read(25)[24] > 8)
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, 8)  # BitsPerSample
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    return False


def _read_deep(image: Image.Image, file: Path) -> _Array:
    """The values of an image of more than 8 bits, ``(H, W)`` or ``(H, W, 3)``, transparency dropped."""
    if image.mode.startswith(("I", "F")):
        image.load()
        return np.array(image)
    if image.format == "PNG":
        from torchvision.io import ImageReadMode, decode_image

        encoded = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
        image.load()  # the orientation may stand behind the pixels
        planes = decode_image(encoded, ImageReadMode.UNCHANGED).numpy()  # grey, alpha; or R, G, B, alpha
        values: _Array = planes[0] if len(planes) < 3 else planes[:3].transpose(1, 2, 0)
        return values
    return _read_deep_tiff(image, file)


def _read_deep_tiff(image: Image.Image, file: Path) -> _Array:
    """The values of a 16-bit colour TIFF, ``(H, W, 3) uint16``.

    Pillow reads the more significant byte of each value alone; asked for the other byte order, it reads the other byte.
    """
    from PIL import Image

    if image.mode not in ("RGB", "RGBA"):
        raise DataError(
            f"{file} is a TIFF of mode {image.mode} with more than 8 bits per channel: save it as RGB or grey"
        )
    image.load()
    with Image.open(file) as swapped:
        swapped.tile = [tile._replace(args=_swap_byte_order(tile.args)) for tile in swapped.tile]
        swapped.load()
        high, low = (np.array(one, dtype=np.uint16)[..., :3] for one in (image, swapped))
    return high * 256 + low


def _swap_byte_order(arguments: Any) -> Any:
    """The arguments of a Pillow decoder, first of them ``RGB;16L`` or the like, for the other byte order."""
    mode, *rest = (arguments,) if isinstance(arguments, str) else arguments
    stored, order = mode[:-1], mode[-1]
    if not stored.endswith(";16"):
        raise ValueError(f"pixels are stored as {mode}")
    opposite = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[order]
    return (stored + opposite, *rest)
