"""What computing stages again in the backward pass saves, and what it costs.

  python -m benchmarks.memory

compiles a train step of X-ResNet for each choice of `config.model.remat`, reads its
memory from the compiled program, and times the steps in turns.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import step, turns
from crl_jax import cli, devices, terminal


def main() -> None:
    """Measures, and prints a table."""
    verb = turns.parser(__doc__, depth=50, size=224, batch=8, repeats=7)
    turns.add_dtype(verb)
    verb.add_argument(
        "--stages",
        nargs="+",
        default=["none", "2", "23", "234", "2345"],
        help="those that are computed again, for each choice",
    )
    arguments = verb.parse_args()
    devices.start()
    batch = step.make_batch(arguments.batch, arguments.size)
    steps, memory = {}, {}
    for name in arguments.stages:
        config = step.make_config(arguments.depth, arguments.size, arguments.batch)
        config.model.dtype = arguments.dtype
        config.model.remat = tuple(int(c) for c in name if c.isdecimal())
        program = step.program_of(config)
        state, placed = program.new_state(0), devices.put_batch(batch, program.mesh)
        compiled = program.train_step().lower(state, placed).compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes
        steps[name] = repeated(compiled, state, placed)
    seconds, _ = turns.measure(steps, arguments.repeats)
    first = arguments.stages[0]
    terminal.print_table(
        f"A step of X-ResNet-{arguments.depth}, {arguments.size} px, batch "
        f"{arguments.batch}, {arguments.dtype}",
        ["stages", "temporary, MiB", f"/ {first}", "ms", "range", f"/ {first}"],
        [
            [
                ", ".join(name) if name.isdecimal() else name,
                f"{memory[name] / 2**20:,.0f}",
                f"{memory[name] / memory[first]:.2f}",
                *turns.milliseconds(found),
                f"{turns.ratio(found, seconds[first]):.2f}",
            ]
            for name, found in seconds.items()
        ],
        f"{turns.note(arguments)} Stages: those computed again; memory: without "
        "state and batch.",
    )
    turns.write(arguments.json, {"seconds": seconds, "temporary_bytes": memory})


def repeated(compiled: Any, state: Any, batch: Any) -> Callable[[], object]:
    """Returns a step that continues from the state that the one before left."""

    def run() -> object:
        nonlocal state
        state, report = compiled(state, batch)
        return report

    return run


if __name__ == "__main__":
    cli.run(main)
