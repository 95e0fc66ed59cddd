"""One table of the nets: parameters, multiply-adds, what each stage sees and gives, images a second.

usage: python scripts/architectures.py [--size 28] [--channels 1] [--classes 2] [--speed] [--out outputs/architectures]
       python scripts/architectures.py --size 224 --channels 3 --classes 1000          (ImageNet's images)

From 64 pixels on the nets for ImageNet have their published stem, below a 3x3 one with stride 1; VGG's images are enlarged to
32. For ImageNet's images the counts are as published, but for the multiply-adds of EfficientNet-B1 to B7: their own images are
larger, 240 to 600 pixels a side. Leaves architectures.html and architectures.md. Nothing but --speed computes with images:
shapes and counts come from torch's meta device and its counter of operations, receptive fields from the rule of
medassay.nets.receptive_field.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medassay.core.errors import ConfigError, OutputError, advise
from medassay.core.files import write_text
from medassay.data.phantoms import chest
from medassay.nets.alexnet import AlexNet
from medassay.nets.block_cnn import BlockCNN
from medassay.nets.efficientnet import EfficientNet
from medassay.nets.googlenet import GoogLeNet
from medassay.nets.lenet import LeNet
from medassay.nets.mobilenet import MobileNetV2
from medassay.nets.receptive_field import Stage, list_stages
from medassay.nets.resnet import ResNet
from medassay.nets.vgg import VGG
from medassay.reporting import html
from medassay.reporting.charts import PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.tables import Table

LARGE = 64  # pixels from which nets for ImageNet keep their stem
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15  # of EfficientNet: depth, width, resolution
BATCH = 32

NETS: dict[str, tuple[Callable[..., nn.Module], dict[str, Any]]] = {
    "course's CNN": (BlockCNN, {}),
    "course's CNN, width 16": (BlockCNN, {"width": 16}),
    "LeNet-5": (LeNet, {}),
    "AlexNet": (AlexNet, {}),
    "VGG-11": (VGG, {"depth": 11}),
    "VGG-16": (VGG, {"depth": 16}),
    "VGG-19": (VGG, {"depth": 19}),
    "GoogLeNet": (GoogLeNet, {"auxiliary_weight": 0.0}),
    "ResNet-18, width 16": (ResNet, {"width": 16}),
    "ResNet-18, width 32": (ResNet, {"width": 32}),
    "ResNet-18": (ResNet, {"depth": 18}),
    "ResNet-34": (ResNet, {"depth": 34}),
    "ResNet-50": (ResNet, {"depth": 50}),
    "ResNet-101": (ResNet, {"depth": 101}),
    "ResNet-152": (ResNet, {"depth": 152}),
    "MobileNetV2": (MobileNetV2, {}),
    **{f"EfficientNet-B{scale}": (EfficientNet, {"scale": scale}) for scale in range(8)},
}


class Facts(NamedTuple):
    """What the table says of a net; ``images_per_second`` None is not measured."""

    name: str
    parameters: int
    multiply_adds: int
    stages: list[Stage]
    images_per_second: float | None


def main() -> int:
    """Writes the tables and prints the first; gives the exit code."""
    parser = argparse.ArgumentParser(description="Parameters, multiply-adds and receptive fields of all nets.")
    parser.add_argument("--size", type=int, default=28, help="pixels a side of the images (default: 28)")
    parser.add_argument("--channels", type=int, choices=[1, 3], default=1, help="channels of the images (default: 1)")
    parser.add_argument("--classes", type=int, default=2, help="number of classes (default: 2)")
    parser.add_argument("--speed", action="store_true", help="measure images a second on this machine, too (minutes)")
    parser.add_argument("--out", type=Path, default=Path("outputs/architectures"), help="folder of the two files")
    arguments = parser.parse_args()
    try:
        found = [
            facts
            for name in NETS
            if (facts := describe_net(name, arguments.channels, arguments.classes, arguments.size, arguments.speed))
        ]
        tables = [tabulate_nets(found, arguments.size, arguments.speed), tabulate_stages(found), tabulate_scaling()]
        with advise(full="free some space, then start this again", refused="choose another place with --out <folder>"):
            write_text(arguments.out / "architectures.md", "\n\n".join(table.to_markdown() for table in tables) + "\n")
            write_text(arguments.out / "architectures.html", render(tables, found, arguments.size))
    except OutputError as error:
        print(f"architectures: {error}", file=sys.stderr)
        return 2
    print(tables[0].to_markdown())
    print(f"page: {arguments.out / 'architectures.html'}")
    return 0


def build(name: str, channels: int, classes: int, size: int) -> nn.Module:
    """The net called ``name`` for such images; raises :class:`ConfigError` where they are too small for it."""
    make, options = NETS[name]
    options = dict(options)
    if make in (AlexNet, GoogLeNet, ResNet, MobileNetV2, EfficientNet):
        options["small_images"] = size < LARGE
    if make is VGG and size < 32:
        options["upscale"] = 32
    return make(channels, classes, size, **options)


def describe_net(name: str, channels: int, classes: int, size: int, speed: bool) -> Facts | None:
    """The facts of a net; None where the images are too small for it."""
    try:
        with torch.device("meta"):
            net = build(name, channels, classes, size).eval()
    except ConfigError:
        return None
    with FlopCounterMode(display=False) as counter:
        net(torch.empty(1, channels, size, size, device="meta"))
    body = next(getattr(net, part) for part in ("body", "blocks", "convolutions") if hasattr(net, part))
    stages = list_stages(body, channels, getattr(net, "upscale", None) or size)
    rate = measure_rate(build(name, channels, classes, size), channels, size) if speed else None
    parameters = sum(parameter.numel() for parameter in net.parameters())
    return Facts(name, parameters, counter.get_total_flops() // 2, stages, rate)


def keep_changing(stages: list[Stage]) -> list[Stage]:
    """The stages that see other pixels than the one before: an activation does not."""
    return [stage for before, stage in pairwise([None, *stages]) if before is None or stage.field != before.field]


def measure_rate(net: nn.Module, channels: int, size: int) -> float:
    """Images a second that ``net`` classifies here, the median of three batches."""
    images, times = torch.rand(BATCH, channels, size, size), []
    net.eval()
    with torch.no_grad():
        for _ in range(4):
            begun = time.perf_counter()
            net(images)
            times.append(time.perf_counter() - begun)
    return BATCH / statistics.median(times[1:])


def tabulate_nets(found: list[Facts], size: int, speed: bool) -> Table:
    """A row a net."""
    header = ["net", "parameters", "multiply-adds", "last maps", "receptive field, px"] + ["images a second"] * speed
    rows = []
    for net in found:
        last = net.stages[-1]
        row = [net.name, f"{net.parameters:,}", show_large(net.multiply_adds), show_shape(last), str(last.field.size)]
        rows.append(row + ([f"{net.images_per_second:.0f}"] if net.images_per_second is not None else []))
    note = f"Images of {size} x {size} pixels. Multiply-adds of convolutions and linear layers, for one image."
    return Table("Nets", header, rows, note + (f" Batches of {BATCH} on the CPU." if speed else ""))


def tabulate_stages(found: list[Facts]) -> Table:
    """A row for each stage of each net."""
    rows = [
        [net.name, stage.name, show_shape(stage), str(stage.field.size), str(stage.field.jump)]
        for net in found
        for stage in keep_changing(net.stages)
        if not net.name.startswith("EfficientNet-B") or net.name.endswith("B0")
    ]
    header = ["net", "stage", "output", "receptive field, px", "px from one value to the next"]
    return Table("Stages", header, rows, "Receptive fields may be larger than the image: the rest is padding.")


def tabulate_scaling() -> Table:
    """EfficientNet's compound scaling over its coefficient."""
    rows = [
        [str(phi), *(f"{base**phi:.2f}" for base in (ALPHA, BETA, GAMMA)), f"{(ALPHA * BETA**2 * GAMMA**2) ** phi:.1f}"]
        for phi in range(8)
    ]
    note = f"{ALPHA} x {BETA}^2 x {GAMMA}^2 = {ALPHA * BETA**2 * GAMMA**2:.2f}, about 2: each step doubles the work."
    header = ["phi", "depth: 1.2^phi", "width: 1.1^phi", "resolution: 1.15^phi", "multiply-adds"]
    return Table("Compound scaling of EfficientNet", header, rows, note)


