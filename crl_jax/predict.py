"""Say what a trained network sees in pictures.

  python -m crl_jax.predict --workdir=runs/mine photos/ cat.jpg
  python -m crl_jax.predict --workdir=runs/mine --format=csv photos/ > out.csv

For each picture: the most probable labels of every task, and of all tasks together
(the most probable combination of labels among those that training pictures have). A
picture that cannot be read is named with the reason while the rest goes on; the exit
status is then 1.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from crl_jax import cli

if TYPE_CHECKING:
    from crl_jax.inference.prediction import Prediction

_STDIN = "-"


def main() -> None:
    """Reads the arguments and predicts."""
    verb = cli.parser("predict", __doc__)
    cli.add_workdir(verb, "folder of a run, or of its export to safetensors or a Space")
    add = verb.add_argument
    add(
        "pictures",
        nargs="+",
        metavar="FILE|FOLDER|-",
        help="pictures; a folder stands for all pictures in and below it, - for one "
        "from the standard input",
    )
    add("--top", type=cli.positive, default=5, metavar="N", help="labels per task")
    add(
        "--format",
        choices=("table", "json", "jsonl", "csv"),
        default="table",
        help="of what is printed; json: a list, jsonl: one line per picture",
    )
    add("--batch_size", type=cli.positive, help=cli.BATCH_SIZE)
    arguments = cli.read(verb)
    refused = _predict(arguments)
    sys.exit(1 if refused else 0)


def _predict(arguments: argparse.Namespace) -> int:
    """Prints the predictions, and returns how many pictures were refused."""
    # JAX and TensorFlow are imported only once the arguments are right.
    from crl_jax import devices
    from crl_jax.data import unlabelled
    from crl_jax.inference.prediction import load
    from crl_jax.inference.prediction_formats import FORMATS

    devices.start()
    predictor = load(arguments.workdir)
    names: list[str] = []
    for name in arguments.pictures:
        path = Path(os.path.expanduser(name))
        names += [name] if name == _STDIN else map(str, unlabelled.find([path]))
    piped = sys.stdin.buffer.read() if _STDIN in names else b""
    items = [piped if name == _STDIN else name for name in names]
    refused = 0

    def predictions() -> Iterator["Prediction"]:
        nonlocal refused
        in_training = predictor.trained.run.config.data.batch_size
        size = getattr(arguments, "batch_size", in_training)
        found = predictor.predict(items, size)
        # What is printed on a terminal itself shows how far it has come.
        if not sys.stdout.isatty():
            found = _with_bar(found, len(items), size)
        for name, prediction in zip(names, found, strict=True):
            refused += prediction.error is not None
            # Not every file name is UTF-8; what is printed must be.
            printable = os.fsencode(name).decode("utf-8", "replace")
            yield dataclasses.replace(prediction, file=printable)

    write = FORMATS[arguments.format]
    write(predictions(), predictor.kinds, arguments.top, sys.stdout)
    return refused


def _with_bar(
    predictions: Iterable["Prediction"], count: int, batch_size: int
) -> Iterator["Prediction"]:
    """Yields the predictions, with a progress bar if standard error is a terminal.

    They come in batches, and their speed shows only from one batch to the next.
    """
    from crl_jax.terminal import progress_bar

    with progress_bar("pictures", count) as advance:
        for done, prediction in enumerate(predictions, start=1):
            yield prediction
            if done % batch_size == 0:
                advance(batch_size)


if __name__ == "__main__":
    cli.run(main)
