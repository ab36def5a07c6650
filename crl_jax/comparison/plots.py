"""The drawings of a comparison, with Matplotlib."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crl_jax import config as config_lib
from crl_jax import metrics
from crl_jax.comparison.cross_weights import CrossWeights
from crl_jax.comparison.plan import Variant
from crl_jax.comparison.results import Results
from crl_jax.kinds import Measure
from crl_jax.models.architecture import branched_units

# Wong 2011, "Points of view: color blindness", Nature Methods 8.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_PANEL = (3.4, 2.8)  # inches


def value(results: Results, field: str, variant: Variant) -> Any:
    """Returns the value of a swept field in a variant, whether swept there or not."""
    return dict(config_lib.fields(results.plan.configs[variant]))[field]


def position(results: Results, field: str, variant: Variant) -> tuple[float, str]:
    """Returns where a variant stands on the axis of a swept field.

    That is the value if it is a number, and for branch_from the number of residual
    units that are branched. Other values have no number, and are in alphabetical order.
    """
    found = value(results, field, variant)
    if field == "model.branch_from":
        model = results.plan.configs[variant].model
        return float(len(branched_units(model.depth, model.branch_from))), ""
    if isinstance(found, (int, float)):
        return float(found), ""
    return 0.0, str(found)


def axis_label(field: str) -> str:
    """Returns the label of a swept field's axis."""
    names = {
        "model.branch_from": "number of branched (in X: cross-residual) units",
        "model.cross.init": "cross weight",
    }
    return names.get(field, field)


def axis_title(measure: Measure) -> str:
    """Returns the label of a measure's axis."""
    return f"{measure.title}, %" if measure.is_share else measure.title


def draw_sweep(results: Results, field: str, file: Path) -> None:
    """Draws each task's measure on the test split against a field, one panel per task.

    A network that the sweep does not concern is a horizontal line.
    """
    tasks = list(results.judged)
    figure = Figure(figsize=(_PANEL[0] * len(tasks), _PANEL[1]), layout="constrained")
    panels = figure.subplots(1, len(tasks), squeeze=False)[0]
    networks = list(dict.fromkeys(variant.network for variant in results.outcomes))
    for panel, task in zip(panels, tasks, strict=True):
        for network, color in zip(networks, COLORS, strict=False):
            _draw_network(panel, results, field, network, task, color)
        panel.set_title(metrics.title(task))
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="y", color="#e5e5e5")
        if field == "model.branch_from":
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    titles = [axis_title(measure) for measure in results.judged.values()]
    for panel, title in zip(panels, titles, strict=True):
        if panel is panels[0] or len(set(titles)) > 1:
            panel.set_ylabel(title)
    figure.supxlabel(axis_label(field), fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    _save(figure, file)


def _draw_network(
    panel: Axes, results: Results, field: str, network: str, task: str, color: str
) -> None:
    variants = [
        v for v in results.outcomes if v.network == network and v.field in ("", field)
    ]
    measured = {v: results.test(v, task) for v in variants}
    if not any(v.field for v in variants):
        panel.axhline(
            np.mean(measured[variants[0]]), color=color, linestyle="--", label=network
        )
        return
    variants.sort(key=lambda v: position(results, field, v))
    numbers = [position(results, field, v) for v in variants]
    named = any(name for _, name in numbers)
    x = list(range(len(numbers))) if named else [number for number, _ in numbers]
    if named:
        panel.set_xticks(x, [name for _, name in numbers])
    means = [np.mean(measured[v]) for v in variants]
    deviations = [
        np.std(measured[v], ddof=1) if len(measured[v]) > 1 else 0 for v in variants
    ]
    line = "none" if named else "-"  # names have no order that a line could follow
    style: dict[str, Any] = {"color": color, "marker": "o", "linestyle": line}
    panel.errorbar(x, means, deviations, **style, capsize=3, label=network)
    for place, variant in zip(x, variants, strict=True):
        dots = np.full(len(measured[variant]), place)
        panel.plot(dots, measured[variant], ".", color=color, alpha=0.4, markersize=4)


def draw_cross_weights(weights: CrossWeights, file: Path) -> None:
    """Draws the learned cross weights as one heat map per unit."""
    tasks, units = list(weights.tasks), weights.units
    figure = Figure(figsize=(2.6 * len(units) + 1, 2.9), layout="constrained")
    panels = figure.subplots(1, len(units), squeeze=False)[0]
    others = ~np.eye(len(tasks), dtype=bool)
    largest = max(float(np.max(np.abs(grid[others]))) for grid in units.values())
    largest = max(largest, 1e-6)
    for panel, (unit, grid) in zip(panels, units.items(), strict=True):
        # The diagonal is fixed at 1: it would hide the others.
        shown = np.where(others, grid, np.nan)
        image = panel.imshow(shown, cmap="RdBu_r", vmin=-largest, vmax=largest)
        for (row, column), number in np.ndenumerate(grid):
            text = f"{number:.2f}" if row != column else "1"
            dark = row != column and abs(number) > 0.6 * largest
            color = "white" if dark else "#333333"
            panel.text(column, row, text, ha="center", va="center", color=color)
        panel.set_title(unit)
        panel.set_xticks(range(len(tasks)), tasks, rotation=30)
        panel.set_yticks(range(len(tasks)), tasks if panel is panels[0] else [])
    panels[0].set_ylabel("target task")
    figure.supxlabel("source task", fontsize="medium")
    figure.colorbar(image, ax=panels, label="cross weight")
    _save(figure, file)


def _save(figure: Figure, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": file.name}
    with matplotlib.rc_context(settings):
        # Titles above a square panel would otherwise reach over the edge.
        figure.savefig(file, format="svg", metadata={"Date": None}, bbox_inches="tight")
