"""What a trained network says about pictures, for each task and for all at once."""

import dataclasses
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crl_jax import devices, run_files, trained
from crl_jax.data import unlabelled
from crl_jax.errors import UserError
from crl_jax.inference import exported
from crl_jax.inference.joint import JointRule
from crl_jax.kinds import Kinds, Regression, categorical_classes, class_names
from crl_jax.models.network import DATA_AXIS
from crl_jax.trained import Trained

Ranked = list[tuple[str, float]]


@dataclass(frozen=True)
class Joint:
    """The most probable combination of labels, among those seen in training.

    Attributes:
      labels: `{task: label}`.
      probability: the softmax of the combinations' scores (see `JointRule`). With the
        initial weights of 1, this is the probability of the combination if the tasks,
        given the picture, are independent except for which combinations exist.
    """

    labels: Mapping[str, str]
    probability: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What is predicted for one picture.

    Attributes:
      file: its name; empty if it has none.
      kinds: what each task is.
      probabilities: `{task: [K] float32}`, and for a regression its number, `[]`; empty
        if the picture was refused.
      joint: of all categorical tasks; None if there are fewer than two of them, or if
        no training picture has all their labels.
      error: why the picture was refused, if it was.
    """

    file: str
    kinds: Kinds
    probabilities: Mapping[str, np.ndarray]
    joint: Joint | None = None
    error: str | None = None

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """`{task: class names}`, none for a regression."""
        return class_names(self.kinds)

    def top(self, task: str, count: int = 5) -> Ranked:
        """Returns the `count` most probable labels of a task, the best first.

        Those of a multilabel task may all be probable, or none.

        Raises:
          UserError: there is no such task, or it is a regression; or the picture was
            refused.
        """
        answer, kind = self._answer(task), self.kinds[task]
        if isinstance(kind, Regression):
            raise UserError(
                f"The task {task!r} is a regression, which has no labels: take "
                f"number({task!r})."
            )
        return kind.ranked(answer, count)

    def number(self, task: str) -> float:
        """Returns the number that a regression predicts, in its labels' own unit.

        Raises:
          UserError: there is no such task, or it is not a regression; or the picture
            was refused.
        """
        answer, kind = self._answer(task), self.kinds[task]
        if not isinstance(kind, Regression):
            raise UserError(
                f"The task {task!r} is {kind.name}, and no number: take top({task!r})."
            )
        return float(answer)

    def _answer(self, task: str) -> np.ndarray:
        """Returns what `probabilities` has of a task."""
        if self.error is not None:
            raise UserError(f"The picture was refused: {self.error}")
        if task not in self.kinds:
            raise UserError(
                f"There is no task {task!r}; there is: {', '.join(self.kinds)}."
            )
        return self.probabilities[task]


def load(directory: str | os.PathLike[str]) -> "Predictor":
    """Returns the network of the best checkpoint of the run in `directory`.

    Or the network that was exported to `directory`, to safetensors or as a Space.

    Raises:
      UserError: there is no run, or no checkpoint; an export is damaged; or this is one
        of several processes.
    """
    devices.check_alone("Pictures are predicted")
    folder, mesh = Path(directory), devices.make_mesh()
    read = exported.load if exported.is_in(folder) else trained.load
    network = read(folder, mesh)
    tasks = categorical_classes(network.run.kinds)
    combinations, weights = run_files.read_combinations(folder, tasks)
    rule = None
    if len(tasks) > 1 and len(combinations):
        rule = JointRule(combinations, {t: weights.get(t, 1.0) for t in tasks})
    return Predictor(network, rule)


class Predictor:
    """A trained network that predicts the labels of pictures; `load` makes it.

    Attributes:
      trained: the network, and what it was trained on.
    """

    def __init__(self, trained: Trained, rule: JointRule | None) -> None:
        self.trained, self._rule = trained, rule

    def without_cross_residuals(self) -> "Predictor":
        """Returns the same network, its variables as they are, but nothing crosses.

        It was not trained this way: this shows what its cross-residuals carry, and not
        how good a plain multitask network would be.
        """
        network = self.trained.network.clone(cross_init=0.0, cross_learned=False)
        trained = dataclasses.replace(self.trained, network=network)
        return Predictor(trained, self._rule)

    @property
    def kinds(self) -> Kinds:
        """What each task is, `{task: Kind}`."""
        return self.trained.run.kinds

    @property
    def classes(self) -> Mapping[str, Sequence[str]]:
        """`{task: class names}`, none for a regression."""
        return self.trained.run.classes

    def __call__(self, images: Any, batch_size: int | None = None) -> list[Prediction]:
        """Returns one prediction per picture, in their order.

        Args:
          images: one picture or a list of them; see `unlabelled.check`. `[B, rows,
            columns, 3]` uint8 counts as a list, too.
          batch_size: pictures at a time; None: as in training.

        Raises:
          UserError: something among the images is not a picture at all. A file that
            cannot be decoded is refused in its prediction instead.
        """
        if isinstance(images, (list, tuple)):
            alone = False
        else:  # a Pillow image is not iterable
            # The lines of an open file are no pictures; as one it is refused.
            alone = isinstance(images, (str, Path, bytes)) or hasattr(images, "read")
            alone = alone or not isinstance(images, Iterable)
            alone = alone or getattr(images, "ndim", 0) in (2, 3)
        return list(self.predict([images] if alone else images, batch_size))

    def predict(
        self, images: Sequence[Any], batch_size: int | None = None
    ) -> Iterator[Prediction]:
        """Yields what `__call__` returns, batch by batch."""
        items = [unlabelled.check(image) for image in images]
        data = self.trained.run.config.data
        # For a few pictures a power of two: the network is compiled for each size.
        few = 2 ** max(len(items) - 1, 0).bit_length()
        size = min(batch_size or data.batch_size, few)
        read = unlabelled.batches(items, data, size)
        names = iter(
            str(item) if isinstance(item, (str, Path)) else "" for item in items
        )
        for batch in read:
            probabilities = self.probabilities(batch["image"], size)
            joints = self._joints(probabilities)
            for i, error in enumerate(batch["error"]):
                if error:
                    refused = error.decode("utf-8")
                    yield Prediction(next(names), self.kinds, {}, error=refused)
                    continue
                of_picture = {task: p[i] for task, p in probabilities.items()}
                yield Prediction(next(names), self.kinds, of_picture, joints[i])

    def probabilities(
        self, images: np.ndarray, batch_size: int = 0
    ) -> dict[str, np.ndarray]:
        """Returns the probabilities of pictures that are already cut.

        Args:
          images: `[B, H, W, 3]` uint8, H = W = `config.data.image_size`.
          batch_size: the size that they are padded to, so that the network is not
            compiled for another one; rounded up to a multiple of the devices.

        Returns:
          `{task: [B, K] float32}`, and for a regression its numbers, `[B]`.
        """
        trained, count = self.trained, len(images)
        parts = trained.mesh.shape[DATA_AXIS]
        size = math.ceil(max(count, batch_size) / parts) * parts
        images = np.pad(images, ((0, size - count), (0, 0), (0, 0), (0, 0)))
        labels = {task: kind.unlabelled(size) for task, kind in self.kinds.items()}
        batch = devices.put_batch({"image": images, "labels": labels}, trained.mesh)
        _, logits = trained.eval_step(trained.variables, batch)
        answers = {t: kind.answer(logits[t]) for t, kind in self.kinds.items()}
        return {task: np.asarray(answer)[:count] for task, answer in answers.items()}

    def _joints(self, probabilities: Mapping[str, np.ndarray]) -> list[Joint | None]:
        """Returns the joint answer for each of B pictures."""
        if self._rule is None:
            return [None] * len(next(iter(probabilities.values())))
        labels, shares = self._rule.answers(probabilities)
        answers = zip(labels, shares, strict=True)
        return [Joint(self._names(of), float(share)) for of, share in answers]

    def _names(self, labels: np.ndarray) -> dict[str, str]:
        """Returns `{task: label}` of a combination, `[T]`."""
        tasks = categorical_classes(self.kinds)
        classes = zip(tasks.items(), labels, strict=True)
        return {task: names[label] for (task, names), label in classes}
