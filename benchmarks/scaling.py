"""What dividing a step over devices costs, on the devices of one machine.

  python -m benchmarks.scaling

Each mesh has a process of its own with as many CPU devices as the mesh, and the
processes take turns. All devices share the same cores and the batch stays the same, so
nothing can become faster: the extra time that a mesh takes compared with one device is
the price of dividing.
"""

import argparse
import json
import os
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from benchmarks import turns
from crl_jax import cli, terminal

CLASSES = {f"task{t}": 10 for t in range(4)}


def main() -> None:
    """Measures, and prints a table."""
    verb = turns.parser(__doc__, depth=18, size=64, batch=32, repeats=7)
    add = verb.add_argument
    add(
        "--meshes",
        nargs="+",
        default=["1x1", "2x1", "4x1", "8x1", "1x2", "2x2", "1x4", "2x4"],
        help="devices for the data x devices for the tasks",
    )
    add("--worker", metavar="MESH", help="run as the process of this mesh")
    arguments = verb.parse_args()
    if arguments.worker:
        work(arguments)
        return

    with ExitStack() as stack:
        workers = {
            mesh: stack.enter_context(Worker(arguments, mesh))
            for mesh in arguments.meshes
        }
        programs = {mesh: worker.step for mesh, worker in workers.items()}
        seconds, _ = turns.measure(programs, arguments.repeats)
        memory = {mesh: worker.memory for mesh, worker in workers.items()}
    show(seconds, memory, arguments)
    turns.write(arguments.json, {"seconds": seconds, "state_bytes": memory})


class Worker:
    """A process with a mesh of its own, which steps when it is told to.

    Attributes:
      memory: bytes of the training state on each device.
    """

    def __init__(self, arguments: argparse.Namespace, mesh: str) -> None:
        data, tasks = map(int, mesh.split("x"))
        flag = f"--xla_force_host_platform_device_count={data * tasks}"
        command = [sys.executable, "-m", "benchmarks.scaling", f"--worker={mesh}"]
        self._process: Any = subprocess.Popen(
            [*command, *turns.network_flags(arguments)],
            env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.memory: int = json.loads(self._answer())

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def step(self) -> None:
        """Takes a step, and waits for it."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._answer()

    def _answer(self) -> str:
        line: str = self._process.stdout.readline()
        if not line:
            raise RuntimeError("A process of the benchmark ended; see above.")
        return line


def work(arguments: argparse.Namespace) -> None:
    """Takes a step for each line of standard input."""
    import jax

    from benchmarks import step as step_benchmark

    step_benchmark.devices.start()
    task_devices = int(arguments.worker.split("x")[1])
    size, batch_size = arguments.size, arguments.batch
    config = step_benchmark.make_config(
        arguments.depth, size, batch_size, CLASSES, task_devices
    )
    program = step_benchmark.program_of(config, CLASSES)
    train_step, state = program.train_step(), program.new_state(0)
    batch = step_benchmark.devices.put_batch(
        step_benchmark.make_batch(batch_size, size, CLASSES), program.mesh
    )
    own = [leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state)]
    print(sum(own), flush=True)
    for _ in sys.stdin:
        state, _ = jax.block_until_ready(train_step(state, batch))
        print(flush=True)


def show(
    seconds: turns.Seconds, memory: dict[str, int], arguments: argparse.Namespace
) -> None:
    """Prints medians, spread and the median over turns of the ratio to the first."""
    first = arguments.meshes[0]
    rows = [
        [
            mesh.replace("x", " x "),
            *turns.milliseconds(found),
            f"{turns.ratio(found, seconds[first]):.2f}",
            f"{memory[mesh] / 2**20:,.0f}",
        ]
        for mesh, found in seconds.items()
    ]
    terminal.print_table(
        f"A step of X-ResNet-{arguments.depth}, {len(CLASSES)} tasks, "
        f"{arguments.size} px, batch {arguments.batch}",
        ["data x tasks", "ms", "range", f"/ {first}", "state, MiB per device"],
        rows,
        f"{turns.cores()}, which all devices share; medians of {arguments.repeats}.",
    )


if __name__ == "__main__":
    cli.run(main)
