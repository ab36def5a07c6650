"""Look at the data before training: counts, pictures, speed and warnings.

  python -m crl_jax.data.inspect --config=configs/digits.py

It writes to --out:
  counts.csv         pictures of each class in each split
  grid-<a>-<b>.png   training pictures of each pair of labels of two tasks
  examples.png       training pictures as the stream gives them, with labels
and warns of small classes, identical pictures in two splits or with two labels, and
labels that meet in val or test but never in train.
"""

from pathlib import Path

from crl_jax import cli


def main() -> None:
    """Reads the arguments and inspects the data."""
    verb = cli.parser("data.inspect", __doc__)
    cli.add_config(verb)
    add = verb.add_argument
    add(
        "--out",
        type=cli.path,
        default=Path("inspect"),
        metavar="DIR",
        help="folder to write to",
    )
    help_text = "warn of a class with fewer training pictures"
    add("--few", type=int, default=10, metavar="N", help=help_text)
    help_text = "how long the stream's speed is measured"
    add("--seconds", type=float, default=3.0, metavar="S", help=help_text)
    arguments = cli.read(verb)

    import jax

    # The stream needs no accelerator; a training run may be using it.
    jax.config.update("jax_platforms", "cpu")

    from crl_jax.data import inspection

    inspection.inspect(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
