"""What a classifier says of images: logits and probabilities, batched, on the device."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError
from medassay.core.types import LabelledImages, Regressor, Sampler, Segmenter
from medassay.data.loader import ResidentLoader

BATCH = 256  # images at a time; predictions do not depend on it beyond rounding


class _Classifiers(type):
    def __instancecheck__(cls, task: object) -> bool:
        return isinstance(task, nn.Module) and not isinstance(task, (Sampler, Segmenter, Regressor))


class Classifier(metaclass=_Classifiers):
    """Every task that gives an image logits, also one of somebody's own: a module that makes no images and segments none."""


@dataclass(frozen=True)
class Predictions:
    """Class probabilities ``(N, K) float32`` and labels ``(N,) int64`` of some images, on the CPU."""

    probabilities: Tensor
    labels: Tensor

    @property
    def decisions(self) -> Tensor:
        """The most probable class of each image, ``(N,) int64``."""
        return self.probabilities.argmax(1)


def predict(task: nn.Module, split: LabelledImages, device: torch.device) -> Predictions:
    """Softmax probabilities of every image of ``split``; the task is left in evaluation mode on ``device``."""
    return Predictions(_forward(task, split, device).softmax(1, dtype=torch.float32), split.labels)


def predict_logits(task: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """``images (N, C, H, W) uint8 -> logits (N, K) float64`` on the CPU; the task is left as by :func:`predict`."""
    return _forward(task, make_unlabelled(images), device).double()


def make_unlabelled(images: Tensor) -> LabelledImages:
    """``images (N, C, H, W) uint8`` whose labels are not known, and 0."""
    return LabelledImages(images, torch.zeros(len(images), dtype=torch.int64))


@torch.no_grad()
def _forward(task: nn.Module, split: LabelledImages, device: torch.device) -> Tensor:
    task.to(device).eval()
    return torch.cat([task(images).cpu() for images, _ in ResidentLoader(split, BATCH, device=device)])


@torch.no_grad()
def extract_features(net: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """What the last layer of ``net`` sees, ``images (N, C, H, W) uint8 -> (N, d) float32`` on the CPU.

    Args:
        net: A net with ``features(images in [0, 1])``; it is left in evaluation mode on ``device``.
        images: The images, at least one.
        device: Device to compute on.

    Raises:
        ConfigError: The net has no such function, or it gives no vectors.
    """
    features = getattr(net, "features", None)
    kind = type(net).__name__
    if not inspect.ismethod(features):
        raise ConfigError(f"model.net is a {kind}, which has no function features(images): give it one, (B, d)")
    net.to(device).eval()
    loader = ResidentLoader(make_unlabelled(images), BATCH, device=device)
    parts = [features(batch).float().cpu() for batch, _ in loader]
    if parts[0].ndim != 2:
        raise ConfigError(f"model.net: features(images) of a {kind} gives {tuple(parts[0].shape)}, expected (B, d)")
    return torch.cat(parts)
