"""A classifier written as ONNX, and run from there; the packages are extras, imported where they are needed."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.packages import explain_failed_import

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUT, OUTPUTS = "images", ("logits", "probabilities")


class _Answers(nn.Module):
    """``images (B, C, H, W) float32 in [0, 1] -> logits, probabilities``, both ``(B, K)``."""

    def __init__(self, task: nn.Module) -> None:
        super().__init__()
        self.task = task

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.task(images)
        return logits, logits.softmax(1)


def require_packages() -> dict[str, str]:
    """The versions of the packages; raises :class:`ConfigError` where one is missing or broken."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = str(importlib.import_module(package).__version__)
        except ImportError as error:
            missing = f"the package {package} is missing; pip install 'medassay[onnx]'"
            raise ConfigError(f"protocol=export: {explain_failed_import(error, package, missing)}") from error
    return versions


def write_model(task: nn.Module, image_shape: tuple[int, int, int], metadata: Mapping[str, str]) -> bytes:
    """The task in evaluation mode, on the CPU, as the content of an ONNX file.

    Args:
        task: A classifier, ``(B, C, H, W) float32 in [0, 1] -> logits (B, K)``.
        image_shape: ``(C, H, W)`` of the images; any number of them is accepted at a time.
        metadata: Texts that the file carries.

    Raises:
        ConfigError: the net uses something that cannot be written.
    """
    answers = _Answers(task.cpu().eval()).eval()
    example = torch.zeros(2, *image_shape)
    for name in ("onnx_ir", "onnxscript"):
        logging.getLogger(name).setLevel(logging.WARNING)  # their steps are not ours to pass on
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the exporter's own, of its own parts
            program = torch.onnx.export(
                answers,
                (example,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            )
        assert program is not None
        model = program.model_proto
    except Exception as error:  # the exporter's own errors, of many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"protocol=export: this net cannot be written as ONNX ({reason})") from error
    for name, text in metadata.items():
        model.metadata_props.add(key=name, value=text)
    return bytes(model.SerializeToString())


def run_model(content: bytes, images: Tensor, batch: int = 256) -> tuple[Tensor, Tensor]:
    """Logits and probabilities, both ``(N, K) float32``, that onnxruntime computes from the content of an ONNX file.

    Args:
        content: Content of the file.
        images: Images, ``(N, C, H, W) uint8``.
        batch: Images at a time.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    parts = [session.run(list(OUTPUTS), {INPUT: part.float().div(255).numpy()}) for part in torch.split(images, batch)]
    logits, probabilities = (torch.from_numpy(np.concatenate(one)) for one in zip(*parts, strict=True))
    return logits, probabilities
