"""Predictions as a table, JSON, JSON lines or CSV."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from crl_jax.inference.prediction import Prediction, Ranked

Classes = Mapping[str, Sequence[str]]


def write_table(
    predictions: Iterable[Prediction], classes: Classes, top: int, out: TextIO
) -> None:
    """Prints a block a picture: a line a rank, a column a task, the joint answer."""
    title = "Labels, each after its probability in percent"
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for column in ("picture", *classes):
        table.add_column(column, overflow="fold")
    for prediction in predictions:
        if table.rows:
            table.add_row()
        if prediction.error is not None:
            table.add_row(prediction.file, f"refused: {prediction.error}")
            continue
        ranked = ("\n".join(_lines(prediction.top(task, top))) for task in classes)
        table.add_row(prediction.file, *ranked)
        if joint := prediction.joint:
            labels = (f"      {joint.labels[task]}" for task in classes)
            table.add_row(f"all tasks {100 * joint.probability:.1f}", *labels)
    Console(file=out, highlight=False, markup=False, emoji=False).print(table)


def _lines(ranked: Ranked) -> list[str]:
    return [f"{100 * probability:5.1f} {label}" for label, probability in ranked]


def write_json(
    predictions: Iterable[Prediction], classes: Classes, top: int, out: TextIO
) -> None:
    """Writes a list of objects, one a picture; see `as_object`."""
    before = "[\n"
    for prediction in predictions:
        out.write(before + _json(as_object(prediction, top)))
        before = ",\n"
    out.write("[]\n" if before == "[\n" else "\n]\n")


def write_jsonl(
    predictions: Iterable[Prediction], classes: Classes, top: int, out: TextIO
) -> None:
    """Writes a line a picture; see `as_object`."""
    for prediction in predictions:
        out.write(_json(as_object(prediction, top)) + "\n")
        out.flush()


def as_object(prediction: Prediction, top: int) -> dict[str, Any]:
    """Returns what JSON says of a picture.

    `{"file": ..., "tasks": {task: [{"label": ..., "probability": ...}, ...]}, "joint":
    {"labels": {task: label}, "probability": ...}}`, `joint` only if there is one; of a
    refused picture `{"file": ..., "error": ...}`.
    """
    if prediction.error is not None:
        return {"file": prediction.file, "error": prediction.error}
    tasks = {
        task: [_pair(*pair) for pair in prediction.top(task, top)]
        for task in prediction.classes
    }
    result: dict[str, Any] = {"file": prediction.file, "tasks": tasks}
    if joint := prediction.joint:
        probability = round(joint.probability, 6)
        result["joint"] = {"labels": joint.labels, "probability": probability}
    return result


def _pair(label: str, probability: float) -> dict[str, Any]:
    return {"label": label, "probability": round(probability, 6)}


def _json(content: object) -> str:
    return json.dumps(content, ensure_ascii=False)


def write_csv(
    predictions: Iterable[Prediction], classes: Classes, top: int, out: TextIO
) -> None:
    """Writes a row a picture.

    Its columns are `file`, `error`, then for each task and rank `<task>_1` and
    `<task>_1_probability`, then `joint_<task>` for each task, `joint_probability`.
    """
    ranks = {
        task: range(1, min(top, len(names)) + 1) for task, names in classes.items()
    }
    columns = ["file", "error"]
    for task in classes:
        for rank in ranks[task]:
            columns += [f"{task}_{rank}", f"{task}_{rank}_probability"]
    columns += [f"joint_{task}" for task in classes] + ["joint_probability"]
    rows = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    rows.writeheader()
    for prediction in predictions:
        row = {"file": prediction.file, "error": prediction.error or ""}
        for task, of_task in ranks.items() if prediction.error is None else ():
            ranked = prediction.top(task, top)
            for rank, (label, probability) in zip(of_task, ranked, strict=True):
                row[f"{task}_{rank}"] = label
                row[f"{task}_{rank}_probability"] = f"{probability:.6f}"
        if joint := prediction.joint:
            row |= {f"joint_{task}": label for task, label in joint.labels.items()}
            row["joint_probability"] = f"{joint.probability:.6f}"
        rows.writerow(row)


FORMATS: dict[str, Callable[[Iterable[Prediction], Classes, int, TextIO], None]] = {
    "table": write_table,
    "json": write_json,
    "jsonl": write_jsonl,
    "csv": write_csv,
}
