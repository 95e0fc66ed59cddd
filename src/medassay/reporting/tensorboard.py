"""Pictures, text and hyper-parameters of a finished run into its TensorBoard directory."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Keeps back the traceback of a TensorBoard thread that cannot write; the next call raises the same error here."""
    before = threading.excepthook

    def handle(arguments: threading.ExceptHookArgs) -> None:
        if not type(arguments.thread).__module__.startswith("tensorboard."):
            before(arguments)

    threading.excepthook = handle
    try:
        yield
    finally:
        threading.excepthook = before


def add_results(
    directory: Path,
    *,
    step: int,
    pictures: Iterable[Path] = (),
    text: Mapping[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Adds to the event files in ``directory``.

    Args:
        directory: Directory of the run's event files.
        step: Position on the x axis.
        pictures: PNG files, named in TensorBoard by their stems.
        text: Texts by name.
        hyperparameters, metrics: One row of the HParams tab; values that are not numbers, text or booleans are written as
            text.
    """
    with quiet_writers(), SummaryWriter(str(directory)) as writer:
        for picture in pictures:
            add_picture(writer, f"figures/{picture.stem}", picture, step)
        for name, content in (text or {}).items():
            writer.add_text(name, content, step)
        if hyperparameters is not None:
            plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in hyperparameters.items()}
            finite = {k: v for k, v in (metrics or {}).items() if math.isfinite(v)}
            for summary in hparams(plain, dict.fromkeys(finite)):  # type: ignore[no-untyped-call]
                writer.file_writer.add_summary(summary)
            for name, value in finite.items():
                writer.add_scalar(name, value, step)


def add_picture(writer: SummaryWriter, name: str, file: Path, step: int) -> None:
    """Adds a PNG file as it is: unpacking it for ``add_image``, which packs it again, takes half as long as drawing it."""
    with Image.open(file) as image:
        width, height, colours = *image.size, len(image.getbands())
    shown = Summary.Image(height=height, width=width, colorspace=colours, encoded_image_string=file.read_bytes())
    events = writer._get_file_writer()  # type: ignore[no-untyped-call]
    events.add_summary(Summary(value=[Summary.Value(tag=name, image=shown)]), step)
