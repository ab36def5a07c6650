"""Evaluate the best checkpoint of a run on a split of its data.

  python -m crl_jax.evaluate --workdir=runs/digits --split=test

--predictions=FILE.csv also writes a row a picture: its labels and what was predicted.
"""

from pathlib import Path

from crl_jax import cli


def main() -> None:
    """Reads the arguments and evaluates."""
    verb = cli.parser("evaluate", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    verb.add_argument("--split", default="test", help="such as val, or train[:10%%]")
    verb.add_argument("--predictions", type=Path, metavar="FILE", help="a CSV to write")
    verb.add_argument(
        "--batch_size", type=int, default=0, help="over all devices; 0: as in training"
    )
    arguments = cli.read(verb)

    from crl_jax import evaluation

    evaluation.evaluate(
        arguments.workdir, arguments.split, arguments.predictions, arguments.batch_size
    )


if __name__ == "__main__":
    cli.run(main)
