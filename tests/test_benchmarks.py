"""Each benchmark runs, at its smallest size."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_input(tmp_path):
    """What is not installed is left out, and named."""
    done = subprocess.run(
        [
            *(sys.executable, "benchmarks/input.py", f"--json={tmp_path / 'speeds'}"),
            *("--count=8", "--size=32", "--batch=4", "--seconds=0.1", "--repeats=2"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    speeds = json.loads((tmp_path / "speeds").read_text())
    assert {"preparation", "training", "evaluation"} <= set(speeds)
    for name in ("decode", "DataLoader"):
        assert (name in speeds) != (f"Without {name}: pip install" in done.stdout)
    for name, found in speeds.items():
        assert name in done.stdout
        assert len(found) == 2
        assert all(math.isfinite(s["images"]) and s["images"] > 0 for s in found)


def test_input_says_that_a_folder_has_no_pictures(tmp_path):
    command = [sys.executable, "benchmarks/input.py", f"--images={tmp_path}"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no .jpg in it" in done.stderr


def test_vso_size_prints_its_table(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.vso_size"),
            *(f"--folder={tmp_path / 'vso'}", "--pictures=300"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^\| (.+?) \| +\d+ \| +\d+ \| +\d+ \| +\d+ \|$", done.stdout, re.M
    )
    assert [row.partition(":")[0].partition(",")[0] for row in rows] == [
        "make the pictures",
        "list them",
        "prepare",
        "prepare",
        "import JAX and TensorFlow",
        "start",
        "one epoch of batches",
        "resume",
    ]
    assert "300 pictures of 48 px" in done.stdout
    assert len(list((tmp_path / "vso" / "images").glob("*/*.jpg"))) == 300
