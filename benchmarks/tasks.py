"""What branching and crossing cost beyond the arithmetic they add.

  python -m benchmarks.tasks

measures in turns, in one process: a branch mapped over tasks beside the same branch
written out one task at a time; X-ResNet beside M-ResNet, which crosses nothing; and the
gradient of X-ResNet against the number of tasks.
"""

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import turns
from crl_jax import cli, costs, devices, terminal
from crl_jax.models import MultitaskResNet, layers
from crl_jax.models.batch_norm import BatchNorm
from crl_jax.models.layers import Conv, relu
from crl_jax.models.units import BottleneckUnit, over_tasks

CLASSES = 100  # of every task
Program = Callable[[], object]


def main() -> None:
    """Measures, and prints three tables."""
    verb = turns.parser(__doc__, depth=50, size=224, batch=8, repeats=11)
    turns.add_dtype(verb)
    add = verb.add_argument
    add("--width", type=float, default=1.0, help="multiplies the channels")
    add("--tasks", type=int, default=3, help="in the first two tables")
    add("--counts", type=int, nargs="+", default=[1, 2, 4, 8], help="in the third one")
    arguments = verb.parse_args()
    devices.start()
    content = {
        "mapped": compare_mapped(arguments),
        "crossed": compare_crossed(arguments),
        "tasks": compare_counts(arguments),
    }
    turns.write(arguments.json, content)


def compare_mapped(arguments: argparse.Namespace) -> turns.Seconds:
    """Compares two units mapped over tasks with the same units written out."""
    tasks, features = arguments.tasks, round(512 * arguments.width)
    side = -(-arguments.size // 32)
    shape = (tasks, arguments.batch, side, side, 4 * features)
    x = jax.random.normal(jax.random.key(0), shape, jnp.dtype(arguments.dtype))

    def unit(in_branch: bool) -> Any:
        layer: Any = BottleneckUnit
        if in_branch:
            layer = over_tasks(BottleneckUnit, tasks)
        conv = functools.partial(Conv, in_branch=in_branch, dtype=x.dtype)
        norm = functools.partial(BatchNorm, train=True)
        return layer(features, stride=1, conv=conv, norm=norm)

    mapped, alone = unit(in_branch=True), unit(in_branch=False)
    variables = [mapped.init(jax.random.key(i), x) for i in (1, 2)]

    def through(module: Any, variables: Any, x: Any) -> Any:
        (residual, shortcut), _ = module.apply(variables, x, mutable=["batch_stats"])
        return relu(residual + shortcut)

    def mapped_branch(variables: Any, x: Any) -> Any:
        for own in variables:
            x = through(mapped, own, x)
        return x

    def written_branch(variables: Any, x: Any) -> Any:
        outputs = []
        for t in range(tasks):
            y = x[t]
            for own in variables:
                y = through(alone, jax.tree.map(lambda v, t=t: v[t], own), y)
            outputs.append(y)
        return jnp.stack(outputs)

    def gradient(branch: Callable[..., Any]) -> Callable[..., Any]:
        return jax.grad(lambda v, x: jnp.sum(branch(v, x) ** 2), (0, 1))

    programs: dict[str, Program] = {}
    for work, of in (("forward", lambda branch: branch), ("gradient", gradient)):
        for way, branch in (("written out", written_branch), ("mapped", mapped_branch)):
            programs[f"{way}, {work}"] = compiled(of(branch), variables, x)
    seconds, _ = turns.measure(programs, arguments.repeats)
    rows = [
        row(seconds, f"{way}, {work}", f"written out, {work}")
        for work in ("forward", "gradient")
        for way in ("written out", "mapped")
    ]
    terminal.print_table(
        f"A branch of two bottleneck units, {tasks} tasks, [B, H, W, C] = "
        f"{list(shape[1:])}",
        ["", "ms", "range", "/ written out"],
        rows,
        turns.note(arguments),
    )
    return seconds


def compare_crossed(arguments: argparse.Namespace) -> turns.Seconds:
    """Compares the gradients of M-ResNet and X-ResNet."""
    programs = {
        f"{name}-ResNet": network_gradient(arguments, arguments.tasks, cross)[0]
        for name, cross in (("M", 0.0), ("X", 0.1))
    }
    seconds, _ = turns.measure(programs, arguments.repeats)
    terminal.print_table(
        f"Gradient of ResNet-{arguments.depth}, {arguments.tasks} tasks, "
        f"{arguments.size} px, batch {arguments.batch}",
        ["", "ms", "range", "/ M-ResNet"],
        [row(seconds, name, "M-ResNet") for name in programs],
        turns.note(arguments),
    )
    return seconds


def compare_counts(arguments: argparse.Namespace) -> turns.Seconds:
    """Fits a straight line to the gradient's time against the number of tasks."""
    programs, flops = {}, []
    for count in arguments.counts:
        programs[str(count)], count_flops = network_gradient(arguments, count, 0.1)
        flops.append(count_flops)
    seconds, _ = turns.measure(programs, arguments.repeats)
    medians = [statistics.median(found) for found in seconds.values()]
    slope, start = np.polyfit(arguments.counts, medians, 1)
    added = np.polyfit(arguments.counts, flops, 1)[0]
    # What a task would cost if its arithmetic ran as fast as that of the first network.
    expected = medians[0] * added / flops[0]
    rows = [
        [
            name,
            *turns.milliseconds(found),
            turns.milliseconds([start + slope * int(name)])[0],
        ]
        for name, found in seconds.items()
    ]
    terminal.print_table(
        f"Gradient of X-ResNet-{arguments.depth} by number of tasks",
        ["tasks", "ms", "range", "line, ms"],
        rows,
        f"{turns.note(arguments)} A task adds {1e3 * slope:,.1f} ms; at the speed of "
        f"the first row, its {added / 1e9:,.1f} GFLOPs would take "
        f"{1e3 * expected:,.1f} ms; ratio {slope / expected:.2f}.",
    )
    return seconds


def network_gradient(
    arguments: argparse.Namespace, tasks: int, cross: float
) -> tuple[Program, float]:
    """Returns the gradient of a network's loss, and the FLOPs of its forward pass."""
    network = MultitaskResNet(
        {f"task{t}": CLASSES for t in range(tasks)},
        depth=arguments.depth,
        width=arguments.width,
        cross_init=cross,
        branch_from="res5b",
        dtype=jnp.dtype(arguments.dtype),
    )
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), images[:1])

    def loss(params: Any, stats: Any, images: Any) -> Any:
        logits, _ = network.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        return sum(jnp.mean(jax.nn.logsumexp(v, axis=-1)) for v in logits.values())

    parts = variables["params"], variables["batch_stats"]
    flops = costs.flops(network.apply, variables, images)
    return compiled(jax.grad(loss), *parts, images), flops


def compiled(function: Callable[..., Any], *inputs: Any) -> Program:
    """Returns a call of the compiled function with these inputs.

    They are on the device: otherwise XLA would compute in another thread while it waits
    for them, and would allocate and clear new memory there each time (see
    `devices.start`).
    """
    inputs = jax.block_until_ready(jax.device_put(inputs))
    options = layers.options_to_train()
    program = jax.jit(function, compiler_options=options).lower(*inputs).compile()
    return lambda: program(*inputs)


def row(seconds: turns.Seconds, name: str, reference: str) -> list[str]:
    """Returns a line of a table, with the ratio to a reference."""
    ratio = turns.ratio(seconds[name], seconds[reference])
    return [name, *turns.milliseconds(seconds[name]), f"{ratio:.3f}"]


if __name__ == "__main__":
    cli.run(main)
