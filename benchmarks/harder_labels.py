"""A manifest with fewer, noisier or less balanced training labels, for comparisons.

  python -m benchmarks.harder_labels --manifest=labels.csv --task=fine --out=runs/harder

writes runs/harder/labels.csv and a link to the pictures. Training pictures that are
left over are used for validation, so that settings are chosen on many pictures; the
test split and its labels stay as they are. With --retest, a share of the validation
pictures becomes the test split instead: pictures from the same source as those of
training.
"""

import argparse
import csv
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from crl_jax import cli
from crl_jax.errors import UserError

Row = dict[str, str]  # of a manifest


def main() -> None:
    """Writes the manifest, and says what is in it."""
    verb = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = verb.add_argument
    add("--manifest", type=Path, required=True)
    add("--task", required=True, help="the one whose classes lose pictures")
    add("--per_class", type=int, default=8, help="training pictures per class")
    add("--rarest", type=int, help="of the last class; counts fall geometrically")
    add("--noise", type=float, default=0.0, help="share of training labels exchanged")
    add("--retest", type=float, default=0.0, help="share of val for a new test split")
    add("--seed", type=int, default=0)
    add("--out", type=Path, required=True, metavar="FOLDER")
    arguments = verb.parse_args()

    with arguments.manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "split", arguments.task} <= set(rows[0]):
        raise UserError(
            f"{arguments.manifest} needs the columns file, split and {arguments.task}."
        )
    random.seed(arguments.seed)
    keep_few(rows, arguments.task, arguments.per_class, arguments.rarest)
    train = [row for row in rows if row["split"] == "train"]
    for task in sorted(set(rows[0]) - {"file", "split"}):
        exchange(train, task, arguments.noise)
    if arguments.retest:
        rows = retest(rows, arguments.retest)
    write(rows, arguments.manifest.parent, arguments.out)
    counts = {
        split: sum(row["split"] == split for row in rows)
        for split in ("train", "val", "test")
    }
    print(f"{arguments.out / 'labels.csv'}: {counts}")


def keep_few(rows: Iterable[Row], task: str, most: int, rarest: int | None) -> None:
    """Moves training pictures to `val` until each class has at most its number.

    Those without a label of the task stay.

    Args:
      rows: their splits are changed.
      task: whose classes are counted.
      most: pictures per class.
      rarest: pictures of the last class, if the numbers fall (as a geometric series
        over the classes in a random order); None: all classes have the same number.
    """
    of_class = defaultdict(list)
    for row in rows:
        if row["split"] == "train" and row[task]:
            of_class[row[task]].append(row)
    classes = random.sample(sorted(of_class), len(of_class))
    ratio = (rarest or most) / most
    for i, name in enumerate(classes):
        count = round(most * ratio ** (i / max(1, len(classes) - 1)))
        for row in random.sample(of_class[name], len(of_class[name]))[count:]:
            row["split"] = "val"


def retest(rows: list[Row], share: float) -> list[Row]:
    """Returns the rows with a share of `val` as `test`, in place of the old split."""
    val = [row for row in rows if row["split"] == "val"]
    for row in random.sample(val, round(share * len(val))):
        row["split"] = "retest"
    return [
        row | {"split": row["split"].removeprefix("re")}
        for row in rows
        if row["split"] != "test"
    ]


def exchange(rows: list[Row], task: str, share: float) -> None:
    """Exchanges labels among a random share of the rows, whatever the labels are."""
    chosen = random.sample(rows, round(share * len(rows)))
    labels = [row[task] for row in chosen]
    for row, label in zip(chosen, random.sample(labels, len(labels)), strict=True):
        row[task] = label


def write(rows: list[Row], pictures: Path, out: Path) -> None:
    """Writes `labels.csv`, beside a link to the folder that files are relative to."""
    out.mkdir(parents=True, exist_ok=True)
    link = out / "pictures"
    link.unlink(missing_ok=True)
    link.symlink_to(pictures.resolve())
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"file": f"pictures/{row['file']}"} for row in rows)


if __name__ == "__main__":
    cli.run(main)
