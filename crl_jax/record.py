"""What one run keeps in its folder while it trains: checkpoints, log and result."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from crl_jax import devices, evaluation_loop, metrics, run_files, start, step
from crl_jax.checkpoints import Checkpoints
from crl_jax.data import Batch, stream
from crl_jax.data.source import Source
from crl_jax.errors import Diverged
from crl_jax.logs import MetricsLog, NoLog
from crl_jax.program import Program
from crl_jax.schedule import Schedule
from crl_jax.stopping import stop_at_broken_step
from crl_jax.terminal import console
from crl_jax.train_state import TrainState
from crl_jax.trained import checkpoint_title


class Record:
    """The folder of one run.

    Attributes:
      folder: of the run.
      config: a checked config.
      done: steps that were done when it was opened.
    """

    def __init__(
        self,
        folder: Path,
        config: ConfigDict,
        program: Program,
        schedule: Schedule,
        name: str,
    ) -> None:
        """Finds where the run stands: at its newest checkpoint, or at the beginning.

        Args:
          folder: of the run.
          config: a checked config.
          program: of the config.
          schedule: of the config.
          name: put before what is printed, if this is one run of several.

        Raises:
          UserError: the folder cannot be written, no checkpoint in it is whole, or the
            weights to start from do not fit.
        """
        self.folder, self.config = folder, config
        self._program, self._schedule, self._name = program, schedule, name
        self._checkpoints = Checkpoints(folder)
        self.done, state = self._checkpoints.restore_latest(program.abstract_state)
        if state is None:
            state = program.new_state(config.train.seed)
            state = start.from_weights(state, program)
        else:
            console.print(
                f"Going on from step {self.done:,} of {schedule.steps:,} in {folder}."
            )
        # If no more steps are left out, those that were are counted here: a step would
        # take their number in the state to mean that one before it was broken.
        self._skipped = int(state.skipped)
        self._left_out = 0 if config.train.skip_nonfinite else self._skipped
        state = state.replace(skipped=state.skipped - self._left_out)
        self._start: list[TrainState] = [state]
        writes = devices.is_first()
        self._log = MetricsLog(folder, program.kinds, self.done) if writes else NoLog()
        self._score: float | None = None
        self._saved_score: float | None = None

    def take_start(self) -> TrainState:
        """Returns the state to go on from; only once, as the next step uses it up."""
        return self._start.pop()

    def log_training(self, number: int, sums: metrics.Sums, report: step.Report) -> str:
        """Writes the measures of the training since the last row, and returns them.

        Args:
          number: of the last step.
          sums: of the steps.
          report: of the last step.
        """
        result = metrics.means([sums], self._program.kinds)
        self._skipped = self._left_out + int(report["skipped"])
        for task, weight in report["weights"].items():
            result[task]["weight"] = float(weight)
        return self._write(number, "train", result)

    def validate(self, number: int, variables: Any, batches: Iterable[Batch]) -> str:
        """Evaluates on the validation split, writes the measures and returns them.

        Args:
          number: of the last step.
          variables: of the network.
          batches: of the split.
        """
        result = self._evaluate(variables, batches)
        kinds, best_by = self._program.kinds, self.config.train.best_by
        self._score = metrics.score(result, kinds, best_by)
        return self._write(number, "val", result)

    def _evaluate(self, variables: Any, batches: Iterable[Batch]) -> metrics.Means:
        program = self._program
        return evaluation_loop.evaluate_batches(
            program.eval_step, variables, batches, program.mesh, program.kinds
        )

    def _write(self, number: int, split: str, result: metrics.Means) -> str:
        epoch = self._schedule.epoch(number)
        updates = number - 1 - self._skipped  # before this one
        rate = float(self._program.learning_rate(updates))
        self._log.write(number, epoch, split, result, rate, self._skipped)
        return self._name + metrics.in_a_line(result, self._program.kinds)

    def save(self, number: int, state: TrainState) -> None:
        """Begins to write a checkpoint, with its score if it has just been validated.

        Args:
          number: of the last step.
          state: after it.
        """
        self._checkpoints.save(self._kept(state), number, self._score)
        self._saved_score, self._score = self._score, None

    def _kept(self, state: TrainState) -> TrainState:
        """Returns a state as it is in checkpoints."""
        return state.replace(skipped=state.skipped + self._left_out)

    def wait(self) -> int | None:
        """Waits until all is written; returns the step of the newest checkpoint."""
        self._checkpoints.wait()
        return self._checkpoints.latest

    def save_broken_step(
        self, number: int, report: step.Report, state: TrainState, data: Source
    ) -> Diverged:
        """Saves what is needed to look into a step with NaN or infinite numbers.

        Args:
          number: of the step.
          report: of the step.
          state: not changed since the step before it.
          data: of the run.

        Returns:
          What to raise.
        """
        whole = state.replace(skipped=0 * state.skipped)
        self._checkpoints.save(self._kept(whole), number - 1)
        batch = next(iter(stream.train_batches(data, self.config, number - 1)))
        files = [name.decode("utf-8") for name in batch["file"]]
        return stop_at_broken_step(self.folder, number, report, files)

    def finish(
        self, state: TrainState, split: str, batches: Iterable[Batch]
    ) -> metrics.Means:
        """Evaluates the best checkpoint, prints and writes the result.

        Args:
          state: after the last step.
          split: one that did not choose the checkpoint, if there is one.
          batches: of the split.

        Raises:
          UserError: the last checkpoint could not be written.
        """
        program, steps = self._program, self._schedule.steps
        self._checkpoints.wait()
        if self._checkpoints.latest != steps:  # it could not be written: try once more
            self._checkpoints.save(self._kept(state), steps, self._saved_score)
            self._checkpoints.wait()
        best, best_state = self._checkpoints.restore_best(program.abstract_state)
        if best_state is None:  # none could be written
            best, best_state = steps, state
        result = self._evaluate(best_state.evaluated, batches)
        evaluation_loop.print_result(
            result, program.kinds, split, checkpoint_title(best), self._name
        )
        self._checkpoints.check_saved(steps)
        if devices.is_first():  # the run is done
            run_files.write_result(self.folder, split, best, result)
        return result

    def close(self) -> None:
        """Closes the files, once all is written."""
        self._log.close()
        self._checkpoints.close()
