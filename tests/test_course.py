"""The course's page and its notebooks: the same text and commands, no outputs, and every one runs without files or network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import load_script

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "course"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

notebooks = load_script("course_notebooks")


def test_the_notebooks_are_those_of_the_page() -> None:
    made = notebooks.make_notebooks((ROOT / "docs" / "course.md").read_text(encoding="utf-8"))
    present = {path.name: path.read_text(encoding="utf-8") for path in NOTEBOOKS}
    assert list(made) == list(present), "python scripts/course_notebooks.py --write"
    assert made == present, "python scripts/course_notebooks.py --write"


def test_a_section_becomes_text_commands_and_pictures() -> None:
    page = (
        "# The course\n\nWords.\n\n## A net, by hand (Ein Netz)\n\nSee [x](x.md) and [y](https://y).\n\n"
        "```\npython train.py a=1\npython evaluate.py\n```\n\nLook at `outputs/a/*.png` and `outputs/b.html`.\n\n"
        '<img src="images/a.png">\n\n## Without commands\n\nWords.\n'
    )
    ((name, text),) = notebooks.make_notebooks(page).items()
    cells = json.loads(text)["cells"]
    assert name == "01_a_net_by_hand.ipynb"
    assert all(cell.get("outputs", []) == [] for cell in cells)
    found = [("".join(cell["source"]), cell["cell_type"]) for cell in cells[1:]]
    assert found == [
        ("# A net, by hand (Ein Netz)", "markdown"),
        ("See [x](../x.md) and [y](https://y).", "markdown"),
        ("%%bash\nset -e\npython train.py a=1\npython evaluate.py", "code"),
        ("Look at `outputs/a/*.png` and `outputs/b.html`.", "markdown"),
        ('show("outputs/a/*.png")\nshow("outputs/b.html")', "code"),
        ('<img src="../images/a.png">', "markdown"),
    ]


@pytest.mark.long
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: str(path.stem))
def test_a_notebook_runs_from_beginning_to_end(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("train.py", "evaluate.py", "scripts", "conf", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = shutil.copytree(FOLDER, tmp_path / "docs" / "course")
    monkeypatch.setenv("MEDASSAY_DATA_ROOT", str(tmp_path / "empty"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("MEDASSAY_OUTPUTS", raising=False)
    content = nbformat.read(notebook, as_version=4)
    NotebookClient(content, timeout=600, resources={"metadata": {"path": str(folder)}}).execute()
    shown = [cell for cell in content.cells if cell.cell_type == "code" and cell.source.startswith("show(")]
    assert shown
    assert all(len(cell.outputs) == cell.source.count("show(") for cell in shown)
