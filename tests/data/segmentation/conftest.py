"""Real files with masks, where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def external_file() -> Callable[[str], Path]:
    """``external_file("isbi2012_membranes.npz")``: a file of the folder of further real data; skipped where it is missing."""
    named = os.environ.get("MEDASSAY_EXTERNAL_ROOT")
    folder = Path(named).expanduser() if named else ROOT.parent / "shared" / "external"

    def find(name: str) -> Path:
        if not (folder / name).is_file():
            how = "MEDASSAY_EXTERNAL_ROOT" if named else "MEDASSAY_EXTERNAL_ROOT is not set"
            pytest.skip(f"no real data: {name} is not in {folder} ({how})")
        return folder / name

    return find
