"""What a config may hold, and its defaults.

`default()` is the one list of fields. A file in `configs/` calls it and overrides what
it needs, `--config.a.b=value` overrides that, and `config_check.py` checks the result.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from ml_collections import ConfigDict


def default() -> ConfigDict:
    """Returns every field with its default value."""
    config = ConfigDict()

    config.model = ConfigDict()
    config.model.depth = 50  # 12 is a tiny network for tests
    config.model.width = 1.0  # multiplies the channels of every stage
    config.model.stem = "large"  # large: 7x7/2 and pool; small: 3x3
    config.model.stride_in = "3x3"  # of a bottleneck unit; 1x1 is the original
    config.model.branch_from = "res5b"  # first unit that each task has to itself
    config.model.dtype = "float32"  # of the computation; parameters stay float32
    config.model.sync_batch_norm = False  # statistics over all devices, not of each
    config.model.remat = ()  # stages, 2 to 5, computed again in the backward pass
    config.model.frozen = "none"  # last stage that is not trained: stem, res2 ... res5
    config.model.frozen_batch_stats = False  # batch norm keeps the statistics it has
    config.model.cross = ConfigDict()
    config.model.cross.kind = "scalar"  # scalar, channel or conv (1x1)
    config.model.cross.init = 0.1  # weight of the other tasks' shortcuts; 0: M-ResNet
    config.model.cross.learned = False  # whether cross weights are parameters

    config.model.fusion = "none"  # baselines instead: cross_stitch, nddr or mtan

    config.data = ConfigDict()
    config.data.manifest = ""  # a CSV: file,split,<task>,<task>,...
    config.data.ignore = ""  # columns of it that are no tasks, with commas between
    config.data.tfds = ""  # or the name of a TFDS data set
    config.data.tasks = in_order()  # for TFDS: {task: name of its label feature}
    config.data.dir = ""  # where shards lie; empty: TFDS's default folder
    config.data.resize = 0  # largest shorter side of a picture in the shards; 0: any
    config.data.train_split = "train"  # TFDS split strings, such as train[:90%]
    config.data.val_split = "val"  # chooses the best checkpoint; empty: no choice
    config.data.test_split = "test"  # evaluated at the end; empty: the val split
    config.data.image_size = 224  # rows and columns that the network sees
    config.data.batch_size = 128  # over all devices
    config.data.augment = "random_resized_crop"  # or pad_and_crop; none: eval_crop only
    config.data.flip = True  # mirror half of the training pictures
    config.data.sampling = "uniform"  # or balanced, square_root, over the classes ...
    config.data.sampling_task = ""  # ... of this task
    config.data.max_undecodable = 0.05  # share of pictures that may be left out
    config.data.eval_crop = 0.875  # side of the centre crop, a share of the shorter one
    config.data.mean = (0.485, 0.456, 0.406)  # of the channels, on a 0-1 scale
    config.data.std = (0.229, 0.224, 0.225)  # likewise

    config.tasks = in_order()  # {task: settings as in `default_task`}

    config.train = ConfigDict()
    config.train.steps = 0  # length of the run; give steps or epochs
    config.train.epochs = 0.0  # the same, in passes over the training pictures
    config.train.seed = 0  # of first parameters, and of the pictures' order and crops
    config.train.accumulate = 1  # parts that a batch is computed in, to save memory
    config.train.task_devices = 1  # devices that the tasks' branches are divided over
    config.train.skip_nonfinite = False  # go on after a loss that is NaN or infinite
    config.train.log_every = 50  # steps
    config.train.eval_every = 0  # steps; 0: once an epoch
    config.train.checkpoint_every = 0  # steps; 0: as eval_every, when it saves anyway
    config.train.best_by = "mean"  # best checkpoint: by the tasks' mean, or a task

    config.init = ConfigDict()
    config.init["from"] = ""  # weights to start from: a file, or the folder of a run

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # or adamw
    config.optim.learning_rate = 0.1  # at its highest, for the whole batch
    config.optim.head_multiplier = 1.0  # of the rate, for heads
    config.optim.layer_decay = 1.0  # of the rate, for each stage further from the heads
    config.optim.schedule = "cosine"  # or step, constant
    config.optim.warmup = 0.05  # share of the run with a linearly rising rate
    config.optim.decay_at = (0.5, 0.75)  # step schedule: shares of the run
    config.optim.decay_by = 0.1  # step schedule: factor at each
    config.optim.momentum = 0.9  # of AdamW: its first beta
    config.optim.nesterov = False  # look ahead by one update
    config.optim.weight_decay = 1e-4  # on kernels only
    config.optim.weighting = "fixed"  # of the tasks; or equal, uncertainty, dwa,
    # geometric, gradnorm, pcgrad, cagrad: see `crl_jax/weighting`
    config.optim.weighting_rate = 0.025  # learning rate of uncertainty and gradnorm
    config.optim.dwa_temperature = 2.0  # of dwa; higher: more alike
    config.optim.gradnorm_alpha = 1.5  # of gradnorm; higher: tasks that lag get more
    config.optim.cagrad_c = 0.5  # of cagrad, 0 to 1; 0: the mean of the gradients
    config.optim.clip_norm = 0.0  # largest global norm of the gradient; 0: none
    config.optim.label_smoothing = 0.0  # share of a label that all classes get
    config.optim.ema = 0.0  # decay of the parameter average that is evaluated; 0: none
    return config


def in_order() -> ConfigDict:
    """Returns a group that keeps its fields in order: the order of the task axis."""
    return ConfigDict(sort_keys=False)


def from_dict(content: Mapping[str, Any]) -> ConfigDict:
    """Returns a config from nested dictionaries, as JSON gives them, in their order."""
    config = in_order()
    for name, value in content.items():
        config[name] = from_dict(value) if isinstance(value, dict) else value
    return config


def copy(config: ConfigDict) -> ConfigDict:
    """Returns a copy that can be changed, whose tasks keep their order."""
    return from_dict(config.to_dict())


def final_split(config: ConfigDict) -> str:
    """Returns the split that a run is judged on at its end."""
    return config.data.test_split or config.data.val_split


def without_places(config: ConfigDict) -> ConfigDict:
    """Returns a copy for others, who have no use for the places of files.

    A path may say who trained: only its last part is kept.
    """
    config = copy(config)
    config.data.manifest = PurePath(config.data.manifest).name
    config.data.dir = ""
    config.init["from"] = PurePath(config.init["from"]).name
    return config


def default_task() -> ConfigDict:
    """Returns the settings of one task, `config.tasks.<name>`."""
    task = ConfigDict()
    task.kind = "categorical"  # one class; multilabel: several; regression: a number
    task.loss = "huber"  # of a regression: huber or squared
    task.weight = 1.0  # of its loss in the sum, if optim.weighting is fixed
    task.classes = 0  # expected number; 0: as in the data
    return task


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


def _same(a: Any, b: Any) -> bool:
    """Compares values as if read from JSON, where a tuple comes back as a list."""
    if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)):
        return list(a) == list(b)
    return a == b


def given_classes(config: ConfigDict) -> dict[str, int]:
    """Returns `{task: K}` if the config gives it for all its tasks; empty if not.

    A regression has one output, and no number of classes to give.
    """
    classes = {
        task: 1 if settings.kind == "regression" else settings.classes
        for task, settings in config.tasks.items()
    }
    return classes if all(classes.values()) else {}
