"""How fast pictures come in, beside a bare JPEG decoder and PyTorch's DataLoader.

  python -m benchmarks.input --images=FOLDER

Everything is measured in turns, several times over, on all cores. The decoder and the
DataLoader need `pip install -r benchmarks/requirements.txt`.
"""

import argparse
import contextlib
import importlib.util
import io
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks import turns
from benchmarks.turns import CORES
from crl_jax import cli, config_check, terminal
from crl_jax import config as config_lib
from crl_jax.errors import UserError

DECODE, LOADER = "decode", "DataLoader"
NEEDED = {DECODE: "simplejpeg", LOADER: "torch"}

# The most common size of ImageNet's pictures; at this quality the files are about as
# large as ImageNet's, 0.1 MB.
OWN_SIZE, OWN_QUALITY = (500, 375), 97


@dataclass(frozen=True)
class Speed:
    """One measurement: wall-clock images per second, CPU milliseconds per image."""

    images: float
    cpu: float


Contestant = Callable[[], Speed]


def main() -> None:
    """Measures, and prints a table."""
    verb = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = verb.add_argument
    add("--images", type=Path, metavar="FOLDER", help="of JPEGs; default: made here")
    add("--count", type=int, default=1000, help="largest number of pictures")
    add("--size", type=int, default=224, help="rows and columns after the crop")
    add("--batch", type=int, default=64)
    add("--seconds", type=float, default=5.0, help="of one measurement")
    add("--repeats", type=int, default=5)
    add("--json", type=Path, metavar="FILE", help="to write the measurements to")
    arguments = verb.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = gather(arguments.images, arguments.count, Path(folder) / "pictures")
        speeds = measure(contestants(pictures, arguments), arguments.repeats)
        show(speeds, pictures, arguments.size)
    content = {n: [vars(s) for s in found] for n, found in speeds.items()}
    turns.write(arguments.json, content)


