"""The paper's networks and the baselines, by the names that tables give them."""

import re
from typing import Any

from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import config_check
from crl_jax.errors import UserError

Settings = dict[str, Any]  # {dotted name of a field: its value}

_NO_CROSS: Settings = {
    "model.cross.kind": "scalar",
    "model.cross.init": 0.0,
    "model.cross.learned": False,
    "model.fusion": "none",
}

# The tasks share nothing that they could be weighted against each other for: a weight
# would only change the learning rate of a task's network.
_NO_WEIGHTING: Settings = {
    f"optim.{name}": config_lib.default().optim[name]
    for name in (
        *("weighting", "weighting_rate", "dwa_temperature"),
        *("gradnorm_alpha", "cagrad_c"),
    )
}
_TASK_WEIGHT = re.compile(r"tasks\.\w+\.weight")

# What each network sets in the config; the rest is the config's own.
NETWORKS: dict[str, Settings] = {
    "S": {"model.branch_from": "stem"} | _NO_CROSS | _NO_WEIGHTING,
    "M": _NO_CROSS,
    "X": {},
    "heads": {"model.branch_from": "head"} | _NO_CROSS,
    "cross-stitch": _NO_CROSS | {"model.fusion": "cross_stitch"},
    "NDDR": _NO_CROSS | {"model.fusion": "nddr"},
    "MTAN": _NO_CROSS | {"model.branch_from": "head", "model.fusion": "mtan"},
}

MEANINGS = {
    "S": "one network per task",
    "M": "multitask, branched, without cross-residuals",
    "X": "with cross-residuals, as the config says",
    "heads": "one trunk, with only the heads separate",
    "cross-stitch": "as M, with learned sums of the branches (Misra et al. 2016)",
    "NDDR": "as M, with 1x1 convolutions over all branches (Gao et al. 2019)",
    "MTAN": "one trunk, of which each task attends to a part (Liu et al. 2019)",
}


def settings(name: str, config: ConfigDict) -> Settings:
    """Returns what a network sets in a config.

    Raises:
      UserError: there is no network of this name.
    """
    if name not in NETWORKS:
        raise UserError(
            f"There is no network {name!r}; the networks are: {', '.join(NETWORKS)}."
        )
    own = NETWORKS[name]
    if name == "S":
        own = own | {f"tasks.{task}.weight": 1.0 for task in config.tasks}
    return own


def decides(name: str, field: str) -> bool:
    """Whether a network itself sets a field of the config."""
    is_weight = _TASK_WEIGHT.fullmatch(field) is not None
    return field in NETWORKS[name] or (name == "S" and is_weight)


def with_settings(config: ConfigDict, changes: Settings) -> ConfigDict:
    """Returns a checked copy of a config with some fields replaced.

    Raises:
      UserError: a field that does not exist, or a value that it cannot have.
    """
    changed = config_lib.copy(config)
    for field, value in changes.items():
        config_check.set_field(changed, field, value)
    return config_check.check(changed)


def named(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the config of the network `name`, from the config of X."""
    return with_settings(config, settings(name, config))
