"""How TFDS keeps the labels of each kind of task, and how they are read back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from crl_jax.data.quiet import tf, tfds
from crl_jax.kinds import Categorical, Kind, Multilabel, Regression


@dataclass(frozen=True)
class LabelFeature:
    """The feature of a data set that holds the labels of a task.

    Attributes:
      make: returns the feature for a kind.
      names: returns the class names of a feature; None if it does not suit this kind.
      parsing: how `tf.io.parse_example` is to read it.
      to_label: turns what TFDS or that parsing read, for one example or for N of them,
        into labels as the kind has them.
    """

    make: Callable[[Kind], Any]
    names: Callable[[Any], tuple[str, ...] | None]
    parsing: Any
    to_label: Callable[[Kind, Any], tf.Tensor]


def _class_names(feature: Any) -> tuple[str, ...] | None:
    is_label = isinstance(feature, tfds.features.ClassLabel)
    return tuple(feature.names) if is_label else None


def _names_in_sequence(feature: Any) -> tuple[str, ...] | None:
    is_sequence = isinstance(feature, tfds.features.Sequence)
    return _class_names(feature.feature) if is_sequence else None


def _hot(kind: Kind, classes: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    """Returns `[..., K]` int8 of 0 and 1 for lists of classes; all -1 for `[-1]`."""
    if isinstance(classes, tf.RaggedTensor):
        # The value that fills the rows up is no class, nor does it mean missing.
        classes = classes.to_tensor(default_value=kind.width)
    found = classes[..., None] == tf.range(kind.width, dtype=classes.dtype)
    hot = tf.cast(tf.reduce_any(found, axis=-2), tf.int8)
    missing = tf.reduce_any(classes < 0, axis=-1, keepdims=True)
    return tf.where(missing, tf.constant(-1, tf.int8), hot)


FEATURES: Mapping[str, LabelFeature] = {
    Categorical.name: LabelFeature(
        make=lambda kind: tfds.features.ClassLabel(names=kind.names),
        names=_class_names,
        parsing=tf.io.FixedLenFeature((), tf.int64),
        to_label=lambda kind, number: tf.cast(number, tf.int32),
    ),
    Multilabel.name: LabelFeature(
        make=lambda kind: tfds.features.Sequence(
            tfds.features.ClassLabel(names=kind.names)
        ),
        names=_names_in_sequence,
        parsing=tf.io.RaggedFeature(tf.int64),
        to_label=_hot,
    ),
    Regression.name: LabelFeature(
        make=lambda kind: tfds.features.Scalar(np.float32),
        names=lambda feature: None,
        parsing=tf.io.FixedLenFeature((), tf.float32),
        to_label=lambda kind, number: tf.cast(number, tf.float32),
    ),
}
