"""The memory that preparation takes, whatever the pictures are."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

PROJECT = Path(__file__).parents[1]
LIMIT = 700_000_000  # bytes above what importing TensorFlow takes
PREPARE = """
import sys
from pathlib import Path
from crl_jax.data import ahead, parts, pictures

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])

imported = peak()
ahead.THREADS = 2
out, *paths = map(Path, sys.argv[1:])
results = list(parts.encoded(out / "part", paths, 0))
print(sum(isinstance(result, pictures.BadPicture) for result in results))
print(peak() - imported)
"""


def prepare(paths: list[Path], out: Path) -> tuple[int, int]:
    """Returns how many are refused, and the most bytes that preparing takes."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the largest resident memory is read from /proc")
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, out, *paths],
        cwd=PROJECT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    refused, kilobytes = map(int, done.stdout.split())
    return refused, 1024 * kilobytes


def test_bad_pictures(shared_data, tmp_path):
    folder = shared_data / "bad_images"
    paths = [
        p for p in folder.iterdir() if p.name not in ("manifest.csv", "SOURCE.txt")
    ]
    refused, memory = prepare(paths, tmp_path)
    assert len(paths) == 92
    assert refused == 24
    assert memory < LIMIT


def test_the_largest_pictures_that_are_accepted(tmp_path):
    """Any two of them at a time would take too much."""
    Image.new("RGBA", (4500, 4500), (9, 8, 7, 99)).save(
        tmp_path / "a.webp", lossless=True, quality=0, method=0
    )
    Image.new("RGBA", (5600, 5600), (9, 8, 7, 99)).save(tmp_path / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8000, 8000)).save(tmp_path / "c.jpg", exif=exif, progressive=True)
    # This one keeps its bytes.
    Image.new("RGB", (8000, 8000)).save(
        tmp_path / "d.jpg", subsampling=0, progressive=True
    )
    paths = [tmp_path / name for name in ("a.webp", "b.png", "c.jpg", "d.jpg")]
    refused, memory = prepare([p for p in paths for _ in range(2)], tmp_path)
    assert refused == 0
    assert memory < LIMIT
