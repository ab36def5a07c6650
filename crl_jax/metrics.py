"""Measures as sums and counts; the division is done once, at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from crl_jax.kinds import Categorical, Kinds, Measure

Array = jax.Array
Sums = dict[str, dict[str, Array]]
Means = dict[str, dict[str, float]]

JOINT = "joint"  # stands among the tasks for "all of them right"


def title(task: str) -> str:
    """Returns what people read in the place of a task's name, or of `JOINT`."""
    return "all tasks right" if task == JOINT else task


def sums(
    kinds: Kinds,
    logits: Mapping[str, Array],
    labels: Mapping[str, Array],
    losses: Mapping[str, Array],
) -> Sums:
    """Adds up a batch; the results of several batches or devices may be added up.

    Args:
      kinds: of the tasks.
      logits: `{task: [B, K]}`.
      labels: `{task: of B examples}`; a missing one may also belong to an example that
        pads the batch.
      losses: `{task: [B]}`, 0 where the label is missing.

    Returns:
      `{task: {"count": [], "loss": [], ...}}` with what the task's kind adds; and if
      some tasks are categorical `"joint": {"count": [], "top1": []}` over the examples
      that have the labels of all these tasks.
    """
    result: Sums = {}
    all_labelled, all_right = jnp.array(True), jnp.array(True)
    for task, kind in kinds.items():
        labelled = kind.is_labelled(labels[task])
        result[task] = {
            "count": jnp.sum(labelled, dtype=jnp.int32),
            "loss": jnp.sum(losses[task]),
            **kind.sums(logits[task], labels[task]),
        }
        right = kind.is_right(logits[task], labels[task])
        if right is not None:
            all_labelled, all_right = all_labelled & labelled, all_right & right
    if has_joint(kinds):
        result[JOINT] = {
            "count": jnp.sum(all_labelled, dtype=jnp.int32),
            "top1": jnp.sum(all_right, dtype=jnp.int32),
        }
    return result


def has_joint(kinds: Kinds) -> bool:
    """Whether some task can be right or wrong, and thus all such tasks at once."""
    return any(isinstance(kind, Categorical) for kind in kinds.values())


def measures(kinds: Kinds) -> dict[str, Sequence[Measure]]:
    """Returns the measures of each task, and of all tasks together if there are any."""
    result: dict[str, Sequence[Measure]] = {t: k.measures for t, k in kinds.items()}
    return result | ({JOINT: Categorical.measures[:1]} if has_joint(kinds) else {})


def zeros(kinds: Kinds) -> Sums:
    """Returns the sums over no examples."""

    def of_one() -> Sums:
        logits = {t: jnp.zeros((1, k.width), jnp.float32) for t, k in kinds.items()}
        labels = {t: jnp.asarray(k.unlabelled(1)) for t, k in kinds.items()}
        losses = dict.fromkeys(kinds, jnp.zeros(1, jnp.float32))
        return sums(kinds, logits, labels, losses)

    shapes = jax.eval_shape(of_one)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def _total(batches: Sequence[Sums]) -> dict[str, dict[str, Any]]:
    """Fetches the sums of several batches and adds them up, losses in float64."""
    fetched = jax.device_get(list(batches))
    return jax.tree.map(
        lambda *parts: np.sum(
            np.stack(parts), axis=0, dtype=np.result_type(parts[0], np.int64)
        ),
        *fetched,
    )


def means(batches: Sequence[Sums], kinds: Kinds) -> Means:
    """Adds up the sums of several batches and divides them by their counts.

    Args:
      batches: from `sums`, on the devices or not.
      kinds: of the tasks, in the order of the result.

    Returns:
      `{task: {"count", "loss", ...}}` with the measures of the task's kind, and
      `"joint": {"count", "top1"}`. NaN stands for what does not exist: all measures of
      a task without labels, and those that need all examples of a split at once.
    """
    total = _total(batches)
    result: Means = {}
    for task, kind in kinds.items():
        values = total[task]
        count = values["count"] if values["count"] > 0 else np.nan
        result[task] = {
            "count": int(values["count"]),
            "loss": float(values["loss"] / count),
            **kind.means(values, count),
        }
    if JOINT in total:
        together = total[JOINT]
        count = together["count"] if together["count"] > 0 else np.nan
        result[JOINT] = {
            "count": int(together["count"]),
            "top1": float(together["top1"] / count),
        }
    return result


def in_a_line(result: Means, kinds: Kinds) -> str:
    """Returns each task's first measure that exists, such as `top-1  noun 93.18`.

    Args:
      result: from `means`.
      kinds: of the tasks.
    """
    parts: dict[str, list[str]] = {}
    for task, judged_by in measures(kinds).items():
        there = [m for m in judged_by if result[task][m.name] == result[task][m.name]]
        measure = (*there, judged_by[0])[0]
        text = f"{task} {measure.text(result[task][measure.name])}"
        parts.setdefault(measure.title, []).append(text)
    return "  ".join("  ".join([title, *of]) for title, of in parts.items())


def score(result: Means, kinds: Kinds, best_by: str) -> float | None:
    """Returns the number by which checkpoints are chosen; higher is better.

    Args:
      result: from `means`.
      kinds: of the tasks.
      best_by: a task, for its `Kind.goodness`, or "mean", for the mean over the tasks.

    Returns:
      None if there is no label to choose by.
    """
    found = [
        kind.goodness(result[task])
        for task, kind in kinds.items()
        if result[task]["count"] and best_by in (task, "mean")
    ]
    known = [value for value in found if value == value]
    return float(np.mean(known)) if known else None
