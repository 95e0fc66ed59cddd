"""Convolution step by step, in numbers that can be checked by hand: kernels, padding, stride, pooling, transposed convolution.

usage: python scripts/convolutions.py [--out outputs/convolutions]

Leaves convolutions.html and convolutions.md. Everything is computed here from the sums of the definitions, and compared with
torch and SciPy. What a value of a net's feature map sees of the image, its receptive field: scripts/architectures.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.signal import convolve2d, correlate2d
from torch.nn import functional as F

from medassay.core.errors import OutputError, advise
from medassay.core.files import write_text
from medassay.reporting import html

Numbers = np.ndarray  # (rows, columns) int64

SMALL = np.array([[1, 2, 0, 1], [0, 1, 3, 1], [2, 0, 1, 0], [1, 1, 0, 2]])
KERNEL = np.array([[1, 2, 0], [0, 1, 0], [0, 0, -1]])
CROSS = np.maximum(np.eye(7, dtype=int), np.eye(7, dtype=int)[::-1])
DIAGONAL = np.eye(3, dtype=int)
COARSE = np.array([[1, 2], [3, 4]])
STAMP = np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]])


class Matrix(NamedTuple):
    """Numbers with what they are, and the cells that are set apart, as ``(row, column)``."""

    title: str
    values: Numbers
    marked: Sequence[tuple[int, int]] = ()


class Section(NamedTuple):
    """One topic: sentences, matrices, and comparisons with libraries, each right or wrong."""

    id: str
    title: str
    text: Sequence[str]
    matrices: Sequence[Matrix]
    checks: Sequence[tuple[str, bool]]


def main() -> int:
    """Writes the page and the text; gives the exit code."""
    parser = argparse.ArgumentParser(description="Convolution step by step, in numbers that can be checked by hand.")
    parser.add_argument("--out", type=Path, default=Path("outputs/convolutions"), help="folder of the two files")
    arguments = parser.parse_args()
    sections = [show_kernels(), show_sizes(), show_pooling(), show_transposed(), show_checkerboard()]
    text = "\n\n".join(map(to_markdown, sections)) + "\n"
    try:
        with advise(full="free some space, then start this again", refused="choose another place with --out <folder>"):
            write_text(arguments.out / "convolutions.md", text)
            page = html.render_page(Path(__file__).with_name("convolutions.html.j2").absolute(), sections=sections)
            write_text(arguments.out / "convolutions.html", page)
    except OutputError as error:
        print(f"convolutions: {error}", file=sys.stderr)
        return 2
    print(text)
    print(f"page: {arguments.out / 'convolutions.html'}")
    wrong = [name for section in sections for name, right in section.checks if not right]
    for name in wrong:
        print(f"convolutions: differs from the library: {name}", file=sys.stderr)
    return int(bool(wrong))


# --- the operations, as they are defined -----------------------------------------------------------------------------


def correlate(image: Numbers, kernel: Numbers, stride: int = 1, padding: int = 0) -> Numbers:
    """Cross-correlation: at each place the sum of kernel times what lies below it."""
    padded = np.pad(image, padding)
    k = len(kernel)
    places = range(0, len(padded) - k + 1, stride)
    return np.array([[(kernel * padded[i : i + k, j : j + k]).sum() for j in places] for i in places])


def convolve(image: Numbers, kernel: Numbers) -> Numbers:
    """Convolution: the same with the kernel turned by 180 degrees."""
    return correlate(image, kernel[::-1, ::-1])


def pool(values: Numbers, size: int = 2) -> tuple[Numbers, list[tuple[int, int]]]:
    """Max pooling without overlap: the largest value of each square, and its switch, the place where it was found; of equal
    values the first. Rows and columns that fill no square are left out."""
    largest, switches = [], []
    for i in range(0, len(values) - size + 1, size):
        for j in range(0, len(values) - size + 1, size):
            row, column = np.unravel_index(values[i : i + size, j : j + size].argmax(), (size, size))
            switches.append((int(i + row), int(j + column)))
            largest.append(values[switches[-1]])
    side = len(values) // size
    return np.array(largest).reshape(side, side), switches


def unpool(pooled: Numbers, switches: Sequence[tuple[int, int]], side: int) -> Numbers:
    """Each value at its switch, 0 elsewhere."""
    values = np.zeros((side, side), dtype=int)
    for value, place in zip(pooled.flat, switches, strict=True):
        values[place] = value
    return values


def stamp(values: Numbers, kernel: Numbers, stride: int) -> list[Numbers]:
    """Transposed convolution step by step: for each value, the kernel times it at its place; their sum is the output."""
    n, k = len(values), len(kernel)
    steps = []
    for i in range(n):
        for j in range(n):
            step = np.zeros(((n - 1) * stride + k,) * 2, dtype=int)
            step[i * stride : i * stride + k, j * stride : j * stride + k] = values[i, j] * kernel
            steps.append(step)
    return steps


# --- topics ----------------------------------------------------------------------------------------------------------


def show_kernels() -> Section:
    """Convolution against cross-correlation."""
    crossed, convolved, flipped = correlate(SMALL, KERNEL), convolve(SMALL, KERNEL), KERNEL[::-1, ::-1]
    impulse = np.zeros((5, 5), dtype=int)
    impulse[2, 2] = 1
    text = [
        "Cross-correlation lays the kernel on the image as it is; convolution turns it by 180 degrees first. torch's conv2d, "
        "like every deep learning library's, is cross-correlation: a net that learns its kernels does not mind.",
        f"First value of the cross-correlation: {spell(KERNEL, SMALL[:3, :3])} = {crossed[0, 0]}. Of the convolution: "
        f"{spell(flipped, SMALL[:3, :3])} = {convolved[0, 0]}.",
        "Of an image with a single 1, convolution gives the kernel itself, cross-correlation the turned one.",
    ]
    matrices = [
        Matrix("image", SMALL),
        Matrix("kernel", KERNEL),
        Matrix("kernel, turned", flipped),
        Matrix("cross-correlation", crossed),
        Matrix("convolution", convolved),
        Matrix("a single 1", impulse),
        Matrix("… cross-correlated", correlate(impulse, KERNEL)),
        Matrix("… convolved", convolve(impulse, KERNEL)),
    ]
    checks = [
        ("cross-correlation = torch conv2d", same(crossed, run_conv2d(SMALL, KERNEL))),
        ("cross-correlation = scipy.signal.correlate2d", same(crossed, correlate2d(SMALL, KERNEL, mode="valid"))),
        ("convolution = scipy.signal.convolve2d", same(convolved, convolve2d(SMALL, KERNEL, mode="valid"))),
        ("convolution = torch conv2d with the turned kernel", same(convolved, run_conv2d(SMALL, flipped))),
    ]
    return Section("kernels", "Convolution and cross-correlation", text, matrices, checks)


def show_sizes() -> Section:
    """Padding and stride on a cross of 7x7 pixels."""
    cases = [(1, 0), (1, 1), (2, 0), (2, 1)]
    maps = {case: correlate(CROSS, DIAGONAL, *case) for case in cases}
    text = [
        "A cross of 7×7 pixels and a 3×3 kernel that looks for one of its two diagonals (cross-correlation). The output has "
        "⌊(7 + 2 · padding − 3) / stride⌋ + 1 values a side.",
        "The kernel answers 3 where the whole diagonal lies below it, and less where it meets the other line.",
    ]
    matrices = [Matrix("image", CROSS), Matrix("kernel", DIAGONAL)]
    checks = []
    for (stride, padding), values in maps.items():
        side = (7 + 2 * padding - 3) // stride + 1
        matrices.append(Matrix(f"stride {stride}, padding {padding}: {side}×{side}", values, find_largest(values)))
        right = same(values, run_conv2d(CROSS, DIAGONAL, stride, padding)) and len(values) == side
        checks.append((f"stride {stride}, padding {padding} = torch conv2d", right))
    return Section("sizes", "Padding and stride", text, matrices, checks)


def show_pooling() -> Section:
    """Max pooling with switches, and unpooling."""
    values = correlate(CROSS, DIAGONAL, padding=1)
    pooled, switches = pool(values)
    back = unpool(pooled, switches, len(values))
    places = ", ".join(f"({row + 1}, {column + 1})" for row, column in switches)
    text = [
        "Max pooling of 2×2 keeps the largest value of each square and remembers where it was: its switch. Of equal values the "
        "first counts; the seventh row and column fill no square and are left out.",
        f"Switches, as (row, column) from 1: {places}. Unpooling puts each value back to its switch; everything else is 0.",
    ]
    matrices = [
        Matrix("map (padding 1), switches set apart", values, switches),
        Matrix("pooled", pooled),
        Matrix("unpooled", back, switches),
    ]
    tensor = torch.from_numpy(values)[None, None].double()
    reference, indices = F.max_pool2d(tensor, 2, return_indices=True)
    restored = F.max_unpool2d(reference, indices, 2, output_size=tensor.shape[2:])
    flat = [row * len(values) + column for row, column in switches]
    checks = [
        ("pooled = torch max_pool2d", same(pooled, reference[0, 0].numpy())),
        ("switches = torch's indices", indices.flatten().tolist() == flat),
        ("unpooled = torch max_unpool2d", same(back, restored[0, 0].numpy())),
    ]
    return Section("pooling", "Max pooling and its switches", text, matrices, checks)


def show_transposed() -> Section:
    """Transposed convolution: stamps and their sum."""
    text = [
        "Each input value stamps the kernel, times itself, onto the output; neighbours' stamps lie stride pixels apart, and "
        "where they overlap they add. The output has (2 − 1) · stride + 3 values a side."
    ]
    matrices, checks = [Matrix("input", COARSE), Matrix("kernel", STAMP)], []
    for stride in (1, 2):
        steps = stamp(COARSE, STAMP, stride)
        total = sum(steps, np.zeros_like(steps[0]))
        names = [f"stride {stride}: {value} × kernel" for value in COARSE.flat]
        matrices += [
            Matrix(name, step, list(zip(*step.nonzero(), strict=True))) for name, step in zip(names, steps, strict=True)
        ]
        matrices.append(Matrix(f"stride {stride}: their sum", total))
        checks.append((f"stride {stride} = torch conv_transpose2d", same(total, run_transposed(COARSE, STAMP, stride))))
    return Section("transposed", "Transposed convolution, step by step", text, matrices, checks)


def show_checkerboard() -> Section:
    """How often each output pixel is stamped."""
    ones = np.ones((4, 4), dtype=int)
    boards = {k: sum(stamp(ones, np.ones((k, k), dtype=int), 2)) for k in (3, 4)}
    inner = {k: sorted({int(value) for value in board[2:-2, 2:-2].flat}) for k, board in boards.items()}
    text = [
        "An input of ones and a kernel of ones show how many stamps each output pixel gets. A kernel of 3 with stride 2 leaves "
        f"a checkerboard: inside, {', '.join(map(str, inner[3]))}. A kernel whose size is a multiple of the stride does not: "
        f"with 4, inside, {', '.join(map(str, inner[4]))} everywhere (Odena et al. 2016, doi:10.23915/distill.00003)."
    ]
    matrices = [Matrix(f"kernel {k}×{k}, stride 2", board) for k, board in boards.items()]
    checks = [
        (f"kernel {k} = torch conv_transpose2d", same(board, run_transposed(ones, np.ones((k, k), dtype=int), 2)))
        for k, board in boards.items()
    ]
    return Section("checkerboard", "The checkerboard", text, matrices, checks)


# --- words and comparisons -------------------------------------------------------------------------------------------


def spell(kernel: Numbers, patch: Numbers) -> str:
    """``1·1 + 2·2``: the products that are added, those with a 0 in the kernel left out."""
    return " + ".join(f"{k}·{v}" if k > 0 else f"({k})·{v}" for k, v in zip(kernel.flat, patch.flat, strict=True) if k)


def find_largest(values: Numbers) -> list[tuple[int, int]]:
    """Where the largest value stands."""
    return [(int(row), int(column)) for row, column in np.argwhere(values == values.max())]


def same(values: Numbers, others: Numbers) -> bool:
    """Whether all numbers are the same."""
    return values.shape == others.shape and bool(np.allclose(values, others, rtol=0, atol=1e-9))


def run_conv2d(image: Numbers, kernel: Numbers, stride: int = 1, padding: int = 0) -> Numbers:
    """torch's answer."""
    maps = F.conv2d(*(torch.from_numpy(x.copy())[None, None].double() for x in (image, kernel)), None, stride, padding)
    return maps[0, 0].numpy()


def run_transposed(values: Numbers, kernel: Numbers, stride: int) -> Numbers:
    """torch's answer."""
    tensors = (torch.from_numpy(x)[None, None].double() for x in (values, kernel))
    return F.conv_transpose2d(*tensors, None, stride)[0, 0].numpy()


def to_markdown(section: Section) -> str:
    """A section as text, the numbers in columns."""
    parts = [f"## {section.title}", *section.text]
    for matrix in section.matrices:
        width = max(len(str(value)) for value in matrix.values.flat)
        rows = "\n".join(" ".join(str(value).rjust(width) for value in row) for row in matrix.values)
        parts.append(f"{matrix.title}\n\n```\n{rows}\n```")
    parts += ["\n".join(f"- {name}: {'yes' if right else 'NO'}" for name, right in section.checks)]
    return "\n\n".join(parts)


if __name__ == "__main__":
    sys.exit(main())
