"""Evaluate the best checkpoint of a run on a split of its data.

  python -m crl_jax.evaluate --workdir=runs/digits

It is the split that training reported at its end, unless --split names another one.
--predictions=FILE.csv also writes one row per picture: its labels and what was
predicted. If the data is no longer where it was in training, --manifest and --data_dir
say where it is. --on=FILE takes another list of labelled pictures instead, all of it
unless --split names a part: its columns and class names are the run's, or some of them.
"""

from crl_jax import cli


def main() -> None:
    """Reads the arguments and evaluates."""
    verb = cli.parser("evaluate", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    cli.add_data_of_run(verb, or_other=True)
    add = verb.add_argument
    add("--predictions", type=cli.path, metavar="FILE", help="a CSV to write")
    arguments = cli.read(verb)

    from crl_jax import devices, evaluation

    devices.start()
    evaluation.evaluate(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
