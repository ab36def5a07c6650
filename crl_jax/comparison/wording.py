"""How names, measures and numbers are written in the report of a comparison."""

import math

import numpy as np

from crl_jax import metrics
from crl_jax.comparison import statistics
from crl_jax.comparison.plan import Variant
from crl_jax.comparison.results import Results
from crl_jax.comparison.statistics import Difference
from crl_jax.kinds import Measure


def heading(measure: Measure) -> str:
    """Returns a measure's title capitalised, unless it has capitals of its own."""
    title = measure.title
    return title.capitalize() if title.islower() else title


def columns(results: Results) -> list[str]:
    """Returns the columns of tables of all tasks, whatever they are judged by."""
    return [
        metrics.title(task) + ("" if measure.name == "top1" else f", {measure.title}")
        for task, measure in results.judged.items()
    ]


def units(results: Results) -> str:
    """Returns the unit that differences are in."""
    others = [m.title for m in results.judged.values() if not m.is_share]
    named = "".join(f", for {title} in its own unit" for title in dict.fromkeys(others))
    return f"percentage points{named}"


def chosen_by(results: Results, best_by: str) -> str:
    """Returns what checkpoints were chosen by, in words."""
    if best_by != "mean":
        return f"{results.kinds[best_by].goodness_title} of {best_by}"
    titles = dict.fromkeys(kind.goodness_title for kind in results.kinds.values())
    return f"the tasks' mean {' and '.join(titles)}"


def best_by(results: Results) -> str:
    """Returns what the score of a checkpoint is of, as the title of a column."""
    if results.best_by == "mean":
        return "mean of tasks"
    if results.judged[results.best_by].is_share:
        return results.best_by
    return f"{results.best_by}: {results.kinds[results.best_by].goodness_title}, %"


def by_measure(results: Results, count: int) -> dict[Measure, list[str]]:
    """Returns the tasks that each of the first `count` measures of a kind judges."""
    found: dict[Measure, list[str]] = {}
    for task, judged_by in metrics.measures(results.kinds).items():
        for measure in judged_by[:count]:
            found.setdefault(measure, []).append(task)
    return found


def spread(values: np.ndarray, decimals: int = 2) -> str:
    """Returns the mean and standard deviation of values over seeds, `[N]`, as text."""
    mean, deviation = statistics.spread(values)
    if math.isnan(mean):
        return "–"
    text = f"{mean:.{decimals}f}"
    if not math.isnan(deviation):
        text += f" ± {deviation:.{decimals}f}"
    return text.replace("-", "−")


def difference(results: Results, variant: Variant, other: Variant, task: str) -> str:
    """Returns how a variant does in a task against another one, as `judged` puts it."""
    found = results.difference(variant, other, task)
    return judged(found, results.decimals(task))


def judged(difference: Difference, decimals: int = 2) -> str:
    """Returns a difference, its interval, and what may be said of it."""
    if math.isnan(difference.mean):
        return "–"
    mean, low, high = (
        f"{number:+.{decimals}f}"
        for number in (difference.mean, difference.low, difference.high)
    )
    if math.isnan(difference.low):
        return f"{mean} (too few seeds)".replace("-", "−")
    return f"{difference.verdict}: {mean} [{low}, {high}]".replace("-", "−")
