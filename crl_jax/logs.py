"""`metrics.csv` and TensorBoard files of a run."""

import contextlib
import csv
import io
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from crl_jax import metrics, workdir
from crl_jax.errors import UserError
from crl_jax.kinds import Kinds
from crl_jax.terminal import console
from crl_jax.whole_file import replacing


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of a run's `metrics.csv`; none if there is no such file.

    Raises:
      UserError: it cannot be read, or is not what `MetricsLog` wrote.
    """
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            # A row that a killed process left half-written has no line end.
            whole = [line for line in file if line.endswith("\n")]
        rows = list(csv.DictReader(whole))
        for row in rows:
            int(row["step"])
            if not row["split"]:
                raise ValueError("a row of no split")
            for name, cell in row.items():
                if cell and name != "split":
                    float(cell)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise _not_ours(path) from error
    return rows


def _not_ours(path: Path) -> UserError:
    return UserError(
        f"{path} is not as the run wrote it; another program may have saved it. Move "
        "it away: the run then goes on with a new one."
    )


class MetricsLog:
    """Writes each row of metrics to `metrics.csv` and to TensorBoard.

    `metrics.csv` has one row per step and split: `step, epoch, split, learning_rate,
    skipped` (steps left out so far because of a NaN or infinite number), then for each
    task `<task>_loss` and its measures, such as `<task>_top1, <task>_top5,
    <task>_mean_class`, then `joint_top1`, then the `<task>_weight` in that step's
    update. Shares are between 0 and 1; an empty cell means that a number does not
    exist. A resumed run goes on after the row of the step it resumes from.

    A disk that cannot be written to does not stop the run: rows wait until it can. What
    the file holds is never changed, except what a kill has left half-written.
    """

    def __init__(self, folder: Path, kinds: Kinds, resumed_step: int) -> None:
        """Opens the files.

        Raises:
          UserError: they cannot be written, or `metrics.csv` is not as it was written.
        """
        self._path = folder / "metrics.csv"
        self._columns = ["step", "epoch", "split", "learning_rate", "skipped"]
        for task, judged_by in metrics.measures(kinds).items():
            self._columns += [f"{task}_loss"] if task in kinds else []
            self._columns += [f"{task}_{measure.name}" for measure in judged_by]
        self._columns += [f"{task}_weight" for task in kinds]
        self._waiting = b""
        with workdir.writing(folder):
            try:
                self._size = self._drop_rows_after(resumed_step)
            except ValueError as error:  # a column with another name
                raise _not_ours(self._path) from error
        self._board = _Board(folder / "tensorboard", resumed_step)

    def _drop_rows_after(self, step: int) -> int:
        """Keeps the rows up to `step`; returns the size of the file in bytes."""
        rows = read_rows(self._path.parent)
        kept = [row for row in rows if int(row["step"]) <= step]
        with replacing(self._path) as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(kept)
            return file.tell()

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
          step: steps done.
          epoch: passes over the training data done.
          split: the split that the numbers are of.
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
        row = {
            "step": step,
            "epoch": round(epoch, 4),
            "split": split,
            "learning_rate": learning_rate,
            "skipped": skipped,
        }
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns, extrasaction="ignore")
        writer.writerow(row | numbers)
        self._append(text.getvalue().encode("utf-8"))
        shown = {f"{split}/{name}": value for name, value in numbers.items()}
        if split == "train":  # every step that is evaluated has such a row, too
            shown["learning_rate"] = learning_rate
        self._board.write(step, shown)

    def _append(self, row: bytes) -> None:
        """Writes a row and those that wait, or lets it wait with them."""
        before = self._waiting
        self._waiting += row
        try:
            # Not "a": the file may end in part of a row, if the disk was full.
            with self._path.open("r+b") as file:
                file.seek(self._size)
                file.write(self._waiting)
        except OSError as error:
            if not before:
                console.print(
                    f"{self._path} cannot be written now ({error.strerror}). The run "
                    "goes on; its rows are kept until it can be.",
                    soft_wrap=True,
                )
            return
        self._size += len(self._waiting)
        self._waiting = b""
        if before:
            console.print(f"{self._path} is being written again.", soft_wrap=True)

    def close(self) -> None:
        """Closes the files, and reports rows that could not be written."""
        self._board.close()
        if self._waiting:
            rows = self._waiting.count(b"\n")
            console.print(f"{self._path} lacks its last {rows:,} rows.", soft_wrap=True)


class _Board:
    """A TensorBoard file, which hides the later steps that earlier files have.

    There is none before the first number.
    """

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._folder, self._resumed_step = folder, resumed_step
        self._records: RecordWriter | None = None
        self._fails = False

    def _open(self) -> RecordWriter:
        self._folder.mkdir(exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{platform.node()}.{os.getpid()}"
        # `SummaryWriter` writes in a thread; once that has met a full disk, a later
        # call waits for it forever.
        records = RecordWriter(str(self._folder / name))
        start = SessionLog(status=SessionLog.START)
        for event in (
            Event(wall_time=now, file_version="brain.Event:2"),
            Event(wall_time=now, step=self._resumed_step + 1, session_log=start),
        ):
            records.write(event.SerializeToString())
        return records

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Writes one number per name; after the first failure it writes nothing."""
        if self._fails:
            return
        now = time.time()
        try:
            if self._records is None:
                self._records = self._open()
            for name, number in numbers.items():
                event = Event(wall_time=now, step=step, summary=scalar(name, number))
                self._records.write(event.SerializeToString())
            self._records.flush()
        except OSError as error:
            self._fails = True
            self.close()
            console.print(
                f"TensorBoard's file cannot be written ({error.strerror}): nothing "
                "more goes into it until the run is started again.",
                soft_wrap=True,
            )

    def close(self) -> None:
        """Closes the file."""
        if self._records is not None:
            with contextlib.suppress(OSError):
                self._records.close()
            self._records = None


class NoLog:
    """The log of all processes but the first: it writes nothing."""

    def write(self, *_: object) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
