"""What a run's report says of its predictions, collected batch by batch."""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.data import Batch
from crl_jax.kinds import Kinds, categorical_classes

BINS = 15  # of confidence, as in Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Answer:
    """One picture, its labels, and what was predicted.

    Attributes:
      file: its name.
      image: `[H, W, 3]` uint8, as the network saw it.
      labels: `{task: label as text}`, empty where missing.
      predicted: `{task: the same of what was predicted}`.
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
    _answers: dict[str, list[np.ndarray]] = field(default_factory=dict)
    _best: list[tuple[float, int, Answer]] = field(default_factory=list)
    _worst: list[tuple[float, int, Answer]] = field(default_factory=list)
    _count: itertools.count = field(default_factory=itertools.count)

    def add(self, batch: Batch, logits: Mapping[str, jax.Array]) -> None:
        """Adds the examples of a batch, without those that pad it."""
        real = np.array([bool(file) for file in batch["file"]])
        losses, labelled = np.zeros(real.sum()), np.zeros(real.sum(), int)
        for task, kind in self.kinds.items():
            outputs = jnp.asarray(np.asarray(logits[task])[real])
            labels = batch["labels"][task][real]
            self._labels.setdefault(task, []).append(labels)
            self._answers.setdefault(task, []).append(np.asarray(kind.answer(outputs)))
            losses += np.asarray(kind.loss(outputs, jnp.asarray(labels)))
            labelled += kind.is_labelled(labels)
        scores = -losses / np.maximum(labelled, 1)
        files, images = batch["file"][real], batch["image"][real]
        for i in np.flatnonzero(labelled).tolist():
            file, score = files[i].decode("utf-8"), float(scores[i])
            answer = self._answer(file, images[i], i, score)
            self._keep(self._best, score, answer)
            self._keep(self._worst, -score, answer)

    def _answer(self, file: str, image: np.ndarray, i: int, score: float) -> Answer:
        """Returns the answer for picture `i` of the last batch."""
        kinds = self.kinds.items()
        answers = {task: of[-1][i] for task, of in self._answers.items()}
        return Answer(
            file=file,
            image=image,
            labels={t: kind.label_text(self._labels[t][-1][i]) for t, kind in kinds},
            predicted={t: kind.said(answers[t]) for t, kind in kinds},
            brief={t: kind.brief(answers[t], 0) for t, kind in kinds},
            score=score,
        )

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

    @property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The class names of the tasks whose pictures have one class each."""
        return categorical_classes(self.kinds)

    def confusions(self, task: str) -> np.ndarray:
        """Returns how often each label is predicted as which: `[K, K]`."""
        labels, answers = self.labelled(task)
        predicted, size = np.argmax(answers, axis=1), self.kinds[task].width
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
        answers = [np.concatenate(self._answers[task]) for task in (rows, columns)]
        predicted = [np.argmax(of_task, axis=1) for of_task in answers]
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
        labels, answers = self.labelled(task)
        confidence = np.max(answers, axis=1)
        right = (labels == np.argmax(answers, axis=1)).astype(np.float64)
        # (k / BINS, (k + 1) / BINS]: what is exactly between goes to the lower bin.
        bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        with np.errstate(invalid="ignore"):
            mean_confidence = np.bincount(bins, confidence, BINS) / counts
            accuracy = np.bincount(bins, right, BINS) / counts
        return Calibration(counts, mean_confidence, accuracy)

    def labelled(self, task: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the labels of N examples that have one, and the answers for them."""
        labels = np.concatenate(self._labels[task])
        real = self.kinds[task].is_labelled(labels)
        return labels[real], np.concatenate(self._answers[task])[real]


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
