"""TensorFlow and TFDS, imported without the lines that they print.

TensorFlow 2.21 writes start-up messages to standard error that no setting turns off.
It is also kept from taking memory on the accelerators, which are for JAX.
"""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

from crl_jax.library_logs import no_warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_alone = threading.Lock()


@contextlib.contextmanager
def no_stderr() -> Iterator[None]:
    """Drops what the process writes to its standard error, C++ code included."""
    with _alone, open(os.devnull, "w") as null:
        stderr = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


with no_stderr():
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with contextlib.suppress(RuntimeError):  # the user's program uses them already
        tf.config.set_visible_devices([], "GPU")


@contextlib.contextmanager
def quiet_preparation() -> Iterator[None]:
    """Lets TFDS log only errors, and show its progress bar only in a terminal."""
    stderr = sys.stderr  # None in a process without one
    tfds.display_progress_bar(stderr is not None and stderr.isatty())
    with no_warnings():
        yield
