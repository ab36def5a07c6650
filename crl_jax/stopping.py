"""What ends a run before its last step: a signal, or a NaN or infinite number."""

import json
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils

from crl_jax import cli, workdir
from crl_jax.errors import Diverged, Stopped
from crl_jax.step import Report
from crl_jax.terminal import console

# Ctrl-C; what Slurm, Kubernetes and clouds send before they kill; Slurm's --signal.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """Whether a signal asked the run to stop."""

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._interrupts = 0

    def listen(self, received: socket.socket) -> None:
        """Takes the number of each signal from `received`, until it is closed.

        Python's own handlers wait until the main thread has done what it does outside
        of Python, such as compile for minutes; this thread does not.
        """
        while number := received.recv(1):
            if number[0] not in SIGNALS:
                continue
            asked = signal.Signals(number[0])
            if self._signal is asked is signal.SIGINT:
                if cli.is_command:
                    console.show_cursor()  # which the progress bar hides
                    os._exit(128 + asked)  # the second Ctrl-C; a kill does no harm
                continue
            does = "exits at once" if cli.is_command else "interrupts it"
            again = f"; a second one {does}" if asked is signal.SIGINT else ""
            self._signal = asked
            console.print(f"{asked.name}: stopping after this step{again}.")

    def on_interrupt(self, *_: object) -> None:
        """Raises KeyboardInterrupt at the second Ctrl-C in a user's own program.

        It may be a notebook, whose variables would be lost if the process ended.
        """
        self._interrupts += 1
        if self._interrupts > 1 and not cli.is_command:
            raise KeyboardInterrupt

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; the same in every process."""
        if jax.process_count() > 1:
            return multihost_utils.reached_preemption_sync_point(step)
        return self._signal is not None

    def check_at_end(self, folder: Path) -> None:
        """Raises Stopped if a signal came while the run in `folder` was finishing."""
        if self._signal is not None:
            raise Stopped(
                f"Stopped by {self._signal.name}. What was trained in {folder} is "
                "complete; the same command goes on with what is left.",
                self._signal,
            )

    def stopped(self, step: int, saved: int | None, folder: Path) -> Stopped:
        """Returns what to raise.

        Args:
          step: the last one that was done.
          saved: step of the newest checkpoint.
          folder: of the run.
        """
        name = self._signal.name if self._signal else "a signal"
        which = (
            "which is saved" if saved == step else f"saved up to step {saved or 0:,}"
        )
        return Stopped(
            f"Stopped by {name} after step {step:,}, {which} in {folder}. The same "
            "command goes on from there.",
            self._signal or signal.SIGTERM,
        )


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Takes `SIGNALS` as requests to stop, until the block ends.

    With several processes, JAX itself waits for SIGTERM in each, and SIGUSR1 is turned
    into SIGTERM.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # other threads get no signals
    elif jax.process_count() > 1:
        with _handled({signal.SIGUSR1: _send_sigterm}):
            yield request
    else:
        # Most handlers do nothing, but without any a signal would not be passed on.
        handlers = dict.fromkeys(SIGNALS, lambda *_: None)
        handlers[signal.SIGINT] = request.on_interrupt
        with _listening(request), _handled(handlers):
            yield request


def _send_sigterm(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _listening(request: StopRequest) -> Iterator[None]:
    """Hands the numbers of signals to a thread."""
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    listener = threading.Thread(target=request.listen, args=[receiver], daemon=True)
    listener.start()
    wakeup = signal.set_wakeup_fd(sender.fileno())
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        sender.close()
        listener.join()
        receiver.close()


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Callable[..., None]]) -> Iterator[None]:
    """Sets handlers of signals until the block ends."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in handlers.items()
        # One that was not set by Python could not be put back.
        if signal.getsignal(number) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def broken_tasks(report: Report) -> list[str]:
    """Returns the tasks whose loss was NaN or infinite."""
    losses = jax.device_get(report["losses"])
    return [task for task, loss in losses.items() if not math.isfinite(loss)]


def stop_at_broken_step(
    folder: Path, step: int, report: Report, files: list[str]
) -> Diverged:
    """Records a step whose loss or gradient is NaN or infinite; returns what to raise.

    Args:
      folder: where `broken_step.json` goes, one per process if there are several; the
        state before the step is saved there.
      step: number of the step.
      report: of the step.
      files: names of the pictures of its batch.
    """
    tasks = broken_tasks(report)
    losses = {task: repr(float(x)) for task, x in report["losses"].items()}
    content: dict[str, Any] = {"step": step, "losses": losses, "files": files}
    several = jax.process_count() > 1  # of which each has a share of the pictures
    name = f"broken_step.{jax.process_index()}.json" if several else "broken_step.json"
    path = folder / name
    with workdir.writing(folder):
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False), "utf-8")
    what = f"loss of {', '.join(tasks)}" if tasks else "gradient"
    return Diverged(
        f"The {what} is NaN or infinite at step {step:,}; the state before it is "
        f"saved, and {path} lists its pictures. "
        "config.train.skip_nonfinite=True leaves such steps out and goes on. What "
        "usually helps, in another --workdir: a lower config.optim.learning_rate, a "
        "longer config.optim.warmup, config.optim.clip_norm=1, or "
        "config.model.dtype=float32."
    )
