"""The page on the rooms and its drawing, which a script makes from the code."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers import load_script

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
ROOMS = sorted(path.parent.name for path in (ROOT / "src" / "medassay").glob("*/__init__.py"))


@pytest.fixture(scope="module")
def diagram() -> ModuleType:
    return load_script("architecture_diagram")


def test_the_pages_drawing_is_that_of_the_code(
    diagram: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["architecture_diagram.py", "--check"])
    assert (diagram.main(), capsys.readouterr().err) == (0, "")


def test_a_page_out_of_date_fails_the_check_and_is_written_anew(
    diagram: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{diagram.BEGIN}\nold\n{diagram.END}\nafter\n", encoding="utf-8")
    monkeypatch.setattr(diagram, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["architecture_diagram.py", "--check"])
    assert diagram.main() == 1
    assert "--write" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["architecture_diagram.py", "--write"])
    assert diagram.main() == 0
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{diagram.BEGIN}\n```mermaid\n")
    assert text.endswith(f"```\n{diagram.END}\nafter\n")
    monkeypatch.setattr("sys.argv", ["architecture_diagram.py", "--check"])
    assert diagram.main() == 0


def test_every_directory_of_the_package_is_a_room_in_the_table_and_in_the_order(diagram: ModuleType) -> None:
    directories = sorted(
        path.name for path in (ROOT / "src" / "medassay").iterdir() if path.is_dir() and path.name != "__pycache__"
    )
    in_table = re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert directories == ROOMS
    assert in_table == diagram.read_rooms(ROOT / "pyproject.toml")
    assert sorted(in_table) == directories


def test_imports_are_those_between_rooms_in_all_their_forms(diagram: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "medassay"
    texts = {
        "top": "from medassay import middle as m\nimport medassay.low.part\nimport torch\n",
        "middle": "def later() -> None:\n    from medassay.low.part import value\n",
        "low": "from medassay.low import part\nfrom medassay import __version__\n",
    }
    for room, text in texts.items():
        (package / room / "inner").mkdir(parents=True)
        (package / room / "__init__.py").touch()
        (package / room / "inner" / "module.py").write_text(text)
    assert diagram.find_imports(package) == {"top": {"middle", "low"}, "middle": {"low"}, "low": set()}


def test_an_import_that_follows_from_others_has_no_arrow(diagram: ModuleType) -> None:
    imports = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"c"}, "e": set()}
    assert diagram.remove_implied(imports) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": {"c"}, "e": set()}


def test_a_drawing_is_mermaid_text_in_the_order_of_the_rooms(diagram: ModuleType) -> None:
    drawn = diagram.draw(["top", "low"], {"low": set(), "top": {"low"}})
    assert drawn == "```mermaid\nflowchart TD\n    top\n    low\n    top --> low\n```"


def test_the_order_is_read_from_the_contract_whatever_stands_side_by_side(diagram: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\ntype = "forbidden"\n'
        '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["medassay.a", "medassay.b | medassay.c"]\n'
    )
    assert diagram.read_rooms(tmp_path / "pyproject.toml") == ["a", "b", "c"]


def test_a_page_without_its_marks_is_refused(diagram: ModuleType) -> None:
    with pytest.raises(ValueError, match="once each"):
        diagram.replace_drawing("no marks", "```mermaid\n```")
