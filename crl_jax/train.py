"""One run, read from top to bottom."""

import os
from contextlib import closing, nullcontext
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
    start,
    step,
    train_state,
    weighting,
    workdir,
)
from crl_jax.checkpoints import Checkpoints
from crl_jax.data import labels, source, stream
from crl_jax.logs import MetricsLog, NoLog
from crl_jax.models.architecture import crosses, layer_names
from crl_jax.schedule import Schedule
from crl_jax.stopping import stop_at_broken_step, stop_request
from crl_jax.terminal import TrainingProgress, console


def train(config: ConfigDict, directory: str | os.PathLike[str]) -> metrics.Means:
    """Trains what `config` describes, or goes on where the run in `directory` stopped.

    Args:
      config: see `crl_jax/config.py`.
      directory: the run's folder, for checkpoints, logs and the config.

    Returns:
      The accuracies on the test split, from `metrics.means`.

    Raises:
      UserError: a mistake in the config, the data or the folder, or a training whose
        loss is no number any more.
      Stopped: a signal asked for it.
    """
    folder = Path(directory)

    # Every mistake that can be seen beforehand is answered before anything is written.
    config = config_check.check(config)
    data = source.find_source(config)
    data.check(config)
    config = config_check.with_tasks(config, data.widths)
    network = models.build(config, data.widths)
    mesh = devices.make_mesh(config.train.task_devices, len(data.kinds))
    devices.check_batch_size(config, mesh)
    weighting.make(config, network)  # refuses a network that it cannot work on
    if not workdir.has_checkpoint(folder):
        start.check(config)

    run = workdir.Run(config, data.kinds, data.identity)
    with workdir.claim(folder, run) if devices.is_first() else nullcontext():
        data = devices.first_alone(data.prepared)
        data.check(config)
        if devices.is_first():
            together = labels.combinations(data, config.data.train_split)
            workdir.write_combinations(folder, together)
        return _train(config, folder, data, network, mesh)


