"""All that a run changes: how it is made, and how it lies on the devices."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from crl_jax import devices, metrics, weighting
from crl_jax.kinds import Kinds
from crl_jax.models.architecture import split_layers
from crl_jax.models.network import TASK_AXIS, MultitaskResNet

Array = jax.Array


class TrainState(struct.PyTreeNode):
    """All that a run changes; a checkpoint holds this and nothing else.

    Attributes:
      step: number of steps done, including those left out: the position in the data.
      variables: `{"params": ..., "batch_stats": ...}` of the network.
      opt_state: state of the optimiser, for the layers that are trained.
      average: moving average of `variables`, or None.
      weighting: what `config.optim.weighting` remembers, or None.
      sums: of the metrics of the steps since the last row of the log.
      skipped: number of steps that changed nothing, because a loss or gradient was NaN
        or infinite.
    """

    step: Array
    variables: Any
    opt_state: Any
    average: Any
    weighting: Any
    sums: metrics.Sums
    skipped: Array

    @property
    def evaluated(self) -> Any:
        """The variables to evaluate and to predict with."""
        return self.variables if self.average is None else self.average


def create_state(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    kinds: Kinds,
    key: Array,
) -> TrainState:
    """Returns the state before the first step; a function of the random `key` alone.

    Jit it, or give it to `jax.eval_shape` for only the shapes.
    """
    size = config.data.image_size
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    whole = network.clone(task_devices=1)
    variables = whole.init(key, images)
    _, trained = split_layers(variables["params"], network.frozen_layers)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(trained),
        average=jax.tree.map(jnp.copy, variables) if config.optim.ema > 0 else None,
        weighting=weighting.make(config, network).start(),
        sums=metrics.zeros(kinds),
        skipped=jnp.zeros((), jnp.int32),
    )


def abstract_state(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    kinds: Kinds,
    mesh: Mesh,
) -> TrainState:
    """Returns the shapes and dtypes of a state, and how it lies on the devices.

    Each device has all of it, but only its part along `TASK_AXIS` of what is stacked
    over tasks.
    """
    state = jax.eval_shape(
        lambda: create_state(network, optimizer, config, kinds, jax.random.key(0))
    )
    stacked = network.stacked_layers

    def place(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        # A task may have the name of a layer: it has sums, and a part of the head.
        of_layers = path[0].name != "sums"
        layer = next((n for n in names if n not in ("params", "batch_stats")), None)
        divided = network.task_devices > 1 and of_layers and layer in stacked
        sharding = NamedSharding(mesh, P(TASK_AXIS) if divided else P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map_with_path(place, state)


def partition_specs(abstract: Any) -> Any:
    """Returns over which axes each array is divided, from `abstract_state`."""
    return jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)


def clear_sums(state: TrainState) -> TrainState:
    """Returns the state with the sums of the metrics at zero."""
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), state.sums)
    return state.replace(sums=devices.place(zeros, state.sums))


def side_by_side(states: Sequence[TrainState]) -> TrainState:
    """Returns the states of several runs as one: its arrays have a first axis of runs.

    A single one stays as it is.
    """
    if len(states) == 1:
        return states[0]
    places = jax.tree.map(
        lambda x: NamedSharding(x.sharding.mesh, P(None, *x.sharding.spec)), states[0]
    )
    stack = jax.jit(
        lambda *states: jax.tree.map(lambda *x: jnp.stack(x), *states),
        out_shardings=places,
    )
    return stack(*states)


def apart(tree: Any, runs: int) -> list[Any]:
    """Returns each run's own part of what `side_by_side` made, or of a part of that."""
    return [tree] if runs == 1 else _apart(tree, runs)


@functools.partial(jax.jit, static_argnums=1)
def _apart(tree: Any, runs: int) -> list[Any]:
    leaves, structure = jax.tree.flatten(tree)
    return [jax.tree.unflatten(structure, [x[i] for x in leaves]) for i in range(runs)]
