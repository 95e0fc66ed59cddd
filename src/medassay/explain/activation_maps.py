"""Where a classifier looks: class activation maps by the ``grad-cam`` package, and the steps of one of them.

Sources: Grad-CAM, Selvaraju et al. 2017; Grad-CAM++, Chattopadhay et al. 2018; Score-CAM, Wang et al. 2020; LayerCAM, Jiang et
al. 2021; Eigen-CAM, Muhammad & Yeasin 2020, which does not depend on the class; HiResCAM, Draelos & Carin 2020.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.core.errors import ConfigError, suggest_nearest

Method = Literal["gradcam", "gradcam++", "scorecam", "layercam", "eigencam", "hirescam"]
METHODS: tuple[Method, ...] = get_args(Method)
NAMES: dict[Method, str] = {
    "gradcam": "Grad-CAM",
    "gradcam++": "Grad-CAM++",
    "scorecam": "Score-CAM",
    "layercam": "LayerCAM",
    "eigencam": "Eigen-CAM",
    "hirescam": "HiResCAM",
}
CHUNK = 64  # images at a time: their feature maps and gradients are held together
MASKED = 2**25  # values of masked copies that Score-CAM holds at a time: one copy of an image for each feature map

_ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish)
_POOLINGS = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


# --- the layer -------------------------------------------------------------------------------------------------------


def has_feature_maps(net: nn.Module) -> bool:
    """Whether there is anything to make heat maps of: a net of linear layers alone knows no places in an image."""
    return bool(getattr(net, "target_layer", None)) or any(
        isinstance(module, (nn.Conv2d, *_POOLINGS)) for module in net.modules()
    )


def find_layer(net: nn.Module, name: str | None = None) -> str:
    """The dotted name of the module whose output the maps are made of.

    Args:
        net: A classifier.
        name: Dotted name, as in ``net.named_modules()``; None for the net's own ``target_layer``, where it has none for the
            last activation module before the last pooling module (several poolings in a row count as one): for
            :class:`~medassay.nets.block_cnn.BlockCNN` 32 maps of 7x7.

    Raises:
        ConfigError: no module of that name, or none that fits; near names are given.
    """
    names: list[str] = [known for known, _ in net.named_modules() if known]
    if name is not None:
        if name not in names:
            raise ConfigError(
                f"protocol.layer={name}: the net has no such module.{suggest_nearest(name, names)} "
                f"Accepted: null for the activation before the last pooling, or a dotted name, e.g. "
                + _list_examples(names, name)
            )
        return name
    if own := getattr(net, "target_layer", None):
        return str(own)
    poolings = [place for place, known in enumerate(names) if isinstance(net.get_submodule(known), _POOLINGS)]
    before = names[: poolings[-1]] if poolings else []
    activations = [known for known in before if isinstance(net.get_submodule(known), _ACTIVATIONS)]
    if not activations:
        raise ConfigError(
            "protocol.layer=null: the net has no activation module before a pooling module; name the module whose output "
            f"to explain, e.g. protocol.layer={names[-1] if names else '<dotted name>'}"
        )
    return activations[-1]


def _list_examples(names: Sequence[str], name: str) -> str:
    parent = name.rpartition(".")[0]
    siblings = [known for known in names if known.rpartition(".")[0] == parent]
    return ", ".join((siblings or list(names))[-4:])


# --- the maps --------------------------------------------------------------------------------------------------------


class ActivationMaps:
    """Heat maps of a net's classes by one method of the ``grad-cam`` package.

    The maps explain logits. The net is copied: the caller's keeps its mode, its hooks and its gradients.

    Args:
        net: Classifier, ``(N, C, H, W) float in [0, 1] -> logits (N, K)``.
        method: Method that makes the maps.
        layer: Dotted name of the target layer; None for the default of :func:`find_layer`.
        device: Device that the maps are computed on.

    Raises:
        ConfigError: no such layer.
    """

    def __init__(
        self,
        net: nn.Module,
        method: Method = "gradcam",
        layer: str | None = None,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # a constant
    ) -> None:
        self.method = method
        self.layer = find_layer(net, layer)
        self.device = device
        self._net = _copy_frozen(net, device)
        target = self._net.get_submodule(self.layer)
        self._cam = _import_method(method)(self._net, [target])
        target.register_forward_hook(_hand_on_copy)  # after the package's own hooks
        if method == "scorecam":
            self._cam.batch_size = 256  # masked copies of one image at a time
            self._cam.model = _copy_frozen(net, device)  # without the hooks, which would keep the maps of all copies
        self._shape: tuple[int, int] | None = (
            None  # classes and maps: known, and the layer checked, after the first image
        )

    def __call__(self, images: Tensor, classes: Sequence[int] | None = None) -> Tensor:
        """One map per image and class.

        Args:
            images: Images, ``(N, C, H, W)`` float in [0, 1].
            classes: K indices; None for all.

        Returns:
            ``(N, K, H, W) float32 in [0, 1]`` on the CPU, each map from its own minimum to its own maximum; all zero where
            nothing speaks for the class.

        Raises:
            ConfigError: the target layer gives no feature maps.
        """
        chosen = range(self._check(images)[0]) if classes is None else classes
        n, _, height, width = images.shape
        maps = torch.zeros(n, len(chosen), height, width)
        for place, label in enumerate(chosen):
            maps[:, place] = self.map_class(images, torch.full((n,), label))
        return maps

    def map_class(self, images: Tensor, labels: Tensor) -> Tensor:
        """One map per image, of a class of its own: ``images (N, C, H, W), labels (N,) -> (N, H, W)``, else as a call."""
        if len(images) == 0:
            return torch.zeros(0, *images.shape[2:])
        _, maps = self._check(images)
        size = CHUNK if self.method != "scorecam" else max(1, min(CHUNK, MASKED // (maps * images[0].numel())))
        chunks = zip(torch.split(images, size), torch.split(labels, size), strict=True)
        return torch.cat([self._chunk(*chunk) for chunk in chunks])

    def _chunk(self, images: Tensor, labels: Tensor) -> Tensor:
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(label) for label in labels.tolist()]
        # Gradients must reach a layer with no weights before it, too
        inputs = images.detach().to(self.device, torch.float32).requires_grad_()
        # Grad-CAM++ divides by a sum that may be zero where an activation can be negative
        with torch.enable_grad(), np.errstate(all="ignore"):
            maps = self._cam(inputs, targets)
        self._cam.activations_and_grads.clear()
        return torch.from_numpy(np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0)).clamp(0, 1)

    @torch.no_grad()
    def _check(self, images: Tensor) -> tuple[int, int]:
        """The numbers of classes and of feature maps; refuses a target layer whose output is no set of feature maps."""
        if self._shape is None:
            probe = images[:1] if len(images) else torch.zeros(1, *images.shape[1:])
            logits, maps = _classify(self._net, self.layer, probe.to(self.device, torch.float32))
            self._shape = logits.shape[1], maps.shape[1]
        return self._shape


def _classify(net: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the layer's feature maps; refuses a layer whose output is no set of feature maps."""
    outputs: list[Any] = []
    target = net.get_submodule(layer)
    handles = [target.register_forward_hook(hook) for hook in (lambda *call: outputs.append(call[2]), _hand_on_copy)]
    try:
        logits: Tensor = net(images)
    finally:
        for handle in handles:
            handle.remove()
    if len(outputs) != 1:
        raise ConfigError(
            f"protocol.layer={layer}: it runs {len(outputs)} times per image, where a heat map needs one output; "
            "name the block around it"
        )
    shape = tuple(outputs[0].shape) if isinstance(outputs[0], Tensor) else type(outputs[0]).__name__
    if not isinstance(outputs[0], Tensor) or outputs[0].ndim != 4 or outputs[0].shape[2:].numel() < 2:
        raise ConfigError(
            f"protocol.layer={layer}: its output is {shape}, and a heat map needs (images, maps, height, width) with more "
            "than one position; name a module before the last pooling"
        )
    return logits, outputs[0]


