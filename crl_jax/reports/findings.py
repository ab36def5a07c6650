"""What a run's report says of its predictions, collected batch by batch."""

import heapq
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np

from crl_jax.data import Batch

BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Answer:
    """One picture, its labels, and what was predicted.

    Attributes:
      file: its name.
      image: `[H, W, 3]` uint8, as the network saw it.
      labels: `{task: label}`, -1 where missing.
      predicted: `{task: label}`.
      confidence: `{task: probability of what was predicted}`.
      score: mean over its labels of their log probability.
    """

    file: str
    image: np.ndarray
    labels: Mapping[str, int]
    predicted: Mapping[str, int]
    confidence: Mapping[str, float]
    score: float


@dataclass
class Findings:
    """The predictions for a split; `add` takes what an evaluation gives.

    Attributes:
      classes: `{task: class names}`.
      keep: how many of the best and of the worst answers to keep.
    """

    classes: Mapping[str, Sequence[str]]
    keep: int = 12
    _labels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _predicted: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _confidence: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _best: list[tuple[float, int, Answer]] = field(default_factory=list)
    _worst: list[tuple[float, int, Answer]] = field(default_factory=list)
    _count: itertools.count = field(default_factory=itertools.count)

    def add(self, batch: Batch, logits: Mapping[str, jax.Array]) -> None:
        """Adds the examples of a batch, without those that pad it."""
        real = np.array([bool(file) for file in batch["file"]])
        log_sums, labelled = np.zeros(real.sum()), np.zeros(real.sum(), int)
        for task in self.classes:
            log_probabilities = np.asarray(jax.nn.log_softmax(logits[task]))[real]
            labels = batch["labels"][task][real]
            predicted = np.argmax(log_probabilities, axis=1)
            confidence = np.exp(np.max(log_probabilities, axis=1))
            self._labels.setdefault(task, []).append(labels)
            self._predicted.setdefault(task, []).append(predicted)
            self._confidence.setdefault(task, []).append(confidence)
            own = np.maximum(labels, 0)[:, None]
            of_label = np.take_along_axis(log_probabilities, own, axis=1)[:, 0]
            log_sums += np.where(labels >= 0, of_label, 0)
            labelled += labels >= 0
        scores = log_sums / np.maximum(labelled, 1)
        files, images = batch["file"][real], batch["image"][real]
        for i in np.flatnonzero(labelled):
            answer = Answer(
                file=files[i].decode("utf-8"),
                image=images[i],
                labels={t: int(of[-1][i]) for t, of in self._labels.items()},
                predicted={t: int(of[-1][i]) for t, of in self._predicted.items()},
                confidence={t: float(of[-1][i]) for t, of in self._confidence.items()},
                score=float(scores[i]),
            )
            self._keep(self._best, answer.score, answer)
            self._keep(self._worst, -answer.score, answer)

    def _keep(
        self, heap: list[tuple[float, int, Answer]], score: float, answer: Answer
    ) -> None:
        """Keeps an answer if its score is among the highest; of equals the first."""
        entry = (score, -next(self._count), answer)
        if len(heap) < self.keep:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    @property
    def best(self) -> list[Answer]:
        """Answers whose labels the network thought most probable, the best first."""
        return [answer for *_, answer in sorted(self._best, reverse=True)]

    @property
    def worst(self) -> list[Answer]:
        """Answers whose labels it thought least probable, the worst first."""
        return [answer for *_, answer in sorted(self._worst, reverse=True)]

    def confusions(self, task: str) -> np.ndarray:
        """Returns how often each label is predicted as which: `[K, K]`."""
        labels, predicted, _ = self._labelled(task)
        size = len(self.classes[task])
        counts = np.bincount(labels * size + predicted, minlength=size * size)
        return counts.reshape(size, size)

    def grid(self, rows: str, columns: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many pictures carry each pair of labels, and have both right.

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
        shape = (len(self.classes[rows]), len(self.classes[columns]))
        counts, rights = np.zeros(shape, int), np.zeros(shape, int)
        np.add.at(counts, (labels[0][labelled], labels[1][labelled]), 1)
        both = labelled & right
        np.add.at(rights, (labels[0][both], labels[1][both]), 1)
        return counts, rights

    def calibration(self, task: str) -> "Calibration":
        """Returns how far the probabilities of a task can be believed."""
        labels, predicted, confidence = self._labelled(task)
        right = (labels == predicted).astype(np.float64)
        # (k / BINS, (k + 1) / BINS]: what is exactly between goes to the lower bin.
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        with np.errstate(invalid="ignore"):
            mean_confidence = np.bincount(bins, confidence, BINS) / counts
            accuracy = np.bincount(bins, right, BINS) / counts
        return Calibration(counts, mean_confidence, accuracy)

    def _labelled(self, task: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels = np.concatenate(self._labels[task])
        predicted = np.concatenate(self._predicted[task])
        confidence = np.concatenate(self._confidence[task])
        real = labels >= 0
        return labels[real], predicted[real], confidence[real]


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
