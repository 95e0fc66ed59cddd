"""A classifier as an ONNX file: normalisation inside, class names beside it, checked against the net."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from medassay.core.errors import ConfigError
from medassay.core.types import Positive, PositiveInt
from medassay.evaluation.protocol import ComputeContext, Page, Protocol, Report
from medassay.protocols.export.model_file import require_packages, run_model, write_model
from medassay.runs.directory import describe_code_version
from medassay.runs.load import select_evaluated_images
from medassay.runs.run import Run
from medassay.tasks.predictions import Classifier, predict

HERE = Path(__file__).parent


@dataclass(frozen=True)
class ExportResults:
    """What was written, and how it agrees with the net.

    Attributes:
        file: Name of the file in the report's directory.
        image_shape: ``(C, H, W)`` of an image that it takes.
        n: Number of images that it was checked on.
        largest_difference: Largest absolute difference of a class probability from the net's.
        same_decisions: Number of these images that both give to the same class.
        metadata: Texts that the file carries.
        packages: Versions of the packages that wrote and checked it.
    """

    file: str
    image_shape: tuple[int, int, int]
    n: int
    largest_difference: float
    same_decisions: int
    metadata: dict[str, str]
    packages: dict[str, str]


@dataclass(frozen=True)
class Export(Protocol):
    """A classifier as an ONNX file, and a script that uses it.

    Attributes:
        name: Name of the protocol.
        split: Split whose images the file is checked on.
        n: Number of these images, at most.
        tolerance: Largest difference of a class probability from the net's that is accepted.
    """

    requires: ClassVar[type] = Classifier
    name: str = "export"
    split: Literal["test", "val"] = "test"
    n: PositiveInt = 1000
    tolerance: Positive = 1e-5

    def run(self, run: Run, context: ComputeContext) -> Report:
        """Writes the run's classifier and checks it.

        Raises:
            ConfigError: a package is missing, the net cannot be written, or the file computes something else.
        """
        packages = require_packages()
        images = select_evaluated_images(run.data, self.split, run.settings)[: self.n]
        metadata = describe_model(run)
        content = write_model(run.task, run.data.image_shape, metadata)
        expected = predict(run.task, images, torch.device("cpu"))
        probabilities = run_model(content, images.images)[1]
        difference = float((probabilities - expected.probabilities).abs().max())
        if not difference <= self.tolerance:
            raise ConfigError(
                f"protocol=export: a class probability of the ONNX file differs by {difference:.2g} from the net's; accept "
                f"that with protocol.tolerance={2 * difference:.1g}, or train without what onnxruntime computes otherwise"
            )
        agreeing = int((probabilities.argmax(1) == expected.decisions).sum())
        shape = run.data.image_shape
        results = ExportResults("model.onnx", shape, len(images), difference, agreeing, metadata, packages)
        return Report(
            results,
            split=self.split,
            verdict=[
                f"model.onnx gives the net's probabilities to {difference:.1e} on {len(images)} {self.split} images; "
                "classify.py beside it uses it"
            ],
            files={
                "model.onnx": lambda path: _write_bytes(path, content),
                "classify.py": (HERE / "classify.py.txt").read_text(encoding="utf-8"),
            },
            page=Page(HERE / "page.html.j2"),
        )


def describe_model(run: Run) -> dict[str, str]:
    """What the file says of itself: ``classes`` is a JSON list, in the order of the outputs."""
    config = run.config
    return {
        "classes": json.dumps(list(run.data.classes), ensure_ascii=False),
        "input": "float32 in [0, 1], (batch, channels, height, width); normalisation is inside",
        "model": str(config["recipe"]["name"]),
        "data": str(run.data.name),
        "run": run.directory.path.resolve().name,
        "checkpoint": run.checkpoint,
        "epoch": str(run.epoch),
        "seed": str(config["seed"]),
        "medassay": describe_code_version(),
        "torch": torch.__version__,
    }


def _write_bytes(path: Path, content: bytes) -> Any:
    return path.write_bytes(content)