def _copy_frozen(net: nn.Module, device: torch.device) -> nn.Module:
    """The net in evaluation mode, without gradients of weights, and without in-place activations: they overwrite maps."""
    copied = copy.deepcopy(net).to(device).eval().requires_grad_(False)
    module: Any
    for module in copied.modules():
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False
    return copied


def _hand_on_copy(module: nn.Module, inputs: Any, output: Any) -> Any:
    """What a layer's output goes on as: a sum in place, as of a residual block, would change the maps that were kept."""
    return output.clone() if isinstance(output, Tensor) else None


def _turn_towards_largest(projections: np.ndarray) -> np.ndarray:
    """Eigen-CAM's projections ``(N, h, w)``, each with its largest absolute value positive.

    A principal component has no sign: which of a map and its complement the negative part is cut off from would be up to the
    processor (the correction of Seg-Eigen-CAM, Chung & Ying 2025, equation 13).
    """
    low, high = projections.min((1, 2), keepdims=True), projections.max((1, 2), keepdims=True)
    turned: np.ndarray = np.where(-low > high, -projections, projections)
    return turned


def _import_method(method: Method) -> Any:
    """The package's class; it takes seconds to import, so only where a map is made."""
    import pytorch_grad_cam as package
    from pytorch_grad_cam import score_cam

    score_cam.tqdm = SimpleNamespace(tqdm=iter)  # it prints a progress bar for every image, terminal or not
    if method == "eigencam":

        class EigenCAM(package.EigenCAM):  # type: ignore[misc]
            def get_cam_image(self, *args: Any, **kwargs: Any) -> np.ndarray:
                return _turn_towards_largest(super().get_cam_image(*args, **kwargs))

        return EigenCAM
    return getattr(
        package, NAMES[method].replace("-", "").replace("++", "PlusPlus")
    )  # Grad-CAM++ is GradCAMPlusPlus there


