"""What the runs of a comparison came to, and `results.csv`."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crl_jax.comparison import statistics
from crl_jax.comparison.plan import BASELINE, Plan, Variant
from crl_jax.comparison.runs import Outcome
from crl_jax.comparison.statistics import Difference
from crl_jax.metrics import JOINT

_NUMBERS = ("top1", "top5", "mean_class", "loss")
COLUMNS = (
    *("network", "field", "value", "seed", "task", "examples"),
    *_NUMBERS,
    *("val_top1", "step", "folder"),
)


@dataclass(frozen=True)
class Results:
    """What all runs of a comparison came to; shares are between 0 and 1.

    Attributes:
      plan: what was trained.
      tasks: in their order.
      outcomes: `{variant: its runs, by seed}`.
    """

    plan: Plan
    tasks: Sequence[str]
    outcomes: Mapping[Variant, Sequence[Outcome]]

    @classmethod
    def of(cls, plan: Plan, outcomes: Sequence[Outcome]) -> "Results":
        """Sorts outcomes by their variants."""
        by_variant = {
            variant: sorted(
                (o for o in outcomes if o.variant == variant), key=lambda o: o.seed
            )
            for variant in plan.configs
        }
        return cls(plan, list(outcomes[0].val), by_variant)

    def test(self, variant: Variant, task: str, number: str = "top1") -> np.ndarray:
        """Returns a number of the test split, `[N]`; the task can be `JOINT` too."""
        return np.array([o.test[task][number] for o in self.outcomes[variant]])

    def val(self, variant: Variant) -> np.ndarray:
        """Returns the mean over tasks of the top-1 on the validation split, `[N]`."""
        return np.array(
            [np.nanmean(list(o.val.values())) for o in self.outcomes[variant]]
        )

    def difference(self, variant: Variant, network: str, task: str) -> Difference:
        """Returns by how many percentage points top-1 is above another network's.

        It is paired by seeds; the other network is taken in the variant's setting.

        Raises:
          KeyError: that network was not trained.
        """
        other = self.plan.counterpart(variant, network)
        if other is None:
            raise KeyError(network)
        return statistics.paired_difference(
            100 * self.test(variant, task), 100 * self.test(other, task)
        )

    def gain(self, variant: Variant) -> np.ndarray:
        """Returns the multitask gain of each seed over the baseline, in percent, `[N]`.

        Raises:
          UserError: the baseline is missing.
        """
        baseline = self.plan.counterpart(variant, BASELINE)
        there = {} if baseline is None else self._all_top1(baseline)
        return statistics.multitask_gain(self._all_top1(variant), there)

    def _all_top1(self, variant: Variant) -> dict[str, np.ndarray]:
        return {task: self.test(variant, task) for task in self.tasks}

    def rows(self) -> Iterator[dict[str, object]]:
        """Yields a row a run and task, with the columns `COLUMNS`."""
        for variant, outcomes in self.outcomes.items():
            for outcome in outcomes:
                for task in (*self.tasks, JOINT):
                    numbers = outcome.test[task]
                    yield {
                        "network": variant.network,
                        "field": variant.field,
                        "value": "" if variant.value is None else variant.value,
                        "seed": outcome.seed,
                        "task": task,
                        "examples": numbers["count"],
                        "val_top1": _cell(outcome.val.get(task, math.nan)),
                        "step": outcome.step,
                        "folder": "/".join(outcome.folder.parts[-2:]),
                    } | {n: _cell(numbers.get(n, math.nan)) for n in _NUMBERS}


def _cell(value: float) -> float | str:
    return "" if math.isnan(value) else round(value, 6)


def write_csv(results: Results, path: Path) -> None:
    """Writes a row a run and task; an empty cell is a number that does not exist."""
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(results.rows())
    partial.replace(path)
