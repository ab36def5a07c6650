"""What every kind of task has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import numpy as np
from ml_collections import ConfigDict

Array = jax.Array


@dataclass(frozen=True)
class Measure:
    """A number by which a task is judged.

    Attributes:
      name: in files, such as `top1`.
      title: in tables and drawings.
      is_share: whether it is between 0 and 1, and shown in percent.
      higher_is_better: if not, lower is.
    """

    name: str
    title: str
    is_share: bool = True
    higher_is_better: bool = True

    def text(self, value: float) -> str:
        """Returns a value for people: a share in percent, a dash if there is none.

        Values that are not shares keep four significant digits.
        """
        if value != value:
            return "–"
        return f"{100 * value:.2f}" if self.is_share else f"{value:.4g}"


class Kind(ABC):
    """A kind of task, with what is known about one task's labels.

    Attributes:
      name: in the config.
      measures: what it is judged by, the most important first.
      title: of the table of these measures.
      goodness_title: what `goodness` is.
      names: its K class names; a regression has none.
      missing: what a missing label holds.
      judged_whole: whether some measures need all examples of a split at once.
    """

    name: ClassVar[str]
    measures: ClassVar[tuple[Measure, ...]]
    title: ClassVar[str]
    goodness_title: ClassVar[str]
    missing: ClassVar[float]
    judged_whole: ClassVar[bool] = False

    names: tuple[str, ...]

    @classmethod
    @abstractmethod
    def of(cls, settings: ConfigDict, known: Any) -> "Kind":
        """Returns the kind of a task.

        Args:
          settings: `config.tasks.<task>`.
          known: what `known` gave.
        """

    @property
    @abstractmethod
    def known(self) -> Any:
        """What the data say about this task's labels, for JSON."""

    @property
    def width(self) -> int:
        """K, the number of outputs of the head."""
        return len(self.names)

    @property
    def size(self) -> str:
        """K, or what there is instead of classes, in a word or two."""
        return f"{len(self.names):,}"

    @property
    def decimals(self) -> int:
        """How many decimals of its measures are of interest."""
        return 2

    # Labels.

    @abstractmethod
    def is_labelled(self, labels: Any) -> Any:
        """Returns which of B examples have a label, `[B]` bool, in JAX or NumPy."""

    @abstractmethod
    def unlabelled(self, count: int) -> np.ndarray:
        """Returns the labels of `count` examples that have none."""

    @abstractmethod
    def random_labels(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Returns random labels for `count` examples, for measurements."""

    def class_counts(self, labels: np.ndarray) -> np.ndarray:
        """Returns how many of N examples are of each class, `[K]`.

        It is `[0]` if the kind has no classes.
        """
        del labels
        return np.zeros(0, np.int64)

    def label_summary(self, labels: np.ndarray) -> dict[str, str]:
        """Returns what N labels are like, as names and values of a table's rows."""
        counts = self.class_counts(labels)
        return {
            "smallest class": f"{counts.min():,}",
            "median class": f"{np.median(counts):,.0f}",
            "largest class": f"{counts.max():,}",
        }

    def is_of(self, labels: np.ndarray, label: int) -> np.ndarray:
        """Returns which of N examples are of a class, `[N]` bool."""
        raise NotImplementedError(f"a {self.name} has no classes")

    @abstractmethod
    def label_text(self, label: Any) -> str:
        """Returns one example's label as written in a list; empty if missing."""

    # Training and evaluation, on the devices.

    @abstractmethod
    def loss(self, logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
        """Returns the loss of each example, `[B]`, 0 where its label is missing.

        Args:
          logits: `[B, K]`.
          labels: of B examples.
          label_smoothing: share of a label that is spread over all classes.
        """

    def is_right(self, logits: Array, labels: Array) -> Array | None:
        """Returns which examples are right, `[B]` bool; None if that does not apply.

        All tasks count as right at once if all those that it applies to are right.
        """
        del logits, labels
        return None

    @abstractmethod
    def sums(self, logits: Array, labels: Array) -> dict[str, Array]:
        """Returns the sums of one batch; added up over batches, they give `means`."""

    @abstractmethod
    def answer(self, logits: Array) -> Array:
        """Returns what the outputs mean: probabilities `[B, K]`, or values `[B]`."""

    # Measures, on the host.

    @abstractmethod
    def means(self, sums: Mapping[str, Any], count: float) -> dict[str, float]:
        """Returns the measures, with NaN for those that do not exist.

        Args:
          sums: from `sums`, added up.
          count: number of labelled examples; NaN if there are none.
        """

    def of_whole(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Returns the measures that need all N examples of a split at once.

        Args:
          logits: `[N, K]`.
          labels: of N examples, missing ones included.
        """
        del logits, labels
        return {}

    def goodness(self, values: Mapping[str, float]) -> float:
        """Returns what a checkpoint is chosen by: at most 1, higher is better."""
        return values[self.measures[0].name]

    # What is said about one picture; the argument is its part of what `answer` returns.

    def ranked(self, answer: np.ndarray, count: int) -> list[tuple[str, float]]:
        """Returns the `count` most probable classes, the best first."""
        best = np.argsort(-answer, kind="stable")[:count]
        return [(self.names[k], float(answer[k])) for k in best]

    def brief(self, answer: np.ndarray, decimals: int = 1) -> str:
        """Returns what is predicted, with its percentage if it has one."""
        return self.said(answer)

    def headline(self, answer: np.ndarray) -> str:
        """Returns what is predicted, to stand above its probabilities if it has any."""
        return self.brief(answer)

    def lines(self, answer: np.ndarray, count: int) -> list[str]:
        """Returns lines for the `count` most probable classes, or one for a number."""
        ranked = self.ranked(answer, count)
        return [f"{100 * probability:5.1f} {label}" for label, probability in ranked]

    def as_json(self, answer: np.ndarray, count: int) -> Any:
        """Returns the `count` most probable classes, or the number if any, for JSON."""
        return [
            {"label": label, "probability": round(probability, 6)}
            for label, probability in self.ranked(answer, count)
        ]

    def columns(self, task: str, count: int) -> list[str]:
        """Returns the columns of a CSV that `row` fills."""
        ranks = range(1, min(count, self.width) + 1)
        return [f"{task}_{rank}{end}" for rank in ranks for end in ("", "_probability")]

    def row(self, answer: np.ndarray, count: int) -> list[str]:
        """Returns the cells of a CSV for the `count` most probable classes."""
        ranked = self.ranked(answer, count)
        return [text for label, p in ranked for text in (label, f"{p:.6f}")]

    def probability_text(self, answer: np.ndarray) -> str:
        """Returns the probability of what `said` returns; empty if there is none."""
        del answer
        return ""

    @abstractmethod
    def said(self, answer: np.ndarray) -> str:
        """Returns what is predicted, as a label is written in a list."""
