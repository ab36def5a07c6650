"""What a task can be: categorical, multilabel or a regression.

A kind defines all that differs between them: the outputs of its head, its loss, its
measures, which labels are missing, and what its outputs mean. Whatever trains,
evaluates or reports asks the kind of each task, `{task: Kind}`.
"""

from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from crl_jax.config import default_task
from crl_jax.kinds.categorical import Categorical
from crl_jax.kinds.kind import Kind, Measure
from crl_jax.kinds.multilabel import Multilabel
from crl_jax.kinds.regression import Regression

__all__ = [
    "KINDS",
    "Categorical",
    "Kind",
    "Kinds",
    "Measure",
    "Multilabel",
    "Regression",
    "categorical_classes",
    "class_names",
    "class_of",
    "from_known",
    "losses_of",
    "widths",
]

Kinds = Mapping[str, Kind]  # by task, in the tasks' order

KINDS: dict[str, type[Kind]] = {
    of.name: of for of in (Categorical, Multilabel, Regression)
}


def class_of(config: ConfigDict, task: str) -> type[Kind]:
    """Returns the kind that a checked config gives a task."""
    return KINDS[config.tasks.get(task, default_task()).kind]


def from_known(config: ConfigDict, known: Mapping[str, Any]) -> dict[str, Kind]:
    """Returns the kinds of a run's tasks.

    Args:
      config: a checked config.
      known: `{task: its Kind.known}`, as in a run's `classes.json`.

    Raises:
      TypeError, ValueError, KeyError: what is known belongs to another kind.
    """
    kinds = {
        task: class_of(config, task).of(config.tasks.get(task, default_task()), of_task)
        for task, of_task in known.items()
    }
    for task, kind in kinds.items():
        no_list = isinstance(known[task], str)
        if no_list or not all(isinstance(name, str) for name in kind.names):
            raise TypeError(f"classes of {task} that are no list of texts")
        if len(set(kind.names)) != len(kind.names):
            raise ValueError(f"classes of {task} that are equal")
    return kinds


def widths(kinds: Kinds) -> dict[str, int]:
    """Returns how many outputs the head of each task has, `{task: K}`."""
    return {task: kind.width for task, kind in kinds.items()}


def losses_of(
    kinds: Kinds,
    logits: Mapping[str, jax.Array],
    labels: Mapping[str, jax.Array],
    label_smoothing: float,
) -> dict[str, jax.Array]:
    """Returns `{task: [B]}`, the loss of each example, from `Kind.loss`."""
    return {
        task: kind.loss(logits[task], labels[task], label_smoothing)
        for task, kind in kinds.items()
    }


def class_names(kinds: Kinds) -> dict[str, tuple[str, ...]]:
    """Returns `{task: class names}`; a regression has none."""
    return {task: kind.names for task, kind in kinds.items()}


def categorical_classes(kinds: Kinds) -> dict[str, tuple[str, ...]]:
    """Returns the class names of the tasks whose pictures have one class each."""
    return {t: kind.names for t, kind in kinds.items() if isinstance(kind, Categorical)}
