"""The sections of a run's report, from what was found."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crl_jax import config, metrics
from crl_jax.costs import Cost
from crl_jax.evaluation import Evaluation
from crl_jax.kinds import Kinds, Measure
from crl_jax.logs import read_rows
from crl_jax.reports import charts, page
from crl_jax.reports.findings import Answer, Confusions, Findings
from crl_jax.reports.page import Child, Element, Section, element
from crl_jax.terminal import percent
from crl_jax.trained import Trained

_LARGEST_MAP = 60  # most classes whose confusions are drawn
_LARGEST_GRID = 100_000  # most cells
_LISTED = 12  # classes and confusions that are listed at first


def overview(name: str, of: Evaluation, result: metrics.Means) -> list[Child]:
    """Returns the heading, and one card per task."""
    run, data = of.trained.run, of.other or of.trained.run.data
    tasks = ", ".join(f"{task} ({kind.size})" for task, kind in run.kinds.items())
    model = run.config.model
    text = (
        f"ResNet-{model.depth}, branched from {model.branch_from}, for {tasks}. Split "
        f"{of.split} of {data}, {of.trained.checkpoint}."
    )
    judged_by = metrics.measures(run.kinds)
    cards = [_card(task, judged_by[task], values) for task, values in result.items()]
    return [
        element("h1", name),
        element("p", text, class_="pale"),
        element("div", *cards, class_="cards"),
    ]


def _card(
    task: str, judged_by: Sequence[Measure], values: Mapping[str, float]
) -> Element:
    """Returns a card with the first measure of a task, and the second beneath."""
    first, *others = judged_by

    def text(measure: Measure) -> str:
        value = values[measure.name]
        unit = "%" if measure.is_share and value == value else ""
        return f"{measure.text(value)}{unit}"

    known = [m for m in others[:1] if values[m.name] == values[m.name]]
    beneath = [f"{measure.title} {text(measure)}" for measure in known]
    named = [] if first.name == "top1" else [first.title]
    beneath = [*named, *beneath, f"{values['count']:,} pictures"]
    return element(
        "div",
        metrics.title(task),
        element("b", text(first)),
        element("span", ", ".join(beneath), class_="pale"),
        class_="card",
    )


def curves(workdir: Path, kinds: Kinds) -> Section:
    """Returns the first measure and the loss of each task as they were in training.

    Raises:
      UserError: see `read_rows`.
    """
    rows = read_rows(workdir)

    def curve(column: str, split: str, style: str) -> charts.Curve:
        of_split = [row for row in rows if row["split"] == split and row.get(column)]
        x = [float(row["step"]) for row in of_split]
        return charts.Curve(split, x, [float(row[column]) for row in of_split], style)

    def both(column: str) -> list[charts.Curve]:
        return [curve(column, "train", "second"), curve(column, "val", "accent")]

    figures = []
    for task, (measure, *_) in metrics.measures(kinds).items():
        title = metrics.title(task)
        title += "" if task == metrics.JOINT else f": {measure.title}"
        both_splits = both(f"{task}_{measure.name}")
        figures.append(charts.line_chart(title, both_splits, percent=measure.is_share))
    figures += [charts.line_chart(f"{t}: loss", both(f"{t}_loss")) for t in kinds]
    figures.append(
        charts.line_chart("learning rate", [curve("learning_rate", "train", "accent")])
    )
    return "Training", [element("div", *figures, class_="grid")]


def classes(findings: Findings) -> Section | None:
    """Returns the accuracy of each class, and what the class is taken for.

    Returns None if no task has pictures of one class each.
    """
    body: list[Child] = []
    if not findings.classes:
        return None
    for task, names in findings.classes.items():
        found = findings.confusions(task)
        listed = [*_class_table(found, names), *_confused(found, names)]
        lists = element("div", *listed, class_="names")
        drawn = element("div", *_confusions(task, found, names))
        body += [element("h3", task), element("div", lists, drawn, class_="beside")]
    return "Classes and confusions", body


def _totals(found: Confusions, names: Sequence[str]) -> np.ndarray:
    """Returns how often each label occurs, `[K]`."""
    labels, _, counts = found
    total = np.zeros(len(names), np.int64)
    np.add.at(total, labels, counts)
    return total


def _class_table(found: Confusions, names: Sequence[str]) -> list[Child]:
    """Returns the classes from the worst to the best; long lists are folded."""
    labels, predicted, counts = found
    total, right = _totals(found, names), np.zeros(len(names), np.int64)
    right[labels[labels == predicted]] = counts[labels == predicted]
    occurs = np.flatnonzero(total)
    accuracy = right / np.maximum(total, 1)
    rows: list[list[Child]] = [
        [names[k], page.share_bar(accuracy[k]), percent(accuracy[k]), f"{total[k]:,}"]
        for k in occurs[np.argsort(accuracy[occurs], kind="stable")]
    ]
    columns = ["class", "", "top-1, %", "pictures"]
    first = page.table(columns, rows[:_LISTED])
    more = rows[_LISTED:]
    if not more:
        return [first]
    summary = element("summary", f"{len(more):,} better classes")
    return [first, element("details", summary, page.table(columns, more))]


def _confused(found: Confusions, names: Sequence[str]) -> list[Child]:
    """Returns the labels that are most often predicted as another."""
    wrong, total = found[0] != found[1], _totals(found, names)
    labels, predicted, counts = (of[wrong] for of in found)
    order = np.argsort(-counts, kind="stable")[:_LISTED]
    if not len(order):
        return [element("p", "No confusions.", class_="pale")]
    rows: list[list[Child]] = [
        [f"{names[i]} → {names[j]}", f"{count:,}", f"{total[i]:,}"]
        for i, j, count in zip(
            labels[order], predicted[order], counts[order], strict=True
        )
    ]
    return [page.table(["label → predicted", "times", "of"], rows)]


def _confusions(task: str, found: Confusions, names: Sequence[str]) -> list[Child]:
    """Returns a map of all confusions, unless there are too many classes."""
    if len(names) > _LARGEST_MAP:
        return []
    labels, predicted, of_pairs = found
    counts = np.zeros((len(names),) * 2, np.int64)
    counts[labels, predicted] = of_pairs
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = np.where(counts > 0, shares, np.nan)
    text = "Labels down, predictions across."

    def say(i: int, j: int) -> str:
        return f"{counts[i, j]:,} of {counts[i].sum():,}"

    drawing = charts.heat_map(shown, names, names, say, f"{task}. {text}")
    return [element("p", text, class_="pale"), drawing]


def grid(findings: Findings) -> Section | None:
    """Returns the grid of the two tasks with the fewest classes.

    None for fewer tasks, or for so many classes that nobody could look at it. For
    adjectives, nouns and pairs of them it is the grid of adjectives and nouns.
    """
    if len(findings.classes) < 2:
        return None
    few = sorted(findings.classes, key=lambda task: len(findings.classes[task]))[:2]
    columns, rows = few
    if findings.kinds[rows].width * findings.kinds[columns].width > _LARGEST_GRID:
        return None
    counts, right = findings.grid(rows, columns)
    names = findings.classes[rows], findings.classes[columns]
    shares = np.where(counts > 0, right / np.maximum(counts, 1), np.nan)
    text = (
        f"{rows} down, {columns} across; each cell is a pair of labels that occurs "
        f"({np.count_nonzero(counts):,} of {counts.size:,}). The fuller its colour, "
        "the more of its pictures have both right."
    )

    def say(i: int, j: int) -> str:
        return f"{right[i, j]:,} of {counts[i, j]:,} right"

    chart = charts.heat_map(shares, *names, say, f"accuracy per pair: {text}")
    return f"{rows} and {columns}", [element("p", text, class_="pale"), chart]


def pictures(findings: Findings) -> Section:
    """Returns the best and the worst answers, with their labels."""
    best = [_picture(answer, findings.kinds) for answer in findings.best]
    worst = [_picture(answer, findings.kinds) for answer in findings.worst]
    return "Best and worst pictures", [
        element("p", "As the network sees them.", class_="pale"),
        element("h3", "The labels it thought most probable"),
        element("div", *best, class_="pictures"),
        element("h3", "The labels it thought least probable"),
        element("div", *worst, class_="pictures"),
    ]


def _picture(answer: Answer, kinds: Kinds) -> Element:
    lines: list[Child] = []
    for task, kind in kinds.items():
        label, said = answer.labels[task], answer.brief[task]
        if not label:
            line: Child = f"{said} (no label)"
        elif not kind.names:  # a number is neither right nor wrong
            line = f"{task} {said}, is {label}"
        elif label == answer.predicted[task]:
            line = f"✓ {said}"
        else:
            line = element("span", f"✗ {said}, is {label}", class_="wrong")
        lines += [line, element("br")]
    name = element("span", answer.file, class_="pale")
    image = page.picture(answer.image, answer.file)
    return element("figure", image, element("p", *lines, name))


def calibration(findings: Findings) -> Section | None:
    """Returns one reliability diagram per task, with its expected calibration error.

    Returns None if no task has pictures of one class each.
    """
    figures = []
    for task in findings.classes:
        of_task = findings.calibration(task)
        if not np.any(of_task.counts):
            continue
        title = f"{task}: ECE {100 * of_task.expected_error:.1f}%"
        gap, sure = of_task.gap, "too sure" if of_task.gap > 0 else "not sure enough"
        note = f"On average {sure}, by {100 * abs(gap):.1f}%."
        figures.append(
            charts.reliability_diagram(
                title, note, of_task.confidence, of_task.accuracy, of_task.counts
            )
        )
    if not figures:
        return None
    text = (
        "Pictures by the probability of what was predicted: on the line, 80% sure "
        "means right four times in five. The fuller a bar's colour, the more pictures "
        "it has. ECE is the expected calibration error (Guo et al. 2017)."
    )
    body = element("div", *figures, class_="grid")
    return "Calibration", [element("p", text, class_="pale"), body]


def cost(costs: Mapping[str, Cost], speed: str) -> Section:
    """Returns the network's cost, beside one network per task and plain multitask."""
    columns = list(costs)
    rows: list[list[Child]] = [
        ["parameters", *(f"{costs[name].total:,}" for name in columns)],
        ["GFLOPs per image", *(f"{costs[n].flops / 1e9:.2f}" for n in columns)],
        [
            "activations for training, MB per image",
            *(f"{costs[name].activation_bytes / 1e6:.1f}" for name in columns),
        ],
    ]
    text = (
        "S: one network per task. M: multitask without cross-residuals. X: this "
        f"network. {speed}"
    )
    table = page.table(["", *columns], rows)
    return "Cost", [table, element("p", text, class_="pale")]


def settings(trained: Trained) -> Section:
    """Returns every field of the config; those that are not the default are marked."""
    defaults = dict(config.fields(config.default()))
    for task in trained.run.kinds:
        defaults |= config.fields(config.default_task(), f"tasks.{task}.")
    changed: list[list[Child]] = []
    same: list[list[Child]] = []
    for name, value in config.fields(config.without_places(trained.run.config)):
        default = _text(defaults[name]) if name in defaults else ""
        rows = same if _text(value) == default else changed
        rows.append([f"config.{name}", _text(value), default])
    columns = ["field", "value", "default"]
    rest = element(
        "details",
        element("summary", "fields left at their defaults"),
        page.table(columns, same),
    )
    return "Config", [page.table(columns, changed), rest]


def _text(value: Any) -> str:
    """Returns a value as text, a tuple as the list that JSON makes of it."""
    return repr(list(value) if isinstance(value, tuple) else value)
