"""Measuring several things in turns, so that a busy machine is busy for each."""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax

CORES = len(os.sched_getaffinity(0))

Seconds = dict[str, list[float]]  # {name: one measurement a turn}


def measure(
    contestants: Mapping[str, Callable[[], object]], repeats: int
) -> tuple[Seconds, Seconds]:
    """Runs each contestant once a turn, after a turn that is not measured.

    Args:
      contestants: what to run; arrays of JAX that they return are waited for.
      repeats: number of turns.

    Returns:
      Wall-clock seconds, and seconds of all cores together.
    """
    wall: Seconds = {name: [] for name in contestants}
    cpu: Seconds = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            cpu_start, start = time.process_time(), time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - cpu_start)
    return wall, cpu


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns the median over turns of a / b."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def milliseconds(seconds: Sequence[float]) -> list[str]:
    """Returns the median, and the range, as cells of a table."""
    low, middle, high = (
        f"{1e3 * f(seconds):,.1f}" for f in (min, statistics.median, max)
    )
    return [middle, f"{low}-{high}"]


def write(file: Path | None, content: object) -> None:
    """Writes JSON where a file is given."""
    if file is not None:
        file.write_text(json.dumps(content, indent=2) + "\n")
