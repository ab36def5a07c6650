"""Compare networks on the same data, over several seeds.

  python -m crl_jax.compare --config=configs/digits.py --workdir=runs/all

It trains what is missing in --workdir, skips what is done, and writes to it
  results.csv   one row per run and task
  report.md     accuracies, differences with intervals, costs, sweeps
  report.html   the same on one page
Networks: S, one per task; M, multitask; X, as the config says; heads, one trunk; MTAN,
one trunk that each task attends to in its own way; and cross-stitch and NDDR, which mix
what M's branches compute. Each
--sweep=model.cross.init=0.05,0.25 changes one field of the config and nothing else.
"""

import argparse
import sys
from typing import Any

from crl_jax import cli
from crl_jax.comparison import plan
from crl_jax.errors import UserError


def main() -> None:
    """Reads the arguments and compares."""
    verb = cli.parser("compare", __doc__)
    cli.add_config(verb)
    cli.add_workdir(verb, "the comparison's folder, with one in it for each run")
    add = verb.add_argument
    add(
        "--networks",
        type=_names,
        default="S,M,X",
        metavar="A,B",
        help="such as S,M,X,heads",
    )
    add("--seeds", type=cli.positive, default=5, metavar="N", help="runs per network")
    add(
        "--together",
        type=cli.positive,
        metavar="N",
        help="seeds to train as one program; by default one on a CPU, and on another "
        "device as many as fit into half of its memory, if that is faster",
    )
    add(
        "--sweep",
        dest="sweeps",
        type=_sweep,
        action="append",
        metavar="FIELD=A,B",
        help="values of a field of the config; may be given several times",
    )
    arguments = cli.read(verb)
    sweeps = getattr(arguments, "sweeps", [])
    what = plan.make(arguments.config, arguments.networks, arguments.seeds, sweeps)

    # Nothing heavy is imported until the arguments are right.
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UserError(
            'A comparison draws its plots with Matplotlib: pip install ".[compare]".'
        ) from error
    from crl_jax import devices
    from crl_jax.comparison.comparison import compare

    devices.start()
    devices.check_alone("Networks are compared")
    together = getattr(arguments, "together", 0)
    compare(what, arguments.workdir, sys.argv[1:], together)


def _names(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} lists no name, or one name twice")
    return names


def _sweep(text: str) -> tuple[str, list[Any]]:
    field, equals, values = text.partition("=")
    if not (field and equals and values):
        raise argparse.ArgumentTypeError(f"write FIELD=A,B, not {text!r}")
    field = field.removeprefix("config.")
    try:
        return field, [cli.value_of(field, value) for value in values.split(",")]
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


if __name__ == "__main__":
    cli.run(main)
