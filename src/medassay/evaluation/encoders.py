"""Encoders: images to the features that distances between image sets are measured in.

None of them needs a download. A Fréchet distance is called FID on ``inception`` only, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medassay.core.errors import ConfigError, DataError
from medassay.core.files import atomic_write, read_cached, sha256
from medassay.core.packages import explain_failed_import
from medassay.core.paths import expand_home
from medassay.core.progress import track
from medassay.core.types import LabelledImages
from medassay.data.given import compute_digest
from medassay.evaluation import arms
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.layers import Normalise
from medassay.tasks.classification import Classification
from medassay.training.checkpoints import explain_load_error, read_checkpoint

EncoderName = Literal["classifier", "random_conv", "pixels", "inception"]
CHUNK = 512  # images at a time
RANDOM_CONV_SEED = 0
DIMENSIONS = 64  # of random_conv and pixels


@dataclass(frozen=True)
class Encoder:
    """``images (N, C, H, W) uint8 -> features (N, d) float32``, on the CPU.

    Attributes:
        name: Name of the encoder, one of those above.
        description: Description in one line, for the report.
        function: Function from a chunk of float images in [0, 1] on ``device`` to features.
        device: Device that it computes on.
    """

    name: EncoderName
    description: str
    function: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.no_grad()
    def __call__(self, images: Tensor, progress: str = "") -> Tensor:
        chunks = track(torch.split(images, CHUNK), progress, "chunks")
        return torch.cat([self.function(part.to(self.device).float() / 255).float().cpu() for part in chunks])


def make_classifier_encoder(task: Classification, device: torch.device) -> Encoder:
    """The pooled features before the linear layer of a classifier trained on the real training images."""
    net = task.net.to(device).eval()
    assert isinstance(net, BlockCNN)
    dimensions = net.head.in_features
    description = f"{dimensions} features before the last layer of a classifier trained on the real training images"
    return Encoder("classifier", description, net.features, device)


def train_encoder(
    train: LabelledImages, val: LabelledImages, num_classes: int, cache: Path, *, seed: int = 0, gpus: Any = 0
) -> Classification:
    """The classifier behind :func:`make_classifier_encoder`: the arm TRTR of a full comparison, with that seed."""
    arm = arms.Arm(f"TRTR, seed {seed}", train, val, num_classes, seed, arms.count_full_steps(len(train)))
    return arms.train_arms([arm], cache, gpus=gpus, progress="encoder")[0]


def make_random_conv_encoder(channels: int, device: torch.device) -> Encoder:
    """A convolutional net with random weights, always the same: 64 averaged feature maps.

    Random features see texture and colour, and cannot be suspected of having learnt the classes.
    """
    widths = (channels, 32, DIMENSIONS, DIMENSIONS)
    rng = torch.Generator().manual_seed(RANDOM_CONV_SEED)
    layers: list[nn.Module] = [Normalise()]
    for place, (before, after) in enumerate(pairwise(widths)):
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        deviation = math.sqrt(2 / (9 * before))  # He et al. 2015: keeps the features' scale from layer to layer
        convolution.weight.data = deviation * torch.randn(convolution.weight.shape, generator=rng)
        layers += [convolution, nn.LeakyReLU(0.2)]
        if place + 2 < len(widths):
            layers.append(nn.AvgPool2d(2))
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(device).eval()
    description = f"{DIMENSIONS} feature maps of a fixed random convolutional net, averaged over space"
    return Encoder("random_conv", description, net, device)


def make_pixels_encoder(train: LabelledImages, device: torch.device, cache: Path) -> Encoder:
    """The pixels' first 64 principal components (fewer for fewer pixels or images), fitted on the training images."""
    path = cache / "encoders" / f"pixels_{compute_digest(train)}.pt"
    fitted = read_cached(path, read_checkpoint)
    if fitted is not None:
        mean, basis = fitted["state_dict"]["mean"], fitted["state_dict"]["basis"]
    else:
        mean, basis = fit_principal_components(train.images.flatten(1).double() / 255, DIMENSIONS)
        record = {"images": len(train), "what": "mean and principal components of the training images in [0, 1]"}
        with atomic_write(path) as partial:
            torch.save({"state_dict": {"mean": mean, "basis": basis}, "record": record}, partial)
    on_device = mean.float().to(device), basis.float().to(device)

    def project(images: Tensor) -> Tensor:
        projected: Tensor = (images.flatten(1) - on_device[0]) @ on_device[1]
        return projected

    return Encoder("pixels", f"the pixels' first {basis.shape[1]} principal components", project, device)


def fit_principal_components(rows: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
    """Mean ``(p,)`` and the first principal axes ``(p, min(dimensions, n - 1, p))`` of ``rows (n, p) float64``.

    Each axis points to where its largest entry is positive, so that the result does not depend on the solver.
    """
    mean = rows.mean(0)
    count = min(dimensions, len(rows) - 1, rows.shape[1])
    centred = rows - mean
    if len(rows) < rows.shape[1]:  # fewer images than pixels: seconds less than by the pixels' covariance
        axes = torch.linalg.svd(centred, full_matrices=False).Vh.T[:, :count]
    else:
        covariance = centred.T @ centred / (len(rows) - 1)
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    return mean, axes * largest.sign()


def make_inception_encoder(weights: str | None, device: torch.device) -> Encoder:
    """The Inception network of the FID (Heusel et al. 2017), 2048 features, from a local file of its weights.

    Raises:
        ConfigError: no file named, or the package that knows the network is not installed.
        DataError: the file cannot be read.
    """
    if weights is None:
        raise ConfigError(
            "protocol.encoders with inception: name the file of its weights, protocol.inception_weights=<path> "
            "(pt_inception-2015-12-05-6726825d.pth of the torch-fidelity project)"
        )
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        missing = "the package torch-fidelity is missing; pip install 'medassay[inception]'"
        reason = explain_failed_import(error, "torch_fidelity", missing)
        raise ConfigError(f"protocol.encoders with inception: {reason}") from error
    path = expand_home(weights)
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run what a pickled file says
        net = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(path))
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise DataError(
            f"protocol.inception_weights={path} cannot be read ({explain_load_error(error)}): name the network's file"
        ) from error
    net.to(device).eval()

    def features(images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1)
        output: Tensor = net((colour * 255).round().to(torch.uint8))[0]
        return output

    checksum = sha256(path)[:12]
    return Encoder(
        "inception", f"2048 features of the FID's Inception network (weights sha256 {checksum}…)", features, device
    )


def make_encoders(
    names: Sequence[EncoderName],
    train: LabelledImages,
    task: Classification,
    device: torch.device,
    cache: Path,
    inception_weights: str | None = None,
) -> list[Encoder]:
    """The encoders called ``names``, in that order.

    Args:
        names: Names of the encoders to make.
        train: Real training images.
        task: Classifier trained on the real training images.
        device: Device that the encoders compute on.
        cache: Folder of what is kept for other evaluations.
        inception_weights: Local file of the weights, for ``inception``.
    """
    makers: dict[EncoderName, Callable[[], Encoder]] = {
        "classifier": lambda: make_classifier_encoder(task, device),
        "random_conv": lambda: make_random_conv_encoder(train.images.shape[1], device),
        "pixels": lambda: make_pixels_encoder(train, device, cache),
        "inception": lambda: make_inception_encoder(inception_weights, device),
    }
    return [makers[name]() for name in names]
