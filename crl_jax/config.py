"""What a config may hold, its defaults, and messages that say the mend.

`default()` is the one list of fields. A file in `configs/` calls it and overrides
what it needs; `--config.a.b=value` overrides again; `check` looks at the result.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from crl_jax.errors import UserError

DEPTHS = (12, 18, 34, 50, 101, 152)

_CHOICES = {
    "model.depth": DEPTHS,
    "model.stem": ("large", "small"),
    "model.stride_in": ("3x3", "1x1"),
    "model.dtype": ("float32", "bfloat16"),
    "model.cross.kind": ("scalar", "channel", "conv"),
    "data.augment": ("random_resized_crop", "pad_and_crop", "none"),
    "data.sampling": ("uniform", "balanced", "square_root"),
    "optim.name": ("sgd", "adamw"),
    "optim.schedule": ("cosine", "step", "constant"),
}
_POSITIVE = (
    "model.width",
    "data.image_size",
    "data.batch_size",
    "train.accumulate",
    "train.log_every",
    "optim.learning_rate",
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
)
_SHARES = (
    "data.eval_crop",
    "optim.momentum",
    "optim.warmup",
    "optim.label_smoothing",
    "optim.ema",
)


def default() -> ConfigDict:
    """Returns every field with its default value."""
    config = ConfigDict()

    config.model = ConfigDict()
    config.model.depth = 50  # 12 is a tiny network for tests
    config.model.width = 1.0  # multiplies the channels of every stage
    config.model.stem = "large"  # large: 7x7/2 and pool; small: 3x3
    config.model.stride_in = "3x3"  # of a bottleneck unit; 1x1 is the original
    config.model.branch_from = "res5b"  # first unit that each task has for itself
    config.model.dtype = "float32"  # of the computation; parameters stay float32
    config.model.sync_batch_norm = False  # statistics over all devices, not each
    config.model.cross = ConfigDict()
    config.model.cross.kind = "scalar"  # scalar, channel or conv (1x1)
    config.model.cross.init = 0.1  # weight of the other tasks' shortcuts; 0: M-ResNet
    config.model.cross.learned = False

    config.data = ConfigDict()
    config.data.manifest = ""  # a CSV: file,split,<task>,<task>,...
    config.data.tfds = ""  # or the name of a TFDS data set
    config.data.tasks = _in_order()  # for TFDS: {task: name of its label feature}
    config.data.dir = ""  # where shards lie; empty: TFDS's default folder
    config.data.resize = 0  # largest shorter side of a picture in the shards; 0: any
    config.data.train_split = "train"  # TFDS split strings, such as train[:90%]
    config.data.val_split = "val"  # chooses the best checkpoint; empty: no choice
    config.data.test_split = "test"
    config.data.image_size = 224  # rows and columns that the network sees
    config.data.batch_size = 128  # over all devices
    config.data.augment = "random_resized_crop"  # or pad_and_crop, none
    config.data.flip = True  # mirror half of the training pictures
    config.data.sampling = (
        "uniform"  # or balanced, square_root, over the classes of ...
    )
    config.data.sampling_task = ""  # ... this task
    config.data.eval_crop = 0.875  # side of the centre crop, of the shorter side
    config.data.mean = (0.485, 0.456, 0.406)  # of the channels, on a 0-1 scale
    config.data.std = (0.229, 0.224, 0.225)

    config.tasks = _in_order()  # {task: settings as in `default_task`}

    config.train = ConfigDict()
    config.train.steps = 0  # length of the run; give steps or epochs
    config.train.epochs = 0.0
    config.train.seed = 0
    config.train.accumulate = 1  # parts that a batch is computed in, to save memory
    config.train.log_every = 50  # steps
    config.train.eval_every = 0  # steps; 0: once an epoch
    config.train.checkpoint_every = 0  # steps; 0: with each evaluation
    config.train.best_by = "mean"  # best checkpoint: mean top-1, or a task's name

    config.optim = ConfigDict()
    config.optim.name = "sgd"
    config.optim.learning_rate = 0.1  # at its highest, for the whole batch
    config.optim.schedule = "cosine"
    config.optim.warmup = 0.05  # share of the run with a linearly rising rate
    config.optim.decay_at = (0.5, 0.75)  # step schedule: shares of the run
    config.optim.decay_by = 0.1  # step schedule: factor at each
    config.optim.momentum = 0.9
    config.optim.nesterov = False
    config.optim.weight_decay = 1e-4  # on kernels only
    config.optim.clip_norm = 0.0  # largest global norm of the gradient; 0: none
    config.optim.label_smoothing = 0.0
    config.optim.ema = 0.0  # decay of the parameter average that is evaluated; 0: none
    return config


def _in_order() -> ConfigDict:
    """Returns a group that keeps its fields in order: that of the task axis."""
    return ConfigDict(sort_keys=False)


def from_dict(content: Mapping[str, Any]) -> ConfigDict:
    """Returns a config from nested dictionaries, such as JSON gives, in their order."""
    config = _in_order()
    for name, value in content.items():
        config[name] = from_dict(value) if isinstance(value, dict) else value
    return config


def default_task() -> ConfigDict:
    """Returns the settings of one task, `config.tasks.<name>`."""
    task = ConfigDict()
    task.weight = 1.0  # of its loss in the sum
    task.classes = 0  # expected number; 0: as the data says
    return task


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


def fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields `(dotted name, value)` for every leaf of a config."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from fields(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """Returns the names of the fields whose values differ between two configs."""
    a, b = dict(fields(old)), dict(fields(new))
    missing = object()
    return sorted(
        name for name in a | b if not _same(a.get(name, missing), b.get(name, missing))
    )


def check(config: ConfigDict) -> ConfigDict:
    """Returns a complete, locked copy of `config`, or says what is wrong with it.

    Settings that a task leaves out take their defaults.

    Raises:
      UserError: an unknown field (with the nearest known one), a value of the wrong
        type or outside its range, or fields that contradict each other.
    """
    known = default()
    for task in config.get("tasks", {}):
        known.tasks[task] = default_task()
    for task in config.get("data", {}).get("tasks", {}):
        known.data.tasks[task] = ""
    for name, value in fields(config):
        _check_type(name, value)
    # What the config leaves out takes its default.
    known.update(config)
    _check_values(known)
    return known.lock()


def expected_value(name: str) -> Any:
    """Returns the default of a field, for its type.

    Args:
      name: dotted, without `config.`; also `tasks.<task>.X` and `data.tasks.<task>`.

    Raises:
      UserError: there is no such field (with the nearest known one), or it is a group.
    """
    known = dict(fields(default()))
    *group, field = name.split(".")
    if group[:-1] == ["tasks"]:
        _check_task_name(group[-1])
        known |= {f"tasks.{group[-1]}.{k}": v for k, v in default_task().items()}
    if group == ["data", "tasks"]:
        _check_task_name(field)
        known[name] = ""
    if name in known:
        return known[name]
    groups = {k.rpartition(".")[0] for k in known} | {"data.tasks", "tasks"}
    if name in groups or group == ["tasks"]:
        raise UserError(
            f"config.{name} is a group of fields, not a value: set config.{name}.X."
        )
    raise UserError(f"config.{name} does not exist.{_nearest(name, [*known, *groups])}")


def _check_task_name(task: str) -> None:
    if not task.isidentifier() or not task.isascii():
        raise UserError(
            f"Task name {task!r}: use letters, digits and underscores, and begin with "
            "a letter."
        )


def _check_type(name: str, value: Any) -> None:
    expected = expected_value(name)
    if not _same_type(value, expected):
        raise UserError(
            f"config.{name} is {value!r}; it must be {_type_name(expected)}, such as "
            f"{expected!r}."
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    """Returns a hint with the known names that look most like `name`."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    leaf = name.rpartition(".")[2]
    close += [k for k in known if k.rpartition(".")[2] == leaf and k not in close]
    if not close:
        return " `crl_jax/config.py` lists the fields."
    return " Did you mean " + " or ".join(f"config.{k}" for k in close) + "?"


