"""Checks of fields of a config that depend on one another."""

from ml_collections import ConfigDict

from crl_jax.errors import UserError


def check(config: ConfigDict) -> None:
    """Raises UserError if fields, each right by itself, contradict each other.

    Args:
      config: complete, with fields of the right types and within their ranges.
    """
    _check_data_and_length(config)
    _check_network(config)
    _check_fine_tuning(config)
    _check_weighting(config)


def _check_data_and_length(config: ConfigDict) -> None:
    if config.data.manifest and config.data.tfds:
        raise UserError(
            "config.data.manifest and config.data.tfds are both set; keep one of them."
        )
    if config.data.manifest and config.data.tasks:
        raise UserError(
            f"config.data.tasks.{next(iter(config.data.tasks))} names a feature of a "
            "TFDS data set, but config.data.manifest is set, where each column but "
            "file and split is a task: leave the field out, and name columns that "
            "should not be tasks in config.data.ignore."
        )
    if config.data.ignore and not config.data.manifest:
        raise UserError(
            f"config.data.ignore={config.data.ignore!r} names columns of "
            "config.data.manifest, which is not set: set it, or leave ignore out."
        )
    if config.data.tfds and config.data.resize:
        raise UserError(
            f"config.data.resize={config.data.resize} scales the pictures of a "
            "manifest, but config.data.tfds is set, whose pictures stay as they are: "
            "leave it at 0."
        )
    if not (config.data.val_split or config.data.test_split):
        raise UserError(
            "config.data.val_split and config.data.test_split are both empty, so the "
            "network could not be evaluated: set one of them."
        )
    if config.train.steps and config.train.epochs:
        raise UserError(
            "config.train.steps and config.train.epochs are both set; make one of them "
            "0."
        )
    if (config.data.sampling != "uniform") != bool(config.data.sampling_task):
        raise UserError(
            f"config.data.sampling={config.data.sampling}, config.data.sampling_task="
            f"{config.data.sampling_task!r}: balanced and square_root need a task, "
            "uniform takes none."
        )
    if config.data.batch_size % config.train.accumulate:
        raise UserError(
            f"config.data.batch_size={config.data.batch_size} does not divide into "
            f"config.train.accumulate={config.train.accumulate} equal parts."
        )


def _check_network(config: ConfigDict) -> None:
    cross = config.model.cross
    crosses = cross.init != 0 or cross.learned
    if config.model.fusion != "none" and crosses:
        raise UserError(
            f"config.model.fusion={config.model.fusion} is a baseline without "
            "cross-residuals: set config.model.cross.init=0, or fusion=none."
        )
    if config.model.fusion == "mtan" and config.model.branch_from != "head":
        raise UserError(
            "config.model.fusion=mtan attends to a trunk without branches: set "
            "config.model.branch_from=head."
        )
    mixes = config.model.fusion in ("cross_stitch", "nddr")
    if mixes and config.model.branch_from == "head":
        raise UserError(
            f"config.model.fusion={config.model.fusion} mixes branches, and there are "
            "none: set config.model.branch_from to a unit, such as res5a."
        )
    if config.model.fusion != "none" and config.train.task_devices > 1:
        raise UserError(
            f"config.model.fusion={config.model.fusion} needs all tasks on one device: "
            "set config.train.task_devices=1."
        )
    if cross.kind != "scalar" and not cross.learned:
        raise UserError(
            f"config.model.cross.kind={cross.kind} without learning is the same as "
            "scalar: set config.model.cross.learned=True, or kind=scalar."
        )


def _check_fine_tuning(config: ConfigDict) -> None:
    model = config.model
    for name, needs in (
        ("frozen", model.frozen != "none"),
        ("frozen_batch_stats", model.frozen_batch_stats),
    ):
        if needs and not config.init["from"]:
            raise UserError(
                f"config.model.{name}={model[name]} would keep the values of an "
                "untrained network: name the weights to start from with "
                "config.init.from."
            )


def _check_weighting(config: ConfigDict) -> None:
    weighting = config.optim.weighting
    for task, settings in config.tasks.items():
        if weighting != "fixed" and settings.weight != 1:
            raise UserError(
                f"config.tasks.{task}.weight is {settings.weight}, which "
                f"config.optim.weighting={weighting} would ignore: set it to 1, or "
                "weighting=fixed."
            )
    by_gradients = weighting in ("gradnorm", "pcgrad", "cagrad")
    if by_gradients and config.train.task_devices > 1:
        raise UserError(
            f"config.optim.weighting={weighting} needs the gradients of all tasks on "
            "one device: set config.train.task_devices=1."
        )
