"""TensorFlow and TFDS, imported without the lines that they print.

TensorFlow 2.21 writes start-up messages to the standard error that no setting turns
off. It is also kept from taking memory of the accelerators, which are for JAX.
"""

import contextlib
import os
import sys
from collections.abc import Iterator

from absl import logging

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_stderr = os.dup(2)
with open(os.devnull, "w") as _null:
    os.dup2(_null.fileno(), 2)
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds

        tf.config.set_visible_devices([], "GPU")
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)


@contextlib.contextmanager
def quiet_preparation() -> Iterator[None]:
    """Leaves only errors of what TFDS logs, and its progress bar for a terminal."""
    tfds.display_progress_bar(sys.stderr.isatty())
    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
