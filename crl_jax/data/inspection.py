"""What `crl_jax.data.inspect` prints and writes about a data set."""

import csv
import itertools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from crl_jax import config_check
from crl_jax.data import Batch, inspect_pictures, stream
from crl_jax.data.inspect_labels import (
    class_counts,
    find_problems,
    pair_counts,
)
from crl_jax.data.labels import SplitLabels, read_split
from crl_jax.data.source import Source, find_source
from crl_jax.errors import UserError
from crl_jax.terminal import console, print_table

MAX_GRID = 200  # classes of a task whose grid can still be read
PAGE = 36  # examples on the page

_SMALLEST = 5  # classes to name
_WARM_UP = 5  # batches

Splits = Mapping[str, SplitLabels]
Classes = Mapping[str, Sequence[str]]


def inspect(config: ConfigDict, out: Path, few: int, seconds: float) -> None:
    """Prints what is to be known of the data before training, and draws it.

    Args:
      config: a checked config.
      out: folder for `counts.csv`, the grids and the page of examples.
      few: a class with fewer training pictures is warned of.
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
    config = config_check.with_tasks(config, source.num_classes)
    try:
        out.mkdir(parents=True, exist_ok=True)
        splits = _read_splits(source, config)
        for task, names in source.classes.items():
            _print_task(task, names, splits)
        _write_counts(out / "counts.csv", splits, source.classes)
        _draw_grids(out, splits["train"], source.classes)
        batches = stream.train_batches(source, config, first_step=0)
        _draw_page(out / "examples.png", batches, source.classes, config)
    except OSError as error:
        raise UserError(
            f"{error.filename or out}: {error.strerror}. Mend this, and run again."
        ) from error
    speed = images_per_second(batches, seconds)
    _say(
        f"Stream alone: {speed:,.0f} images/s ({config.data.image_size} px, batches of "
        f"{config.data.batch_size}). A training near this speed waits for its pictures."
    )
    problems = find_problems(splits, source.classes, few)
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


def _print_task(task: str, names: Sequence[str], splits: Splits) -> None:
    labels = [split.labels[task] for split in splits.values()]
    counts = [class_counts(of, len(names)) for of in labels]
    labelled = [of.sum() for of in counts]
    missing = [len(of) - n for of, n in zip(labels, labelled, strict=True)]
    rows: dict[str, list[Any]] = {
        "labelled pictures": labelled,
        "missing labels": missing,
        "smallest class": [of.min() for of in counts],
        "median class": [np.median(of) for of in counts],
        "largest class": [of.max() for of in counts],
    }
    print_table(
        f"{task}: {len(names):,} classes",
        ["", *splits],
        [[name, *(f"{n:,.0f}" for n in row)] for name, row in rows.items()],
    )
    fewest = np.argsort(counts[0], kind="stable")[:_SMALLEST]
    smallest = ", ".join(f"{names[k]} {counts[0][k]:,}" for k in fewest)
    _say(f"Smallest in train: {smallest}.\n")


def _write_counts(path: Path, splits: Splits, classes: Classes) -> None:
    """Writes a row a class; the cell of a split that does not exist stays empty."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("task", "class", "train", "val", "test"))
        writer.writeheader()
        for task, names in classes.items():
            counts = {
                name: class_counts(split.labels[task], len(names))
                for name, split in splits.items()
            }
            for k, name in enumerate(names):
                of_class = {split: n[k] for split, n in counts.items()}
                writer.writerow({"task": task, "class": name} | of_class)
    _say(f"Wrote {path}")


def _draw_grids(out: Path, train: SplitLabels, classes: Classes) -> None:
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
    classes: Classes,
    config: ConfigDict,
) -> None:
    """Draws the first examples of a stream."""
    few = list(itertools.islice(batches, math.ceil(PAGE / config.data.batch_size)))
    images = np.concatenate([batch["image"] for batch in few])[:PAGE]
    labels = {
        task: np.concatenate([batch["labels"][task] for batch in few])[:PAGE]
        for task in classes
    }
    title = (
        f"The first training pictures of seed {config.train.seed}, as the network sees "
        f"them; beneath: {', '.join(classes)}"
    )
    inspect_pictures.draw_page(images, labels, classes, title).save(path)
    _say(f"Wrote {path}")


def _say(text: str) -> None:
    """Prints a text, in a pipe as one line, and leaves its brackets and colons."""
    console.print(text, markup=False, emoji=False, soft_wrap=not console.is_terminal)
