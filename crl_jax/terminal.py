"""What a run prints: tables, lines, and a progress bar where there is a terminal."""

import errno
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from crl_jax.streams import discard

LONG = 30.0  # seconds that a step may wait before that is reported

# All but the line end; and what stands for bytes of a name that is not UTF-8.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Returns a text that a terminal shows and does not obey, whatever is in it."""
    return _CONTROL.sub("\ufffd", text)


class PlainConsole(Console):
    """Prints names of files and classes as they are, brackets and colons too."""

    def __init__(self, file: TextIO | None = None) -> None:
        super().__init__(file=file, highlight=False, markup=False, emoji=False)
        self._may_fall_silent = False

    def render_str(self, text: str, **how: Any) -> Text:
        """Returns what is shown of a text, of a table's cell too."""
        return super().render_str(printable(text), **how)

    @contextmanager
    def may_fall_silent(self) -> Iterator[None]:
        """Lets the block go on, in silence, once its output cannot be written.

        The reader may be gone, such as `tee` after Ctrl-C, or the disk be full.
        """
        before = self._may_fall_silent, self.quiet
        self._may_fall_silent = True
        try:
            yield
        finally:
            self._may_fall_silent, self.quiet = before

    def on_broken_pipe(self) -> None:
        """Raises what was raised, in place of Rich's exit from whichever thread."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Writes what was printed in the block, and in each call of `print`."""
        try:
            super().__exit__(kind, error, trace)
        except OSError as failure:
            if not self._may_fall_silent:
                raise
            self.quiet = True
            with self.capture():  # forgets what could not be written
                pass
            discard(self.file)
            try:
                print(
                    f"The output cannot be written any more ({failure.strerror}): the "
                    "run goes on without it.",
                    file=sys.stderr,
                )
            except OSError:  # it goes where the output went
                discard(sys.stderr)


console = PlainConsole()


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = ""
) -> None:
    """Prints a table whose first column is text and whose others are numbers."""
    table = Table(title=title, caption=note or None, title_justify="left")
    table.caption_justify = "left"
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def progress_bar(what: str, count: int) -> Iterator[Callable[[int], None]]:
    """Shows a bar of `count` things on the standard error if that is a terminal.

    Gives a function to call with how many more of them are done. Its estimate of the
    time left is that of rich, from the times of these calls.
    """
    errors = Console(stderr=True)
    columns = (TextColumn(what), MofNCompleteColumn(), BarColumn(bar_width=None))
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("left"),
        console=errors,
        transient=True,
        redirect_stdout=console.is_terminal,  # what is piped stays in its pipe
        disable=console.quiet or not errors.is_terminal,
    ) as bar:
        task = bar.add_task("", total=count)
        yield lambda more: bar.advance(task, more)


def percent(share: float) -> str:
    """Returns a share as a percentage, or a dash where there is none (NaN)."""
    return "–" if share != share else f"{100 * share:.2f}"


class TrainingProgress:
    """The progress of a run: a bar on a terminal, plain lines in a pipe.

    Use it in a `with` statement.
    """

    def __init__(self, step: int, steps: int, batch_size: int) -> None:
        self._steps, self._batch_size = steps, batch_size
        self._timed_steps, self._timed_seconds, self._waited_seconds = 0, 0.0, 0.0
        self._last: float | None = None
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=steps, completed=step, speed="")

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def end(self) -> None:
        """Draws the bar for the last time; what is printed next comes below it."""
        self._bar.stop()

    def update(self, step: int) -> None:
        """Moves to `step`, and times it unless it is the first after a pause."""
        now = time.monotonic()
        if self._last is not None:
            self._timed_steps += 1
            self._timed_seconds += now - self._last
        self._last = now
        self._bar.update(self._task, completed=step, speed=self._speed())

    def _speed(self) -> str:
        waited = self._waited_seconds / max(self._timed_seconds, 1e-9)
        text = f"{self.images_per_second:,.0f} images/s"
        return f"{text}, {waited:.0%} waiting for data" if waited > 0.05 else text

    @contextmanager
    def waiting(self, step: int) -> Iterator[None]:
        """Times how long `step` waits for its batch, and reports long waits."""

        def tell() -> None:
            console.print(
                f"Step {step:,} has waited {LONG:.0f} s for its pictures: is the disk "
                "slow or unavailable?",
                soft_wrap=True,
            )

        start, timer = time.monotonic(), threading.Timer(LONG, tell)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
        if self._last is not None:
            self._waited_seconds += time.monotonic() - start

    def pause(self) -> None:
        """Excludes from the speed what happens until the next `update`."""
        self._last = None

    @property
    def images_per_second(self) -> float:
        """Mean speed of the steps; compilation and evaluation are left out."""
        if not self._timed_steps:
            return 0.0
        return self._timed_steps * self._batch_size / self._timed_seconds

    def line(self, step: int, epoch: float, split: str, measured: str) -> None:
        """Prints what was measured; for training only in a pipe, with the speed."""
        if split == "train" and console.is_terminal:
            return
        text = f"step {step:,}/{self._steps:,}  epoch {epoch:.1f}  {split} {measured}"
        if split == "train" and self._timed_steps:
            seconds = self._timed_seconds / self._timed_steps
            left = _duration((self._steps - step) * seconds)
            text += f"  ({self._speed()}, {left} left)"
        console.print(text, soft_wrap=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
