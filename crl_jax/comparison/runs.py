"""The runs of a comparison: training those that are missing, reading what came out."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crl_jax import config_check, metrics, models, networks, weighting, workdir
from crl_jax.comparison.plan import Plan, Variant
from crl_jax.data import source
from crl_jax.errors import UserError
from crl_jax.terminal import console
from crl_jax.train import train


@dataclass(frozen=True)
class PlannedRun:
    """A run of a comparison, and its folder."""

    variant: Variant
    seed: int
    folder: Path
    run: workdir.Run


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
    """Returns every run of a comparison, once nothing is wrong with any of them.

    The seeds follow one another, so that an early look sees every network.

    Raises:
      UserError: a mistake in a config or the data, or a folder holds another run.
    """
    planned = []
    for variant, config in plan.configs.items():
        data = source.find_source(config)
        data.check(config)
        config = config_check.with_tasks(config, data.widths)
        network = models.build(config, data.widths)
        weighting.make(config, network)  # refuses a network that it cannot work on
        for seed in plan.seeds_of(variant):
            seeded = networks.with_settings(config, {"train.seed": seed})
            run = workdir.Run(seeded, data.kinds, data.identity)
            folder = directory / variant.folder / f"seed{seed}"
            workdir.check_free(folder, run)
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


def train_missing(planned: list[PlannedRun]) -> None:
    """Trains the runs that are not done, one after another; stopped ones go on.

    Raises:
      UserError: see `train.train`.
      Stopped: a signal asked for it.
    """
    missing = [run for run in planned if not workdir.is_done(run.folder)]
    for number, run in enumerate(missing, start=1):
        console.print(
            f"{run.variant.label}, seed {run.seed}: run {number} of {len(missing)}",
            soft_wrap=True,
        )
        train(run.run.config, run.folder)


def read_outcome(run: PlannedRun) -> Outcome:
    """Returns what a run that is done came to.

    Raises:
      UserError: one of its files is damaged.
    """
    step, test = workdir.read_result(run.folder)
    log = run.folder / "metrics.csv"
    with log.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    chosen = [row for row in rows if int(row["step"]) == step]
    if not chosen:
        raise UserError(
            f"{log} lacks the validation at step {step}: delete {run.folder}, and the "
            "same command trains it again."
        )
    val = {
        task: float(chosen[-1][f"{task}_{kind.measures[0].name}"] or "nan")
        for task, kind in run.run.kinds.items()
    }
    return Outcome(run.variant, run.seed, run.folder, step, val, test)
