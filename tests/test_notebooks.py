"""Notebooks run from top to bottom, and are committed with figures alone."""

import base64
import json
import os
import re
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
    """As one program, since a notebook's cells are plain Python here.

    It trains for one epoch: more would not tell whether it runs.
    """
    source = "\n".join("".join(cell["source"]) for cell in code_cells(path))
    source, trainings = re.subn(r'("train.epochs"\W+)\d+', r"\g<1>1", source)
    assert trainings == 1
    (tmp_path / "configs").symlink_to(PROJECT / "configs")
    environment = os.environ | {
        "PYTHONPATH": str(PROJECT),
        "HOME": str(tmp_path),
        "MPLBACKEND": "Agg",
        # Quick to compile, and one device, unlike in these tests.
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
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
def test_notebook_begins_with_what_it_is_and_how_to_open_it(path):
    first = json.loads(path.read_text("utf-8"))["cells"][0]
    title, _, badge = "".join(first["source"]).splitlines()[:3]
    assert title.startswith("# ")
    assert badge == (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        "(https://colab.research.google.com/#upload=true)"
    )


def test_notebooks_install_in_the_same_way():
    cells = {"".join(code_cells(path)[0]["source"]) for path in NOTEBOOKS}
    assert len(cells) == 1
    for path in NOTEBOOKS:
        assert json.loads(path.read_text("utf-8"))["cells"][1]["cell_type"] == "code"


def run_install_cell(folder):
    """In a Python that lacks the package, with a pip that says what it is given."""
    (folder / "pip.py").write_text("import sys; print(*sys.argv[1:])")
    source = "".join(code_cells(NOTEBOOKS[0])[0]["source"])
    return subprocess.run(
        [sys.executable, "-S", "-c", source],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_install_cell_installs_the_wheel_beside_it(tmp_path):
    (tmp_path / "crl_jax-0.1.0-py3-none-any.whl").touch()
    done = run_install_cell(tmp_path)
    assert done.stdout == "install --quiet crl_jax-0.1.0-py3-none-any.whl[compare]\n"


def test_install_cell_says_which_wheel_it_lacks(tmp_path):
    done = run_install_cell(tmp_path)
    assert done.returncode != 0
    assert "FileNotFoundError: upload crl_jax-*.whl" in done.stderr


def test_install_cell_leaves_an_installed_package_alone(tmp_path):
    (tmp_path / "crl_jax-0.1.0-py3-none-any.whl").touch()
    (tmp_path / "crl_jax.py").touch()
    done = run_install_cell(tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_figures_alone(path):
    outputs = []
    for cell in code_cells(path):
        assert cell["execution_count"] is None
        outputs += cell["outputs"]
    assert outputs
    for output in outputs:
        assert list(output["data"]) == ["image/png"]
        png = base64.b64decode(output["data"]["image/png"])
        assert png.startswith(b"\x89PNG")
        assert len(png) < 64_000
