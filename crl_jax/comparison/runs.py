"""The runs of a comparison: training those that are missing, reading what came out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crl_jax import logs, metrics, networks, run_check, run_files, workdir
from crl_jax.comparison.plan import Plan, PlannedRun, Variant
from crl_jax.comparison.together import seeds_at_once
from crl_jax.errors import Diverged, UserError
from crl_jax.terminal import console
from crl_jax.train import train_seeds


@dataclass(frozen=True)
class Outcome:
    """What one run came to.

    Attributes:
      variant: what was trained.
      seed: of the run.
      folder: of the run.
      step: of its best checkpoint, which the validation split chose.
      val: `{task: first measure of its kind}` of that checkpoint on the validation
        split.
      test: its accuracies on the test split, as `metrics.means` has them.
    """

    variant: Variant
    seed: int
    folder: Path
    step: int
    val: Mapping[str, float]
    test: metrics.Means


def plan_runs(plan: Plan, directory: Path) -> list[PlannedRun]:
    """Returns every run of a comparison, once all have been checked.

    They are in the order of their seeds, so that an early look sees every network.

    Raises:
      UserError: a mistake in a config or the data, or a folder holds another run.
    """
    planned = []
    for variant, config in plan.configs.items():
        seeds = {
            seed: directory / variant.folder / f"seed{seed}"
            for seed in plan.seeds_of(variant)
        }
        config, data, _, _ = run_check.check(config, seeds.values())
        if data.share(config.data.val_split, config.data.test_split):
            raise UserError(
                f"config.data.test_split={config.data.test_split} shares pictures with "
                f"config.data.val_split={config.data.val_split}: checkpoints would be "
                "chosen on what they are judged by. Part of a split is written "
                "train[90%:]."
            )
        for seed, folder in seeds.items():
            seeded = networks.with_settings(config, {"train.seed": seed})
            run = workdir.Run(seeded, data.kinds, data.identity)
            workdir.check_free(folder, run)
            _check_alike(folder, run)
            planned.append(PlannedRun(variant, seed, folder, run))
    tasks = {
        tuple((task, kind.name) for task, kind in run.run.kinds.items())
        for run in planned
    }
    if len(tasks) > 1:
        raise UserError(
            "The sweep changes the tasks: compare networks for the same tasks."
        )
    return sorted(planned, key=lambda run: run.seed)


def _check_alike(folder: Path, run: workdir.Run) -> None:
    """Raises UserError if a run was begun under what another run may change midway.

    The checkpoints to choose from, and what batch norm computes of a device's share,
    must be the same for all that is compared.
    """
    if not (workdir.has_checkpoint(folder) or workdir.is_done(folder)):
        return
    there, now = workdir.read(folder).config.train, run.config.train
    for name in ("eval_every", "task_devices"):
        if there[name] != now[name]:
            raise UserError(
                f"{folder} was begun with config.train.{name}={there[name]}, now it is "
                f"{now[name]}: what is compared must have the same. Give that value, "
                "or another --workdir."
            )


def train_missing(planned: list[PlannedRun], together: int) -> None:
    """Trains the runs that are not done; stopped ones are continued.

    Args:
      planned: from `plan_runs`.
      together: how many runs of a variant are trained as one program; 0: as many as pay
        off on these devices.

    Raises:
      UserError: see `train.train`; for a run whose loss or gradient became NaN or
        infinite, only once the others have come to their end.
      Stopped: a signal asked for it.
    """
    missing = [run for run in planned if not workdir.is_done(run.folder)]
    count, done = len(missing), 0
    diverged: list[PlannedRun] = []
    sizes: dict[Variant, int] = {}
    while missing:
        first = missing[0]
        chosen = [run for run in missing if run.variant == first.variant]
        if first.variant not in sizes:
            sizes[first.variant] = together or seeds_at_once(first.run, len(chosen))
        chosen = chosen[: sizes[first.variant]]
        seeds = ", ".join(str(run.seed) for run in chosen)
        last = f" to {done + len(chosen)}" if len(chosen) > 1 else ""
        console.print(
            f"{first.variant.label}, seed {seeds}: run {done + 1}{last} of {count}",
            soft_wrap=True,
        )
        try:
            train_seeds(first.run.config, {run.seed: run.folder for run in chosen})
        except Diverged as error:
            console.print(str(error), soft_wrap=True)
            if len(chosen) > 1:  # one of them ended those beside it
                sizes[first.variant] = 1
                continue
            diverged.append(first)
        missing = [run for run in missing if run not in chosen]
        done += len(chosen)
    if diverged:
        listed = "; ".join(f"{run.variant.label}, seed {run.seed}" for run in diverged)
        raise UserError(
            f"Not finished, since their numbers became NaN or infinite: {listed}. All "
            "other runs are done: leave these networks or values out, and the same "
            "command writes the report on the others; or compare in another --workdir "
            "with the settings that the messages above suggest."
        )


def read_outcome(run: PlannedRun) -> Outcome:
    """Returns what a finished run came to.

    Raises:
      UserError: one of its files is damaged.
    """
    _, step, test = run_files.read_result(run.folder)
    try:
        rows = [row for row in logs.read_rows(run.folder) if row["split"] == "val"]
        chosen = [row for row in rows if int(row["step"]) == step][-1]
        val = {
            task: float(chosen[f"{task}_{kind.measures[0].name}"] or "nan")
            for task, kind in run.run.kinds.items()
        }
    except (UserError, LookupError) as error:
        raise UserError(
            f"{run.folder / 'metrics.csv'} lacks the validation at step {step}: delete "
            f"{run.folder}, and the same command trains it again."
        ) from error
    return Outcome(run.variant, run.seed, run.folder, step, val, test)
