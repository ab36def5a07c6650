"""A network as `model.safetensors` with `config.json`: written, and read back."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from crl_jax import config as config_lib
from crl_jax import config_check, models
from crl_jax.errors import UserError
from crl_jax.kinds import from_known, widths
from crl_jax.trained import Trained
from crl_jax.workdir import Run

_ARRAYS = "model.safetensors"


def write_arrays(trained: Trained, folder: Path) -> None:
    """Writes `model.safetensors`, the arrays only.

    Each is stored under its path, such as `params/res5b/conv1/kernel`; those of
    branched layers have a leading axis T.

    Raises:
      UserError: safetensors is not installed.
    """
    safetensors = _import()
    variables = jax.device_get(trained.variables)
    arrays = traverse_util.flatten_dict(variables, sep="/")
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    (folder / _ARRAYS).write_bytes(safetensors.save(arrays))


def description(trained: Trained) -> dict[str, Any]:
    """Returns what `config.json` says of a network: how to build it, and its labels."""
    config = config_lib.without_places(trained.run.config)
    config.train.task_devices = 1
    config.model.sync_batch_norm = False
    # Of training alone; and they would need the place of the weights it began with.
    config.model.frozen, config.model.frozen_batch_stats = "none", False
    kinds = trained.run.kinds
    return {
        "step": trained.step,
        # In the order of the branches; a tool may sort the keys of an object.
        "tasks": list(kinds),
        "labels": {task: kind.known for task, kind in kinds.items()},
        "crl_jax": json.loads(config.to_json()),
    }


def is_in(folder: Path) -> bool:
    """Whether `folder` has what `load` reads."""
    return (folder / _ARRAYS).exists()


def load(folder: Path, mesh: Mesh) -> Trained:
    """Returns the network that was exported to `folder`.

    Args:
      folder: with `model.safetensors` and `config.json`.
      mesh: of devices; each gets the whole network.

    Raises:
      UserError: safetensors is not installed, or a file is missing or damaged.
    """
    safetensors = _import()
    try:
        text = (folder / "config.json").read_text("utf-8", "surrogateescape")
        said = json.loads(text)
        config = config_check.check(config_lib.from_dict(said["crl_jax"]))
        labels = said["labels"]
        known = {task: labels[task] for task in said.get("tasks", labels)}
        run = Run(config, from_known(config, known), data="")
        network = models.build(config, widths(run.kinds))
        arrays = safetensors.load((folder / _ARRAYS).read_bytes())
        _check_shapes(arrays, network, config.data.image_size)
        step = int(said["step"])
    except Exception as error:  # whatever is wrong with the files
        raise UserError(
            f"The network in {folder} is damaged ({error}): restore config.json and "
            f"{_ARRAYS} from where they came."
        ) from error
    variables = traverse_util.unflatten_dict(arrays, sep="/")
    placed = jax.device_put(variables, NamedSharding(mesh, P()))
    return Trained(run, network, placed, step, mesh)


def _check_shapes(
    arrays: Mapping[str, np.ndarray], network: models.MultitaskResNet, size: int
) -> None:
    """Raises ValueError unless the arrays are those of the network."""
    whole = models.abstract_variables(network, size)
    expected = {
        k: x.shape for k, x in traverse_util.flatten_dict(whole, sep="/").items()
    }
    found = {name: array.shape for name, array in arrays.items()}
    for name, array in arrays.items():
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name} is of {array.dtype}")
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(
                f"{name} has the shape {found.get(name)}, not {expected.get(name)}"
            )


def _import() -> ModuleType:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            "An export to safetensors needs safetensors: in a clone of the project, "
            'pip install ".[safetensors]".'
        ) from error
    return safetensors.numpy
