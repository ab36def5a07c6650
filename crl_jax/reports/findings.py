"""What a run's report says about its predictions, collected batch by batch."""

import functools
import heapq
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.data import Batch
from crl_jax.kinds import Kinds, categorical_classes

# Labels, what they are predicted as, and how often: `[P]` each.
Confusions = tuple[np.ndarray, np.ndarray, np.ndarray]

BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Answer:
    """One picture, its labels, and what was predicted.

    Attributes:
      file: its name.
      image: `[H, W, 3]` uint8, as the network saw it.
      labels: `{task: label as text}`, empty where missing.
      predicted: `{task: prediction as text}`.
      brief: `{task: what was predicted, with its probability if it has one}`.
      score: mean over its labels of their log probability, or minus their loss.
    """

    file: str
    image: np.ndarray
    labels: Mapping[str, str]
    predicted: Mapping[str, str]
    brief: Mapping[str, str]
    score: float


@dataclass
class Findings:
    """The predictions for a split; `add` takes what an evaluation gives.

    Attributes:
      kinds: of the tasks.
      keep: how many of the best and of the worst answers to keep.
    """

    kinds: Kinds
    keep: int = 12
    _labels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    # For a task whose pictures have one class each, only its answer and how sure it is.
    _predicted: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _confidence: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _logits: dict[str, list[np.ndarray]] = field(default_factory=dict)  # of the others
    _best: list[tuple[float, int, Answer]] = field(default_factory=list)
    _worst: list[tuple[float, int, Answer]] = field(default_factory=list)
    _count: itertools.count = field(default_factory=itertools.count)

    def add(self, batch: Batch, logits: Mapping[str, jax.Array]) -> None:
        """Adds the examples of a batch, without those that pad it."""
        real = np.flatnonzero([bool(file) for file in batch["file"]])
        losses, labelled = np.zeros(len(real)), np.zeros(len(real), int)
        all_labels = {task: batch["labels"][task][real] for task in self.kinds}
        answers: dict[str, np.ndarray] = {}
        for task, kind in self.kinds.items():
            outputs, labels = np.asarray(logits[task])[real], all_labels[task]
            answers[task] = np.asarray(kind.answer(jnp.asarray(outputs)))
            self._labels.setdefault(task, []).append(labels)
            if task in self.classes:
                said, surely = np.argmax(outputs, axis=1), np.max(answers[task], axis=1)
                self._predicted.setdefault(task, []).append(said)
                self._confidence.setdefault(task, []).append(surely)
            else:
                self._logits.setdefault(task, []).append(outputs)
            losses += np.asarray(kind.loss(jnp.asarray(outputs), jnp.asarray(labels)))
            labelled += kind.is_labelled(labels)
        scores = -losses / np.maximum(labelled, 1)

        def answer(i: int) -> Answer:
            """Returns the answer for a picture; it holds nothing of the batch."""
            said, kinds = {t: of[i] for t, of in answers.items()}, self.kinds.items()
            return Answer(
                file=batch["file"][real[i]].decode("utf-8"),
                image=batch["image"][real[i]].copy(),
                labels={t: kind.label_text(all_labels[t][i]) for t, kind in kinds},
                predicted={t: kind.said(said[t]) for t, kind in kinds},
                brief={t: kind.brief(said[t], 0) for t, kind in kinds},
                score=float(scores[i]),
            )

        for i in np.flatnonzero(labelled).tolist():
            make = functools.partial(answer, i)
            self._keep(self._best, float(scores[i]), make)
            self._keep(self._worst, -float(scores[i]), make)

    def _keep(
        self,
        heap: list[tuple[float, int, Answer]],
        score: float,
        make: Callable[[], Answer],
    ) -> None:
        """Keeps an answer if its score is among the highest; of equals, the first."""
        if len(heap) < self.keep:
            heapq.heappush(heap, (score, -next(self._count), make()))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, -next(self._count), make()))

    @property
    def best(self) -> list[Answer]:
        """Answers whose labels the network thought most probable, the best first."""
        return [answer for *_, answer in sorted(self._best, reverse=True)]

    @property
    def worst(self) -> list[Answer]:
        """Answers whose labels it thought least probable, the worst first."""
        return [answer for *_, answer in sorted(self._worst, reverse=True)]

    @functools.cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of the tasks whose pictures have one class each."""
        return categorical_classes(self.kinds)

    def confusions(self, task: str) -> Confusions:
        """Returns which labels are predicted as which, and how often.

        Returns:
          Three arrays `[P]`, for the pairs that occur, in rising order: the labels,
          what they are predicted as, and the counts. K x K counts may not fit in
          memory.
        """
        labels = np.concatenate(self._labels[task]).astype(np.int64)
        predicted, size = np.concatenate(self._predicted[task]), self.kinds[task].width
        pairs = (labels * size + predicted)[labels >= 0]
        pairs, counts = np.unique(pairs, return_counts=True)
        return pairs // size, pairs % size, counts

    def grid(self, rows: str, columns: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns how often each pair of labels occurs, and how often both are right.

        Args:
          rows: a task.
          columns: another.

        Returns:
          Two arrays `[K of rows, K of columns]`.
        """
        labels = [np.concatenate(self._labels[task]) for task in (rows, columns)]
        predicted = [np.concatenate(self._predicted[task]) for task in (rows, columns)]
        labelled = (labels[0] >= 0) & (labels[1] >= 0)
        right = (labels[0] == predicted[0]) & (labels[1] == predicted[1])
        shape = (self.kinds[rows].width, self.kinds[columns].width)
        counts, rights = np.zeros(shape, int), np.zeros(shape, int)
        np.add.at(counts, (labels[0][labelled], labels[1][labelled]), 1)
        both = labelled & right
        np.add.at(rights, (labels[0][both], labels[1][both]), 1)
        return counts, rights

    def calibration(self, task: str) -> "Calibration":
        """Returns how far the probabilities of a task can be believed."""
        labels = np.concatenate(self._labels[task])
        labelled = labels >= 0
        confidence = np.concatenate(self._confidence[task])[labelled]
        right = (labels == np.concatenate(self._predicted[task]))[labelled]
        # (k / BINS, (k + 1) / BINS]: a value exactly between two goes to the lower bin.
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        with np.errstate(invalid="ignore"):
            mean_confidence = np.bincount(bins, confidence, BINS) / counts
            accuracy = np.bincount(bins, right, BINS) / counts
        return Calibration(counts, mean_confidence, accuracy)

    def labelled(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of N examples that have one, and the logits for them.

        Args:
          task: one whose pictures do not have one class each.
        """
        labels = np.concatenate(self._labels[task])
        real = self.kinds[task].is_labelled(labels)
        return labels[real], np.concatenate(self._logits[task])[real]


@dataclass(frozen=True, eq=False)
class Calibration:
    """Examples by the probability of what was predicted, in `BINS` equal bins.

    Attributes:
      counts: of examples, `[BINS]`.
      confidence: mean probability, `[BINS]`, NaN where there is none.
      accuracy: `[BINS]`, NaN likewise.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_error(self) -> float:
        """The expected calibration error (Guo et al. 2017, equation 3), 0 to 1."""
        gaps = np.abs(np.nan_to_num(self.accuracy - self.confidence))
        return float(np.sum(self.counts * gaps) / max(self.counts.sum(), 1))

    @property
    def gap(self) -> float:
        """Mean confidence minus accuracy: above 0 the network is too sure."""
        gaps = np.nan_to_num(self.confidence - self.accuracy)
        return float(np.sum(self.counts * gaps) / max(self.counts.sum(), 1))
