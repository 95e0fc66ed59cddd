"""A page about any data set, before or after training on it: what is in it, what is in it twice, and what looks wrong.

usage: python scripts/check_data.py data=folder data.path=<directory>   (any set of images with one class each)
       python scripts/check_data.py run=<run directory>                 (the data of that run)

Leaves check.html and check.json in outputs/data/<name>_<id>/. The exit code is 0 also where faults are found.
"""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.ticker import MultipleLocator
from PIL import Image
from torch import Tensor

from medassay import config as configuration
from medassay.config.command_line import parse
from medassay.core.errors import ConfigError, UserError, advise
from medassay.core.files import write_json, write_text
from medassay.core.paths import expand_home
from medassay.core.types import Splits
from medassay.data.inspection import Inspection, Place, inspect_splits
from medassay.data.modules import LabelledData
from medassay.evaluation.about import describe_origin, flatten
from medassay.reporting import html
from medassay.reporting.charts import PALETTE, Chart, add_legend_below, make_small_axes
from medassay.reporting.tables import Table
from medassay.runs.compose import compose_training
from medassay.runs.directory import RunDirectory
from medassay.runs.load import apply_overrides, build_data

SHOWN = 24  # groups and pairs with pictures
NAMED = 6  # images named below a picture
EXAMPLES = 8  # images of each class
LISTED = 1000  # pairs in the JSON
MARKS = {"fault": "FAULT", "look": "look at", "good": "good"}


class Subject(NamedTuple):
    """What is looked at.

    Attributes:
        data: The data set.
        splits: Its images as they come from the source: all of them, without a stamp.
        inspection: What was found.
    """

    data: LabelledData
    splits: Splits
    inspection: Inspection

    def name(self, place: Place) -> str:
        """What an image is called: its file below the data's folder, or split and index."""
        files = self.data.source.list_files()
        if not files:
            return f"{place.split}[{place.position}]"
        file, top = files[place.split][place.position], expand_home(getattr(self.data.source, "path", ""))
        return file.relative_to(top).as_posix() if file.is_relative_to(top) else str(file)

    def picture(self, place: Place) -> Tensor:
        """``(1, C, H, W) uint8``."""
        images: Tensor = getattr(self.splits, place.split).images
        return images[place.position : place.position + 1]

    def describe(self, place: Place) -> str:
        """An image's name, its class and, where the name does not say it, its split."""
        return f"{self.name(place)} ({place.split}, {self.data.classes[place.label]})"


def main() -> int:
    """Writes the page and prints the main lines; gives the exit code."""
    parser = argparse.ArgumentParser(
        description="A page about a data set: counts, sizes, values, duplicates, and what looks wrong."
    )
    parser.add_argument(
        "overrides", nargs="*", help="data=… data.path=… as for train.py; or run=<run directory>: the data of that run"
    )
    arguments = parser.parse_args()
    try:
        data, outputs = load_data(arguments.overrides)
        splits = data.source.read(data.format)
        subject = Subject(data, splits, inspect_splits(splits, data.classes))
        directory = outputs / "data" / f"{configuration.make_slug(data.name)}_{secrets.token_hex(3)}"
        with advise(
            full="free some space, then start this again", refused="choose another place with outputs=<directory>"
        ):
            write_check(subject, directory, arguments.overrides)
    except UserError as error:
        print(f"check_data: {error}", file=sys.stderr)
        return 2
    print("\n".join(main_lines(subject)))
    print(f"page: {directory / 'check.html'}")
    return 0


def load_data(overrides: Sequence[str]) -> tuple[LabelledData, Path]:
    """The data set that ``overrides`` name, and the folder of outputs.

    Raises:
        UserError: one line for the first thing that is wrong.
    """
    runs = [text.partition("=")[2] for text in overrides if text.startswith("run=")]  # a path, whatever is in it
    others = [text for text in overrides if not text.startswith("run=")]
    for override in parse(others):
        if override.is_sweep_override() or (override.key_or_group in ("data", "model") and override.value() is None):
            raise ConfigError(f"{override.input_line}: name one data set, e.g. data=folder data.path=<directory>")
    if not runs:
        config = configuration.resolve(compose_training(others))
        configuration.check({"data": config["data"]})
        return build_data(config), Path(config["outputs"])
    if len(runs) > 1 or not runs[0]:
        raise ConfigError(f"run={runs[-1]}: give one run directory, e.g. run=outputs/pneumonia_cnn/<run>")
    own = [text for text in others if text.startswith("outputs=")]
    outputs = expand_home(str(compose_training(own).outputs))
    changes = {one.key_or_group: one.value() for one in parse([text for text in others if text not in own])}
    return build_data(apply_overrides(RunDirectory(runs[0]).config(), changes)), outputs


# --- what is written -------------------------------------------------------------------------------------------------


