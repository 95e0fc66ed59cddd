"""The sections of docs/course.md as notebooks in docs/course/: text, commands and the pictures that they make.

usage: python scripts/course_notebooks.py --write | --check

A command block becomes a cell that runs it, and ``outputs/…`` in a line that begins with "Look at" a cell that shows the file.
Notebooks hold no outputs: what they show is made where they are run.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medassay.core.files import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "course.md"
FOLDER = ROOT / "docs" / "course"
BLOCK = re.compile(r"^```\n(.*?)^```\n", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"`(outputs/[^`]+)`")
START = '''import os
import sys
from pathlib import Path

from IPython.display import Image, display

# The folder with train.py, whose commands run with this notebook's Python
os.chdir(next(folder for folder in [Path.cwd(), *Path.cwd().parents] if (folder / "train.py").exists()))
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def show(pattern):
    """Shows the newest picture that fits the pattern, and names any other file."""
    path = max(Path().glob(pattern), key=lambda path: path.stat().st_mtime)
    display(Image(filename=str(path)) if path.suffix in (".png", ".gif") else str(path))'''


def main() -> int:
    """Writes or checks the notebooks; gives the exit code."""
    parser = argparse.ArgumentParser(description="The sections of docs/course.md as notebooks in docs/course/.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--write", action="store_true", help="write them anew and remove those of sections that are gone")
    task.add_argument("--check", action="store_true", help="exit with 1 where they are not those of the page")
    arguments = parser.parse_args()
    made = make_notebooks(PAGE.read_text(encoding="utf-8"))
    present = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.ipynb")}
    if arguments.check:
        if made == present:
            return 0
        print(
            "docs/course/ is not what docs/course.md says: python scripts/course_notebooks.py --write", file=sys.stderr
        )
        return 1
    for name in present.keys() - made.keys():
        (FOLDER / name).unlink()
    for name, text in made.items():
        write_text(FOLDER / name, text)
    print(f"{len(made)} notebooks in {FOLDER.relative_to(ROOT)}/")
    return 0


def make_notebooks(page: str) -> dict[str, str]:
    """A notebook for each section with commands: ``{file name: JSON}``, numbered in the order of the page."""
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    with_commands = [section for section in sections if BLOCK.search(section)]
    return {
        f"{number:02d}_{name_file(section.partition(chr(10))[0])}.ipynb": make_notebook("# " + section)
        for number, section in enumerate(with_commands, 1)
    }


def name_file(heading: str) -> str:
    """``A net by hand (Ein Netz von Hand)`` as ``a_net_by_hand``."""
    return re.sub(r"\W+", "_", heading.partition("(")[0].lower()).strip("_")


def make_notebook(section: str) -> str:
    """One section as a notebook, in JSON."""
    cells = [make_cell("code", START), *list_cells(section)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def list_cells(section: str) -> Iterator[dict[str, Any]]:
    """Text, commands and pictures in their order."""
    for position, part in enumerate(BLOCK.split(section)):
        if position % 2:
            yield make_cell("code", "%%bash\nset -e\n" + part.rstrip())
            continue
        for paragraph in re.split(r"(?<=\n)\n", part):
            if not (text := paragraph.strip()):
                continue
            yield make_cell("markdown", move_links(text))
            if text.startswith("Look at"):
                shown = [f'show("{path}")' for path in SHOWN.findall(text)]
                yield make_cell("code", "\n".join(shown))


def make_cell(kind: str, source: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "id": "", "metadata": {}, "source": source.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def move_links(text: str) -> str:
    """Links of a page in docs/ as those of a notebook in docs/course/."""
    text = re.sub(r"\]\((?!https?://|#)", "](../", text)
    return re.sub(r"\]\(#", "](../course.md#", text).replace('<img src="', '<img src="../')


if __name__ == "__main__":
    sys.exit(main())
