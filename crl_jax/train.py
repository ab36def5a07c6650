"""One run, read from top to bottom."""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from crl_jax import (
    config_check,
    devices,
    evaluation,
    metrics,
    models,
    optim,
    step,
    workdir,
)
from crl_jax.checkpoints import Checkpoints
from crl_jax.data import source, stream
from crl_jax.errors import UserError
from crl_jax.logs import MetricsLog, NoLog
from crl_jax.terminal import TrainingProgress, console


def train(config: ConfigDict, directory: str | os.PathLike[str]) -> metrics.Means:
    """Trains what `config` describes, or goes on where the run in `directory` stopped.

    Args:
      config: see `crl_jax/config.py`.
      directory: the run's folder, for checkpoints, logs and the config.

    Returns:
      The accuracies on the test split, from `metrics.means`.

    Raises:
      UserError: a mistake in the config, the data or the folder.
    """
    folder = Path(directory)

    # Every mistake that can be seen beforehand is answered before anything is written.
    config = config_check.check(config)
    data = source.find_source(config)
    data.check(config)
    config = config_check.with_tasks(config, data.num_classes)
    tasks = list(data.classes)
    network = models.build(config, data.num_classes)
    mesh = devices.make_mesh(config.train.task_devices, len(tasks))
    devices.check_batch_size(config, mesh)
    if devices.is_first():
        workdir.claim(folder, workdir.Run(config, data.classes, data.identity))

    # Input: shards, from which batches come as a function of (seed, step).
    data = devices.first_alone(data.prepared)
    data.check(config)
    schedule = Schedule.of(config, data.size(config.data.train_split))

    # Optimiser, and the steps of all devices.
    learning_rate = optim.learning_rate(config.optim, schedule.steps)
    optimizer = optim.make(config.optim, learning_rate, step.gradient_norm(network))
    abstract = step.abstract_state(network, optimizer, config, mesh)
    train_step = step.map_train_step(
        step.make_train_step(network, optimizer, config),
        mesh,
        step.partition_specs(abstract),
    )
    eval_step = step.map_eval_step(
        step.make_eval_step(network), mesh, step.partition_specs(abstract.evaluated)
    )

    # Where to begin: the newest checkpoint of this run if it has one, else the seed.
    checkpoints = Checkpoints(folder)
    first = checkpoints.latest or 0
    if first:
        state = checkpoints.restore(first, abstract)
        console.print(f"Going on at step {first:,} of {schedule.steps:,} in {folder}.")
    else:
        state = step.create(network, optimizer, config, abstract)
        console.print(describe(config, data, schedule, mesh), soft_wrap=True)

    # The loop.
    batches = devices.prefetch(stream.train_batches(data, config, first), mesh)
    val_batches = (
        stream.eval_batches(data, config, config.data.val_split)
        if schedule.validates
        else ()
    )
    log = MetricsLog(folder, tasks, first) if devices.is_first() else NoLog()
    progress = TrainingProgress(first, schedule.steps, config.data.batch_size)
    window: list[metrics.Sums] = []  # of the steps since the last row of the log
    with closing(checkpoints), closing(log), progress:
        for number in range(first + 1, schedule.steps + 1):
            batch = next(batches)
            with jax.transfer_guard("disallow"):
                state, sums = train_step(state, batch)
            if window:
                jax.block_until_ready(window[-1])  # at most two steps are under way
            window.append(sums)
            progress.update(number)

            if schedule.logs(number):
                rate = float(learning_rate(number - 1))
                epoch = schedule.epoch(number)
                result = metrics.means(window, tasks)
                metrics.check_finite(result, number)
                window = []
                log.write(number, epoch, "train", result, rate)
                progress.line(number, epoch, "train", result)
            score = None
            if schedule.evaluates(number):
                result = evaluation.evaluate_batches(
                    eval_step, state.evaluated, val_batches, mesh, tasks
                )
                score = metrics.score(result, config.train.best_by)
                log.write(number, epoch, "val", result, rate)
                progress.line(number, epoch, "val", result)
                progress.pause()
            if schedule.saves(number):
                checkpoints.save(state, number, score)

        # The result: the best checkpoint, on a split that chose nothing.
        checkpoints.wait()
        best = checkpoints.best or 0
        state = checkpoints.restore(best, abstract)
        split = config.data.test_split or config.data.val_split
        test = stream.eval_batches(data, config, split)
        result = evaluation.evaluate_batches(
            eval_step, state.evaluated, test, mesh, tasks
        )
        if devices.is_first():
            workdir.write_result(folder, split, best, result)
    evaluation.print_result(result, split, best)
    return result


def describe(
    config: ConfigDict, data: source.Source, schedule: "Schedule", mesh: Mesh
) -> str:
    """Returns what is going to be trained, on what, in one sentence."""
    tasks = ", ".join(f"{task} ({count})" for task, count in data.num_classes.items())
    return (
        f"Training ResNet-{config.model.depth}, branched from "
        f"{config.model.branch_from}, for {tasks}: {schedule.examples:,} pictures of "
        f"{config.data.image_size} px, {schedule.steps:,} steps of "
        f"{schedule.batch_size} on {mesh.size} {mesh.devices.flat[0].platform} "
        f"device{'s' if mesh.size > 1 else ''}. The first step compiles."
    )


@dataclass(frozen=True)
class Schedule:
    """When what happens in a run; steps count from 1.

    Attributes:
      steps: length of the run.
      examples: in an epoch.
      batch_size: over all devices.
      log_every, eval_every, checkpoint_every: in steps; 0: at the end of each epoch.
      validates: whether there is a split to evaluate on.
    """

    steps: int
    examples: int
    batch_size: int
    log_every: int
    eval_every: int
    checkpoint_every: int
    validates: bool

    @classmethod
    def of(cls, config: ConfigDict, examples: int) -> "Schedule":
        """Reads the schedule from a config.

        Raises:
          UserError: neither steps nor epochs are set.
        """
        steps = config.train.steps
        if not steps:
            steps = round(config.train.epochs * examples / config.data.batch_size)
        if steps < 1 and config.train.epochs:
            raise UserError(
                f"config.train.epochs={config.train.epochs} of {examples:,} examples "
                f"are less than half a batch of {config.data.batch_size}: take more "
                "epochs, or a smaller config.data.batch_size."
            )
        if steps < 1:
            raise UserError(
                "The run has no step: set config.train.steps or config.train.epochs."
            )
        return cls(
            steps=steps,
            examples=examples,
            batch_size=config.data.batch_size,
            log_every=config.train.log_every,
            eval_every=config.train.eval_every,
            checkpoint_every=config.train.checkpoint_every or config.train.eval_every,
            validates=bool(config.data.val_split),
        )

    def epoch(self, step: int) -> float:
        """Returns the passes over the training data that `step` steps are."""
        return step * self.batch_size / self.examples

    def evaluates(self, step: int) -> bool:
        """Whether to evaluate after `step`."""
        return self.validates and self._due(step, self.eval_every)

    def saves(self, step: int) -> bool:
        """Whether to save after `step`: what was evaluated may be the best."""
        return self.evaluates(step) or self._due(step, self.checkpoint_every)

    def logs(self, step: int) -> bool:
        """Whether to log after `step`.

        No row of the log reaches over a checkpoint: a resumed run writes the same rows.
        """
        return step % self.log_every == 0 or self.saves(step)

    def _due(self, step: int, every: int) -> bool:
        if step == self.steps:
            return True
        if every:
            return step % every == 0
        end, start = step * self.batch_size, (step - 1) * self.batch_size
        return end // self.examples > start // self.examples
