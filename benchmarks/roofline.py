"""What limits a step: its arithmetic, or the memory that it reads and writes.

  python -m benchmarks.roofline --dtype=bfloat16 --batch=128

compiles a train step and an evaluation of X-ResNet for the device at hand, counts their
FLOPs and bytes, measures how fast the device multiplies matrices and copies memory, and
shows how near to the slower of the two limits the programs run.

  python -m benchmarks.roofline --dtype=bfloat16 --batch=128 --target=h100_sxm.txtpb

only compiles, for a GPU that is not at hand: it needs `pip install ".[cuda]"`, and
a description from xla/backends/gpu/target_config/specs of openxla/xla. XLA then chooses
its kernels without trying them.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import step, traffic, turns
from crl_jax import cli, devices, terminal
from crl_jax.data import Batch
from crl_jax.errors import UserError
from crl_jax.models import layers
from crl_jax.models.network import DATA_AXIS, TASK_AXIS
from crl_jax.program import Program


def main() -> None:
    """Compiles, measures what can be measured, and prints a table."""
    verb = turns.parser(__doc__, depth=50, size=224, batch=8, repeats=11)
    turns.add_dtype(verb)
    verb.add_argument(
        "--target", type=Path, metavar="FILE", help="describes a GPU to compile for"
    )
    arguments = verb.parse_args()
    config = step.make_config(arguments.depth, arguments.size, arguments.batch)
    config.model.dtype = arguments.dtype
    batch = step.make_batch(arguments.batch, arguments.size)
    if target := arguments.target:
        mesh = described(target)
    else:
        devices.start()
    with layers.traced_for("any"):
        # JAX counts FLOPs only for CPUs, and not all of those in a loop.
        alone = mesh_of(jax.devices("cpu")[0])
        counted = lower(step.program_of(config, mesh=alone), batch)
    if target:
        with layers.traced_for("gpu"):
            lowered = lower(step.program_of(config, mesh=mesh), batch)
        options = {"xla_gpu_autotune_level": 0}  # which would try kernels on the GPU
    else:
        program = step.program_of(config)
        lowered = lower(program, batch)
        options = {}
    compiled = {
        work: of_work.compile(compiler_options=options)
        for work, of_work in lowered.items()
    }
    found = {
        work: {
            "flops": counted[work].cost_analysis()["flops"],
            "bytes": traffic.moved(compiled[work].as_text()),
            "memory": compiled[work].memory_analysis().temp_size_in_bytes,
        }
        for work in lowered
    }
    if not target:
        measure(found, compiled, program, batch, arguments.repeats)
    show(found, arguments)
    turns.write(arguments.json, found)


def lower(program: Program, batch: Batch) -> dict[str, Any]:
    """Returns the train step and the evaluation, not compiled yet."""
    sharding = NamedSharding(program.mesh, P(DATA_AXIS))
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), batch
    )
    state = program.abstract_state
    return {
        "training": program.train_step().lower(state, shapes),
        "evaluation": program.eval_step.lower(state.evaluated, shapes),
    }


def described(target: Path) -> Mesh:
    """Returns a mesh of one GPU that is not at hand.

    Raises:
      UserError: JAX has no compiler for GPUs, or the file does not describe one.
    """
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")
    jax.devices()  # registers the compilers that are installed
    try:
        gpu = topologies.get_topology_desc(
            platform="cuda", target_config=target.read_text(), topology="1x1x1"
        )
    except (OSError, NotImplementedError, jax.errors.JaxRuntimeError) as error:
        raise UserError(
            f"--target={target}: {error}. It needs a description of a GPU, and "
            'pip install ".[cuda]".'
        ) from error
    return mesh_of(gpu.devices[0])


def mesh_of(device: jax.Device) -> Mesh:
    """Returns a mesh of one device."""
    return Mesh(np.reshape(np.array(device), (1, 1)), (DATA_AXIS, TASK_AXIS))


def measure(
    found: dict[str, dict[str, Any]],
    compiled: dict[str, Any],
    program: Program,
    batch: Batch,
    repeats: int,
) -> None:
    """Adds the seconds that the programs took, and those that their limits allow."""
    state, placed = program.new_state(0), devices.put_batch(batch, program.mesh)
    variables = jax.tree.map(jnp.copy, state.evaluated)

    def train() -> object:
        nonlocal state
        state, report = compiled["training"](state, placed)
        return report

    product, product_flops = multiplication(program.config.model.dtype)
    copy, copy_bytes = addition()
    seconds, _ = turns.measure(
        {
            "training": train,
            "evaluation": lambda: compiled["evaluation"](variables, placed),
            "product": product,
            "copy": copy,
        },
        repeats,
    )
    flops_rate = product_flops / min(seconds["product"])
    bytes_rate = copy_bytes / min(seconds["copy"])
    print(f"Products: {flops_rate / 1e9:,.0f} GFLOP/s. ", end="")
    print(f"Memory: {bytes_rate / 1e9:,.0f} GB/s.")
    for work, of_work in found.items():
        of_work["seconds"] = seconds[work]
        of_work["arithmetic_seconds"] = of_work["flops"] / flops_rate
        of_work["memory_seconds"] = of_work["bytes"].total() / bytes_rate


def multiplication(dtype: str) -> tuple[Callable[[], object], float]:
    """Returns a product of large matrices, and its FLOPs."""
    n = 2048 if layers.on("cpu") else 8192
    a, b = jax.random.normal(jax.random.key(0), (2, n, n), jnp.dtype(dtype))
    product = jax.jit(jnp.dot)
    return lambda: product(a, b), 2.0 * n**3


def addition() -> tuple[Callable[[], object], float]:
    """Returns a program that reads and writes a large array, and the bytes it moves."""
    x = jnp.zeros(2**26 if layers.on("cpu") else 2**28)
    add = jax.jit(lambda x: x + 1)
    return lambda: add(x), 2.0 * x.nbytes


def show(found: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Prints what was counted, and the limits if they were measured."""
    network = (
        f"X-ResNet-{arguments.depth}, {arguments.size} px, batch {arguments.batch}, "
        f"{arguments.dtype}"
    )
    terminal.print_table(
        network,
        ["", "GFLOP", "GB", "memory, MiB"],
        [
            [
                work,
                f"{of_work['flops'] / 1e9:,.0f}",
                f"{of_work['bytes'].total() / 1e9:,.2f}",
                f"{of_work['memory'] / 2**20:,.0f}",
            ]
            for work, of_work in found.items()
        ],
        "GFLOP: with plain convolutions. GB: moved to and from memory. Memory: "
        "without state and batch.",
    )
    for work, of_work in found.items():
        kinds = of_work["bytes"].most_common(6)
        moved_by = ", ".join(f"{kind} {size / 1e9:,.2f}" for kind, size in kinds)
        print(f"{work}, GB by kind of operation: {moved_by}")
    if arguments.target is None:
        show_limits(network, found, arguments)


def show_limits(
    network: str, found: dict[str, dict[str, Any]], arguments: argparse.Namespace
) -> None:
    """Prints how near to the slower of their two limits the programs run."""
    rows = []
    for work, of_work in found.items():
        limits = of_work["arithmetic_seconds"], of_work["memory_seconds"]
        seconds = of_work["seconds"]
        rows.append(
            [
                work,
                *(turns.milliseconds([limit])[0] for limit in limits),
                *turns.milliseconds(seconds),
                f"{turns.ratio([max(limits)] * len(seconds), seconds):.2f}",
                turns.images(arguments.batch, seconds),
            ]
        )
    terminal.print_table(
        f"{network} on {jax.devices()[0].device_kind}",
        ["", "FLOPs, ms", "bytes, ms", "ms", "range", "share", "images/s"],
        rows,
        f"Medians of {arguments.repeats}. FLOPs, bytes: the time that each would take "
        "alone. Share: the longer of the two over the measured time.",
    )


if __name__ == "__main__":
    cli.run(main)
