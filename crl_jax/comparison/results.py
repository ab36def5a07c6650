"""What the runs of a comparison came to, and `results.csv`."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crl_jax import metrics
from crl_jax.comparison import statistics
from crl_jax.comparison.plan import BASELINE, Plan, Variant
from crl_jax.comparison.runs import Outcome
from crl_jax.comparison.statistics import Difference
from crl_jax.kinds import Kinds, Measure
from crl_jax.whole_file import replacing


@dataclass(frozen=True)
class Results:
    """What all runs of a comparison came to; shares are between 0 and 1.

    Attributes:
      plan: what was trained.
      kinds: of the tasks, in their order.
      outcomes: `{variant: its runs, by seed}`.
    """

    plan: Plan
    kinds: Kinds
    outcomes: Mapping[Variant, Sequence[Outcome]]

    @classmethod
    def of(cls, plan: Plan, kinds: Kinds, outcomes: Sequence[Outcome]) -> "Results":
        """Sorts outcomes by their variants."""
        by_variant = {
            variant: sorted(
                (o for o in outcomes if o.variant == variant), key=lambda o: o.seed
            )
            for variant in plan.configs
        }
        return cls(plan, kinds, by_variant)

    @property
    def judged(self) -> dict[str, Measure]:
        """The first measure of each task, and of all tasks together if there is one."""
        return {task: of[0] for task, of in metrics.measures(self.kinds).items()}

    def decimals(self, task: str) -> int:
        """Returns how many decimals the numbers of a task, or of `JOINT`, need."""
        return self.kinds[task].decimals if task in self.kinds else 2

    def test(
        self, variant: Variant, task: str, measure: Measure | None = None
    ) -> np.ndarray:
        """Returns a measure on the test split, `[N]`; shares are in percent.

        Args:
          variant: of the comparison.
          task: a task, or `JOINT`.
          measure: of the task; None: its first one.
        """
        measure = measure or self.judged[task]
        scale = 100 if measure.is_share else 1
        outcomes = self.outcomes[variant]
        return scale * np.array([o.test[task][measure.name] for o in outcomes])

    @property
    def best_by(self) -> str:
        """What the validation split chooses by: a task, or the mean of all."""
        first = next(iter(self.plan.configs.values()))
        return first.train.best_by

    def val(self, variant: Variant) -> np.ndarray:
        """Returns what the validation split chooses by, `[N]`; higher is better."""
        return np.array([self._goodness(o.val) for o in self.outcomes[variant]])

    def _goodness(self, val: Mapping[str, float]) -> float:
        chosen_by = [t for t in self.kinds if self.best_by in (t, "mean")]
        goodness = [
            self.kinds[t].goodness({self.kinds[t].measures[0].name: val[t]})
            for t in chosen_by
        ]
        return float(np.nanmean(goodness))

    def difference(self, variant: Variant, other: Variant, task: str) -> Difference:
        """Returns by how much a variant's measure, as in `test`, exceeds another's.

        The difference is paired by seed.
        """
        return statistics.paired_difference(
            self.test(variant, task),
            self.test(other, task),
            self.judged[task].higher_is_better,
        )

    def gain(self, variant: Variant) -> np.ndarray:
        """Returns the multitask gain of each seed over the baseline, in percent, `[N]`.

        Raises:
          UserError: the baseline is missing.
        """
        baseline = self.plan.counterpart(variant, BASELINE)
        there = {} if baseline is None else self._measured(baseline)
        lower = [task for task, of in self.judged.items() if not of.higher_is_better]
        return statistics.multitask_gain(self._measured(variant), there, lower)

    def _measured(self, variant: Variant) -> dict[str, np.ndarray]:
        return {task: self.test(variant, task) for task in self.tested}

    @property
    def tested(self) -> list[str]:
        """The tasks that have labels in the test split."""
        some = next(iter(self.outcomes.values()))[0]
        return [task for task in self.kinds if some.test[task]["count"]]

    @property
    def columns(self) -> list[str]:
        """The columns of `rows`: what was run, its measures, and where it is."""
        names = [m.name for kind in self.kinds.values() for m in kind.measures]
        firsts = [f"val_{kind.measures[0].name}" for kind in self.kinds.values()]
        return [
            *("network", "field", "value", "seed", "task", "examples"),
            *dict.fromkeys([*names, "loss"]),
            *dict.fromkeys(firsts),
            *("step", "folder"),
        ]

    def rows(self) -> Iterator[dict[str, object]]:
        """Yields one row per run and task, without what a task's kind does not have."""
        for variant, outcomes in self.outcomes.items():
            for outcome in outcomes:
                for task, measure in self.judged.items():
                    numbers = dict(outcome.test[task])
                    count = numbers.pop("count")
                    yield {
                        "network": variant.network,
                        "field": variant.field,
                        "value": "" if variant.value is None else variant.value,
                        "seed": outcome.seed,
                        "task": task,
                        "examples": count,
                        f"val_{measure.name}": _cell(outcome.val.get(task, math.nan)),
                        "step": outcome.step,
                        "folder": "/".join(outcome.folder.parts[-2:]),
                    } | {name: _cell(value) for name, value in numbers.items()}


def _cell(value: float) -> float | str:
    if math.isnan(value):
        return ""
    return round(value, 6) if abs(value) >= 1 else float(f"{value:.6g}")


def write_csv(results: Results, path: Path) -> None:
    """Writes one row per run and task; a number that does not exist is left empty."""
    with replacing(path) as file:
        writer = csv.DictWriter(file, results.columns, restval="")
        writer.writeheader()
        writer.writerows(results.rows())
