"""What is wrong with the labels of a data set, as far as counting them can tell."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from crl_jax.data.labels import SplitLabels
from crl_jax.data.table import first_few
from crl_jax.kinds import Kind, Kinds, Regression, categorical_classes


def pair_counts(
    labels: Mapping[str, np.ndarray], classes: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Returns how many examples carry each pair of labels of two tasks, `[K, K]`.

    Args:
      labels: `{task: [N]}` of both, -1 where missing.
      classes: `{task: class names}` of both.
    """
    a, b = (len(classes[task]) for task in labels)
    pairs = _pairs(*labels.values(), b_classes=b)
    return np.bincount(pairs, minlength=a * b).reshape(a, b)


def _pairs(a: np.ndarray, b: np.ndarray, *, b_classes: int) -> np.ndarray:
    """Returns a number for the pair of labels of each example that has both."""
    both = (a >= 0) & (b >= 0)
    return a[both] * b_classes + b[both]


def find_problems(
    splits: Mapping[str, SplitLabels],
    kinds: Kinds,
    few: int,
) -> list[str]:
    """Returns what is wrong with the data: one line per problem, with what to do.

    Args:
      splits: `train`, and those of `val` and `test` that exist.
      kinds: of the tasks.
      few: a class with fewer training pictures than this is a problem.
    """
    problems: list[str] = []
    for task, kind in kinds.items():
        problems += _rare_classes(splits, task, kind, few)
        problems += _one_number(splits["train"], task, kind)
    for a, b in itertools.combinations(splits, 2):
        problems += _shared_pictures(splits, a, b)
    for task, kind in kinds.items():
        problems += _contradictions(splits["train"], task, kind)
    classes = categorical_classes(kinds)
    for a, b in itertools.combinations(classes, 2):
        problems += _new_pairs(splits, classes, a, b)
    return problems


def _rare_classes(
    splits: Mapping[str, SplitLabels], task: str, kind: Kind, few: int
) -> Iterator[str]:
    names = kind.names
    counts = {s: kind.class_counts(of.labels[task]) for s, of in splits.items()}
    train, total = counts["train"], np.sum(list(counts.values()), axis=0)
    never = np.flatnonzero(total == 0).tolist()
    if never:
        yield (
            f"{task}: classes that never occur: {len(never):,} of {len(names):,} "
            f"({first_few(never, lambda k: names[k])}). Take them out of the data, or "
            "choose splits that have them."
        )
    unseen = np.flatnonzero((train == 0) & (total > 0)).tolist()
    if unseen:
        yield (
            f"{task}: classes without training pictures: {len(unseen):,} of "
            f"{len(names):,} ({first_few(unseen, lambda k: names[k])}). They cannot be "
            "learnt: move some of their pictures to train, or drop them."
        )
    rare = [k for k in np.argsort(train, kind="stable") if 0 < train[k] < few]
    if rare:
        described = first_few(rare, lambda k: f"{names[k]} {train[k]:,}")
        yield (
            f"{task}: classes with fewer than {few:,} training pictures: {len(rare):,} "
            f"of {len(names):,} ({described}). Collect more of them, or merge each "
            "with a similar class."
        )


def _one_number(train: SplitLabels, task: str, kind: Kind) -> Iterator[str]:
    labels = train.labels[task]
    known = labels[kind.is_labelled(labels)]
    if isinstance(kind, Regression) and len(known) and not np.ptp(known):
        yield (
            f"{task}: all training pictures have the number "
            f"{kind.label_text(known[0])}. There is nothing to learn: drop the task."
        )


def _shared_pictures(
    splits: Mapping[str, SplitLabels], a: str, b: str
) -> Iterator[str]:
    _, in_a, in_b = np.intersect1d(
        splits[a].pictures, splits[b].pictures, return_indices=True
    )
    if len(in_a):
        files_a = [splits[a].files[i] for i in in_a.tolist()]
        files_b = [splits[b].files[i] for i in in_b.tolist()]
        described = first_few(sorted(zip(files_a, files_b, strict=True)), " = ".join)
        yield (
            f"{a} and {b} share identical pictures: {len(in_a):,} ({described}). "
            f"This leak makes accuracies on {b} too high: keep each picture in only "
            "one split."
        )


def _contradictions(train: SplitLabels, task: str, kind: Kind) -> Iterator[str]:
    labels, pictures = train.labels[task], train.pictures
    known = np.flatnonzero(kind.is_labelled(labels))
    numbers = np.full(len(labels), -1)  # of the different labels
    if len(known):
        numbers[known] = np.unique(labels[known], axis=0, return_inverse=True)[1]
    known = known[np.lexsort((numbers[known], pictures[known]))]
    # Identical pictures now follow each other, in the order of their labels.
    a, b = known[:-1], known[1:]
    differ = (pictures[a] == pictures[b]) & (numbers[a] != numbers[b])
    pairs = sorted(zip(a[differ], b[differ], strict=True))
    if pairs:
        count = len({pictures[i] for i, _ in pairs})

        def describe(pair: tuple[int, int]) -> str:
            return " = ".join(
                f"{train.files[i]} {kind.label_text(labels[i])}" for i in pair
            )

        yield (
            f"{task}: identical training pictures with different labels: {count:,} "
            f"({first_few(pairs, describe)}). Keep the right label of each."
        )


def _new_pairs(
    splits: Mapping[str, SplitLabels],
    classes: Mapping[str, Sequence[str]],
    a: str,
    b: str,
) -> Iterator[str]:
    pairs = {
        split: _pairs(of.labels[a], of.labels[b], b_classes=len(classes[b]))
        for split, of in splits.items()
    }
    train = pairs.pop("train")
    held_out = np.concatenate([np.empty(0, np.int64), *pairs.values()])
    new, counts = np.unique(held_out[~np.isin(held_out, train)], return_counts=True)
    if len(new):

        def describe(pair: int) -> str:
            k, j = divmod(pair, len(classes[b]))
            return f"{classes[a][k]} + {classes[b][j]}"

        yield (
            f"{a} and {b}: pairs of labels in {' or '.join(pairs)} that never meet in "
            f"train: {len(new):,} ({first_few(new.tolist(), describe)}), pictures with "
            f"them: {counts.sum():,}. Move some of each to train, "
            "unless new pairs are what you want to test."
        )
