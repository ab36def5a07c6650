"""Checks of a config, whose messages name the field and say how to mend it."""

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from crl_jax import config_conflicts, config_tasks
from crl_jax.config import copy, default, default_task, fields, in_order
from crl_jax.errors import UserError

DEPTHS = (12, 18, 34, 50, 101, 152)

_CHOICES = {
    "model.depth": DEPTHS,
    "model.stem": ("large", "small"),
    "model.stride_in": ("3x3", "1x1"),
    "model.dtype": ("float32", "bfloat16"),
    "model.cross.kind": ("scalar", "channel", "conv"),
    "model.frozen": ("none", "stem", "res2", "res3", "res4", "res5"),
    "model.fusion": ("none", "cross_stitch", "nddr", "mtan"),
    "data.augment": ("random_resized_crop", "pad_and_crop", "none"),
    "data.sampling": ("uniform", "balanced", "square_root"),
    "optim.name": ("sgd", "adamw"),
    "optim.weighting": (
        *("fixed", "equal", "uncertainty", "dwa", "geometric"),
        *("gradnorm", "pcgrad", "cagrad"),
    ),
    "optim.schedule": ("cosine", "step", "constant"),
}
_POSITIVE = (
    "model.width",
    "data.image_size",
    "data.batch_size",
    "data.eval_crop",
    "train.accumulate",
    "train.task_devices",
    "train.log_every",
    "optim.learning_rate",
    "optim.head_multiplier",
    "optim.weighting_rate",
    "optim.dwa_temperature",
    "optim.layer_decay",
)
_NOT_NEGATIVE = (
    "train.steps",
    "train.epochs",
    "train.seed",
    "train.eval_every",
    "train.checkpoint_every",
    "data.resize",
    "optim.weight_decay",
    "optim.clip_norm",
    "optim.gradnorm_alpha",
    "optim.decay_by",
)
_SHARES = (
    "data.eval_crop",
    "data.max_undecodable",
    "optim.warmup",
    "optim.cagrad_c",
    "optim.layer_decay",
    "optim.label_smoothing",
)
_DECAYS = ("optim.momentum", "optim.ema")
_LARGEST_SIZE = 8192  # pixels; one such picture has 200 MB
_LARGEST_SEED = 2**32 - 1  # larger ones would repeat these


def check(config: ConfigDict) -> ConfigDict:
    """Returns a complete, locked copy of `config`, or says what is wrong with it.

    Raises:
      UserError: see `complete`; or a value outside its range, or fields that contradict
        each other.
    """
    checked = complete(config)
    _check_values(checked)
    return checked.lock()


def complete(config: ConfigDict) -> ConfigDict:
    """Returns a copy of `config` in which what it leaves out has its default.

    Raises:
      UserError: an unknown field (the nearest known one is named), or a value of the
        wrong type.
    """
    known = default()
    for task in config.get("tasks", {}):
        known.tasks[task] = default_task()
    for task in config.get("data", {}).get("tasks", {}):
        known.data.tasks[task] = ""
    for name, value in fields(config):
        _check_type(name, value)
    known.update(config)
    for name in ("manifest", "dir"):
        known.data[name] = os.path.expanduser(known.data[name])
    known.data.ignore = ",".join(config_tasks.listed(known.data.ignore))
    return known


def expected_value(name: str) -> Any:
    """Returns the default of a field, which shows its type.

    Args:
      name: dotted, without `config.`; also `tasks.<task>.X` and `data.tasks.<task>`.

    Raises:
      UserError: there is no such field (the nearest is named), or it is a group.
    """
    known = dict(fields(default()))
    *group, field = name.split(".")
    if group[:-1] == ["tasks"]:
        config_tasks.check_name(group[-1], f"config.{name}")
        known |= {f"tasks.{group[-1]}.{k}": v for k, v in default_task().items()}
    if group == ["data", "tasks"]:
        config_tasks.check_name(field, f"config.{name}")
        known[name] = ""
    if name in known:
        return known[name]
    groups = {k.rpartition(".")[0] for k in known} | {"data.tasks", "tasks"}
    if name in groups or group == ["tasks"]:
        raise UserError(
            f"config.{name} is a group of fields, not a value: set config.{name}.X."
        )
    raise UserError(f"config.{name} does not exist.{_nearest(name, [*known, *groups])}")


