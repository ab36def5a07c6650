"""How long a training takes to start, with and without compiled programs on disk.

  python -m benchmarks.startup

Each start is a process of its own; a cold one begins with an empty compilation cache, a
warm one with the cache that the cold one before it left.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks import turns
from crl_jax import cli, terminal

ANSWERS = {
    "--help": ["--help"],
    "a mistake in the config": [
        *("--config=configs/digits.py", "--workdir=unused", "--config.model.depth=3"),
    ],
}

Phases = dict[str, tuple[float, float]]  # {name: (seconds, CPU seconds)}


def main() -> None:
    """Measures, and prints a table."""
    verb = turns.parser(__doc__, depth=50, size=224, batch=8, repeats=3)
    verb.add_argument(
        "--start", action="store_true", help="run as one of the processes measured"
    )
    arguments = verb.parse_args()
    if arguments.start:
        print(json.dumps(start(arguments)))
        return

    answers: turns.Seconds = {name: [] for name in ANSWERS}
    starts: dict[str, list[Phases]] = {"cold": [], "warm": []}
    for _ in range(arguments.repeats):
        for name, flags in ANSWERS.items():
            answers[name].append(answer(flags))
        with tempfile.TemporaryDirectory() as cache:
            for found in starts.values():
                found.append(started(arguments, cache))
    show(answers, starts, arguments)
    turns.write(arguments.json, {"answers": answers, "starts": starts})


def answer(flags: list[str]) -> float:
    """Returns how long the command that trains takes to answer these flags."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "crl_jax.main", *flags]
    subprocess.run(command, capture_output=True)
    return time.perf_counter() - begin


def started(arguments: argparse.Namespace, cache: str) -> Phases:
    """Returns what `start` measures in a process with this compilation cache."""
    command = [sys.executable, "-m", "benchmarks.startup", "--start"]
    done = subprocess.run(
        [*command, *turns.network_flags(arguments)],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: Phases = json.loads(done.stdout)
    return found


def start(arguments: argparse.Namespace) -> Phases:
    """Starts a training up to its second step; returns the seconds of each phase."""
    phases: Phases = {}

    def timed(name: str, phase: Callable[[], Any]) -> Any:
        cpu, begin = time.process_time(), time.perf_counter()
        result = phase()
        phases[name] = (time.perf_counter() - begin, time.process_time() - cpu)
        return result

    def imports() -> None:
        import crl_jax.train  # noqa: F401

    timed("import", imports)
    import jax

    from benchmarks import step as step_benchmark

    config = step_benchmark.make_config(
        arguments.depth, arguments.size, arguments.batch
    )
    timed("start JAX", lambda: (step_benchmark.devices.start(), jax.devices()))
    program = timed("build the network", lambda: step_benchmark.program_of(config))
    state = timed(
        "create the parameters", lambda: jax.block_until_ready(program.new_state(0))
    )
    batch = step_benchmark.devices.put_batch(
        step_benchmark.make_batch(arguments.batch, arguments.size), program.mesh
    )
    step = timed(
        "compile the step",
        lambda: program.train_step().lower(state, batch).compile(),
    )
    state, _ = timed("first step", lambda: jax.block_until_ready(step(state, batch)))
    timed("second step", lambda: jax.block_until_ready(step(state, batch)))
    before = [taken for name, taken in phases.items() if name != "second step"]
    wall, cpu = (sum(column) for column in zip(*before, strict=True))
    phases["all, to the end of the first step"] = (wall, cpu)
    return phases


def show(
    answers: turns.Seconds,
    starts: dict[str, list[Phases]],
    arguments: argparse.Namespace,
) -> None:
    """Prints medians."""
    rows = [
        [name, f"{statistics.median(found):,.1f}", *3 * [""]]
        for name, found in answers.items()
    ]
    for name in starts["cold"][0]:
        row = [name]
        for found in starts.values():
            columns = zip(*(phases[name] for phases in found), strict=True)
            row += [f"{statistics.median(column):,.1f}" for column in columns]
        rows.append(row)
    terminal.print_table(
        f"The start of X-ResNet-{arguments.depth}, {arguments.size} px, batch "
        f"{arguments.batch}",
        ["", "cold, s", "CPU s", "warm, s", "CPU s"],
        rows,
        f"{turns.cores()}; medians of {arguments.repeats}. CPU s: all cores together.",
    )


if __name__ == "__main__":
    cli.run(main)
