"""The stream of batches with `tf.data`, a pure function of (seed, step).

What is shuffled is the numbers of the examples, by a permutation that needs no memory;
so a run resumes at any step at once, and reads the same bits.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from crl_jax.data import Batch, preprocess, sampling
from crl_jax.data.labels import read_labels
from crl_jax.data.quiet import tf, tfds
from crl_jax.data.records import Records
from crl_jax.data.source import Source

_NO_EXAMPLE = -1


def train_batches(
    source: Source, config: ConfigDict, first_step: int
) -> Iterator[Batch]:
    """Yields this process's share of the training batches, without end.

    With uniform sampling, each epoch is a permutation of all examples of its own, and a
    batch may end one epoch and begin the next. Otherwise each example is drawn anew.

    Args:
      source: the data.
      config: a checked config.
      first_step: steps that were done before.

    Returns:
      An iterator over `{"image": [B, H, W, 3] uint8, "labels": {task: [B] int32},
      "file": [B] bytes}`, where a label of -1 is missing.
    """
    records = Records(source.split(config.data.train_split))
    seed = config.train.seed
    share = _share_of_batch(config)
    reach = _reach_of_draws(source, config)

    def numbers(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = step * config.data.batch_size + share
        if reach is None:
            return shuffled(positions, len(records), seed), positions
        draws = tf.random.stateless_uniform(
            (config.data.batch_size,), (seed, step), dtype=tf.float64
        )
        return tf.searchsorted(reach, tf.gather(draws, share)), positions

    def example(record: tf.Tensor, number: tf.Tensor, position: tf.Tensor) -> Batch:
        features = _parse(source, record)
        image_seed = tf.stack([tf.cast(seed, tf.int64), position])
        image = preprocess.train_image(features[source.image], image_seed, config.data)
        name = features.get("file", tf.strings.as_string(number))
        return {"image": image, "labels": _labels(source, features), "file": name}

    steps = tf.data.Dataset.range(first_step, np.iinfo(np.int64).max)
    dataset = steps.map(numbers)
    return iter(_batches(dataset, records, example, len(share)))


def eval_batches(source: Source, config: ConfigDict, split: str) -> Iterable[Batch]:
    """Returns this process's share of a split, every example once, in order.

    Args:
      source: the data.
      config: a checked config.
      split: a TFDS split string.

    Returns:
      Batches `{"image": [B, H, W, 3] uint8, "labels": {task: [B] int32}, "file": [B]
      bytes}`, which can be iterated over again. The last ones are filled up with
      examples that have no label and an empty file name.
    """
    records = Records(source.split(split))
    share = _share_of_batch(config)
    steps = math.ceil(len(records) / config.data.batch_size)

    def numbers(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = step * config.data.batch_size + share
        positions = tf.where(positions < len(records), positions, _NO_EXAMPLE)
        return tf.maximum(positions, 0), positions

    def example(record: tf.Tensor, number: tf.Tensor, position: tf.Tensor) -> Batch:
        features = _parse(source, record)
        real = position != _NO_EXAMPLE
        labels = _labels(source, features)
        name = features.get("file", tf.strings.as_string(number))
        return {
            "image": preprocess.eval_image(features[source.image], config.data),
            "labels": {t: tf.where(real, label, -1) for t, label in labels.items()},
            "file": tf.where(real, name, ""),
        }

    return _batches(
        tf.data.Dataset.range(steps).map(numbers), records, example, len(share)
    )


def shuffled(positions: tf.Tensor, size: int, seed: int) -> tf.Tensor:
    """Returns which example stands at each position of the endless training stream.

    Args:
      positions: `[B]` int64, counted from the beginning of the first epoch.
      size: number of examples.
      seed: of the run; each epoch has a permutation of its own.
    """
    epochs = positions // size
    run = tf.fill(tf.shape(epochs), tf.cast(seed, tf.int64))
    # tf.random.experimental.index_shuffle takes one seed alone (2.21), its op many.
    return tf.raw_ops.RandomIndexShuffle(
        index=positions % size,
        seed=tf.stack([run, epochs, tf.zeros_like(epochs)], axis=1),
        max_index=tf.cast(size - 1, tf.int64),
        rounds=4,
    )


def _reach_of_draws(source: Source, config: ConfigDict) -> np.ndarray | None:
    """Returns up to which number in 0-1 a draw means each example; None if uniform."""
    if config.data.sampling == "uniform":
        return None
    labels = read_labels(source, config.data.train_split)
    shares = sampling.shares(labels[config.data.sampling_task], config.data.sampling)
    reach = np.cumsum(shares)
    reach[-1] = 1.0  # rounding must leave no draw without an example
    return reach


def _share_of_batch(config: ConfigDict) -> np.ndarray:
    """Returns which examples of a batch this process reads."""
    local = config.data.batch_size // jax.process_count()
    return jax.process_index() * local + np.arange(local)


def _batches(
    numbers: tf.data.Dataset, records: Records, example: Any, batch_size: int
) -> "_Batches":
    """Reads, decodes and batches examples on all cores, in a fixed order.

    Args:
      numbers: of `(numbers of examples [B], positions [B])`.
      records: where to read them.
      example: `(record, number, position) -> example`.
      batch_size: B.
    """

    def read(numbers: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, ...]:
        read_all = tf.numpy_function(
            lambda n: np.array(records.read(n), object), [numbers], tf.string
        )
        read_all.set_shape((batch_size,))
        return read_all, numbers, positions

    dataset = (
        numbers.map(read, num_parallel_calls=2)
        .unbatch()
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(2)
    )
    options = tf.data.Options()
    options.deterministic = True
    return _Batches(dataset.with_options(options))


class _Batches:
    """Batches as NumPy arrays; each iteration begins anew."""

    def __init__(self, dataset: tf.data.Dataset) -> None:
        self._dataset = dataset

    def __iter__(self) -> Iterator[Batch]:
        return self._dataset.as_numpy_iterator()


def _parse(source: Source, record: tf.Tensor) -> dict[str, tf.Tensor]:
    skip = {source.image: tfds.decode.SkipDecoding()}
    return source.builder.info.features.deserialize_example(record, decoders=skip)


def _labels(source: Source, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {t: tf.cast(features[f], tf.int32) for t, f in source.labels.items()}
