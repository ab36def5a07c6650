"""Checks of `config.tasks`: what a task may be called, and its settings."""

from ml_collections import ConfigDict

from crl_jax.config import default_task
from crl_jax.errors import UserError

CHOICES = {
    "kind": ("categorical", "multilabel", "regression"),
    "loss": ("huber", "squared"),
}


def check_name(task: str) -> None:
    """Raises UserError if no task can have this name."""
    if not (task.isidentifier() and task.isascii()) or task == "joint":
        raise UserError(
            f"Task name {task!r}: use letters, digits and underscores, and begin with "
            "a letter; 'joint' means all tasks at once."
        )


def check(config: ConfigDict) -> None:
    """Raises UserError where the settings of a task are wrong.

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
