"""Tasks whose pictures have one of K classes each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from crl_jax import losses
from crl_jax.kinds.kind import Array, Kind, Measure

TOP = 5


@dataclass(frozen=True)
class Categorical(Kind):
    """One of K classes; a label is an int32 from 0 to K - 1, or -1 if missing."""

    names: tuple[str, ...]

    name = "categorical"
    measures = (
        Measure("top1", "top-1"),
        Measure("top5", "top-5"),
        Measure("mean_class", "mean class"),
    )
    title = "Accuracy in percent"
    goodness_title = "top-1"
    missing = -1

    @classmethod
    def of(cls, settings: ConfigDict, known: Any) -> "Categorical":
        return cls(tuple(known))

    @property
    def known(self) -> list[str]:
        return list(self.names)

    def is_labelled(self, labels: Any) -> Any:
        return labels >= 0

    def unlabelled(self, count: int) -> np.ndarray:
        return np.full(count, -1, np.int32)

    def random_labels(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(0, self.width, count).astype(np.int32)

    def class_counts(self, labels: np.ndarray) -> np.ndarray:
        return np.bincount(labels[labels >= 0], minlength=self.width)

    def is_of(self, labels: np.ndarray, label: int) -> np.ndarray:
        return labels == label

    def label_text(self, label: Any) -> str:
        return self.names[label] if label >= 0 else ""

    def loss(self, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        return losses.cross_entropy(logits, labels, label_smoothing)

    def is_right(self, logits: Array, labels: Array) -> Array:
        return (labels >= 0) & (_rank_of_label(logits, labels) == 0)

    def sums(self, logits: Array, labels: Array) -> dict[str, Array]:
        labelled = labels >= 0
        rank = _rank_of_label(logits, labels)
        right = labelled & (rank == 0)
        one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.int32)
        return {
            "top1": jnp.sum(right, dtype=jnp.int32),
            "top5": jnp.sum(labelled & (rank < TOP), dtype=jnp.int32),
            "class_count": jnp.sum(one_hot, axis=0, dtype=jnp.int32),
            "class_top1": jnp.sum(one_hot * right[:, None], axis=0, dtype=jnp.int32),
        }

    def answer(self, logits: Array) -> Array:
        return jax.nn.softmax(logits)

    def means(self, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """Returns top-1, top-5 and the mean top-1 of the classes that occur.

        There is no top-5 for five classes or fewer.
        """
        occurs = sums["class_count"] > 0
        by_class = sums["class_top1"][occurs] / sums["class_count"][occurs]
        return {
            "top1": float(sums["top1"] / count),
            "top5": float(sums["top5"] / count) if len(occurs) > TOP else np.nan,
            "mean_class": float(np.mean(by_class)) if occurs.any() else np.nan,
        }

    def brief(self, answer: np.ndarray, decimals: int = 1) -> str:
        return f"{self.said(answer)} {100 * np.max(answer):.{decimals}f}%"

    def headline(self, answer: np.ndarray) -> str:
        return self.said(answer)

    def probability_text(self, answer: np.ndarray) -> str:
        return f"{np.max(answer):.4f}"

    def said(self, answer: np.ndarray) -> str:
        return self.names[int(np.argmax(answer))]


def _rank_of_label(logits: Array, labels: Array) -> Array:
    """Returns how many classes come before the true one, `[B]`.

    Of equal logits the first comes first, as in argmax, so that a network whose logits
    are all equal is not right about everything.
    """
    index = jnp.maximum(labels, 0)[:, None]
    own = jnp.take_along_axis(logits, index, axis=-1)
    earlier = jnp.arange(logits.shape[-1])[None, :] < index
    no_answer = jnp.any(jnp.isnan(logits), axis=-1, keepdims=True)
    before = (logits > own) | ((logits == own) & earlier) | no_answer
    return jnp.sum(before, axis=-1)
