"""Tasks whose pictures have one number each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from crl_jax import losses
from crl_jax.kinds.kind import Array, Kind, Measure


@dataclass(frozen=True)
class Regression(Kind):
    """A number; a label is a float32, or NaN if missing.

    The one output of the head is in standard deviations from the mean of the training
    labels; what is reported of it is in the labels' own unit.

    Attributes:
      mean: of the training labels.
      std: their standard deviation; 1 if it is 0.
      loss_name: a key of `losses.OF_NUMBERS`.
    """

    mean: float
    std: float
    loss_name: str = "huber"

    name = "regression"
    measures = (
        Measure("mae", "MAE", is_share=False, higher_is_better=False),
        Measure("pearson", "Pearson", is_share=False),
    )
    title = "Error in the labels' unit, and correlation"
    names = ()
    goodness_title = "1 − MAE / standard deviation"
    missing = float("nan")
    judged_whole = True

    @classmethod
    def of(cls, settings: ConfigDict, known: Any) -> "Regression":
        return cls(float(known["mean"]), float(known["std"]), settings.loss)

    @classmethod
    def of_numbers(cls, settings: ConfigDict, numbers: np.ndarray) -> "Regression":
        """Returns the kind of a task with these training labels, `[N]`, N above 0."""
        numbers = np.asarray(numbers, np.float64)
        # In floating point, the deviation of equal numbers need not be 0, and that of
        # very small numbers need not be above 0.
        std = float(np.std(numbers)) if np.ptp(numbers) > 0 else 0.0
        std = std or 1.0
        return cls(float(np.mean(numbers)), std, settings.loss)

    @property
    def known(self) -> dict[str, float]:
        return {"mean": self.mean, "std": self.std}

    @property
    def width(self) -> int:
        return 1

    @property
    def size(self) -> str:
        return "a number"

    @property
    def decimals(self) -> int:
        """Enough for three digits of the labels' deviation, and at least two."""
        return max(2, 2 - math.floor(math.log10(self.std)))

    def is_labelled(self, labels: Any) -> Any:
        return labels == labels

    def unlabelled(self, count: int) -> np.ndarray:
        return np.full(count, np.nan, np.float32)

    def random_labels(self, rng: np.random.Generator, count: int) -> np.ndarray:
        return rng.normal(self.mean, self.std, count).astype(np.float32)

    def label_summary(self, labels: np.ndarray) -> dict[str, str]:
        # As they are written: halfway between two float32 lie digits of neither.
        numbers = labels[self.is_labelled(labels)].astype(str).astype(np.float64)
        points = np.quantile(numbers, (0, 0.5, 1)) if len(numbers) else [np.nan] * 3
        names = ("smallest number", "median number", "largest number")
        return {
            name: self.label_text(point) or "–"
            for name, point in zip(names, points, strict=True)
        }

    def label_text(self, label: Any) -> str:
        """Returns the shortest text that means this float32; empty if missing."""
        if label != label:
            return ""
        # NumPy finds the digits; Python writes most numbers without an exponent.
        return str(float(str(np.float32(label)))).removesuffix(".0")

    def loss(self, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        """Returns the loss of what is predicted; numbers have no label smoothing."""
        return losses.OF_NUMBERS[self.loss_name](
            logits[:, 0], self._standardised(labels)
        )

    def _standardised(self, labels: Array) -> Array:
        return (labels - self.mean) / self.std

    def sums(self, logits: Array, labels: Array) -> dict[str, Array]:
        errors = jnp.abs(logits[:, 0] - self._standardised(labels))
        return {"error": jnp.sum(jnp.where(labels == labels, errors, 0.0))}

    def answer(self, logits: Array) -> Array:
        return self.mean + self.std * logits[..., 0]

    def means(self, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """Returns the mean absolute error; the correlation comes from `of_whole`."""
        return {"mae": float(self.std * sums["error"] / count), "pearson": np.nan}

    def of_whole(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        known = self.is_labelled(labels)
        predicted = np.asarray(logits[known, 0], np.float64)
        labels = np.asarray(labels[known], np.float64)
        return {"pearson": _correlation(predicted, labels)}

    def goodness(self, values: Mapping[str, float]) -> float:
        """Returns 1 minus the error in standard deviations of the training labels."""
        return 1 - values["mae"] / self.std

    def ranked(self, answer: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Returns nothing: there are no classes."""
        return []

    def brief(self, answer: np.ndarray, decimals: int = 1) -> str:
        return f"{answer:.{self.decimals}f}"

    def lines(self, answer: np.ndarray, count: int) -> list[str]:
        return [self.brief(answer)]

    def as_json(self, answer: np.ndarray, count: int) -> float | None:
        return float(self.said(answer)) if np.isfinite(answer) else None

    def columns(self, task: str, count: int) -> list[str]:
        return [task]

    def row(self, answer: np.ndarray, count: int) -> list[str]:
        return [self.said(answer)]

    def said(self, answer: np.ndarray) -> str:
        return self.label_text(float(answer))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's correlation of two `[N]`; NaN if one does not vary."""
    if len(a) < 2 or not np.isfinite(a).all() or not np.ptp(a) or not np.ptp(b):
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
