"""Measuring several things in turns, so that a busy machine is busy for all of them."""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

CORES = len(os.sched_getaffinity(0))

# In the first steps of a process, the memory that it keeps is still growing.
_NOT_MEASURED = 3

# A GPU is given the next step while it computes this one, as in training.
_RUNS_OF_GPU = 10

Seconds = dict[str, list[float]]  # {name: one measurement per turn}


def parser(
    description: str | None, depth: int, size: int, batch: int, repeats: int
) -> argparse.ArgumentParser:
    """Returns a parser for the flags of a network's benchmark, with these defaults."""
    verb = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = verb.add_argument
    add("--depth", type=int, default=depth)
    add("--size", type=int, default=size, help="rows and columns of a picture")
    add("--batch", type=int, default=batch, help="over all devices")
    add("--repeats", type=int, default=repeats)
    add("--json", type=Path, metavar="FILE", help="to write the measurements to")
    return verb


def add_dtype(verb: argparse.ArgumentParser) -> None:
    """Adds the flag for the dtype of the computation."""
    verb.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the computation; parameters are float32",
    )


def network_flags(arguments: argparse.Namespace) -> list[str]:
    """Returns the flags for the same network in another process."""
    names = ("depth", "size", "batch")
    return [f"--{name}={getattr(arguments, name)}" for name in names]


def measure(
    contestants: Mapping[str, Callable[[], object]], repeats: int
) -> tuple[Seconds, Seconds]:
    """Runs the contestants in turns, after some turns that are not measured.

    Args:
      contestants: what to run; `block_until_ready` waits for what they return.
      repeats: number of turns.

    Returns:
      Wall-clock seconds per run, and CPU seconds of all cores together.
    """
    import jax  # only here: `startup` measures how long this import takes

    runs = 1 if jax.default_backend() == "cpu" else _RUNS_OF_GPU
    wall: Seconds = {name: [] for name in contestants}
    cpu: Seconds = {name: [] for name in contestants}
    for turn in range(_NOT_MEASURED + repeats):
        for name, run in contestants.items():
            cpu_start, start = time.process_time(), time.perf_counter()
            for _ in range(runs):
                result = run()
            jax.block_until_ready(result)
            if turn >= _NOT_MEASURED:
                wall[name].append((time.perf_counter() - start) / runs)
                cpu[name].append((time.process_time() - cpu_start) / runs)
    return wall, cpu


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the median over turns of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Returns the median, and the range, as cells of a table."""
    digits = sum(max(seconds) < limit for limit in (0.1, 0.01))
    low, middle, high = (
        f"{1e3 * f(seconds):,.{digits}f}" for f in (min, statistics.median, max)
    )
    return [middle, f"{low}-{high}"]


def images(batch: int, seconds: Sequence[float]) -> str:
    """Returns pictures per second, from the median, as a cell of a table."""
    return f"{batch / statistics.median(seconds):,.0f}"


def cores() -> str:
    """Returns how many cores this process may use, in words."""
    return "1 core" if CORES == 1 else f"{CORES} cores"


def note(arguments: argparse.Namespace) -> str:
    """Returns where something was measured, and how often."""
    import jax

    kind = jax.devices()[0].device_kind
    where = cores() if kind == "cpu" else kind
    return f"{where}; medians of {arguments.repeats}."


def write(file: Path | None, content: object) -> None:
    """Writes JSON if a file is given."""
    if file is not None:
        file.write_text(json.dumps(content, indent=2) + "\n")