def show_large(number: int) -> str:
    """``0.39 G``, ``11.9 M``."""
    return f"{number / 1e9:.2f} G" if number >= 1e8 else f"{number / 1e6:.2f} M"


def show_shape(stage: Stage) -> str:
    """``32 x 7 x 7``."""
    return " x ".join(map(str, stage.shape))


def render(tables: list[Table], found: list[Facts], size: int) -> str:
    """The page."""
    drawn = [net for net in found if net.name in ("course's CNN", "LeNet-5", "ResNet-18")]
    charts = {
        net.name: Chart(
            draw_fields(net, size), f"What the middle value of each stage of {net.name} sees of a chest X-ray"
        )
        for net in drawn
    }
    template = Path(__file__).with_name("architectures.html.j2").absolute()
    return html.render_page(template, tables=tables, charts=html.inline_charts(charts), size=size)


def draw_fields(net: Facts, size: int) -> Figure:
    """Squares of the receptive fields of a net's stages, over a rendered radiograph."""
    image = (
        chest.render(torch.tensor([1]), rng=torch.Generator().manual_seed(0), size=max(size, 28)).images[0, 0].numpy()
    )
    figure, axes = make_small_axes(3.4, 3.8)
    axes.imshow(image, cmap="gray", extent=(0, size, size, 0))
    inside = [stage for stage in keep_changing(net.stages) if stage.field.size < size]
    for stage, colour in zip(inside, cycle(PALETTE), strict=False):
        side = stage.field.size
        corner = (size - side) / 2
        square = Rectangle((corner, corner), side, side, fill=False, edgecolor=colour, linewidth=1.5)
        square.set_label(f"{stage.name}: {side} px")
        axes.add_patch(square)
    axes.set(xlim=(0, size), ylim=(size, 0), xticks=[], yticks=[])
    add_legend_below(figure, axes, 2)
    return figure


if __name__ == "__main__":
    sys.exit(main())
