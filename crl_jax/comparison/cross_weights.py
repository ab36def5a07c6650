"""The cross weights that networks learned, as one grid per unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from crl_jax import devices, trained
from crl_jax.comparison.runs import Outcome
from crl_jax.models.cross_residual import pair_sizes, task_pairs

_SUFFIX = "_cross"
_MEANINGS = {
    "scalar": "the weight",
    "channel": "the mean of the channels' weights",
    "conv": "the Frobenius norm of the 1x1 convolution, divided by the square root of "
    "its number of channels",
}


@dataclass(frozen=True)
class CrossWeights:
    """Cross weights, mean over seeds.

    Attributes:
      tasks: in their order.
      units: `{unit: [T, T]}`, target by source; the diagonal is 1.
      meaning: what each number is.
    """

    tasks: Sequence[str]
    units: Mapping[str, np.ndarray]
    meaning: str


def read_cross_weights(outcomes: Sequence[Outcome]) -> CrossWeights:
    """Returns the cross weights of the best checkpoints of a variant's runs."""
    mesh = devices.make_mesh()
    found = [trained.load(outcome.folder, mesh) for outcome in outcomes]
    kind, tasks = found[0].network.cross_kind, list(found[0].run.classes)
    by_seed = [
        _grids(jax.device_get(one.variables["params"]), len(tasks)) for one in found
    ]
    units = {unit: np.mean([g[unit] for g in by_seed], axis=0) for unit in by_seed[0]}
    return CrossWeights(tasks, units, _MEANINGS[kind])


def _grids(
    params: Mapping[str, Mapping[str, np.ndarray]], tasks: int
) -> dict[str, np.ndarray]:
    """Returns `{unit: [T, T]}` of one network."""
    return {
        layer.removesuffix(_SUFFIX): grid(pair_sizes(leaves["weight"]), tasks)
        for layer, leaves in params.items()
        if layer.endswith(_SUFFIX)
    }


def grid(pairs: np.ndarray, tasks: int) -> np.ndarray:
    """Returns the weights of all ordered pairs of tasks as `[T, T]`; 1 on the diagonal.

    Args:
      pairs: `[T * (T - 1)]`, in the order of `task_pairs`.
      tasks: T.
    """
    weights = np.eye(tasks)
    weights[task_pairs(tasks)] = pairs
    return weights
