"""A trained run on a split of labelled pictures: of its own data, or another list."""

import csv
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import devices, evaluation_loop, metrics
from crl_jax.data import Batch, source, stream
from crl_jax.errors import UserError
from crl_jax.kinds import Kinds
from crl_jax.terminal import progress_bar
from crl_jax.trained import Trained, load
from crl_jax.whole_file import WholeFile
from crl_jax.workdir import Run, check_data


class PredictionRows:
    """The rows of a CSV, one per example.

    Its columns are `file`, and for each task `<task>` (the label as it is written in a
    list, empty if missing), `<task>_predicted` (likewise) and `<task>_probability` (of
    what is predicted: one number for each predicted class; a regression has no such
    column).
    """

    def __init__(self, file: WholeFile, kinds: Kinds) -> None:
        """Writes the header to an open file."""
        self._rows, self._kinds = csv.writer(file), kinds
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


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A run's best checkpoint, and the split of data to evaluate it on.

    Attributes:
      trained: the checkpoint.
      config: the run's, with its data where it is now.
      source: prepared data.
      split: of the data.
      other: name of the list, if it is not the run's.
    """

    trained: Trained
    config: ConfigDict
    source: source.Source
    split: str
    other: str = ""

    @property
    def title(self) -> str:
        """The split, and the name of its list if that is not the run's."""
        return f"{self.split} of {self.other}" if self.other else self.split

    def run(
        self, on_logits: Callable[[Batch, dict[str, jax.Array]], None] | None = None
    ) -> metrics.Means:
        """Returns the measures; `on_logits` is as in `evaluate_batches`."""
        batches = stream.eval_batches(self.source, self.config, self.split)
        trained = self.trained
        processes = jax.process_count()  # each has about the same number of pictures
        with progress_bar("pictures", self.source.size(self.split)) as advance:

            def counted() -> Iterator[Batch]:
                for batch in batches:
                    yield batch
                    advance(processes * np.count_nonzero(batch["file"]))

            return evaluation_loop.evaluate_batches(
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
      split: of the data; None: the one that training reported at its end, or all of
        `on`.
      batch_size: over all devices, rounded up to a multiple of their number; None: as
        in training.
      manifest: the run's, if it is no longer where it was in training.
      data_dir: folder of the prepared shards, likewise.
      on: another list of labelled pictures, in place of the run's data. Its columns and
        class names are some of those that were trained.

    Raises:
      UserError: there is no run, no checkpoint or no such split; the data is not the
        run's; or there is a mistake in `on`.
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
            f"The manifest {config.data.manifest} is not there: say where it is now "
            "with --manifest=FILE."
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
      split: of the data, such as `val`; None: the one that training reported at its
        end, or all of `on`.
      predictions: CSV file to write one row per example to, if any.
      batch_size: over all devices, rounded up to a multiple of their number; None: as
        in training.
      manifest: the run's list of pictures, if it is no longer where it was in training.
      data_dir: folder of the prepared shards, likewise.
      on: another list of labelled pictures, in place of the run's data. Its columns and
        class names are some of those that were trained.

    Returns:
      The measures, `{task: {"count", "loss", ...}}` with those of the task's kind, and
      if some tasks are categorical `"joint": {"count", "top1"}`, as `metrics.means`
      returns them. NaN stands for what does not exist.

    Raises:
      UserError: there is no run, no checkpoint or no such split; the data is not the
        run's; there is a mistake in `on`; or `predictions` cannot be written, or
        several processes would write it.
    """
    if predictions is not None:
        devices.check_alone("A file of predictions is written")
    evaluation = prepare(workdir, split, batch_size, manifest, data_dir, on)
    trained = evaluation.trained
    with ExitStack() as stack:
        on_logits = None
        if predictions is not None:
            file = stack.enter_context(WholeFile(predictions, "--predictions"))
            on_logits = PredictionRows(file, trained.run.kinds).write
        result = evaluation.run(on_logits)
    kinds, title = trained.run.kinds, evaluation.title
    evaluation_loop.print_result(result, kinds, title, trained.checkpoint)
    return result