def gather(source: Path | None, count: int, folder: Path) -> list[Path]:
    """Returns links to at most `count` JPEGs, or JPEGs made here, in a new folder."""
    folder.mkdir()
    if source is None:
        return [own_picture(folder, number) for number in range(count)]
    found = sorted(
        p for p in source.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")
    )
    if not found:
        raise UserError(f"--images={source}: there is no .jpg in it.")
    chosen = found[:: -(-len(found) // count)]
    links = [folder / f"{number:06}.jpg" for number in range(len(chosen))]
    for link, path in zip(links, chosen, strict=True):
        link.symlink_to(path.resolve())
    return links


def own_picture(folder: Path, number: int) -> Path:
    """Makes a random part of one of scikit-learn's two photographs."""
    rng = np.random.default_rng(number)
    photos = load_sample_images().images
    image = Image.fromarray(photos[number % len(photos)])
    width = int(rng.uniform(0.8, 1.0) * 4 / 3 * image.height)
    height = int(width * 3 / 4)
    left = rng.integers(0, image.width - width + 1)
    top = rng.integers(0, image.height - height + 1)
    part = image.resize(
        OWN_SIZE, Image.Resampling.LANCZOS, (left, top, left + width, top + height)
    )
    path = folder / f"{number:06}.jpg"
    part.save(path, quality=OWN_QUALITY)
    return path


def contestants(
    pictures: list[Path], arguments: argparse.Namespace
) -> dict[str, Contestant]:
    """Returns what is measured, by name; what is not installed is left out."""
    from crl_jax.data import source, stream

    folder, seconds = pictures[0].parent, arguments.seconds
    rows = [f"{path.name},train,{i % 2}" for i, path in enumerate(pictures)]
    (folder / "labels.csv").write_text("\n".join(["file,split,kind", *rows]))

    def prepared() -> tuple[source.Source, ConfigDict]:
        config = config_lib.default()
        config.data.manifest = str(folder / "labels.csv")
        config.data.dir = tempfile.mkdtemp(dir=folder.parent)
        config.data.image_size = arguments.size
        config.data.batch_size = min(arguments.batch, len(pictures))
        config = config_check.check(config)
        with contextlib.redirect_stdout(io.StringIO()):
            return source.open_source(config), config

    data, config = prepared()
    batch = config.data.batch_size

    def train() -> Iterator[stream.Batch]:
        return stream.train_batches(data, config, 0)

    def evaluate() -> Iterator[stream.Batch]:
        many = "+".join(["train"] * 100)  # so that starting is not what is measured
        batches = stream.eval_batches(data, config, many)
        return itertools.chain.from_iterable(itertools.repeat(batches))

    everything = {
        "preparation": lambda: timed(prepared, len(pictures)),
        "training": lambda: stream_speed(train(), batch, seconds),
        "evaluation": lambda: stream_speed(evaluate(), batch, seconds),
        DECODE: lambda: decode_speed(pictures, seconds),
        LOADER: lambda: loader_speed(folder, arguments.size, batch, seconds),
    }
    for name, package in NEEDED.items():
        if importlib.util.find_spec(package) is None:
            del everything[name]
            print(f"Without {name}: pip install -r benchmarks/requirements.txt")
    return everything


def timed(work: Callable[[], object], images: int) -> Speed:
    """Measures work on a number of images."""
    cpu, start = time.process_time(), time.perf_counter()
    work()
    wall = time.perf_counter() - start
    return Speed(images / wall, 1e3 * (time.process_time() - cpu) / images)


def stream_speed(batches: Iterator[Any], batch: int, seconds: float) -> Speed:
    """Measures a stream that has started."""
    for _ in range(3):  # batches that are ready
        next(batches)
    cpu, start, count = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += batch
    wall = time.perf_counter() - start
    return Speed(count / wall, 1e3 * (time.process_time() - cpu) / count)


def decode_speed(pictures: list[Path], seconds: float) -> Speed:
    """Measures only libjpeg-turbo, with one thread per core and the files in memory."""
    import simplejpeg

    files = [path.read_bytes() for path in pictures]
    numbers = itertools.cycle(range(len(files)))

    def decode(until: float) -> int:
        count = 0
        while time.perf_counter() < until:
            simplejpeg.decode_jpeg(files[next(numbers)])
            count += 1
        return count

    cpu, start = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(CORES) as pool:
        count = sum(pool.map(decode, [start + seconds] * CORES))
    wall = time.perf_counter() - start
    return Speed(count / wall, 1e3 * (time.process_time() - cpu) / count)


def loader_speed(folder: Path, size: int, batch: int, seconds: float) -> Speed:
    """Measures PyTorch's DataLoader with one worker per core."""
    script = Path(__file__).with_name("dataloader.py")
    command = [sys.executable, script, folder, size, batch, seconds, CORES]
    done = subprocess.run(
        [str(word) for word in command], check=True, capture_output=True, text=True
    )
    images, cpu = map(float, done.stdout.split())
    return Speed(images, cpu)


def measure(named: dict[str, Contestant], repeats: int) -> dict[str, list[Speed]]:
    """Measures all in turns, so that a busy machine is busy for all of them."""
    speeds: dict[str, list[Speed]] = {name: [] for name in named}
    for _ in range(repeats):
        for name, contestant in named.items():
            speeds[name].append(contestant())
    return speeds


def show(speeds: dict[str, list[Speed]], pictures: list[Path], size: int) -> None:
    """Prints medians, spread, and the medians over turns of the ratios."""
    columns = ["", "images/s", "range", "CPU ms"]
    references = [name for name in NEEDED if name in speeds]
    columns += [f"/ {name}" for name in references]
    rows = []
    for name, found in speeds.items():
        images = [s.images for s in found]
        row = [name, f"{statistics.median(images):,.0f}"]
        row += [f"{min(images):,.0f}-{max(images):,.0f}"]
        row += [f"{statistics.median(s.cpu for s in found):.2f}"]
        for reference in references:
            pairs = zip(found, speeds[reference], strict=True)
            row += [f"{statistics.median(a.images / b.images for a, b in pairs):.2f}"]
        rows.append(row)
    with Image.open(pictures[0]) as first:
        shape = f"{first.width} x {first.height}"
    kilobytes = sum(p.stat().st_size for p in pictures) / len(pictures) / 1e3
    terminal.print_table(
        f"{len(pictures):,} JPEGs (the first {shape}, on average {kilobytes:.0f} kB), "
        f"to {size} px",
        columns,
        rows,
        f"{turns.cores()}; medians of {len(found)}. CPU ms: all cores together, per "
        "image.",
    )


if __name__ == "__main__":
    cli.run(main)