def _check_type(name: str, value: Any) -> None:
    expected = expected_value(name)
    if not _same_type(value, expected):
        raise UserError(
            f"config.{name} is {value!r}; it must be {_type_name(expected)}, such as "
            f"{expected!r}."
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    """Returns a hint with the known names that look most like `name`.

    If its group has none, it is what that group has.
    """
    group, _, leaf = name.rpartition(".")
    here = [_leaf(k) for k in known if group and k.rpartition(".")[0] == group]
    if here:
        close = [f"{group}.{k}" for k in difflib.get_close_matches(leaf, here, n=1)]
    else:
        may_be_of_task = name.count(".") in (1, 2)
        of_task = [
            f"tasks.{_leaf(group)}.{k}" for k in default_task() if may_be_of_task
        ]
        close = difflib.get_close_matches(name, [*known, *of_task], n=1)
    if leaf not in map(_leaf, close):
        close += [k for k in known if _leaf(k) == leaf]
    if close:
        return " Did you mean " + " or ".join(f"config.{k}" for k in close) + "?"
    if here:
        return f" config.{group} has {', '.join(here)}."
    return " `crl_jax/config.py` lists the fields."


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _same_type(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, (int, float)) and math.isfinite(value)
    if isinstance(expected, tuple):
        return isinstance(value, (tuple, list)) and all(
            _same_type(v, 0.0) for v in value
        )
    return isinstance(value, type(expected))


def _type_name(value: Any) -> str:
    names = {bool: "True or False", int: "a whole number", float: "a number"}
    return names.get(type(value), "text" if isinstance(value, str) else "numbers")


def _check_values(config: ConfigDict) -> None:
    values = dict(fields(config))
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            listed = ", ".join(str(c) for c in choices)
            raise UserError(f"config.{name} is {values[name]!r}; it can be: {listed}.")
    for name in _POSITIVE:
        if not values[name] > 0:
            raise UserError(f"config.{name} is {values[name]}; it must be above 0.")
    for name in _NOT_NEGATIVE:
        if not values[name] >= 0:
            raise UserError(f"config.{name} is {values[name]}; it cannot be below 0.")
    for name in _SHARES:
        if not 0 <= values[name] <= 1:
            raise UserError(
                f"config.{name} is {values[name]}; it must be between 0 and 1."
            )
    for name in _DECAYS:
        if not 0 <= values[name] < 1:
            raise UserError(
                f"config.{name} is {values[name]}; it must be 0 or more, and below 1."
            )
    if config.train.seed > _LARGEST_SEED:
        raise UserError(
            f"config.train.seed is {config.train.seed}; the largest is {_LARGEST_SEED}."
        )
    for name in ("data.mean", "data.std"):
        if len(values[name]) != 3:
            raise UserError(
                f"config.{name} needs three numbers, one per colour channel."
            )
    if round(64 * config.model.width) < 1:
        raise UserError(
            f"config.model.width is {config.model.width}, which leaves none of 64 "
            "channels; it must be at least 0.01."
        )
    if not set(config.model.remat) <= {2, 3, 4, 5}:
        raise UserError(
            f"config.model.remat is {config.model.remat}; it can list the stages 2, 3, "
            "4 and 5, whose activations are computed again to save memory."
        )
    if not min(config.data.std) > 0:
        raise UserError(f"config.data.std is {config.data.std}; all must be above 0.")
    for name in ("data.mean", "data.std"):
        if not 0 <= min(values[name]) <= max(values[name]) <= 1:
            raise UserError(
                f"config.{name} is {values[name]}; it is of pixels from 0 to 1: divide "
                "what is of 0 to 255 by 255."
            )
    if config.data.image_size > _LARGEST_SIZE:
        raise UserError(
            f"config.data.image_size is {config.data.image_size}; the largest is "
            f"{_LARGEST_SIZE}."
        )
    if not all(0 < share < 1 for share in config.optim.decay_at):
        raise UserError(
            f"config.optim.decay_at is {config.optim.decay_at}; all must be between 0 "
            "and 1."
        )
    config_tasks.check(config)
    config_conflicts.check(config)


def set_field(config: ConfigDict, name: str, value: Any) -> None:
    """Sets a field by its dotted name, and makes the groups around it.

    Raises:
      UserError: there is no such field, or the value has the wrong type.
    """
    _check_type(name, value)
    *groups, field = name.split(".")
    for group in groups:
        if group not in config:
            config[group] = ConfigDict()
        config = config[group]
    config[field] = value


def with_tasks(config: ConfigDict, widths: Mapping[str, int]) -> ConfigDict:
    """Returns a checked config with settings for exactly the tasks of the data.

    Args:
      config: a checked config.
      widths: `{task: K}`, from the data.

    Raises:
      UserError: the config names a task that the data lacks, or a different number of
        classes than the data has.
    """
    config_tasks.check_against(config, widths)
    config = copy(config)
    settings = {task: config.tasks.get(task, default_task()) for task in widths}
    config.tasks = in_order()
    for task, values in settings.items():
        config.tasks[task] = values
    return config.lock()
