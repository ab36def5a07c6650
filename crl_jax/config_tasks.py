"""Checks of `config.tasks`: what a task may be called, and its settings."""

import re
from collections.abc import Mapping

from ml_collections import ConfigDict

from crl_jax.config import default_task
from crl_jax.errors import UserError

# Names that lists, examples and results use for something else: joint is all tasks at
# once, and mean is what config.train.best_by may choose by.
_RESERVED = ("file", "split", "image", "joint", "mean")

# Columns of predictions, whatever the tasks are, and beside a task.
_COLUMN = "error|probability|joint_probability"
_COLUMN_OF = r"{task}_(\d+|\d+_probability|predicted|probability)|joint_{task}"

CHOICES = {
    "kind": ("categorical", "multilabel", "regression"),
    "loss": ("huber", "squared"),
}


def listed(names: str) -> list[str]:
    """Returns the names between commas, each once and sorted."""
    return sorted({name for cell in names.split(",") if (name := cell.strip())})


def check_name(task: str, where: str, otherwise: str = "") -> None:
    """Raises UserError if no task can have this name.

    Args:
      task: the name.
      where: where it stands, for the message.
      otherwise: what to do if it is not meant as a task, for the message.
    """
    if task in _RESERVED or not (task.isidentifier() and task.isascii()):
        raise UserError(
            f"{where}: no task can be named {task!r}. Use letters, digits and "
            "underscores, a letter first, but none of the names "
            f"{', '.join(_RESERVED)}. {otherwise}".rstrip()
        )


def check(config: ConfigDict) -> None:
    """Raises UserError if the settings of a task are wrong.

    Args:
      config: complete, with fields of the right types.
    """
    for task, settings in config.tasks.items():
        _check_task(f"config.tasks.{task}", settings)


def _check_task(name: str, settings: ConfigDict) -> None:
    for field, choices in CHOICES.items():
        if settings[field] not in choices:
            raise UserError(
                f"{name}.{field} is {settings[field]!r}; it can be: "
                f"{', '.join(choices)}."
            )
    if settings.weight < 0:
        raise UserError(f"{name}.weight is {settings.weight}; it cannot be below 0.")
    if settings.kind == "regression":
        if settings.classes:
            raise UserError(
                f"{name}.classes is {settings.classes}, but a regression has no "
                "classes: leave it at 0."
            )
        return
    if settings.loss != default_task().loss:
        raise UserError(
            f"{name}.loss={settings.loss} is for a regression, and the task is "
            f"{settings.kind}: leave it out, or set {name}.kind=regression."
        )
    least = 2 if settings.kind == "categorical" else 1
    if settings.classes and settings.classes < least:
        raise UserError(
            f"{name}.classes is {settings.classes}; it must be {least} or more, or 0 "
            "to take it from the data."
        )


def check_against(config: ConfigDict, widths: Mapping[str, int]) -> None:
    """Raises UserError if a config does not fit the tasks of the data.

    Args:
      config: a checked config.
      widths: `{task: K}`, from the data.
    """
    for task in widths:
        check_name(task, "The data")
        if re.fullmatch(_COLUMN, task):
            raise UserError(
                f"The data: no task can be named {task!r}, which is a column of "
                "predictions. Rename it."
            )
        for other in widths:
            if re.fullmatch(_COLUMN_OF.format(task=task), other):
                raise UserError(
                    f"The data: beside a task {task!r} no other can be named "
                    f"{other!r}, which is a column of its predictions. Rename one of "
                    "them."
                )
    for task, settings in config.tasks.items():
        if task not in widths:
            raise UserError(
                f"config.tasks.{task}: the data has no such task; it has "
                f"{', '.join(widths)}."
            )
        if settings.classes not in (0, widths[task]):
            raise UserError(
                f"config.tasks.{task}.classes is {settings.classes}, but the data has "
                f"{widths[task]} classes of {task}: mend one of them, or set it to 0 "
                "to take what the data has."
            )
    _check_choice("train.best_by", config.train.best_by, ["mean", *widths])
    sampled = config.data.sampling_task
    if not sampled:
        return
    _check_choice("data.sampling_task", sampled, list(widths))
    kind = config.tasks.get(sampled, default_task()).kind
    if kind != "categorical":
        raise UserError(
            f"config.data.sampling_task={sampled}: that task is {kind}; examples can "
            "only be drawn by the classes of a categorical task."
        )


def _check_choice(name: str, value: str, choices: list[str]) -> None:
    if value not in choices:
        raise UserError(f"config.{name} is {value!r}; it can be: {', '.join(choices)}.")
