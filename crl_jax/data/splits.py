"""What split strings mean, such as `train[:90%]` or `val+test`."""

import itertools
from collections.abc import Mapping

from ml_collections import ConfigDict

from crl_jax.data.quiet import tfds
from crl_jax.errors import UserError

Splits = Mapping[str, tfds.core.SplitInfo]  # those that the data has


def parts_of(name: str, splits: Splits) -> list[tuple[str, range]]:
    """Returns the whole splits behind a split string, and which examples it takes.

    Raises:
      KeyError, ValueError, AssertionError: there is no such split.
    """
    parts = tfds.core.ReadInstruction.from_spec(name).to_absolute(splits)
    whole = {split: range(info.num_examples) for split, info in splits.items()}
    return [(p.splitname, whole[p.splitname][p.from_ : p.to]) for p in parts]


def check(name: str, splits: Splits, otherwise: str = "") -> None:
    """Raises UserError if there is no such split, or no example in it.

    Args:
      name: of the split.
      splits: those that there are.
      otherwise: what else can be done if there is none, for the message.
    """
    try:
        parts = parts_of(name, splits)
    except (KeyError, ValueError, AssertionError) as error:
        raise UserError(
            f"The data has no split {name!r}; it has {', '.join(splits)}. A part of "
            f"one is written train[90%:].{otherwise}"
        ) from error
    if not any(numbers for _, numbers in parts):
        raise UserError(f"Split {name!r} of the data is empty.")


def overlap(config: ConfigDict, splits: Splits) -> str:
    """Returns a warning if val or test has pictures of train, otherwise ""."""
    data = config.data
    train = parts_of(data.train_split, splits)
    shared = [
        f"config.data.{field}={data[field]}"
        for field in ("val_split", "test_split")
        if data[field] and _meet(train, parts_of(data[field], splits))
    ]
    if not shared:
        return ""
    return (
        f"Warning: config.data.train_split={data.train_split} shares pictures with "
        f"{' and '.join(shared)}; results on training pictures say nothing about "
        "others. Keep them apart, such as train[90%:] with "
        "config.data.train_split=train[:90%]."
    )


def share(a: str, b: str, splits: Splits) -> bool:
    """Returns whether two split strings have an example in common."""
    return _meet(parts_of(a, splits), parts_of(b, splits))


def _meet(a: list[tuple[str, range]], b: list[tuple[str, range]]) -> bool:
    """Returns whether two results of `parts_of` have an example in common."""
    return any(
        of == split and max(x.start, y.start) < min(x.stop, y.stop)
        for (of, x), (split, y) in itertools.product(a, b)
    )
