"""One run, to be read top to bottom; or several that differ only in seed, as one."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import (
    config_check,
    devices,
    metrics,
    networks,
    optim,
    run_check,
    run_files,
    step,
    train_state,
    workdir,
)
from crl_jax.data import labels, source, stream
from crl_jax.models.architecture import crosses, has_cross_weights, layer_names
from crl_jax.program import Program
from crl_jax.record import Record
from crl_jax.schedule import Schedule
from crl_jax.stopping import stop_request
from crl_jax.terminal import TrainingProgress, console
from crl_jax.train_state import TrainState, apart, side_by_side


def train(config: ConfigDict, directory: str | os.PathLike[str]) -> metrics.Means:
    """Trains what `config` describes, or goes on where the run in `directory` stopped.

    Args:
      config: see `crl_jax/config.py`.
      directory: the run's folder, for checkpoints, logs and the config.

    Returns:
      The measures, as `metrics.means` returns them, on the split that the run is judged
      on: the test split, or the validation split if `config.data.test_split` is empty
      (see `config.final_split`).

    Raises:
      UserError: a mistake in the config, the data or the folder, or a training whose
        loss has become NaN or infinite.
      Stopped: a signal asked for it.
    """
    config = config_check.check(config)
    return train_seeds(config, {config.train.seed: Path(directory)})[config.train.seed]


def train_seeds(
    config: ConfigDict, folders: Mapping[int, Path]
) -> dict[int, metrics.Means]:
    """Trains runs that differ only in their seed, as one program.

    Each run has its own batches, checkpoints, log and result, and the numbers that it
    would have alone, up to rounding.

    Args:
      config: a checked config; each run has its own seed.
      folders: `{seed: folder of its run}`.

    Returns:
      `{seed: what train returns}`.

    Raises:
      UserError, Stopped: see `train`.
    """
    # Every mistake that can be seen beforehand is reported before anything is written.
    config, data, network, mesh = run_check.check(config, folders.values())

    with ExitStack() as claims:
        claims.enter_context(console.may_fall_silent())
        configs = {}
        for seed, folder in folders.items():
            configs[seed] = networks.with_settings(config, {"train.seed": seed})
            run = workdir.Run(configs[seed], data.kinds, data.identity)
            if devices.is_first():
                claims.enter_context(workdir.claim(folder, run))
        data = devices.first_alone(data.prepared)
        data.check(config)  # only the shards know parts of splits
        if devices.is_first():
            together = labels.combinations(data, config.data.train_split)
            for folder in folders.values():
                run_files.write_combinations(folder, together)

        # Optimiser, and the steps of all devices.
        schedule = Schedule.of(config, data.size(config.data.train_split))
        learning_rate = optim.learning_rate(config.optim, schedule.steps)
        program = Program(config, data.kinds, network, mesh, learning_rate)

        # Where to begin; runs that were stopped may stand at different steps.
        with ExitStack() as opened:
            records = []
            for seed, folder in folders.items():
                name = f"seed {seed}: " if len(folders) > 1 else ""
                record = Record(folder, configs[seed], program, schedule, name)
                records.append(opened.enter_context(closing(record)))
            results: dict[int, metrics.Means] = {}
            for done in sorted({record.done for record in records}):
                equal = [record for record in records if record.done == done]
                results |= _train(equal, program, data, schedule)
    return results


def _train(
    records: Sequence[Record], program: Program, data: source.Source, schedule: Schedule
) -> dict[int, metrics.Means]:
    """Trains runs that stand at the same step to their end."""
    config, mesh, done = program.config, program.mesh, records[0].done
    folder = Path(os.path.commonpath([record.folder for record in records]))
    train_step = program.train_step(schedule.epoch_steps, len(records))
    state = side_by_side([record.take_start() for record in records])
    if done == 0:
        text = describe(config, data, schedule, mesh, len(records))
        nothing_crosses = what_cannot_cross(config.model, len(data.kinds))
        doubts = [f"Warning: {doubt}" for doubt in data.doubts()]
        lines = (text, nothing_crosses, data.overlap(config), *doubts)
        for line in filter(None, lines):
            console.print(line, soft_wrap=True)

    def each(tree: Any) -> Iterator[tuple[Record, Any]]:
        """Yields each run with its part of a state or a report."""
        return zip(records, apart(tree, len(records)), strict=True)

    # Batches, as a function of (seed, step).
    streams = [stream.train_batches(data, run.config, done) for run in records]
    batches = devices.prefetch(stream.side_by_side(streams), mesh)
    validates, val_split = schedule.validates, config.data.val_split
    val_batches = stream.eval_batches(data, config, val_split) if validates else ()

    def check_step(number: int, report: step.Report, state: TrainState) -> None:
        """Waits for a step, and stops the runs if one has a NaN or infinite number.

        The state may be the next step's: it is then still as it was before this one.
        """
        skipped = np.any(jax.device_get(report["skipped"]))
        if not skipped or config.train.skip_nonfinite:
            return
        for record, (now, after) in each((report, state)):
            if int(now["skipped"]):
                raise record.save_broken_step(number, now, after, data)

    # The loop.
    steps, epoch = schedule.steps, schedule.epoch
    progress = TrainingProgress(done, steps, len(records) * config.data.batch_size)
    earlier: step.Report | None = None
    with progress, stop_request() as stop:
        for number in range(done + 1, steps + 1):
            with progress.waiting(number):
                batch = next(batches)
            with jax.transfer_guard("disallow"):
                state, report = train_step(state, batch)
            if earlier is not None:  # at most two steps are under way
                check_step(number - 1, earlier, state)
            earlier = report
            progress.update(number)

            if schedule.logs(number):
                check_step(number, report, state)
                for record, (sums, now) in each((state.sums, report)):
                    text = record.log_training(number, sums, now)
                    progress.line(number, epoch(number), "train", text)
                state = train_state.clear_sums(state)
            if schedule.evaluates(number):
                for record, variables in each(state.evaluated):
                    text = record.validate(number, variables, val_batches)
                    progress.line(number, epoch(number), "val", text)
                progress.pause()
            stops = stop.after(number)
            if schedule.saves(number) or stops:
                check_step(number, report, state)
                for record, after in each(state):
                    record.save(number, after)
            if stops:
                saved = [record.wait() for record in records]
                raise stop.stopped(number, saved[0], folder)

        # The result: the best checkpoint, on a split that did not choose it.
        progress.end()
        split = config_lib.final_split(config)
        test_batches = stream.eval_batches(data, config, split)
        results = {
            record.config.train.seed: record.finish(after, split, test_batches)
            for record, after in each(state)
        }
        stop.check_at_end(folder)
    return results


def describe(
    config: ConfigDict, data: source.Source, schedule: Schedule, mesh: Mesh, runs: int
) -> str:
    """Returns what is going to be trained, on what, in one sentence."""
    times = f"{runs} runs of " if runs > 1 else ""
    tasks = ", ".join(f"{task} ({kind.size})" for task, kind in data.kinds.items())
    return (
        f"Training {times}ResNet-{config.model.depth}, branched from "
        f"{config.model.branch_from}, for {tasks}: {schedule.examples:,} pictures of "
        f"{config.data.image_size} px, {schedule.steps:,} steps of "
        f"{schedule.batch_size} on {mesh.size} {mesh.devices.flat[0].platform} "
        f"device{'s' if mesh.size > 1 else ''}. The first step compiles."
    )


def what_cannot_cross(model: ConfigDict, tasks: int) -> str:
    """Returns a warning if cross weights are set and nothing can cross; otherwise "".

    Args:
      model: `config.model` of a checked config.
      tasks: T.
    """
    if not has_cross_weights(model, tasks) or crosses(model, tasks):
        return ""
    last = layer_names(model.depth)[-3]
    return (
        "Warning: nothing crosses between the tasks. Branched from "
        f"{model.branch_from}, they have no unit of their own after another: set "
        f"config.model.branch_from to {last} or before, or config.model.cross.init=0."
    )