def _train(
    config: ConfigDict,
    folder: Path,
    data: source.Source,
    network: models.MultitaskResNet,
    mesh: Mesh,
) -> metrics.Means:
    # Optimiser, and the steps of all devices.
    kinds = data.kinds
    schedule = Schedule.of(config, data.size(config.data.train_split))
    learning_rate = optim.learning_rate(config.optim, schedule.steps)
    optimizer = optim.make(config.optim, learning_rate, step.gradient_norm(network))
    abstract = train_state.abstract_state(network, optimizer, config, kinds, mesh)
    train_step = step.map_train_step(
        step.make_train_step(network, optimizer, config, kinds, schedule.epoch_steps),
        mesh,
        train_state.partition_specs(abstract),
    )
    eval_step = step.map_eval_step(
        step.make_eval_step(network, kinds),
        mesh,
        train_state.partition_specs(abstract.evaluated),
    )

    # Where to begin: the newest checkpoint of this run if it has one, else
    # pretrained weights if the config names them, else the seed.
    checkpoints = Checkpoints(folder)
    first, state = checkpoints.restore_latest(abstract)
    if state is None:
        state = train_state.create(network, optimizer, config, kinds, abstract)
        state = start.from_weights(state, config, network, mesh)
        console.print(describe(config, data, schedule, mesh), soft_wrap=True)
        if warning := what_cannot_cross(network):
            console.print(warning, soft_wrap=True)
    else:
        console.print(f"Going on at step {first:,} of {schedule.steps:,} in {folder}.")

    # Batches, as a function of (seed, step).
    batches = devices.prefetch(stream.train_batches(data, config, first), mesh)
    val_batches = (
        stream.eval_batches(data, config, config.data.val_split)
        if schedule.validates
        else ()
    )

    def check_step(number: int, report: step.Report) -> None:
        """Waits for a step, and stops the run if its numbers are none."""
        if int(report["skipped"]) and not config.train.skip_nonfinite:
            # No step since has changed the state.
            checkpoints.save(state.replace(skipped=0 * report["skipped"]), number - 1)
            batch = next(iter(stream.train_batches(data, config, number - 1)))
            files = [name.decode("utf-8") for name in batch["file"]]
            raise stop_at_broken_step(folder, number, report, files)

    # The loop.
    log = MetricsLog(folder, kinds, first) if devices.is_first() else NoLog()
    progress = TrainingProgress(first, schedule.steps, config.data.batch_size)
    earlier: step.Report | None = None
    with closing(checkpoints), closing(log), progress, stop_request() as stop:
        for number in range(first + 1, schedule.steps + 1):
            with progress.waiting(number):
                batch = next(batches)
            with jax.transfer_guard("disallow"):
                state, report = train_step(state, batch)
            if earlier is not None:
                check_step(number - 1, earlier)  # at most two steps are under way
            earlier = report
            progress.update(number)

            if schedule.logs(number):
                check_step(number, report)
                rate, epoch = float(learning_rate(number - 1)), schedule.epoch(number)
                result, skipped = metrics.means([state.sums], kinds), int(state.skipped)
                for task, weight in report["weights"].items():
                    result[task]["weight"] = float(weight)
                state = train_state.clear_sums(state)
                log.write(number, epoch, "train", result, rate, skipped)
                text = metrics.in_a_line(result, kinds)
                progress.line(number, epoch, "train", text)
            score = None
            if schedule.evaluates(number):
                result = evaluation.evaluate_batches(
                    eval_step, state.evaluated, val_batches, mesh, kinds
                )
                score = metrics.score(result, kinds, config.train.best_by)
                log.write(number, epoch, "val", result, rate, skipped)
                text = metrics.in_a_line(result, kinds)
                progress.line(number, epoch, "val", text)
                progress.pause()
            stops = stop.after(number)
            if schedule.saves(number) or stops:
                check_step(number, report)
                checkpoints.save(state, number, score)
            if stops:
                checkpoints.wait()
                raise stop.stopped(number, checkpoints.latest, folder)

        # The result: the best checkpoint, on a split that chose nothing.
        checkpoints.wait()
        best, best_state = checkpoints.restore_best(abstract)
        if best_state is None:  # none could be written
            best, best_state = schedule.steps, state
        split = config.data.test_split or config.data.val_split
        test = stream.eval_batches(data, config, split)
        result = evaluation.evaluate_batches(
            eval_step, best_state.evaluated, test, mesh, kinds
        )
        evaluation.print_result(result, kinds, split, best)
        if devices.is_first():
            workdir.write_result(folder, split, best, result)
        checkpoints.check_saved(schedule.steps)
    return result


def describe(
    config: ConfigDict, data: source.Source, schedule: Schedule, mesh: Mesh
) -> str:
    """Returns what is going to be trained, on what, in one sentence."""
    tasks = ", ".join(f"{task} ({kind.size})" for task, kind in data.kinds.items())
    return (
        f"Training ResNet-{config.model.depth}, branched from "
        f"{config.model.branch_from}, for {tasks}: {schedule.examples:,} pictures of "
        f"{config.data.image_size} px, {schedule.steps:,} steps of "
        f"{schedule.batch_size} on {mesh.size} {mesh.devices.flat[0].platform} "
        f"device{'s' if mesh.size > 1 else ''}. The first step compiles."
    )


def what_cannot_cross(network: models.MultitaskResNet) -> str:
    """Returns a warning where cross weights are set and nothing can cross; else ""."""
    weights_set = network.cross_init != 0 or network.cross_learned
    can_cross = crosses(network.depth, network.branch_from)
    if not weights_set or can_cross or len(network.classes) == 1:
        return ""
    last = layer_names(network.depth)[-3]
    return (
        "Warning: nothing crosses between the tasks. Branched from "
        f"{network.branch_from}, they have no unit of their own behind another: set "
        f"config.model.branch_from to {last} or before, or config.model.cross.init=0."
    )
