"""Measures of a trained network, each example counted once."""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import devices, metrics
from crl_jax.data import Batch, source, stream
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical, Kinds
from crl_jax.terminal import percent, print_table, progress_bar
from crl_jax.trained import Trained, load
from crl_jax.whole_file import WholeFile
from crl_jax.workdir import Run, check_data


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
      What `metrics.means` returns, with what needs all examples at once, too.
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
        """Adds those of a batch, which may still be computed."""
        self._on_devices.append((logits, labels))

    def fetch(self) -> None:
        """Fetches what was added, of all processes."""
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
    checkpoint_step: int,
    name: str = "",
) -> None:
    """Prints a table a kind: a row a task, and one for all tasks right at once.

    Args:
      result: from `evaluate_batches`.
      kinds: of the tasks.
      split: that it is of.
      checkpoint_step: steps that the network was trained for.
      name: of the run, before the title.
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
            f"{name}{title}, split {split}, checkpoint of step {checkpoint_step:,}",
            ["task", "examples", *(measure.title for measure in measures)],
            rows,
        )


class PredictionsFile:
    """A CSV with a row an example; use it in a `with` statement.

    Its columns are `file`, and for each task `<task>` (the label as a list has it,
    empty if missing), `<task>_predicted` (likewise) and `<task>_probability` (of what
    is predicted; of several classes as many numbers; of a regression there is no such
    column). It is whole or not there: see `WholeFile`.
    """

    def __init__(self, path: str | os.PathLike[str], kinds: Kinds) -> None:
        self._file, self._kinds = WholeFile(path, "--predictions"), kinds
        self._rows = csv.writer(self._file)
        header = ["file"]
        for task, kind in kinds.items():
            header += [task, f"{task}_predicted"]
            header += [f"{task}_probability"] if kind.names else []
        self._rows.writerow(header)

    def write(self, batch: Batch, logits: Mapping[str, jax.Array]) -> None:
        """Writes the rows of one batch, without the examples that pad it."""
        answers = {t: np.asarray(k.answer(logits[t])) for t, k in self._kinds.items()}
        for i, file in enumerate(batch["file"]):
            if not file:
                continue
            row = [file.decode("utf-8")]
            for task, kind in self._kinds.items():
                answer = answers[task][i]
                row += [kind.label_text(batch["labels"][task][i]), kind.said(answer)]
                row += [kind.probability_text(answer)] if kind.names else []
            self._rows.writerow(row)

    def __enter__(self) -> "PredictionsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A run's best checkpoint, before a split of its data.

    Attributes:
      trained: the checkpoint.
      config: the run's, with its data where it is now.
      source: prepared data.
      split: of the data.
      other: name of the list, if it is another one than the run's.
    """

    trained: Trained
    config: ConfigDict
    source: source.Source
    split: str
    other: str = ""

    @property
    def title(self) -> str:
        """The split, and of which list if that is not the run's."""
        return f"{self.split} of {self.other}" if self.other else self.split

    def run(
        self, on_logits: Callable[[Batch, dict[str, jax.Array]], None] | None = None
    ) -> metrics.Means:
        """Returns what `evaluate_batches` does, whose `on_logits` it takes."""
        batches = stream.eval_batches(self.source, self.config, self.split)
        trained = self.trained
        processes = jax.process_count()  # each has about as many pictures
        with progress_bar("pictures", self.source.size(self.split)) as advance:

            def counted() -> Iterator[Batch]:
                for batch in batches:
                    yield batch
                    advance(processes * np.count_nonzero(batch["file"]))

            return evaluate_batches(
                trained.eval_step,
                trained.variables,
                counted(),
                trained.mesh,
                trained.run.kinds,
                on_logits,
            )


def prepare(
    workdir: str | os.PathLike[str],
    split: str | None = None,
    batch_size: int | None = None,
    manifest: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    on: str | os.PathLike[str] | None = None,
) -> Evaluation:
    """Returns the evaluation of the run in `workdir`; nothing is computed yet.

    Args:
      workdir: the run's folder.
      split: of the data; None: that which training reported at its end, or all of `on`.
      batch_size: over all devices, rounded up to a multiple of them; None: as in
        training.
      manifest: the run's, where it is not where it was in training.
      data_dir: of the prepared shards, likewise.
      on: another list of labelled pictures, in place of the run's data. Its columns and
        class names are some of those that were trained.

    Raises:
      UserError: there is no run, no checkpoint, no such split, or other data; or a
        mistake in `on`.
    """
    workdir, mesh = Path(workdir), devices.make_mesh()
    trained = load(workdir, mesh)
    config = config_lib.copy(trained.run.config)
    size = batch_size or config.data.batch_size
    config.data.batch_size = math.ceil(size / mesh.size) * mesh.size
    if data_dir is not None:
        config.data.dir = os.fspath(data_dir)
    if on is None:
        data = _data_of_run(workdir, trained.run, config, manifest)
        whole, other = config_lib.final_split(config), ""
    else:
        config.data.manifest = os.fspath(on)
        data = source.find_source(config, trained.run.kinds)
        whole, other = "+".join(data.splits), Path(on).name
    split = whole if split is None else split
    data.check_split(split)
    return Evaluation(trained, config, data.prepared(), split, other)


def _data_of_run(
    workdir: Path, run: Run, config: ConfigDict, manifest: str | os.PathLike[str] | None
) -> source.Source:
    """Returns the data that a run was trained on, whose manifest may have moved."""
    if manifest is not None:
        config.data.manifest = os.fspath(manifest)
    if config.data.manifest and not Path(config.data.manifest).exists():
        raise UserError(
            f"The manifest {config.data.manifest} is not there: give --manifest=FILE, "
            "where it is now."
        )
    data = source.find_source(config)
    check_data(workdir, run, data.classes, data.identity)
    return data


def evaluate(
    workdir: str | os.PathLike[str],
    split: str | None = None,
    predictions: str | os.PathLike[str] | None = None,
    batch_size: int | None = None,
    manifest: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    on: str | os.PathLike[str] | None = None,
) -> metrics.Means:
    """Evaluates the best checkpoint of the run in `workdir` and prints the table.

    Args:
      workdir: the run's folder.
      split: see `prepare`.
      predictions: where to write a row an example, if anywhere.
      batch_size: see `prepare`, as the next ones.
      manifest: where it is now.
      data_dir: where the shards are now.
      on: another list.

    Raises:
      UserError: as `prepare` says; or a file that cannot be written, or that several
        processes would write.
    """
    if predictions is not None:
        devices.check_alone("A file of predictions is written")
    evaluation = prepare(workdir, split, batch_size, manifest, data_dir, on)
    trained = evaluation.trained
    with ExitStack() as stack:
        on_logits = None
        if predictions is not None:
            file = PredictionsFile(predictions, trained.run.kinds)
            on_logits = stack.enter_context(file).write
        result = evaluation.run(on_logits)
    print_result(result, trained.run.kinds, evaluation.title, trained.step)
    return result
