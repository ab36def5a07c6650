"""Accuracies as sums and counts; the division is done once, at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Sums = dict[str, dict[str, Array]]
Means = dict[str, dict[str, float]]

TOP = 5
JOINT = "joint"  # stands among the tasks for "all of them right"


def sums(
    logits: Mapping[str, Array],
    labels: Mapping[str, Array],
    losses: Mapping[str, Array],
) -> Sums:
    """Adds up a batch; add the results of several batches or devices to go on.

    Args:
      logits: `{task: [B, K]}`.
      labels: `{task: [B]}`; -1 means missing (or an example that pads the batch).
      losses: `{task: [B]}`, 0 where the label is missing.

    Returns:
      `{task: {"count": [], "loss": [], "top1": [], "top5": [], "class_count": [K],
      "class_top1": [K]}}` and `"joint": {"count": [], "top1": []}` over the examples
      that have all labels.
    """
    result: Sums = {}
    all_labelled, all_right = jnp.array(True), jnp.array(True)
    for task, task_logits in logits.items():
        labelled = labels[task] >= 0
        rank = _rank_of_label(task_logits, labels[task])
        right = labelled & (rank == 0)
        one_hot = jax.nn.one_hot(labels[task], task_logits.shape[-1], dtype=jnp.int32)
        result[task] = {
            "count": jnp.sum(labelled, dtype=jnp.int32),
            "loss": jnp.sum(losses[task]),
            "top1": jnp.sum(right, dtype=jnp.int32),
            "top5": jnp.sum(labelled & (rank < TOP), dtype=jnp.int32),
            "class_count": jnp.sum(one_hot, axis=0),
            "class_top1": jnp.sum(one_hot * right[:, None], axis=0),
        }
        all_labelled, all_right = all_labelled & labelled, all_right & right
    result[JOINT] = {
        "count": jnp.sum(all_labelled, dtype=jnp.int32),
        "top1": jnp.sum(all_right, dtype=jnp.int32),
    }
    return result


def zeros(classes: Mapping[str, int]) -> Sums:
    """Returns the sums of no example, `{task: ...}` for tasks with K classes each."""
    zero, count = jnp.zeros(()), jnp.zeros((), jnp.int32)
    result: Sums = {
        task: {
            "count": count,
            "loss": zero,
            "top1": count,
            "top5": count,
            "class_count": jnp.zeros(k, jnp.int32),
            "class_top1": jnp.zeros(k, jnp.int32),
        }
        for task, k in classes.items()
    }
    return result | {JOINT: {"count": count, "top1": count}}


def _rank_of_label(logits: Array, labels: Array) -> Array:
    """Returns how many classes come before the true one, `[B]`.

    Of equal logits the first comes first, as in argmax, so that a network that says
    nothing is not right about everything.
    """
    index = jnp.maximum(labels, 0)[:, None]
    own = jnp.take_along_axis(logits, index, axis=-1)
    earlier = jnp.arange(logits.shape[-1])[None, :] < index
    before = (logits > own) | ((logits == own) & earlier) | jnp.isnan(own)
    return jnp.sum(before, axis=-1)


def _total(batches: Sequence[Sums]) -> dict[str, dict[str, Any]]:
    """Fetches the sums of several batches and adds them up, losses in float64."""
    fetched = jax.device_get(list(batches))
    return jax.tree.map(
        lambda *parts: np.sum(
            np.stack(parts), axis=0, dtype=np.result_type(parts[0], np.int64)
        ),
        *fetched,
    )


def means(batches: Sequence[Sums], tasks: Sequence[str]) -> Means:
    """Adds up the sums of several batches and divides them by their counts.

    Args:
      batches: from `sums`, on the devices or not.
      tasks: in the order that the result shall have.

    Returns:
      `{task: {"count", "loss", "top1", "top5", "mean_class"}}` and
      `"joint": {"count", "top1"}`. `mean_class` is the mean over the classes that occur
      of their own top-1. NaN stands for what does not exist: all of a task without
      labels, and the top-5 of a task with five classes or fewer.
    """
    total = _total(batches)
    result = {}
    for task in (*tasks, JOINT):
        values = total[task]
        count = values["count"] if values["count"] > 0 else np.nan
        result[task] = {
            "count": int(values["count"]),
            "top1": float(values["top1"] / count),
        }
        if task == JOINT:
            continue
        occurs = values["class_count"] > 0
        by_class = values["class_top1"][occurs] / values["class_count"][occurs]
        result[task] |= {
            "loss": float(values["loss"] / count),
            "top5": float(values["top5"] / count) if len(occurs) > TOP else np.nan,
            "mean_class": float(np.mean(by_class)) if occurs.any() else np.nan,
        }
    return result


def score(result: Means, best_by: str) -> float | None:
    """Returns the number by which checkpoints are chosen, higher is better.

    Args:
      result: from `means`.
      best_by: a task, for its top-1, or "mean", for the mean of the tasks' top-1.

    Returns:
      None if there is no label to choose by.
    """
    top1 = {
        task: values["top1"]
        for task, values in result.items()
        if task != JOINT and values["count"] and best_by in (task, "mean")
    }
    return float(np.mean(list(top1.values()))) if top1 else None
