"""The benchmarks run, at a small size."""

import re
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def test_vso_size_prints_its_table(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.vso_size"),
            *(f"--folder={tmp_path / 'vso'}", "--pictures=300"),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=300,
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