# --- one map, step by step -------------------------------------------------------------------------------------------


class Steps(NamedTuple):
    """How one Grad-CAM map comes about, all ``float32`` on the CPU.

    Attributes:
        maps: Feature maps of the layer, ``(M, h, w)``.
        alphas: Weights of the maps, ``(M,)``: the gradient of the class's logit, averaged over the map.
        total: Weighted sum of the maps, ``(h, w)``.
        relu: Positive part of the sum, ``(h, w)``.
        heat: Heat map, ``(H, W)`` in [0, 1]: the positive part scaled and enlarged to the image.
    """

    maps: Tensor
    alphas: Tensor
    total: Tensor
    relu: Tensor
    heat: Tensor


def compute_grad_cam_steps(net: nn.Module, image: Tensor, label: int, layer: str | None = None) -> Steps:
    """Grad-CAM from first principles (Selvaraju et al. 2017, equations 1 and 2), for one image.

    Args:
        net: A classifier; it is left as it is.
        image: Image, ``(C, H, W)`` float in [0, 1].
        label: Index of the class.
        layer: Dotted name of the target layer, as for :func:`find_layer`.

    Raises:
        ConfigError: no such layer.
    """
    name = find_layer(net, layer)
    copied = _copy_frozen(net, torch.device("cpu"))
    with torch.enable_grad():
        logits, feature_maps = _classify(copied, name, image[None].detach().cpu().float().requires_grad_())
        (gradient,) = torch.autograd.grad(logits[0, label], feature_maps)
    maps, alphas = feature_maps[0].detach(), gradient[0].mean((1, 2))
    total = (alphas[:, None, None] * maps).sum(0)
    relu = total.relu()
    enlarged = F.interpolate(_scale_maps(relu)[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
    return Steps(maps, alphas, total, relu, _scale_maps(enlarged))


def _scale_maps(values: Tensor) -> Tensor:
    """From 0 to 1, with the package's guard against division by zero."""
    lifted = values - values.min()
    return lifted / (1e-7 + lifted.max())


# --- the same net without what it has learnt -------------------------------------------------------------------------


def randomise_weights(net: nn.Module, seed: int) -> nn.Module:
    """A copy of the net with all its weights drawn anew, as for the sanity check of Adebayo et al. 2018.

    Every module that knows how to initialise itself does so, running statistics of batch normalisation included; a
    parameter of another module has its values shuffled.

    Args:
        net: A net; it is left as it is.
        seed: Seed of the drawing; the global generator is left as it is.
    """
    copied = copy.deepcopy(net)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in copied.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in module.parameters(recurse=False):
                parameter.copy_(parameter.flatten()[torch.randperm(parameter.numel())].view_as(parameter))
    return copied
