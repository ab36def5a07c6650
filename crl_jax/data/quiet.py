"""TensorFlow and TFDS, imported without the lines that they print.

TensorFlow 2.21 writes start-up messages to the standard error that no setting turns
off. It is also kept from taking memory of the accelerators, which are for JAX.
"""

import os

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

__all__ = ["tf", "tfds"]
