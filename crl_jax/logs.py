"""`metrics.csv` and TensorBoard files of a run."""

import contextlib
import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboardX import SummaryWriter

from crl_jax.terminal import console

COLUMNS = ("loss", "top1", "top5", "mean_class")


class MetricsLog:
    """Writes each row of metrics to `metrics.csv` and to TensorBoard.

    `metrics.csv` has a row a step and split: `step, epoch, split, learning_rate,
    skipped` (steps left out so far, since a number of theirs was none), then
    `<task>_loss, <task>_top1, <task>_top5, <task>_mean_class` for each task, then
    `joint_top1`. Shares are between 0 and 1; an empty cell means that a number does not
    exist. A resumed run goes on after the row of the step it resumes from.
    """

    def __init__(self, workdir: Path, tasks: Sequence[str], resumed_step: int) -> None:
        self._path = workdir / "metrics.csv"
        self._columns = ["step", "epoch", "split", "learning_rate", "skipped"]
        self._columns += [f"{task}_{name}" for task in tasks for name in COLUMNS]
        self._columns += ["joint_top1"]
        self._drop_rows_after(resumed_step)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._rows = csv.DictWriter(self._file, self._columns, extrasaction="ignore")
        self._board = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resumed_step + 1
        )

    def _drop_rows_after(self, step: int) -> None:
        """Keeps the rows up to `step`: later ones are going to be written again."""
        kept = []
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                # A row that a killed process left half-written has no last cell.
                rows = (r for r in csv.DictReader(file) if None not in r.values())
                kept = [row for row in rows if int(row["step"]) <= step]
        partial = self._path.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        os.replace(partial, self._path)

    def write(
        self,
        step: int,
        epoch: float,
        split: str,
        result: Mapping[str, Mapping[str, float]],
        learning_rate: float,
        skipped: int,
    ) -> None:
        """Writes one row.

        Args:
          step: updates done.
          epoch: passes over the training data done.
          split: what the numbers are of.
          result: from `metrics.means`.
          learning_rate: of the last update.
          skipped: steps left out so far.
        """
        numbers = {
            f"{task}_{name}": value
            for task, values in result.items()
            for name, value in values.items()
            if name != "count" and value == value
        }
        for name, value in numbers.items():
            self._board.add_scalar(f"{split}/{name}", value, step)
        self._board.add_scalar("learning_rate", learning_rate, step)
        self._rows.writerow(
            {
                "step": step,
                "epoch": round(epoch, 4),
                "split": split,
                "learning_rate": learning_rate,
                "skipped": skipped,
            }
            | numbers
        )
        self.flush()

    def flush(self) -> None:
        """Hands the rows to the operating system.

        What a full disk refuses stays in memory, and is tried again with the next row.
        """
        try:
            self._file.flush()
            self._board.flush()
        except OSError as error:
            console.print(
                f"{self._path} cannot be written now: {error.strerror}. The run goes "
                "on; its rows wait.",
                soft_wrap=True,
            )

    def close(self) -> None:
        """Closes both files."""
        for file in (self._file, self._board):
            with contextlib.suppress(OSError):  # `flush` told of it
                file.close()


class NoLog:
    """What processes other than the first write: nothing."""

    def write(self, *_: object) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
