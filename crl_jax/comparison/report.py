"""The report of a comparison, as a document."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from crl_jax import metrics
from crl_jax.comparison import plots, statistics, wording
from crl_jax.comparison.cross_weights import CrossWeights
from crl_jax.comparison.document import (
    Block,
    Command,
    Figure,
    Heading,
    Paragraph,
    Table,
)
from crl_jax.comparison.measurements import STEPS, Measurement
from crl_jax.comparison.plan import BASELINE, Plan, Variant
from crl_jax.comparison.results import Results
from crl_jax.networks import MEANINGS

_AGAINST = ("M", BASELINE)


def report(
    results: Results,
    costs: Mapping[Variant, Measurement],
    cross_weights: Mapping[Variant, CrossWeights],
    arguments: Sequence[str],
    folder: Path,
) -> list[Block]:
    """Returns the report; its drawings are written to `folder`.

    Args:
      results: what the runs came to.
      costs: of each variant.
      cross_weights: of the variants that learned theirs.
      arguments: of the command.
      folder: where the drawings go.
    """
    base = [variant for variant in results.outcomes if not variant.field]
    fields = list(dict.fromkeys(v.field for v in results.outcomes if v.field))
    return [
        Heading("Comparison", level=1),
        Paragraph(_setting(results)),
        Command(shlex.join(["python", "-m", "crl_jax.compare", *arguments])),
        Paragraph(_legend(base)),
        *_accuracies(results, base),
        *_differences(results, base),
        *_gain(results, base),
        *_costs(costs, results.plan),
        *(block for field in fields for block in _sweep(results, field, folder)),
        *_learned(cross_weights, folder),
    ]


def _setting(results: Results) -> str:
    variant = next(iter(results.outcomes))
    outcome, config = results.outcomes[variant][0], results.plan.configs[variant]
    tasks = ", ".join(
        f"{task} ({outcome.test[task]['count']:,} test examples)"
        for task in results.kinds
    )
    model, data = config.model, config.data
    chosen = wording.chosen_by(results, config.train.best_by)
    seeds = results.plan.seeds
    return (
        f"Tasks: {tasks}. ResNet-{model.depth} of width {model.width:g}, pictures of "
        f"{data.image_size} px, {seeds} seed{'s' if seeds > 1 else ''} each. "
        f"Checkpoints are chosen by {chosen} on the split {data.val_split}; accuracies "
        f"are measured on the split {data.test_split}, in percent, unless a column "
        "says otherwise."
    )


def _legend(base: Sequence[Variant]) -> str:
    lines = "; ".join(f"{v.network}: {MEANINGS[v.network]}" for v in base) + "."
    if Variant(BASELINE) not in base:
        return lines
    return lines + (
        f" {BASELINE} is trained as one program: its networks share batches, the norm "
        "that config.optim.clip_norm bounds, and the step of the checkpoint. The "
        "config's task weights do not apply to it."
    )


def _accuracies(results: Results, base: Sequence[Variant]) -> list[Block]:
    """Returns the first two measures as mean and standard deviation over seeds."""
    blocks: list[Block] = []
    for measure, tasks in wording.by_measure(results, 2).items():
        rows = [
            [
                v.label,
                *(
                    wording.spread(results.test(v, t, measure), results.decimals(t))
                    for t in tasks
                ),
            ]
            for v in base
        ]
        columns = ["network", *map(metrics.title, tasks)]
        blocks += [Heading(wording.heading(measure)), Table(columns, rows)]
    note = "Mean ± sample standard deviation (N − 1) over seeds."
    return [*blocks, Paragraph(note)]


def _differences(results: Results, base: Sequence[Variant]) -> list[Block]:
    """Returns what was better and worse, with intervals, against M and S."""
    blocks: list[Block] = []
    for network in _AGAINST:
        against = Variant(network)
        others = [v for v in base if v != against]
        if against not in base or not others:
            continue
        for measure, tasks in wording.by_measure(results, 1).items():
            rows = [
                [v.label, *(wording.difference(results, v, against, t) for t in tasks)]
                for v in others
            ]
            blocks += [
                Heading(f"{wording.heading(measure)} against {network}"),
                Table(["network", *map(metrics.title, tasks)], rows),
            ]
    seeds = results.plan.seeds
    text = (
        f"Differences in {wording.units(results)}, between runs with the same seed, "
        "with the 95% bootstrap interval over seeds (for "
        f"{statistics.MIN_SEEDS} seeds or more)"
    )
    if seeds >= statistics.MIN_SEEDS:
        text += f", widened {statistics.widening(seeds):.1f} times for {seeds} seeds"
    text += (
        ". It shows what other seeds would give on the same pictures. If it contains "
        "zero, no difference was seen. Each interval stands by itself: where there is "
        "no real difference, about one in twenty is called better or worse by chance."
    )
    return [*blocks, Paragraph(text)] if blocks else []


def _gain(results: Results, base: Sequence[Variant]) -> list[Block]:
    if not results.plan.has_baseline:
        return []
    rows = []
    for variant in base:
        if variant.network == BASELINE:
            continue
        gain = results.gain(variant)
        judged = wording.judged(statistics.paired_difference(gain, np.zeros_like(gain)))
        rows.append([variant.label, wording.spread(gain), judged])
    if not rows:
        return []
    measures = dict.fromkeys(results.judged[task] for task in results.kinds)
    lower = [measure.title for measure in measures if not measure.higher_is_better]
    turned = "".join(f"; negated for {t}, where lower is better" for t in lower)
    titles = " or ".join(measure.title for measure in measures)
    text = (
        "Δm = mean over tasks of 100 (a − b) / b, in percent, where a is the network's "
        f"{titles} and b that of {BASELINE} with the same seed{turned} (Maninis et al. "
        "2019, equation 4). Above zero the network is better than one network per task."
    )
    if left := ", ".join(t for t in results.kinds if t not in results.tested):
        text += f" Left out, since no test picture has a label: {left}."
    return [
        Heading("Multitask gain Δm"),
        Paragraph(text),
        Table(["network", "Δm", "95% interval"], rows),
    ]


def _costs(costs: Mapping[Variant, Measurement], plan: Plan) -> list[Block]:
    rows = [
        [
            variant.label,
            f"{cost.parameters:,}",
            *([_saved(costs, variant, plan)] if plan.has_baseline else []),
            f"{cost.flops / 1e9:.3f}",
            f"{1000 * cost.step_seconds:,.1f}",
            f"{cost.step_bytes / 1e6:.0f}",
        ]
        for variant, cost in costs.items()
    ]
    columns = [
        *("network", "parameters"),
        *([f"saved against {BASELINE}"] if plan.has_baseline else []),
        *("GFLOPs per picture", "ms per step", "MB per step"),
    ]
    device = next(iter(costs.values())).device
    text = (
        "All tasks together. FLOPs are those of the forward pass's convolutions and "
        "products, with a multiply-add counted as two; a step is one update, timed on "
        f"{device} (fastest of {STEPS}, with the batch already on the device); MB are "
        "its peak memory on a device, state and batch included, as XLA planned it."
    )
    return [Heading("Cost"), Table(columns, rows), Paragraph(text)]


def _saved(costs: Mapping[Variant, Measurement], variant: Variant, plan: Plan) -> str:
    baseline = plan.counterpart(variant, BASELINE)
    if baseline is None or baseline not in costs:
        return "–"
    share = 1 - costs[variant].parameters / costs[baseline].parameters
    return f"{100 * share:.1f}%".replace("-", "−")


def _sweep(results: Results, field: str, folder: Path) -> list[Block]:
    """Returns the tables of a sweep, and its plot unless its values are Booleans."""
    networks = {v.network for v in results.outcomes if v.field == field}
    swept = [
        v for v in results.outcomes if v.network in networks and v.field in ("", field)
    ]
    swept.sort(key=lambda v: (v.network, *plots.position(results, field, v)))
    rows = [
        [
            variant.network,
            str(plots.value(results, field, variant)),
            wording.spread(100 * results.val(variant)),
            *(
                wording.spread(results.test(variant, t), results.decimals(t))
                for t in results.judged
            ),
        ]
        for variant in swept
    ]
    by = wording.best_by(results)
    columns = ["network", field, f"val, {by}", *wording.columns(results)]
    note = []
    if results.plan.has_baseline:
        columns.append("Δm")
        for row, variant in zip(rows, swept, strict=True):
            over = variant.network != BASELINE
            row.append(wording.spread(results.gain(variant)) if over else "–")
        text = f"Δm is relative to {BASELINE} at the same value, if it was swept, too."
        note.append(Paragraph(text))
    blocks: list[Block] = [
        Heading(f"Sweep of {field}"),
        Table(columns, rows),
        *note,
        *_chosen(results, field, swept),
    ]
    if all(isinstance(plots.value(results, field, v), bool) for v in swept):
        return blocks
    file = folder / f"{field}.svg"
    plots.draw_sweep(results, field, file)
    measured = ", ".join(
        wording.heading(measure) for measure in wording.by_measure(results, 1)
    )
    caption = (
        f"{measured} on the test split against {plots.axis_label(field)}: mean and "
        "standard deviation over seeds; dots are runs."
    )
    return [*blocks, Figure(file, caption)]


def _chosen(results: Results, field: str, swept: Sequence[Variant]) -> list[Block]:
    """Returns how the values that the validation split chooses do on the test split."""
    best = {v.network: v for v in results.outcomes if not v.field}
    for network in dict.fromkeys(v.network for v in swept):
        own = [v for v in swept if v.network == network]
        best[network] = max(own, key=lambda v: float(np.mean(results.val(v))))
    named = {
        network: f"{network} {field}={plots.value(results, field, variant)}"
        for network, variant in best.items()
        if variant in swept
    }
    rows = []
    for network, name in named.items():
        for against in _AGAINST:
            if against in best and against != network:
                judged = (
                    wording.difference(results, best[network], best[against], t)
                    for t in results.judged
                )
                rows.append([name, named.get(against, against), *judged])
    if not rows:
        return []
    columns = ["chosen on validation", "against", *wording.columns(results)]
    text = "Here each network has the value that the validation split chose for it."
    return [Paragraph(text), Table(columns, rows)]


def _learned(
    cross_weights: Mapping[Variant, CrossWeights], folder: Path
) -> list[Block]:
    blocks: list[Block] = []
    for variant, weights in cross_weights.items():
        if not weights.units:  # branched where nothing can cross
            continue
        file = folder / f"cross-weights-{variant.folder}.svg"
        plots.draw_cross_weights(weights, file)
        caption = (
            f"{variant.label}: how much each task (row) takes from each other task's "
            f"shortcut (column), one grid per unit; {weights.meaning}, mean over seeds."
        )
        blocks.append(Figure(file, caption))
    return [Heading("Learned cross weights"), *blocks] if blocks else []