def write_check(subject: Subject, directory: Path, overrides: Sequence[str]) -> None:
    """Leaves ``check.json`` and ``check.html``.

    Raises:
        OutputError: a file cannot be written.
    """
    inspection, sizes = subject.inspection, count_sizes(subject.data)
    provenance = subject.data.provenance()
    command = shlex.join(["python", "scripts/check_data.py", *overrides])
    record = {
        "command": command,
        "data": provenance,
        "classes": subject.data.classes,
        "counts": inspection.counts,
        "findings": [finding._asdict() for finding in inspection.findings],
        "duplicates": inspection.duplicates,
        "identical": [[subject.describe(place) for place in group] for group in inspection.identical],
        "nearly_identical": [
            {"images": [subject.describe(place) for place in (first, second)], "distance": distance}
            for first, second, distance in inspection.near[:LISTED]
        ],
        "nearly_identical_pairs": len(inspection.near),
        "constant": [subject.describe(place) for place in inspection.constant],
        "sizes": {f"{width}x{height}": count for (width, height), count in sizes.most_common()},
        "values": {name: histogram.tolist() for name, histogram in inspection.histograms.items()},
    }
    write_json(directory / "check.json", record)
    charts = html.inline_charts(dict(draw_values(inspection.histograms)))
    warning = describe_origin(provenance.get("real", provenance)) if provenance.get("phantom") else None
    page = html.render_page(
        Path(__file__).with_name("check_data.html.j2").absolute(),
        subject=subject,
        inspection=inspection,
        lead=main_lines(subject)[0].partition(": ")[2],
        marks=MARKS,
        warnings=[warning] if warning else [],
        counts=tabulate_counts(subject),
        sizes=tabulate_sizes(sizes),
        charts=charts,
        examples=[choose_examples(subject, label) for label in range(len(subject.data.classes))],
        shown=SHOWN,
        named=NAMED,
        command=command,
        provenance=dict(flatten(provenance)),
    )
    write_text(directory / "check.html", page)


def main_lines(subject: Subject) -> list[str]:
    """The data set in a line, its classes, and what the checks found."""
    data, counts = subject.data, subject.inspection.counts
    kind = "grey" if data.channels == 1 else "RGB"
    lengths = " / ".join(str(sum(row)) for row in counts.values())
    total = sum(map(sum, counts.values()))
    classes = ", ".join(
        f"{name} {' / '.join(str(row[label]) for row in counts.values())}" for label, name in enumerate(data.classes)
    )
    findings = sorted(subject.inspection.findings, key=lambda finding: list(MARKS).index(finding.level))
    return [
        f"{data.name}: {total} images, {data.size}x{data.size} {kind}, {' / '.join(counts)} {lengths}",
        f"classes: {classes}",
        *(f"{MARKS[one.level]}: {one.check[0].lower()}{one.check[1:]}: {one.text}" for one in findings),
    ]


def count_sizes(data: LabelledData) -> Counter[tuple[int, int]]:
    """How many image files have which width and height, before they are cut and resized; empty where there are no files."""
    sizes: Counter[tuple[int, int]] = Counter()
    for file in (file for files in data.source.list_files().values() for file in files):
        try:
            with Image.open(file) as image:
                sizes[image.size] += 1
        except OSError:  # it was read in another way, whose sizes Pillow does not know
            continue
    return sizes


def tabulate_counts(subject: Subject) -> Table:
    """Images by class and split."""
    counts = subject.inspection.counts
    rows = [
        [name, *(f"{row[label]:,}" for row in counts.values()), f"{sum(row[label] for row in counts.values()):,}"]
        for label, name in enumerate(subject.data.classes)
    ]
    totals = [sum(row) for row in counts.values()]
    rows.append(["all", *(f"{total:,}" for total in totals), f"{sum(totals):,}"])
    return Table("Images per class", ["class", *counts, "all"], rows)


def tabulate_sizes(sizes: Mapping[tuple[int, int], int]) -> Table:
    """The most frequent sizes of files, and the smallest and the largest."""
    frequent = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    rows = [[f"{width} × {height}", f"{count:,}"] for (width, height), count in frequent[:SHOWN]]
    sides = [side for size in sizes for side in size]
    note = f"{len(sizes)} different sizes, sides from {min(sides)} to {max(sides)} pixels." if sides else ""
    return Table("Sizes of the files", ["width × height", "files"], rows, note)


def draw_values(histograms: Mapping[str, Tensor]) -> Iterator[tuple[str, Chart]]:
    """For each channel, the share of pixels that have each value, a line per split."""
    channels = next(iter(histograms.values())).shape[0]
    for channel, name in enumerate(("grey",) if channels == 1 else ("red", "green", "blue")):
        figure, axes = make_small_axes(3.8, 2.8)
        for colour, (split, histogram) in zip(PALETTE, histograms.items(), strict=False):
            share = histogram[channel].double() / histogram[channel].sum().clamp(min=1)
            axes.step(
                range(256), share.masked_fill(share == 0, torch.nan), where="mid", color=colour, lw=1.1, label=split
            )
        axes.set(yscale="log", xlim=(-4, 259), xlabel=f"{name} value", ylabel="share of pixels")
        axes.xaxis.set_major_locator(MultipleLocator(51))
        add_legend_below(figure, axes, 3)
        ends = ", ".join(
            f"{split} {100 * float(h[channel, 0] / h[channel].sum().clamp(min=1)):.1f} % and "
            f"{100 * float(h[channel, 255] / h[channel].sum().clamp(min=1)):.1f} %"
            for split, h in histograms.items()
        )
        yield f"values_{name}", Chart(figure, f"Pixels by {name} value. At 0 and at 255: {ends}.")


def choose_examples(subject: Subject, label: int) -> Tensor:
    """The first images of a class in train, ``(n, C, H, W) uint8``."""
    train = subject.splits.train
    return train.images[train.labels == label][:EXAMPLES]


if __name__ == "__main__":
    sys.exit(main())
