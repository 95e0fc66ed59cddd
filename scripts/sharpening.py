"""A small net learns to sharpen chest phantoms, and then sharpens other images, too: which of the detail is true?

usage: python scripts/sharpening.py [--seed 0] [--out outputs/sharpening]

It learns to double the sides of 14x14 images by squared error (after SRCNN, Dong et al. 2016, arXiv:1501.00092, with bicubic
enlargement as its start, Kim et al. 2016, arXiv:1511.04587), in under a minute on one thread. Leaves sharpening.html,
sharpening.md and sharpening.png.
"""

from __future__ import annotations

import argparse
import string
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional as F

from medassay.core.errors import OutputError, advise
from medassay.core.estimate import Estimate
from medassay.core.files import write_text
from medassay.core.progress import track
from medassay.data.phantoms import blood, chest
from medassay.metrics.estimates import mean_over_images
from medassay.metrics.reconstruction import measure_psnr
from medassay.reporting import html
from medassay.reporting.figures import draw_image_grid, save_figure
from medassay.reporting.numbers import format_fixed, format_with_bounds
from medassay.reporting.tables import Table

SIDE = 28  # pixels; half as many go in
TRAIN, TEST = 2000, 200  # images
STEPS, BATCH = 1200, 32
COLUMNS = ("original", "enlarged (bicubic)", "sharpened by the net", "sharpened − original")


