"""Notebooks run from top to bottom, and are committed without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
NOTEBOOKS = sorted((PROJECT / "notebooks").glob("*.ipynb"))
SHOWN = {
    "01_quickstart": "joint",
    "02_cross_residuals": "cross weight 0.1 -> noun",
    "03_your_own_pictures": "new-3.png -> is not a whole JPEG",
    "04_vso": "blue_bar       -> ",
}


def code_cells(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_from_top_to_bottom(path, tmp_path):
    """As one program, since a notebook's cells are plain Python here."""
    source = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "HOME": str(tmp_path)}
    del environment["XLA_FLAGS"]
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for words in (SHOWN[path.stem], " -> "):
        assert words in done.stdout


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_begins_with_what_it_is_and_how_to_install(path):
    first, install = json.loads(path.read_text("utf-8"))["cells"][:2]
    assert "".join(first["source"]).startswith("# ")
    assert "%pip install" in "".join(install["source"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path):
    for cell in code_cells(path):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
