"""A model's parts and their exact parameter counts, as text."""

from __future__ import annotations

from torch import nn


def count_parameters(module: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def summarise_model(module: nn.Module, max_depth: int = 3) -> str:
    """A table of the parts that have trainable parameters: name, type, exact count; the total in the last line."""
    rows = [("part", "type", "trainable parameters")]
    for name, part in module.named_modules():
        count = count_parameters(part)
        if name and count and name.count(".") < max_depth:
            rows.append((name, type(part).__name__, f"{count:,}"))
    rows.append(("total", type(module).__name__, f"{count_parameters(module):,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = [f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {count:>{widths[2]}}" for name, kind, count in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
