"""Time, memory and disk of a data set of VSO's size, from folders to batches.

  python -m benchmarks.vso_size --folder=vso_size

Makes 553 folders of small JPEG pictures, all different, lists them, writes the shards
(killed in the middle, and started again), streams an epoch of training batches, and
resumes the stream in the middle of an epoch. Needs no network; --folder needs about 8
GB, and can be deleted afterwards.
"""

import argparse
import io
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]

PICTURES = 384_258
ANPS, ADJECTIVES, NOUNS = 553, 117, 167
SIDE = 48  # pixels


def anp_names(pictures: int) -> list[str]:
    """Returns made-up names, as many as VSO has, or fewer if there are few pictures.

    Otherwise a few pictures would leave most of the ANPs without any in train or test.
    """
    names = [f"a{i % ADJECTIVES}_n{i % NOUNS}" for i in range(ANPS)]
    return names[: max(2, min(ANPS, pictures // 10))]


def make_pictures(images: Path, pictures: int) -> None:
    """Writes pictures of noise, no two the same."""
    import numpy as np
    from PIL import Image

    names = anp_names(pictures)
    for name in names:
        (images / name).mkdir(parents=True)

    def write(number: int) -> None:
        noise = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3))
        encoded = io.BytesIO()
        Image.fromarray(noise.astype(np.uint8)).save(encoded, "JPEG", quality=90)
        path = images / names[number % len(names)] / f"{number}.jpg"
        path.write_bytes(encoded.getvalue())

    with ThreadPoolExecutor() as pool:
        for start in range(0, pictures, 10_000):
            list(pool.map(write, range(start, min(start + 10_000, pictures))))


def list_pictures(images: Path, manifest: Path) -> None:
    """Runs `python -m crl_jax.data.vso`; min_images=1 keeps all."""
    from crl_jax.data import vso

    vso.make_manifest(images, manifest, min_images=1, min_nouns=1)


def prepare_command(manifest: Path, shards: Path) -> list[str]:
    """Returns the command that writes the shards."""
    return [
        *(sys.executable, "-m", "crl_jax.data.prepare"),
        f"--config={PROJECT / 'configs' / 'vso.py'}",
        f"--config.data.manifest={manifest}",
        f"--config.data.dir={shards}",
    ]


def prepare(manifest: Path, shards: Path) -> None:
    """Writes the shards."""
    subprocess.run(prepare_command(manifest, shards), check=True, cwd=PROJECT)


def prepare_and_be_killed(manifest: Path, shards: Path, pictures: int) -> None:
    """Writes the shards, and is killed when half of the pictures are encoded."""
    from crl_jax.data.parts import PART

    process = subprocess.Popen(prepare_command(manifest, shards), cwd=PROJECT)
    while process.poll() is None:
        done = len(list(shards.glob("manifest/parts/*/*.tfrecord")))
        if done * PART >= pictures / 2:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.1)


def stream(
    manifest: Path, shards: Path, first_epoch: float, epochs: float
) -> dict[str, float]:
    """Reads training batches as a run does, and returns how fast they came.

    Args:
      manifest: the CSV.
      shards: `data.dir`.
      first_epoch: where to begin, such as 0.5.
      epochs: how many to read; 0: one batch.

    Returns:
      The number of the first step; seconds to the first batch, counted from the end of
      the imports; and pictures per second after that batch.
    """
    from crl_jax import cli
    from crl_jax.data import source
    from crl_jax.data import stream as stream_lib

    start = time.monotonic()
    fields = [("data.manifest", str(manifest)), ("data.dir", str(shards))]
    config = cli.load_config(str(PROJECT / "configs" / "vso.py"), fields)
    data = source.open_source(config)
    per_epoch = data.size(config.data.train_split) / config.data.batch_size
    first = round(first_epoch * per_epoch)
    batches = stream_lib.train_batches(data, config, first)
    next(batches)
    first_batch = time.monotonic()
    steps = round(epochs * per_epoch)
    for _ in range(steps):
        next(batches)
    seconds = time.monotonic() - first_batch
    speed = steps * config.data.batch_size / seconds if steps else 0.0
    return {"step": first, "wait": first_batch - start, "speed": speed}


