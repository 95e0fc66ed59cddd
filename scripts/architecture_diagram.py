"""The drawing of the rooms in docs/architecture.md, from the order in pyproject.toml and the imports in src/medassay.

usage: python scripts/architecture_diagram.py [--write | --check]

Prints the drawing, a Mermaid flowchart. `--write` puts it into the page; `--check` exits with 1 where the page shows another.
An arrow means "imports"; it is left out where a longer way of arrows leads from the one room to the other.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
PACKAGE = ROOT / "src" / "medassay"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- written by scripts/architecture_diagram.py --write -->"
END = "<!-- end of the drawing -->"


def main() -> int:
    """Prints, writes or checks the drawing; gives the exit code."""
    parser = argparse.ArgumentParser(description="The drawing of the rooms in docs/architecture.md.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the drawing into the page")
    action.add_argument("--check", action="store_true", help="exit with 1 where the page shows another")
    arguments = parser.parse_args()
    drawing = draw(read_rooms(PYPROJECT), remove_implied(find_imports(PACKAGE)))
    if not (arguments.write or arguments.check):
        print(drawing)
        return 0
    page = PAGE.read_text(encoding="utf-8")
    current = replace_drawing(page, drawing)
    if arguments.write:
        PAGE.write_text(current, encoding="utf-8")
    elif page != current:
        print(f"{PAGE.name} is out of date: python scripts/architecture_diagram.py --write", file=sys.stderr)
        return 1
    return 0


def read_rooms(pyproject: Path) -> list[str]:
    """The rooms in the order of the contract, highest first."""
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [room for layer in layers for room in re.findall(r"medassay\.(\w+)", layer)]


def find_imports(package: Path) -> dict[str, set[str]]:
    """For each room, a directory of ``package``, the other rooms that its modules import."""
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    imports: dict[str, set[str]] = {}
    for room in sorted(rooms):
        names: set[str] = set()
        for path in (package / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names.update(_list_imported_modules(node))
        found = {parts[1] for name in names if (parts := name.split("."))[0] == package.name and len(parts) > 1}
        imports[room] = (found & rooms) - {room}
    return imports


def _list_imported_modules(node: ast.AST) -> list[str]:
    """Dotted names that an import statement makes known, e.g. ``medassay.core.files``; empty for other statements."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def remove_implied(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports without those that follow from others: the transitive reduction of a graph without circles."""

    def reach(room: str) -> set[str]:
        return imports[room].union(*(reach(lower) for lower in imports[room]))

    return {room: lower - {name for other in lower for name in reach(other)} for room, lower in sorted(imports.items())}


def draw(rooms: Sequence[str], imports: Mapping[str, set[str]]) -> str:
    """The drawing as a fenced block of Mermaid text; rooms and arrows in the order of ``rooms``."""
    arrows = [f"    {room} --> {lower}" for room in rooms for lower in rooms if lower in imports[room]]
    return "\n".join(["```mermaid", "flowchart TD", *(f"    {room}" for room in rooms), *arrows, "```"])


def replace_drawing(page: str, drawing: str) -> str:
    """``page`` with ``drawing`` between its two marks.

    Raises:
        ValueError: The page has not both marks, once each.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page needs the lines {BEGIN} and {END}, once each")
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{drawing}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    sys.exit(main())
