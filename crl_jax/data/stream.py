"""The stream of batches, made with `tf.data`: a pure function of (seed, step).

What is shuffled is the numbers of the examples, by a permutation that needs no memory.
A run can thus resume at any step at once, and reads the same bits.
"""

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from crl_jax.data import Batch, preprocess, sampling
from crl_jax.data.features import FEATURES
from crl_jax.data.left_out import LeftOut
from crl_jax.data.quiet import tf, tfds
from crl_jax.data.records import Records
from crl_jax.data.source import Source

_NO_EXAMPLE = -1


def train_batches(
    source: Source, config: ConfigDict, first_step: int
) -> Iterator[Batch]:
    """Yields this process's share of the training batches, without end.

    With uniform sampling, each epoch is its own permutation of all examples, and a
    batch may end one epoch and begin the next. Otherwise each example is drawn anew.

    Args:
      source: the data.
      config: a checked config.
      first_step: number of steps done before.

    Returns:
      An iterator over `{"image": [B, H, W, 3] uint8, "labels": {task: [B] or [B, K]},
      "file": [B] bytes}`, with labels as the tasks' kinds have them.
    """
    records = Records(source.split(config.data.train_split))
    seed = config.train.seed
    share = _share_of_batch(config)
    reach = sampling.reach_of_draws(source, config)

    def numbers(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = step * config.data.batch_size + share
        if reach is None:
            return sampling.shuffled(positions, len(records), seed), positions
        draws = tf.random.stateless_uniform(
            (config.data.batch_size,), (seed, step), dtype=tf.float64
        )
        return tf.searchsorted(reach, tf.gather(draws, share)), positions

    def decode(encoded: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        image_seed = tf.stack([tf.cast(seed, tf.int64), position])
        return preprocess.train_image(encoded, image_seed, config.data)

    split = config.data.train_split
    left_out = _none_left_out(config, split, len(records), decode)
    steps = range(first_step, np.iinfo(np.int64).max)
    return iter(_Batches(source, records, steps, numbers, left_out))


def side_by_side(streams: Sequence[Iterator[Batch]]) -> Iterator[Batch]:
    """Returns the batches of several runs as one, with a first axis of runs.

    A single stream stays as it is.
    """
    if len(streams) == 1:
        return streams[0]
    return (
        {
            "image": np.stack([batch["image"] for batch in batches]),
            "labels": jax.tree.map(
                lambda *labels: np.stack(labels),
                *[batch["labels"] for batch in batches],
            ),
        }
        for batches in zip(*streams, strict=True)
    )


def eval_batches(source: Source, config: ConfigDict, split: str) -> Iterable[Batch]:
    """Returns this process's share of a split, every example once, in order.

    Args:
      source: the data.
      config: a checked config.
      split: a TFDS split string.

    Returns:
      Batches as `train_batches` has them, which can be iterated over again. The last
      ones are filled up with examples that have no label and an empty file name.
    """
    records = Records(source.split(split))
    share = _share_of_batch(config)
    steps = math.ceil(len(records) / config.data.batch_size)

    def numbers(step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        positions = step * config.data.batch_size + share
        positions = tf.where(positions < len(records), positions, _NO_EXAMPLE)
        return tf.maximum(positions, 0), positions

    def decode(encoded: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        return preprocess.eval_image(encoded, config.data)

    first = config.data.batch_size * np.arange(steps)
    own = int(np.sum(np.add.outer(first, share) < len(records)))
    left_out = _none_left_out(config, split, own, decode)
    return _Batches(source, records, range(steps), numbers, left_out)


def _none_left_out(config: ConfigDict, split: str, count: int, decode: Any) -> LeftOut:
    """Returns an empty `LeftOut`, which puts the mean colour in a picture's place.

    Each process eventually reads all examples of a training split, but only its share
    of other splits.
    """
    colour = np.rint(255 * np.array(config.data.mean)).clip(0, 255).astype(np.uint8)
    size = config.data.image_size
    instead = np.broadcast_to(colour, (size, size, 3))
    share = config.data.max_undecodable
    return LeftOut(split, count, share, decode, instead)


def _share_of_batch(config: ConfigDict) -> np.ndarray:
    """Returns which examples of a batch this process reads."""
    local = config.data.batch_size // jax.process_count()
    return jax.process_index() * local + np.arange(local)


class _Batches:
    """Batches as NumPy arrays; each iteration begins anew.

    They are read, decoded and batched on all cores, in a fixed order. Pictures that
    cannot be decoded have no label, and an empty file name.
    """

    def __init__(
        self,
        source: Source,
        records: Records,
        steps: range,
        numbers: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
        left_out: LeftOut,
    ) -> None:
        """Describes the batches.

        Args:
          source: of the examples.
          records: where to read them.
          steps: one per batch.
          numbers: from a step to the numbers of its examples and their positions, both
            `[B]` int64.
          left_out: decodes them.
        """
        self._source, self._records = source, records
        self._steps, self._numbers, self._left_out = steps, numbers, left_out

    def __iter__(self) -> Iterator[Batch]:
        step = self._steps.start
        batches = self._from(step)
        while step < self._steps.stop:
            try:
                batch = next(batches)
            except tf.errors.OpError:
                if self._records.damage is not None:
                    raise self._records.damage from None
                if not self._finds_undecodable(step):
                    raise
                batches = self._from(step)
                continue
            self._tell(step, batch)
            yield batch
            step += 1

    def _from(self, step: int) -> Iterator[Batch]:
        """Returns the batches from `step` on, with what is left out as if it were."""
        dataset = self._whole if step == self._steps.start else self._dataset(step)
        return dataset.as_numpy_iterator()

    @functools.cached_property
    def _whole(self) -> tf.data.Dataset:
        """All batches, kept: a small evaluation would spend most time tracing anew."""
        return self._dataset(self._steps.start)

    def _dataset(self, step: int) -> tf.data.Dataset:
        # TensorFlow keeps each Python function of a graph until the process ends, which
        # would keep the files open; `__iter__` holds the records while they are read.
        weakly = weakref.proxy(self._records)

        def read(numbers: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, ...]:
            suspected = tf.numpy_function(self._left_out.suspected, [numbers], tf.bool)
            suspected.set_shape(numbers.shape)
            records = tf.numpy_function(
                lambda n: np.array(weakly.read(n), object), [numbers], tf.string
            )
            records.set_shape(numbers.shape)
            return records, numbers, positions, suspected

        # No statement of these functions needs to be turned into a graph's.
        numbers, read, example = map(
            tf.autograph.experimental.do_not_convert,
            (self._numbers, read, self._example),
        )
        dataset = (
            tf.data.Dataset.range(step, self._steps.stop)
            .map(numbers)
            .map(read, num_parallel_calls=2)
            .unbatch()
            .map(example, num_parallel_calls=tf.data.AUTOTUNE)
            .batch(self._size, drop_remainder=True)
            .prefetch(2)
        )
        options = tf.data.Options()
        options.deterministic = True
        return dataset.with_options(options)

    @property
    def _size(self) -> int:
        """B."""
        return len(self._numbers(tf.constant(self._steps.start, tf.int64))[0])

    def _example(
        self,
        record: tf.Tensor,
        number: tf.Tensor,
        position: tf.Tensor,
        suspected: tf.Tensor,
    ) -> Batch:
        features = _parse(self._source, record)
        encoded = features[self._source.image]
        image, decoded = self._left_out.decode(encoded, position, suspected)
        good = decoded & (position != _NO_EXAMPLE)
        labels = _labels(self._source, features)
        return {
            "image": image,
            "labels": {
                task: tf.where(good, label, self._source.kinds[task].missing)
                for task, label in labels.items()
            },
            "file": tf.where(good, _name(self._source, features, number), ""),
        }

    def _finds_undecodable(self, step: int) -> bool:
        """Whether a step has undecodable pictures that were not known before."""
        numbers, positions = self._numbers(tf.constant(step, tf.int64))
        records = self._records.read(numbers.numpy())
        found = [
            self._left_out.suspect(
                int(number), _parse(self._source, record)[self._source.image], position
            )
            for record, number, position in zip(
                records, numbers, positions, strict=True
            )
        ]
        return any(found)

    def _tell(self, step: int, batch: Batch) -> None:
        """Reports what could not be decoded, if anything."""
        nameless = np.flatnonzero(batch["file"] == b"")
        if not len(nameless):
            return
        numbers, positions = self._numbers(tf.constant(step, tf.int64))
        for i in nameless[positions.numpy()[nameless] != _NO_EXAMPLE]:
            (record,) = self._records.read([numbers[i]])
            features = _parse(self._source, record)
            name = _name(self._source, features, numbers[i])
            self._left_out.tell(int(numbers[i]), name.numpy().decode("utf-8"))


def _parse(source: Source, record: tf.Tensor) -> dict[str, tf.Tensor]:
    skip = {source.image: tfds.decode.SkipDecoding()}
    return source.builder.info.features.deserialize_example(record, decoders=skip)


def _name(
    source: Source, features: dict[str, tf.Tensor], number: tf.Tensor
) -> tf.Tensor:
    return features[source.file] if source.file else tf.strings.as_string(number)


def _labels(source: Source, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {
        task: FEATURES[kind.name].to_label(kind, features[source.labels[task]])
        for task, kind in source.kinds.items()
    }
