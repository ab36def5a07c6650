"""Accuracies of a trained network, each example counted once."""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from crl_jax import config_check, metrics, models, optim, step, workdir
from crl_jax.checkpoints import Checkpoints
from crl_jax.data import source, stream
from crl_jax.errors import UserError
from crl_jax.terminal import percent, print_table

_COLUMN_ENDS = ("", "_predicted", "_probability")  # of predictions, after the task


def run(
    eval_step: Callable[..., Any],
    variables: Any,
    batches: Iterable[step.Batch],
    mesh: Mesh,
    tasks: Sequence[str],
    on_logits: Callable[[step.Batch, dict[str, jax.Array]], None] | None = None,
) -> metrics.Means:
    """Evaluates every example of `batches` once.

    Args:
      eval_step: from `step.map_eval_step`.
      variables: of the network.
      batches: from `stream.eval_batches`; padded examples have no labels.
      mesh: from `step.data_mesh`.
      tasks: in the order of the result.
      on_logits: called with each batch and its logits `{task: [B, K]}`.

    Returns:
      What `metrics.means` returns.
    """
    sums: list[metrics.Sums] = []
    for batch in batches:
        batch_sums, logits = eval_step(variables, step.put_batch(batch, mesh))
        if sums:
            jax.block_until_ready(sums[-1])  # at most two batches are under way
        sums.append(batch_sums)
        if on_logits is not None:
            on_logits(batch, logits)
    return metrics.means(sums, tasks)


def print_result(result: metrics.Means, split: str, checkpoint_step: int) -> None:
    """Prints a row a task, and one for all tasks right at once."""
    rows = [
        [
            "all tasks right" if task == metrics.JOINT else task,
            f"{values['count']:,}",
            *(percent(values.get(n, np.nan)) for n in ("top1", "top5", "mean_class")),
        ]
        for task, values in result.items()
    ]
    print_table(
        f"Accuracy in percent, split {split}, checkpoint of step {checkpoint_step:,}",
        ["task", "examples", "top-1", "top-5", "mean class"],
        rows,
    )


class PredictionsFile:
    """A CSV with a row an example.

    Its columns are `file`, and for each task `<task>` (the label, empty if missing),
    `<task>_predicted` and `<task>_probability`.
    """

    def __init__(self, path: Path, classes: Mapping[str, Sequence[str]]) -> None:
        self._classes = classes
        try:
            self._file = path.open("w", newline="", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"--predictions={path} cannot be written: {error.strerror}."
            ) from error
        self._rows = csv.writer(self._file)
        header = (f"{task}{end}" for task in classes for end in _COLUMN_ENDS)
        self._rows.writerow(["file", *header])

    def write(self, batch: step.Batch, logits: Mapping[str, jax.Array]) -> None:
        """Writes the rows of one batch, without the examples that pad it."""
        probabilities = {t: np.asarray(jax.nn.softmax(x)) for t, x in logits.items()}
        for i, file in enumerate(batch["file"]):
            if not file:
                continue
            row = [file.decode("utf-8")]
            for task, names in self._classes.items():
                label = batch["labels"][task][i]
                best = int(np.argmax(probabilities[task][i]))
                probability = probabilities[task][i, best]
                row += [names[label] if label >= 0 else "", names[best]]
                row += [f"{probability:.4f}"]
            self._rows.writerow(row)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def evaluate(
    directory: Path, split: str, predictions: Path | None = None, batch_size: int = 0
) -> metrics.Means:
    """Evaluates the best checkpoint of the run in `directory` and prints the table.

    Args:
      directory: the run's folder.
      split: of the run's data.
      predictions: where to write a row an example, if anywhere.
      batch_size: over all devices; 0: as in training.

    Raises:
      UserError: there is no run, no checkpoint, or no such split.
    """
    config, classes = workdir.read(directory)
    if batch_size:
        config.unlock().data.batch_size = batch_size
        config = config_check.check(config)
    mesh = step.data_mesh()
    step.check_batch_size(config, mesh)
    data = source.open_source(config)
    workdir.check_classes(directory, classes, data.classes)
    network = models.build(
        config, {task: len(names) for task, names in classes.items()}
    )
    with ExitStack() as stack:
        checkpoints = stack.enter_context(
            closing(Checkpoints(directory, read_only=True))
        )
        best = checkpoints.best
        if best is None:
            raise UserError(f"--workdir={directory} has no checkpoint yet.")
        optimizer = optim.make(config.optim, lambda count: 0.0)
        shapes = jax.eval_shape(lambda: step.create_state(network, optimizer, config))
        state = checkpoints.restore(best, shapes, mesh)
        on_logits = None
        if predictions is not None:
            file = stack.enter_context(closing(PredictionsFile(predictions, classes)))
            on_logits = file.write
        batches = stream.eval_batches(data, config, split)
        eval_step = step.map_eval_step(step.make_eval_step(network), mesh)
        result = run(
            eval_step, state.evaluated, batches, mesh, list(classes), on_logits
        )
    print_result(result, split, best)
    return result
