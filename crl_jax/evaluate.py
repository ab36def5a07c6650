"""Evaluate the best checkpoint of a run on a split of its data.

  python -m crl_jax.evaluate --workdir=runs/digits --split=test

--predictions=FILE.csv also writes a row a picture: its labels and what was predicted.
Where the data is elsewhere now than in training, --manifest and --data_dir say where.
"""

from crl_jax import cli


def main() -> None:
    """Reads the arguments and evaluates."""
    verb = cli.parser("evaluate", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    add = verb.add_argument
    add("--split", default="test", help="such as val, or train[:10%%]")
    add("--predictions", type=cli.path, metavar="FILE", help="a CSV to write")
    add(
        "--batch_size", type=cli.positive, help="over all devices; None: as in training"
    )
    add("--manifest", type=cli.path, metavar="FILE", help="the run's, where it is now")
    add("--data_dir", type=cli.path, metavar="DIR", help="where its shards are now")
    arguments = cli.read(verb)

    from crl_jax import devices, evaluation

    devices.start()
    evaluation.evaluate(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
