"""What `crl_jax.data.inspect` prints and writes about a data set."""

import csv
import itertools
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from crl_jax import config_check
from crl_jax.data import Batch, inspect_pictures, stream
from crl_jax.data.inspect_labels import (
    find_problems,
    pair_counts,
)
from crl_jax.data.labels import SplitLabels, read_split
from crl_jax.data.source import Source, find_source
from crl_jax.errors import UserError
from crl_jax.kinds import Kind, Kinds, categorical_classes
from crl_jax.terminal import console, print_table

MAX_GRID = 200  # classes of a task whose grid can still be read
PAGE = 36  # examples on the page

_SMALLEST = 5  # classes to name
_WARM_UP = 5  # batches

Splits = Mapping[str, SplitLabels]


def inspect(config: ConfigDict, out: Path, few: int, seconds: float) -> None:
    """Prints what you need to know about the data before training, and draws it.

    Args:
      config: a checked config.
      out: folder for `counts.csv`, the grids and the page of examples.
      few: a class with fewer training pictures gets a warning.
      seconds: how long the speed of the stream is measured.

    Raises:
      UserError: a mistake in an argument, the config or the data, or a folder that
        cannot be written.
    """
    if few < 0 or not seconds > 0:
        raise UserError(
            f"--few={few} --seconds={seconds:g}: give 0 or more for --few, and more "
            "than 0 for --seconds."
        )
    source = find_source(config)
    source.check(config)
    source = source.prepared()
    source.check(config)
    config = config_check.with_tasks(config, source.widths)
    try:
        out.mkdir(parents=True, exist_ok=True)
        splits = _read_splits(source, config)
        for task, kind in source.kinds.items():
            _print_task(task, kind, splits)
        _write_counts(out / "counts.csv", splits, source.kinds)
        _draw_grids(out, splits["train"], source.kinds)
        batches = stream.train_batches(source, config, first_step=0)
        _draw_page(out / "examples.png", batches, source.kinds, config)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: {error.strerror}. Mend this, and run again."
        ) from error
    speed = images_per_second(batches, seconds)
    _say(
        f"Stream alone: {speed:,.0f} images/s ({config.data.image_size} px, batches of "
        f"{config.data.batch_size}). Training near this speed waits for its pictures."
    )
    problems = source.doubts() + find_problems(splits, source.kinds, few)
    for problem in problems:
        _say(f"warning: {problem}")
    if not problems:
        _say("No warnings.")


def images_per_second(batches: Iterator[Batch], seconds: float) -> float:
    """Returns how fast a stream gives images, once it has warmed up.

    Args:
      batches: of the stream.
      seconds: to measure for, above 0.
    """
    for _ in range(_WARM_UP):
        next(batches)
    images, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        images += len(next(batches)["image"])
    return images / passed


def _read_splits(source: Source, config: ConfigDict) -> dict[str, SplitLabels]:
    """Reads the splits that the config names, and prints their sizes."""
    splits, sizes = {}, []
    for name in ("train", "val", "test"):
        if split := config.data[f"{name}_split"]:
            splits[name] = read_split(source, split)
            part = f" ({split})" if split != name else ""
            sizes.append(f"{name}{part} {len(splits[name].files):,}")
    _say(f"Pictures: {', '.join(sizes)}.")
    return splits


def _print_task(task: str, kind: Kind, splits: Splits) -> None:
    columns = []
    for split in splits.values():
        labels = split.labels[task]
        labelled = int(np.sum(kind.is_labelled(labels)))
        numbers = {
            "labelled pictures": f"{labelled:,}",
            "missing labels": f"{len(labels) - labelled:,}",
        }
        columns.append(numbers | kind.label_summary(labels))
    print_table(
        f"{task}: {kind.size}{' classes' if kind.names else ''}",
        ["", *splits],
        [[name, *(column[name] for column in columns)] for name in columns[0]],
    )
    if kind.names:
        counts = kind.class_counts(splits["train"].labels[task])
        fewest = np.argsort(counts, kind="stable")[:_SMALLEST]
        smallest = ", ".join(f"{kind.names[k]} {counts[k]:,}" for k in fewest)
        _say(f"Smallest in train: {smallest}.\n")


def _write_counts(path: Path, splits: Splits, kinds: Kinds) -> None:
    """Writes one row per class; the cell of a split that does not exist stays empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("task", "class", "train", "val", "test"))
        writer.writeheader()
        for task, kind in kinds.items():
            counts = {
                name: kind.class_counts(split.labels[task])
                for name, split in splits.items()
            }
            for k, name in enumerate(kind.names):
                of_class = {split: n[k] for split, n in counts.items()}
                writer.writerow({"task": task, "class": name} | of_class)
    _say(f"Wrote {path}")


def _draw_grids(out: Path, train: SplitLabels, kinds: Kinds) -> None:
    classes = categorical_classes(kinds)
    large = [task for task, names in classes.items() if len(names) > MAX_GRID]
    for pair in itertools.combinations(filter(lambda t: t not in large, classes), 2):
        of_pair = {task: classes[task] for task in pair}
        counts = pair_counts({task: train.labels[task] for task in pair}, of_pair)
        path = out / f"grid-{'-'.join(pair)}.png"
        inspect_pictures.draw_grid(counts, of_pair).save(path)
        _say(f"Wrote {path}")
    if large:
        _say(f"No grid of {', '.join(large)}: more than {MAX_GRID} classes.")


def _draw_page(
    path: Path,
    batches: Iterator[Batch],
    kinds: Kinds,
    config: ConfigDict,
) -> None:
    """Draws the first examples of a stream."""
    few = list(itertools.islice(batches, math.ceil(PAGE / config.data.batch_size)))
    images = np.concatenate([batch["image"] for batch in few])[:PAGE]
    labels = {
        task: np.concatenate([batch["labels"][task] for batch in few])[:PAGE]
        for task in kinds
    }
    title = (
        f"The first training pictures of seed {config.train.seed}, as the network sees "
        f"them; beneath: {', '.join(kinds)}"
    )
    inspect_pictures.draw_page(images, labels, kinds, title).save(path)
    _say(f"Wrote {path}")


def _say(text: str) -> None:
    """Prints a text, as one line if piped, with its brackets and colons as they are."""
    console.print(text, soft_wrap=not console.is_terminal)
