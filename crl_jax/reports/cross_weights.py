"""The section of a run's report about its cross weights."""

from collections.abc import Sequence

import jax
import numpy as np

from crl_jax.models.architecture import branched_units, crosses, has_cross_weights
from crl_jax.models.cross_residual import pair_sizes, task_pairs
from crl_jax.reports import page
from crl_jax.reports.page import Child, Element, Section, element
from crl_jax.trained import Trained


def cross_weights(trained: Trained) -> Section | None:
    """Returns the weights from task to task, by unit; None if there are none."""
    tasks, model = list(trained.run.classes), trained.run.config.model
    if not has_cross_weights(model, len(tasks)):
        return None
    if not crosses(model, len(tasks)):
        text = (
            f"Nothing crosses from task to task: branched from {model.branch_from}, no "
            "task has a unit of its own after another, so all see the same input."
        )
        return "Cross weights", [element("p", text)]
    units = branched_units(model.depth, model.branch_from)
    if not model.cross.learned:
        text = (
            f"Fixed at {model.cross.init:g} in {', '.join(units)}: every task's "
            "shortcut also carries this much of each other task's."
        )
        return "Cross weights", [element("p", text)]
    params = jax.device_get(trained.variables["params"])
    figures = [
        _unit_weights(unit, params[f"{unit}_cross"]["weight"], tasks) for unit in units
    ]
    text = {
        "scalar": "The weight of each source task (across) in each target task (down).",
        "channel": "The mean over channels, and the standard deviation, of the weight "
        "of each source task (across) in each target task (down).",
        "conv": "The size of each source task's (across) 1x1 convolution in each "
        "target task (down): its Frobenius norm divided by the square root of its "
        "number of channels, which is |w| for w times the identity.",
    }[model.cross.kind]
    start = f" They began at {model.cross.init:g}."
    body = element("div", *figures, class_="grid")
    return "Cross weights", [element("p", text + start, class_="pale"), body]


def _unit_weights(unit: str, weight: np.ndarray, tasks: Sequence[str]) -> Element:
    """Returns the table of a unit, whose weights are `[T * (T - 1), ...]`."""
    cells = {}
    pairs = zip(*task_pairs(len(tasks)), strict=True)
    for pair, size, of_pair in zip(pairs, pair_sizes(weight), weight, strict=True):
        spread = f" ± {of_pair.std():.3f}" if of_pair.ndim == 1 else ""
        cells[pair] = f"{size:.3f}{spread}"
    rows: list[list[Child]] = [
        [task, *(cells.get((i, j), "1") for j in range(len(tasks)))]
        for i, task in enumerate(tasks)
    ]
    columns = ["target", *tasks]
    return element("figure", element("figcaption", unit), page.table(columns, rows))