class Sharpener(nn.Module):
    """Images ``(B, 1, 14, 14)`` in [0, 1] to ``(B, 1, 28, 28)``: bicubic enlargement, and what three convolutions add to it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, padding_mode="replicate"),
            nn.ReLU(),
            nn.Conv2d(16, 1, 5, padding=2, padding_mode="replicate"),
        )

    def forward(self, small: Tensor) -> Tensor:
        enlarged = enlarge(small)
        added: Tensor = self.layers(enlarged - 0.5)
        return enlarged + added


class Outcome(NamedTuple):
    """What came of images of one kind.

    Attributes:
        kind: What they show.
        psnr: Of the net's images and of bicubic ones, in dB: each image's.
        found: Of the detail that the net adds, the share that the original has, by image; see :func:`find_in_original`.
        chance: The same where the original is another image's.
        shown: The first image in the four :data:`COLUMNS`, ``(4, 1, H, W)``.
    """

    kind: str
    psnr: tuple[Tensor, Tensor]
    found: Tensor
    chance: Tensor
    shown: Tensor


def main() -> int:
    """Trains, measures, writes the page; gives the exit code."""
    parser = argparse.ArgumentParser(description="A small net that sharpens images, and what it invents.")
    parser.add_argument("--seed", type=int, default=0, help="seed of images and weights (default: 0)")
    parser.add_argument("--out", type=Path, default=Path("outputs/sharpening"), help="folder of the three files")
    arguments = parser.parse_args()
    rng = torch.Generator().manual_seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    train, kinds = draw_chests(TRAIN, rng), draw_kinds(rng)
    begun = time.process_time()
    net = train_net(train)
    seconds = time.process_time() - begun
    outcomes = [judge(kind, net, images) for kind, images in kinds.items()]
    parameters = sum(weights.numel() for weights in net.parameters())
    lead = (
        f"{parameters:,} parameters, {STEPS} steps on {TRAIN} chest phantoms, {seconds:.0f} s of computing; "
        f"{TEST} other images of each kind."
    )
    table = tabulate(outcomes)
    try:
        with advise(full="free some space, then start this again", refused="choose another place with --out <folder>"):
            write(arguments.out, lead, table, outcomes)
    except OutputError as error:
        print(f"sharpening: {error}", file=sys.stderr)
        return 2
    print(f"{lead}\n\n{table.to_markdown()}\npage: {arguments.out / 'sharpening.html'}")
    return 0


# --- images ----------------------------------------------------------------------------------------------------------


def draw_chests(n: int, rng: torch.Generator) -> Tensor:
    """Chest phantoms ``(n, 1, 28, 28) float32`` in [0, 1]."""
    return chest.render(torch.arange(n) % len(chest.CLASSES), rng=rng, size=SIDE).images.float() / 255


def draw_kinds(rng: torch.Generator) -> dict[str, Tensor]:
    """Images by what they show, :data:`TEST` of each: chests that the net has not seen, and what it has never seen."""
    chests = draw_chests(TEST, rng)
    cells = blood.render(torch.arange(TEST) % len(blood.CLASSES), rng=rng, size=SIDE).images.float() / 255
    return {
        "chests, as in training": chests,
        "the same chests, without detail": shrink(chests).repeat_interleave(2, 2).repeat_interleave(2, 3),
        "blood cells, grey": cells.mean(1, keepdim=True),
        "letters": draw_letters(TEST, rng),
        "noise": torch.rand(TEST, 1, SIDE, SIDE, generator=rng),
    }


def draw_letters(n: int, rng: torch.Generator) -> Tensor:
    """Six random letters on each image, white on black."""
    font, images = ImageFont.load_default(size=12), []
    for codes in torch.randint(26, (n, 2, 3), generator=rng).tolist():
        picture = Image.new("L", (SIDE, SIDE))
        for line, row in enumerate(codes):
            text = "".join(string.ascii_uppercase[code] for code in row)
            ImageDraw.Draw(picture).text((1, 1 + 13 * line), text, fill=255, font=font)
        images.append(torch.from_numpy(np.array(picture, dtype=np.float32)) / 255)
    return torch.stack(images)[:, None]


def shrink(images: Tensor) -> Tensor:
    """Half the sides: each pixel is the mean of four."""
    return F.avg_pool2d(images, 2)


def enlarge(small: Tensor) -> Tensor:
    """Twice the sides, bicubic."""
    return F.interpolate(small, scale_factor=2, mode="bicubic", align_corners=False)


# --- learning and judging --------------------------------------------------------------------------------------------


def train_net(images: Tensor) -> Sharpener:
    """A net that turns small images into ``images`` as well as it can by squared error."""
    net = Sharpener()
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in track(range(STEPS), "training", "steps"):
        batch = images[torch.randint(len(images), (BATCH,))]
        optimizer.zero_grad()
        F.mse_loss(net(shrink(batch)), batch).backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def judge(kind: str, net: nn.Module, images: Tensor) -> Outcome:
    """What the net makes of ``images (N, 1, H, W)`` when it sees them at half their sides."""
    small = shrink(images)
    enlarged = enlarge(small)
    sharpened = net(small)
    added, missing = sharpened - enlarged, images - enlarged
    difference = 0.5 + (sharpened - images)
    return Outcome(
        kind,
        (measure_psnr(sharpened.clamp(0, 1), images), measure_psnr(enlarged.clamp(0, 1), images)),
        find_in_original(added, missing),
        find_in_original(added, missing.roll(1, 0)),
        torch.cat([part[:1] for part in (images, enlarged, sharpened, difference)]).clamp(0, 1),
    )


def find_in_original(added: Tensor, missing: Tensor) -> Tensor:
    """How much of the ``added`` detail the original has, by image, ``(N,)``: the slope of the missing detail on the added one.

    1: all of it; 0: none, it is invented; below 0: the original has the opposite. The squared error falls by (2 slope - 1)
    times the energy of what was added, so adding it helps from 0.5 on, as long as no value is cut to [0, 1].

    Args:
        added: What the net put onto the enlarged image, ``(N, 1, H, W)``.
        missing: What the original has and the enlarged image has not.
    """
    return (added * missing).sum((1, 2, 3)) / added.square().sum((1, 2, 3))


# --- what is written -------------------------------------------------------------------------------------------------


def tabulate(outcomes: list[Outcome]) -> Table:
    """A row for each kind of image."""

    def show(scores: Tensor, places: int) -> str:
        estimate: Estimate = mean_over_images(scores)
        return format_with_bounds(estimate, places)

    rows = [
        [
            one.kind,
            *(f"{format_fixed(float(psnr.mean()), 1)} ± {format_fixed(float(psnr.std()), 1)}" for psnr in one.psnr),
            show(one.psnr[0] - one.psnr[1], 2),
            show(one.found, 2),
            format_fixed(float(one.chance.mean()), 2),
        ]
        for one in outcomes
    ]
    header = ["images", "PSNR of the net, dB", "of bicubic, dB", "difference", "found in the original", "by chance"]
    note = (
        "PSNR: mean ± standard deviation over images. Found in the original: how much of the detail that the net adds to the "
        "bicubic image the original has (1: all, 0: none, it is invented; below 0.5 the squared error gets larger, as long as "
        "no value is cut to black or white). By chance: measured with another image's original. In brackets 95 % bootstrap "
        "intervals over images."
    )
    return Table("Sharpened images", header, rows, note)


def write(folder: Path, lead: str, table: Table, outcomes: list[Outcome]) -> None:
    """Leaves the page, the text and the picture."""
    write_text(folder / "sharpening.md", f"{lead}\n\n{table.to_markdown()}\n")
    grid = draw_image_grid(
        torch.cat([one.shown for one in outcomes]),
        columns=len(COLUMNS),
        row_labels=[one.kind for one in outcomes],
        column_labels=COLUMNS,
        scale=4,
    )
    save_figure(grid, folder / "sharpening.png")
    strips = {one.kind: [(image[None] * 255).round().to(torch.uint8) for image in one.shown] for one in outcomes}
    template = Path(__file__).with_name("sharpening.html.j2").absolute()
    page = html.render_page(template, lead=lead, table=table, strips=strips, columns=COLUMNS)
    write_text(folder / "sharpening.html", page)


if __name__ == "__main__":
    sys.exit(main())
