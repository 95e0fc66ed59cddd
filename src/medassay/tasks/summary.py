"""A model's parts, the sizes of what comes out of them, and their exact parameter counts, as text."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

NET = "net"  # the attribute of a task that holds its net
_BATCH = 2  # images that are pushed through: the first axis of every size, which is left out


@runtime_checkable
class InParts(Protocol):
    """A net of several parts that no single call runs, such as a GAN's players."""

    def run_parts(self, images: Tensor, labels: Tensor) -> None:
        """Runs every part once on ``images (B, C, H, W)`` and ``labels (B,)``."""


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def trace_sizes(net: nn.Module, input_shape: Sequence[int]) -> dict[str, str]:
    """The size of what each module of ``net`` gives for one image, by dotted name; ``""`` is the net itself.

    A copy without values (torch's meta device) computes sizes alone: nothing is drawn, no statistics move, and a large net
    takes no time. A module that runs several times has the size of its first output; one that does not run has none.

    Args:
        net: The net.
        input_shape: Shape of one image, ``(C, H, W)``.

    Returns:
        Sizes such as ``8 x 28 x 28``; nothing for a net that cannot be run without values.
    """
    sizes: dict[str, str] = {}
    try:
        hollow = _copy_without_values(net).eval()
        for name, module in hollow.named_modules():
            module.register_forward_hook(functools.partial(_note_size, sizes, name))
        images = torch.empty(_BATCH, *input_shape, device="meta")
        labels = torch.empty(_BATCH, dtype=torch.int64, device="meta")
        with torch.no_grad():
            if isinstance(hollow, InParts):
                hollow.run_parts(images, labels)
            else:
                hollow(images)
    except Exception as error:  # of somebody's own net, which may ask for values: the table has counts all the same
        logger.debug("sizes of %s are not known", type(net).__name__, exc_info=error)
        return {}
    return sizes


def summarise_model(module: nn.Module, max_depth: int = 3, input_shape: Sequence[int] | None = None) -> str:
    """A table of the parts that have parameters: name, type, size of the output, exact counts; the total comes last.

    Parameters that stay as they are given have a column of their own where there are any.

    Args:
        module: A task whose net is its ``net``, or any module.
        max_depth: Number of names in a dotted name, at most.
        input_shape: Shape of one image that the net takes, ``(C, H, W)``; None leaves out the sizes.
    """
    net = getattr(module, NET, module)
    sizes = trace_sizes(net, input_shape) if net is not module and input_shape is not None else {}
    own = {id(parameter) for parameter in net.parameters()}  # not an average's, which is a frozen copy of them
    rows = [("part", "type", "output of one input" if sizes else "", "trainable parameters", "frozen parameters")]
    for name, part in [*module.named_modules(), ("total", module)]:
        trainable = count_parameters(part)
        frozen = sum(p.numel() for p in part.parameters() if id(p) in own and not p.requires_grad)
        if name and name.count(".") < max_depth and (trainable or frozen or part is module):
            inside = name.removeprefix(NET).removeprefix(".") if f"{name}.".startswith(f"{NET}.") else None
            size = "" if inside is None else sizes.get(inside, "")
            rows.append((name, type(part).__name__, size, f"{trainable:,}", f"{frozen:,}"))
    if all(parameter.requires_grad for parameter in net.parameters()):
        rows = [(part, kind, size, trainable, "") for part, kind, size, trainable, _ in rows]
    return _lay_out(rows)


def _lay_out(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows as aligned columns, numbers from the fourth on, with a rule below the head and one above the total.

    A column without text is left out.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{text:{'<' if i < 3 else '>'}{widths[i]}}" for i, text in enumerate(row) if widths[i]]
        lines.append("  ".join(cells))
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _copy_without_values(net: nn.Module) -> Any:
    """The same modules with parameters and buffers of the same shapes on the meta device."""
    hollow: dict[int, Any] = {
        id(own): nn.Parameter(torch.empty_like(own, device="meta"), requires_grad=False) for own in net.parameters()
    }
    hollow |= {id(own): torch.empty_like(own, device="meta") for own in net.buffers()}
    return copy.deepcopy(net, hollow)


def _note_size(sizes: dict[str, str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    """A forward hook; what it returned would take the place of the output."""
    sizes.setdefault(name, _describe(output))


def _describe(output: Any) -> str:
    """``8 x 28 x 28``; of several outputs each."""
    if isinstance(output, Tensor):
        return " x ".join(map(str, output.shape[1:])) or "1"
    if isinstance(output, (tuple, list)):
        return ", ".join(_describe(one) for one in output)
    return ""
