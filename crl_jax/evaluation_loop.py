"""Measures of a network, each example counted once, and the tables that show them."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crl_jax import devices, metrics
from crl_jax.data import Batch
from crl_jax.kinds import Categorical, Kinds
from crl_jax.terminal import percent, print_table


def evaluate_batches(
    eval_step: Callable[..., Any],
    variables: Any,
    batches: Iterable[Batch],
    mesh: Mesh,
    kinds: Kinds,
    on_logits: Callable[[Batch, dict[str, jax.Array]], None] | None = None,
) -> metrics.Means:
    """Evaluates every example of `batches` once.

    Args:
      eval_step: from `step.map_eval_step`.
      variables: of the network.
      batches: from `stream.eval_batches`; padded examples have no labels.
      mesh: from `devices.make_mesh`.
      kinds: of the tasks, in the order of the result.
      on_logits: called with each batch and its logits `{task: [B, K]}`.

    Returns:
      What `metrics.means` returns, and the measures that need all examples at once.
    """
    sums: list[metrics.Sums] = []
    whole = {task: _Whole() for task, kind in kinds.items() if kind.judged_whole}
    for batch in batches:
        placed = devices.put_batch(batch, mesh)
        batch_sums, logits = eval_step(variables, placed)
        if sums:
            jax.block_until_ready(sums[-1])  # at most two batches are under way
            for examples in whole.values():
                examples.fetch()
        sums.append(batch_sums)
        for task, examples in whole.items():
            examples.add(logits[task], placed["labels"][task])
        if on_logits is not None:
            on_logits(batch, logits)
    result = metrics.means(sums, kinds)
    for task, examples in whole.items():
        result[task] |= kinds[task].of_whole(*examples.arrays())
    return result


class _Whole:
    """The logits and labels of a task for all examples of a split, on the host."""

    def __init__(self) -> None:
        self._on_devices: list[tuple[jax.Array, jax.Array]] = []
        self._batches: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, logits: jax.Array, labels: jax.Array) -> None:
        """Adds those of a batch, which may not be computed yet."""
        self._on_devices.append((logits, labels))

    def fetch(self) -> None:
        """Fetches what was added, from all processes."""
        for logits, labels in self._on_devices:
            self._batches.append((devices.fetch(logits), devices.fetch(labels)))
        self._on_devices.clear()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the logits, `[N, K]`, and the labels."""
        self.fetch()
        logits, labels = zip(*self._batches, strict=True)
        return np.concatenate(logits), np.concatenate(labels)


def print_result(
    result: metrics.Means,
    kinds: Kinds,
    split: str,
    checkpoint: str,
    name: str = "",
) -> None:
    """Prints one table per kind: a row for each task, and one for all right at once.

    Args:
      result: from `evaluate_batches`.
      kinds: of the tasks.
      split: the split that was evaluated.
      checkpoint: which one was evaluated, such as `Trained.checkpoint`.
      name: of the run, put before the title.
    """
    tables: dict[str, list[str]] = {}
    for task, kind in kinds.items():
        tables.setdefault(kind.title, []).append(task)
    for title, tasks in tables.items():
        measures = kinds[tasks[0]].measures
        rows = [
            [
                task,
                f"{result[task]['count']:,}",
                *(measure.text(result[task][measure.name]) for measure in measures),
            ]
            for task in tasks
        ]
        if isinstance(kinds[tasks[0]], Categorical):
            together, none = result[metrics.JOINT], ["–"] * (len(measures) - 1)
            count, right = f"{together['count']:,}", percent(together["top1"])
            rows.append([metrics.title(metrics.JOINT), count, right, *none])
        print_table(
            f"{name}{title}, split {split}, {checkpoint}",
            ["task", "examples", *(measure.title for measure in measures)],
            rows,
        )
