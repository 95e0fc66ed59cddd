"""A page of every augmentation on one image of each class: how weak and how strong ones look, which are on, and why.

usage: python scripts/augmentations.py data=oct_phantom model=oct_classifier      (any set of images with one class each)

Leaves augmentations.html, and every image as PNG in images/, in outputs/augmentations/<name>_<id>/. What is on is the
configuration's; the reasons are the comments of its yaml files.
"""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from medassay import config as configuration
from medassay.cli.help import list_keys
from medassay.core.errors import UserError, advise, output_error
from medassay.core.files import write_text
from medassay.data.augment import BatchAugment
from medassay.data.modules import LabelledData
from medassay.reporting import html
from medassay.runs.compose import compose_training
from medassay.runs.load import build_data

# Three strengths of each, weak to strong; of a change that an image has or has not, that one
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "horizontal_flip": [{"horizontal_flip": 1}],
    "vertical_flip": [{"vertical_flip": 1}],
    "quarter_turn": [{"quarter_turn": 1}],
    "rotation": [{"rotation": degrees} for degrees in (7, 15, 30)],
    "translation": [{"translation": share} for share in (0.05, 0.1, 0.2)],
    "scale": [{"scale": share} for share in (0.1, 0.2, 0.4)],
    "contrast": [{"contrast": share} for share in (0.2, 0.4, 0.8)],
    "brightness": [{"brightness": shift} for shift in (0.1, 0.2, 0.4)],
    "colour": [{"colour": share} for share in (0.1, 0.2, 0.4)],
    "blur": [{"blur": 1}],
    "sharpen": [{"sharpen": 1}],
    "gaussian_noise": [{"gaussian_noise": deviation} for deviation in (0.03, 0.06, 0.12)],
    "poisson_noise": [{"poisson_noise": deviation} for deviation in (0.05, 0.1, 0.2)],
    "speckle_noise": [{"speckle_noise": deviation} for deviation in (0.1, 0.2, 0.4)],
    "salt_pepper": [{"salt_pepper": share} for share in (0.01, 0.03, 0.1)],
    "erasing": [{"erasing": 1, "erasing_size": size} for size in (0.2, 0.4, 0.6)],
}


class Row(NamedTuple):
    """One augmentation: its setting and why, and for each class a strip of images ``(1 + S, C, H, W) uint8``, as it comes and
    changed, weak to strong."""

    name: str
    setting: str
    is_on: bool
    reason: str
    strips: list[Tensor]

    @property
    def strengths(self) -> str:
        """``7, 15, 30``; empty where there is one kind."""
        options = STRENGTHS[self.name]
        return ", ".join(str(list(one.values())[-1]) for one in options) if len(options) > 1 else ""


def main() -> int:
    """Writes the page and the images; gives the exit code."""
    parser = argparse.ArgumentParser(description="A page of every augmentation on one image of each class.")
    parser.add_argument("overrides", nargs="*", help="data=… model=… as for train.py")
    arguments = parser.parse_args()
    try:
        cfg = compose_training(arguments.overrides)
        config = configuration.resolve(cfg)
        configuration.check({"data": config["data"]})
        data = build_data(config)
        rows = list(describe(data, cfg, config["data"].get("augment") or {}))
        directory = (
            Path(config["outputs"]) / "augmentations" / f"{configuration.make_slug(data.name)}_{secrets.token_hex(3)}"
        )
        with advise(
            full="free some space, then start this again", refused="choose another place with outputs=<directory>"
        ):
            write(directory, data, rows, arguments.overrides)
    except UserError as error:
        print(f"augmentations: {error}", file=sys.stderr)
        return 2
    print("on: " + (", ".join(f"{row.name}={row.setting}" for row in rows if row.is_on) or "nothing"))
    print(f"page: {directory / 'augmentations.html'}")
    return 0


def choose_originals(data: LabelledData) -> Tensor:
    """The first training image of each class that has one, ``(K, C, H, W) uint8``; of the others nothing is shown."""
    train = data.splits.train
    first = [(train.labels == label).nonzero()[:1, 0] for label in range(data.num_classes)]
    return train.images[torch.cat(first)]


def describe(data: LabelledData, cfg: Any, chosen: dict[str, Any]) -> Iterable[Row]:
    """A row for each augmentation that changes such images."""
    comments = {key.partition("=")[0]: comment for key, comment in list_keys("train", cfg)}
    originals = choose_originals(data).float() / 255
    for name, options in STRENGTHS.items():
        if name == "colour" and data.channels == 1:
            continue
        changed = [choose_originals(data)]
        for option in options:
            rng = torch.Generator().manual_seed(1)
            changed.append((BatchAugment(**option)(originals, rng=rng) * 255).round().to(torch.uint8))
        value = chosen.get(name, 0)
        strips = [torch.stack([images[k] for images in changed]) for k in range(len(originals))]
        yield Row(name, f"{value:g}", value > 0, comments.get(f"data.augment.{name}", ""), strips)


def write(directory: Path, data: LabelledData, rows: list[Row], overrides: list[str]) -> None:
    """Writes the images and the page."""
    train = data.splits.train
    present = [name for label, name in enumerate(data.classes) if bool((train.labels == label).any())]
    originals = choose_originals(data)
    try:
        (directory / "images").mkdir(parents=True, exist_ok=True)
        for k, name in enumerate(present):
            slug = configuration.make_slug(name)
            save_image(originals[k], directory / "images" / f"{slug}_original.png")
            for row in rows:
                for strength, image in enumerate(row.strips[k][1:], start=1):
                    save_image(image, directory / "images" / f"{slug}_{row.name}_{strength}.png")
    except OSError as error:
        raise output_error(error, directory) from error
    page = html.render_page(
        Path(__file__).with_name("augmentations.html.j2").absolute(),
        name=data.name,
        classes=present,
        rows=rows,
        command="python scripts/augmentations.py " + " ".join(overrides),
    )
    write_text(directory / "augmentations.html", page)


def save_image(image: Tensor, path: Path) -> None:
    """``image (C, H, W) uint8`` as PNG."""
    pixels = image[0] if image.shape[0] == 1 else image.permute(1, 2, 0)
    Image.fromarray(pixels.numpy()).save(path)


if __name__ == "__main__":
    sys.exit(main())
