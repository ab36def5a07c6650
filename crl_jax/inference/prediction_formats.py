"""Predictions as a table, JSON, JSON lines or CSV."""

import csv
import json
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from rich.table import Table

from crl_jax.inference.prediction import Prediction
from crl_jax.kinds import Kinds, categorical_classes
from crl_jax.terminal import PlainConsole


def write_table(
    predictions: Iterable[Prediction], kinds: Kinds, top: int, out: TextIO
) -> None:
    """Prints one block per picture.

    Each has a column per task with a line per rank, and the joint answer. Tasks whose
    columns are together wider than the output stand below one another.
    """
    console = PlainConsole(out)
    # What is measured is never wider than the output that it is for.
    wider = console.options.update(width=2 * console.width)
    console.print("Labels, each after its probability in percent")
    for prediction in predictions:
        console.print()
        console.print(prediction.file, style="bold", soft_wrap=True)
        if prediction.error is not None:
            console.print(f"  refused: {prediction.error}", soft_wrap=True)
            continue
        answers = prediction.probabilities
        lines = {task: kind.lines(answers[task], top) for task, kind in kinds.items()}
        table = Table(box=None, padding=(0, 0, 0, 2), header_style="")
        for task in lines:
            table.add_column(task)
        table.add_row(*map("\n".join, lines.values()))
        if console.measure(table, options=wider).maximum <= console.width:
            console.print(table)
        else:
            for task, of_task in lines.items():
                console.print("\n    ".join([f"  {task}", *of_task]), soft_wrap=True)
        if joint := prediction.joint:
            labels = ", ".join(joint.labels.values())
            text = f"  all tasks {100 * joint.probability:.1f}: {labels}"
            console.print(text, soft_wrap=True)


def write_json(
    predictions: Iterable[Prediction], kinds: Kinds, top: int, out: TextIO
) -> None:
    """Writes a list of objects, one per picture; see `as_object`."""
    before = "[\n"
    for prediction in predictions:
        out.write(before + _json(as_object(prediction, top)))
        before = ",\n"
    out.write("[]\n" if before == "[\n" else "\n]\n")


def write_jsonl(
    predictions: Iterable[Prediction], kinds: Kinds, top: int, out: TextIO
) -> None:
    """Writes one line per picture; see `as_object`."""
    for prediction in predictions:
        out.write(_json(as_object(prediction, top)) + "\n")
        out.flush()


def as_object(prediction: Prediction, top: int) -> dict[str, Any]:
    """Returns what JSON says about a picture.

    `{"file": ..., "tasks": {task: [{"label": ..., "probability": ...}, ...]}, "joint":
    {"labels": {task: label}, "probability": ...}}`. A regression has its number instead
    of a list, and `joint` is there only if there is a joint answer. For a refused
    picture it is `{"file": ..., "error": ...}`.
    """
    if prediction.error is not None:
        return {"file": prediction.file, "error": prediction.error}
    tasks = {
        task: kind.as_json(prediction.probabilities[task], top)
        for task, kind in prediction.kinds.items()
    }
    result: dict[str, Any] = {"file": prediction.file, "tasks": tasks}
    if joint := prediction.joint:
        probability = round(joint.probability, 6)
        result["joint"] = {"labels": joint.labels, "probability": probability}
    return result


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def write_csv(
    predictions: Iterable[Prediction], kinds: Kinds, top: int, out: TextIO
) -> None:
    """Writes one row per picture.

    The columns are `file`, `error`, then for each task and rank `<task>_1` and
    `<task>_1_probability`, or for a regression `<task>`, then `joint_<task>` for each
    categorical task, and `joint_probability`.
    """
    columns = ["file", "error"]
    for task, kind in kinds.items():
        columns += kind.columns(task, top)
    columns += [f"joint_{task}" for task in categorical_classes(kinds)]
    columns += ["joint_probability"]
    rows = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    rows.writeheader()
    for prediction in predictions:
        row = {"file": prediction.file, "error": prediction.error or ""}
        for task, answer in prediction.probabilities.items():
            of_task = kinds[task].columns(task, top), kinds[task].row(answer, top)
            row |= zip(*of_task, strict=True)
        if joint := prediction.joint:
            row |= {f"joint_{task}": label for task, label in joint.labels.items()}
            row["joint_probability"] = f"{joint.probability:.6f}"
        rows.writerow(row)


FORMATS: dict[str, Callable[[Iterable[Prediction], Kinds, int, TextIO], None]] = {
    "table": write_table,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}
