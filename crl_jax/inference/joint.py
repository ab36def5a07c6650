"""The joint answer of the categorical tasks, and how much each head counts in it."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from crl_jax import devices, evaluation, metrics, run_files
from crl_jax import workdir as workdir_lib
from crl_jax.data import Batch
from crl_jax.errors import UserError
from crl_jax.kinds import categorical_classes
from crl_jax.terminal import console, percent, print_table

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # that a head may have

_SCORES = 2**22  # that are in memory at a time, one per picture and combination


@dataclass(frozen=True, eq=False)
class JointRule:
    """Scores the combinations of labels that occur among training pictures.

    A combination's score is the sum over tasks of weight times the log-probability of
    its label. If the tasks form a product, such as adjective x noun = pair, all heads
    thus have a say in the pair. With weights of 1 the scores are logits of the
    combinations, if the tasks are independent given the picture, except for which
    combinations exist.

    Attributes:
      combinations: `[N, T]`, one label per task.
      weights: `{task: weight}`, of the T tasks in that order.
    """

    combinations: np.ndarray
    weights: Mapping[str, float]

    def scores(self, probabilities: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the scores, `[B, N]`, of probabilities `{task: [B, K]}`."""
        columns = zip(self.weights.items(), self.combinations.T, strict=True)
        tiny = np.finfo(np.float32).tiny
        return sum(
            (
                weight * np.log(np.maximum(probabilities[task], tiny))[:, labels]
                for (task, weight), labels in columns
            ),
            start=np.zeros(()),
        )

    def answers(
        self, probabilities: Mapping[str, np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the best combination of each picture, `[B, T]`, and its share, `[B]`.

        The share is the softmax of the scores.
        """
        best, shares = [], []
        size = max(1, _SCORES // len(self.combinations))
        for start in range(0, len(next(iter(probabilities.values()))), size):
            part = {t: p[start : start + size] for t, p in probabilities.items()}
            scores = self.scores(part)
            top = np.max(scores, axis=1, keepdims=True)
            shares.append(1 / np.sum(np.exp(scores - top), axis=1))
            best.append(np.argmax(scores, axis=1))
        return self.combinations[np.concatenate(best)], np.concatenate(shares)


def choose_rule(
    combinations: np.ndarray,
    probabilities: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
) -> JointRule:
    """Returns the rule that is most often right about all tasks at once.

    Begins with weights of 1 and changes one at a time as long as that helps.

    Args:
      combinations: `[N, T]`.
      probabilities: `{task: [B, K]}`, of pictures that were not trained on.
      labels: `{task: [B]}`; pictures that lack one, -1, do not count.
    """
    table = np.stack([labels[task] for task in probabilities], axis=1)

    def right(rule: JointRule) -> int:
        return int(np.all(rule.answers(probabilities)[0] == table, axis=1).sum())

    best = JointRule(combinations, dict.fromkeys(probabilities, 1.0))
    most, before = right(best), -1
    while most > before:
        before = most
        for task in probabilities:
            for weight in WEIGHTS:
                rule = JointRule(combinations, {**best.weights, task: weight})
                if any(rule.weights.values()) and (found := right(rule)) > most:
                    best, most = rule, found
    return best


@dataclass(frozen=True)
class Judged:
    """How often a task is right.

    Attributes:
      alone: top-1 of its own head; for all tasks together, of all heads.
      together: top-1 of its label in the joint answer.
    """

    alone: float
    together: float


def choose_weights(
    workdir: str | os.PathLike[str],
    split: str | None = None,
    batch_size: int | None = None,
    manifest: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Judged]:
    """Chooses the weights on the validation split, keeps them, and prints a table.

    Args:
      workdir: the run's folder.
      split: the one that the table is for; see `evaluation.prepare`, as for the rest.
      batch_size: pictures at a time.
      manifest: where it is now.
      data_dir: where the shards are now.

    Returns:
      How often each categorical task is right, and all of them at once
      (`metrics.JOINT`).

    Raises:
      UserError: see `evaluation.prepare`; or there are fewer than two categorical
        tasks, no training picture has all labels, or there is no validation split with
        such a picture.
    """
    devices.check_alone("The joint answer is chosen")
    workdir = Path(workdir)
    run = workdir_lib.read(workdir)
    classes = categorical_classes(run.kinds)
    combinations, _ = run_files.read_combinations(workdir, classes)
    if combinations.ndim < 2 or combinations.shape[1] < 2:
        raise UserError(
            f"The run in {workdir} does not have two categorical tasks with labels "
            "that occur together in training: there is nothing to decide jointly."
        )
    validation = run.config.data.val_split
    if not validation:
        raise UserError(
            f"The run in {workdir} has no validation split (config.data.val_split) "
            "to choose the weights on."
        )
    elsewhere = batch_size, manifest, data_dir
    judged_on = evaluation.prepare(workdir, split, *elsewhere)
    judged_on.source.check_split(validation)
    chosen_on = dataclasses.replace(judged_on, split=validation)
    probabilities, labels = _answers(chosen_on)
    if not np.all([of >= 0 for of in labels.values()], axis=0).any():
        raise UserError(
            f"No picture of the split {validation} has all labels, so the weights "
            "cannot be chosen on it: label some, and train in another --workdir."
        )
    rule = choose_rule(combinations, probabilities, labels)
    run_files.write_combinations(workdir, combinations, rule.weights)
    judged = _judge(rule, *_answers(judged_on))
    _print(rule, judged, judged_on.split, judged_on.trained.checkpoint)
    console.print(
        f"The weights were chosen on the split {validation}; predict and demo read "
        f"them from {workdir / 'combinations.json'}.",
        soft_wrap=True,
    )
    if judged_on.source.share(validation, judged_on.split):
        console.print(
            f"Warning: the split {judged_on.split} shares pictures with {validation}, "
            "by which the weights were chosen: the last column is too high.",
            soft_wrap=True,
        )
    return judged


def _answers(
    of: evaluation.Evaluation,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns the probabilities, `{task: [B, K]}`, and labels, `{task: [B]}`."""
    tasks = categorical_classes(of.trained.run.kinds)
    probabilities: dict[str, list[np.ndarray]] = {task: [] for task in tasks}
    labels: dict[str, list[np.ndarray]] = {task: [] for task in tasks}

    def take(batch: Batch, logits: dict[str, jax.Array]) -> None:
        pictures = np.array([bool(file) for file in batch["file"]])  # without padding
        for task in tasks:
            answer = np.asarray(jax.nn.softmax(logits[task]))
            probabilities[task].append(answer[pictures])
            labels[task].append(np.asarray(batch["labels"][task])[pictures])

    of.run(take)
    return (
        {task: np.concatenate(parts) for task, parts in probabilities.items()},
        {task: np.concatenate(parts) for task, parts in labels.items()},
    )


def _judge(
    rule: JointRule,
    probabilities: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
) -> dict[str, Judged]:
    known = np.stack(list(labels.values()), axis=1)  # [B, T], like the next two
    heads = np.stack([p.argmax(axis=1) for p in probabilities.values()], axis=1)
    together, _ = rule.answers(probabilities)

    def judged(tasks: slice) -> Judged:
        asked = known[:, tasks]
        labelled = np.all(asked >= 0, axis=1)
        if not labelled.any():
            return Judged(np.nan, np.nan)
        alone, jointly = (
            np.all(answers[:, tasks] == asked, axis=1)[labelled].mean()
            for answers in (heads, together)
        )
        return Judged(float(alone), float(jointly))

    each = {task: judged(slice(t, t + 1)) for t, task in enumerate(labels)}
    return each | {metrics.JOINT: judged(slice(None))}


def _print(
    rule: JointRule, judged: Mapping[str, Judged], split: str, checkpoint: str
) -> None:
    def row(name: str, weight: str, of: Judged) -> list[str]:
        return [name, weight, percent(of.alone), percent(of.together)]

    weights = rule.weights.items()
    print_table(
        f"Top-1 in percent, split {split}, {checkpoint}",
        ["task", "weight", "its head alone", "all heads together"],
        [
            *(row(task, f"{weight:g}", judged[task]) for task, weight in weights),
            row(metrics.title(metrics.JOINT), "–", judged[metrics.JOINT]),
        ],
    )