def _same(a: Any, b: Any) -> bool:
    """Compares values as JSON does, where a tuple comes back as a list."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return list(a) == list(b)
    return a == b


def _same_type(value: Any, expected: Any) -> bool:
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool)
    if isinstance(expected, float):
        return isinstance(value, (int, float))
    if isinstance(expected, tuple):
        return isinstance(value, (tuple, list)) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
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
    for name in ("data.mean", "data.std"):
        if len(values[name]) != 3:
            raise UserError(f"config.{name} needs three numbers, one a colour channel.")
    if not min(config.data.std) > 0:
        raise UserError(f"config.data.std is {config.data.std}; all must be above 0.")
    if not all(0 < share < 1 for share in config.optim.decay_at):
        raise UserError(
            f"config.optim.decay_at is {config.optim.decay_at}; all must be between 0 "
            "and 1."
        )
    _check_together(config)


def _check_together(config: ConfigDict) -> None:
    """Checks the fields that depend on one another."""
    if config.data.manifest and config.data.tfds:
        raise UserError(
            "config.data.manifest and config.data.tfds are both set; keep one of them."
        )
    if not (config.data.val_split or config.data.test_split):
        raise UserError(
            "config.data.val_split and config.data.test_split are both empty: the "
            "network could not be evaluated; name one of them."
        )
    if config.train.steps and config.train.epochs:
        raise UserError(
            "config.train.steps and config.train.epochs are both set; make one of them "
            "0."
        )
    cross = config.model.cross
    if cross.kind != "scalar" and not cross.learned:
        raise UserError(
            f"config.model.cross.kind={cross.kind} without learning is the same as "
            "scalar: set config.model.cross.learned=True, or kind=scalar."
        )
    if (config.data.sampling != "uniform") != bool(config.data.sampling_task):
        raise UserError(
            f"config.data.sampling={config.data.sampling}, config.data.sampling_task="
            f"{config.data.sampling_task!r}: balanced and square_root need a task, "
            "uniform none."
        )
    if config.data.batch_size % config.train.accumulate:
        raise UserError(
            f"config.data.batch_size={config.data.batch_size} does not divide into "
            f"config.train.accumulate={config.train.accumulate} equal parts."
        )
    for task, settings in config.tasks.items():
        if settings.weight < 0:
            raise UserError(
                f"config.tasks.{task}.weight is {settings.weight}; it cannot be below "
                "0."
            )
        if settings.classes < 0 or settings.classes == 1:
            raise UserError(
                f"config.tasks.{task}.classes is {settings.classes}; it must be 2 or "
                "more, or 0 to take it from the data."
            )


def given_classes(config: ConfigDict) -> dict[str, int]:
    """Returns `{task: K}` if the config says it for all its tasks; empty if not."""
    classes = {task: settings.classes for task, settings in config.tasks.items()}
    return classes if all(classes.values()) else {}


def with_tasks(config: ConfigDict, classes: Mapping[str, int]) -> ConfigDict:
    """Returns a checked config with settings for exactly the tasks of the data.

    Args:
      config: a checked config.
      classes: `{task: K}`, from the data.

    Raises:
      UserError: the config speaks of a task that the data lacks, or of another number
        of classes than the data has.
    """
    for task, settings in config.tasks.items():
        if task not in classes:
            raise UserError(
                f"config.tasks.{task}: the data has no such task; it has "
                f"{', '.join(classes)}."
            )
        if settings.classes not in (0, classes[task]):
            raise UserError(
                f"config.tasks.{task}.classes is {settings.classes}, but the data has "
                f"{classes[task]} classes of {task}: mend one of them, or set it to 0 "
                "to take what the data has."
            )
    for name, extra in (("train.best_by", "mean"), ("data.sampling_task", "")):
        task = dict(fields(config))[name]
        if task not in (extra, *classes):
            raise UserError(
                f"config.{name} is {task!r}; it can be: "
                f"{', '.join(filter(None, (extra, *classes)))}."
            )
    config = config.copy_and_resolve_references().unlock()
    settings = {task: config.tasks.get(task, default_task()) for task in classes}
    config.tasks = _in_order()
    for task, values in settings.items():
        config.tasks[task] = values
    return config.lock()