def import_all() -> None:
    """Imports what training needs, which is part of every start."""
    import crl_jax.train  # noqa: F401


class Phases:
    """Runs each phase in a process of its own, and notes what it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []

    def run(
        self, name: str, written: Path, function: Callable[..., Any], *arguments: Any
    ) -> Any:
        """Returns `function(*arguments)`, which writes to `written`; adds a row."""
        start = time.monotonic()
        spawn = multiprocessing.get_context("spawn")
        with most_disk(written) as most, ProcessPoolExecutor(1, spawn) as pool:
            result, cpu, memory = pool.submit(measured, function, *arguments).result()
            seconds = time.monotonic() - start
        numbers = f"{seconds:,.0f}", f"{cpu:,.0f}"
        row = (name, *numbers, mebibytes(memory), mebibytes(most[0]))
        print(*row, sep=" | ", flush=True)
        self.rows.append(row)
        return result


def measured(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float, int]:
    """Returns what `function` returns, CPU seconds and the largest memory in bytes."""
    result = function(*arguments)
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(kind) for kind in kinds]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return result, cpu, 1024 * max(usage.ru_maxrss for usage in usages)


@contextmanager
def most_disk(path: Path) -> Iterator[list[int]]:
    """Records the most bytes that `path` took on the disk while the block ran."""
    stop, most = threading.Event(), [0]

    def watch() -> None:
        interval = 0.0
        while not stop.wait(interval):
            start = time.monotonic()
            most[0] = max(most[0], disk(path))
            interval = 1 + 20 * (time.monotonic() - start)  # looking disturbs, too

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        stop.set()
        thread.join()
        most[0] = max(most[0], disk(path))


def disk(path: Path) -> int:
    """Returns the bytes that a file or folder takes on the disk."""
    total = path.stat().st_blocks * 512 if path.is_file() else 0
    for where, _, names in os.walk(path):
        for name in names:
            try:
                total += os.stat(os.path.join(where, name)).st_blocks * 512
            except FileNotFoundError:  # gone meanwhile
                continue
    return total


def mebibytes(number: int) -> str:
    """Returns a number of bytes in MiB."""
    return f"{number / 2**20:,.0f}"


def main() -> None:
    """Reads the arguments, runs the phases and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="a new folder")
    parser.add_argument("--pictures", type=int, default=PICTURES)
    arguments = parser.parse_args()
    folder, count = arguments.folder.resolve(), arguments.pictures
    folder.mkdir(parents=True)
    images, manifest, shards = (folder / n for n in ("images", "vso.csv", "shards"))

    phases = Phases()
    phases.run("make the pictures", images, make_pictures, images, count)
    phases.run("list them", manifest, list_pictures, images, manifest)
    killed = prepare_and_be_killed, manifest, shards, count
    phases.run("prepare, killed in the middle", shards, *killed)
    phases.run("prepare, the same command again", shards, prepare, manifest, shards)
    phases.run("import JAX and TensorFlow", shards, import_all)
    of = manifest, shards
    start = phases.run("start: first batch", shards, stream, *of, 0.0, 0.0)
    epoch = phases.run("one epoch of batches", shards, stream, *of, 0.0, 1.0)
    again = phases.run("resume: first batch", shards, stream, *of, 0.5, 0.0)

    columns = ("phase", "seconds", "CPU seconds", "memory, MiB", "disk, MiB")
    rows = [columns, ("---", *4 * ("---:",)), *phases.rows]
    print(f"\n{count:,} pictures of {SIDE} px, {os.cpu_count()} cores\n")
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    print(
        f"\nOnce the imports are done, the first batch comes after {start['wait']:.1f} "
        f"s; after {again['wait']:.1f} s when resumed at step {again['step']:,}. The "
        f"epoch ran at {epoch['speed']:,.0f} pictures/s."
    )


if __name__ == "__main__":
    main()
