"""Tasks whose pictures have any number of K classes each, from none to all."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from crl_jax import losses
from crl_jax.kinds.kind import Array, Kind, Measure

SEPARATOR = ";"  # between the classes of a picture, in lists
NONE = "-"  # none of them, which is not the same as a missing label


@dataclass(frozen=True)
class Multilabel(Kind):
    """Any of K classes; a label is `[K]` int8 of 0 and 1, or all -1 if missing."""

    names: tuple[str, ...]

    name = "multilabel"
    measures = (Measure("map", "mAP"), Measure("f1", "F1"))
    title = "mAP and F1 in percent"
    goodness_title = "mAP"
    missing = -1
    judged_whole = True

    @classmethod
    def of(cls, settings: ConfigDict, known: Any) -> "Multilabel":
        return cls(tuple(known))

    @property
    def known(self) -> list[str]:
        return list(self.names)

    def is_labelled(self, labels: Any) -> Any:
        return labels[:, 0] >= 0

    def unlabelled(self, count: int) -> np.ndarray:
        return np.full((count, self.width), -1, np.int8)

    def random_labels(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.integers(0, 2, (count, self.width)).astype(np.int8)

    def class_counts(self, labels: np.ndarray) -> np.ndarray:
        return np.sum(labels == 1, axis=0)

    def is_of(self, labels: np.ndarray, label: int) -> np.ndarray:
        return labels[:, label] == 1

    def label_text(self, label: Any) -> str:
        return "" if label[0] < 0 else self._joined(np.flatnonzero(label))

    def _joined(self, classes: np.ndarray) -> str:
        return SEPARATOR.join(self.names[k] for k in classes) or NONE

    def loss(self, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        return losses.sigmoid_cross_entropy(logits, labels, label_smoothing)

    def sums(self, logits: Array, labels: Array) -> dict[str, Array]:
        predicted, there = logits > 0, labels == 1
        known = labels >= 0
        return {
            "true": jnp.sum(predicted & there, dtype=jnp.int32),
            "predicted": jnp.sum(predicted & known, dtype=jnp.int32),
            "there": jnp.sum(there, dtype=jnp.int32),
        }

    def answer(self, logits: Array) -> Array:
        return jax.nn.sigmoid(logits)

    def means(self, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """Returns the F1 over all pairs of picture and class, at a probability of 0.5.

        The mean average precision comes from `of_whole`.
        """
        pairs = sums["predicted"] + sums["there"]
        f1 = float(2 * sums["true"] / pairs) if pairs else np.nan
        return {"map": np.nan, "f1": f1}

    def of_whole(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        precisions = self.average_precisions(logits, labels)
        occurs = precisions[~np.isnan(precisions)]
        return {"map": float(np.mean(occurs)) if len(occurs) else np.nan}

    def average_precisions(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the average precision of each class, `[K]`; NaN if no example has it.

        It is the sum over thresholds of precision times the gain in recall, without
        interpolation, as in scikit-learn.

        Args:
          logits: `[N, K]`, or anything that rises with them.
          labels: `[N, K]`.
        """
        from sklearn.metrics import average_precision_score

        known = self.is_labelled(labels)
        logits, labels = logits[known], labels[known]
        result = np.full(self.width, np.nan)
        if not np.isfinite(logits).all():
            return result
        for k in np.flatnonzero(self.class_counts(labels)):
            result[k] = average_precision_score(labels[:, k], logits[:, k])
        return result

    def brief(self, answer: np.ndarray, decimals: int = 1) -> str:
        return self.said(answer) if np.any(answer > 0.5) else "none likely"

    def probability_text(self, answer: np.ndarray) -> str:
        return SEPARATOR.join(f"{p:.4f}" for p in answer[answer > 0.5])

    def said(self, answer: np.ndarray) -> str:
        return self._joined(np.flatnonzero(answer > 0.5))
