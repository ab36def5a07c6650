"""Which training example comes when: each once per epoch, or drawn by its class."""

import numpy as np
from ml_collections import ConfigDict

from crl_jax.data.labels import read_labels
from crl_jax.data.quiet import tf
from crl_jax.data.source import Source

# Exponent of a class's size in the share of draws that it gets.
EXPONENTS = {"balanced": 0.0, "square_root": 0.5}


def shuffled(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """Returns which example stands at each position of the endless training stream.

    Args:
      positions: `[B]` int64, counted from the beginning of the first epoch.
      size: number of examples.
      seed: of the run; each epoch has a permutation of its own.
    """
    epochs = positions // size
    run = tf.fill(tf.shape(epochs), tf.cast(seed, tf.int64))
    # tf.random.experimental.index_shuffle takes only one seed (2.21), its op many.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=tf.stack([run, epochs, tf.zeros_like(epochs)], axis=1),
        max_index=tf.cast(size - 1, tf.int64),
        rounds=4,
    )


def reach_of_draws(source: Source, config: ConfigDict) -> np.ndarray | None:
    """Returns where each example's interval of draws in 0-1 ends; None if uniform."""
    if config.data.sampling == "uniform":
        return None
    labels = read_labels(source, config.data.train_split)[config.data.sampling_task]
    reach = np.cumsum(shares(labels, config.data.sampling))
    reach[-1] = 1.0  # rounding must leave no draw without an example
    return reach


def shares(labels: np.ndarray, sampling: str) -> np.ndarray:
    """Returns the share of draws that each example gets.

    Each class gets a share in proportion to its size to the power of `EXPONENTS`,
    divided equally among its examples. Examples without a label are drawn as often as
    they would be if all were equal.

    Args:
      labels: `[N]` of the task that counts; -1 means missing.
      sampling: a key of `EXPONENTS`.

    Returns:
      `[N]`, above 0, with sum 1.
    """
    result = np.full(len(labels), 1 / len(labels))
    labelled = labels >= 0
    if not labelled.any():
        return result
    _, of_class, sizes = np.unique(
        labels[labelled], return_inverse=True, return_counts=True
    )
    of_classes = sizes.astype(float) ** EXPONENTS[sampling]
    of_examples = (of_classes / of_classes.sum() / sizes)[of_class]
    result[labelled] = of_examples * labelled.mean()
    return result
