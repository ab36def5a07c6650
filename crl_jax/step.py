"""The train and evaluation step of one device, and its mapping over devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from crl_jax import losses, metrics, optim
from crl_jax.data import Batch
from crl_jax.models.network import DATA_AXIS, TASK_AXIS, MultitaskResNet

Array = jax.Array

_WHOLE = P()  # on every device


@struct.dataclass
class TrainState:
    """All that a run changes; a checkpoint holds this and nothing else.

    Attributes:
      step: number of updates done, which is also the position in the data.
      variables: `{"params": ..., "batch_stats": ...}` of the network.
      opt_state: state of the optimiser.
      average: moving average of `variables`, or None.
    """

    step: Array
    variables: Any
    opt_state: Any
    average: Any

    @property
    def evaluated(self) -> Any:
        """The variables to evaluate and to predict with."""
        return self.variables if self.average is None else self.average


def create_state(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> TrainState:
    """Returns the state before the first step; a function of the seed alone.

    Jit it, or give it to `jax.eval_shape` for the shapes alone.
    """
    size = config.data.image_size
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    whole = network.clone(task_devices=1)
    variables = whole.init(jax.random.key(config.train.seed), images)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state=optimizer.init(variables["params"]),
        average=jax.tree.map(jnp.copy, variables) if config.optim.ema > 0 else None,
    )


def make_train_step(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> Callable[[TrainState, Batch], tuple[TrainState, metrics.Sums]]:
    """Returns the step of one device, for a map over the axis `DATA_AXIS`.

    It takes the state, the same on every device, and the device's share of a batch; it
    returns the next state, the same on every device, and the sums of the whole batch.
    """
    weights = {task: settings.weight for task, settings in config.tasks.items()}

    def loss_and_sums(
        params: Any, batch_stats: Any, batch: Batch, counts: Mapping[str, Array]
    ) -> tuple[Array, tuple[Any, metrics.Sums]]:
        variables = {"params": params, "batch_stats": batch_stats}
        outputs: Any = network.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        logits, updated = outputs
        smoothing = config.optim.label_smoothing
        per_example = _cross_entropies(logits, batch["labels"], smoothing)
        loss = losses.weighted_sum(per_example, counts, weights)
        # Each device of `TASK_AXIS` has the logits, and so the loss, of all tasks.
        loss = loss / network.task_devices
        sums = metrics.sums(logits, batch["labels"], per_example)
        return loss, (updated["batch_stats"], sums)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, metrics.Sums]:
        params = state.variables["params"]
        # Means are over the labelled examples of all devices, however they are spread.
        counts = lax.psum(
            {t: jnp.sum(labels >= 0) for t, labels in batch["labels"].items()},
            DATA_AXIS,
        )

        def gradients_of(batch_stats: Any, part: Batch) -> tuple[Any, Any]:
            gradient = jax.grad(loss_and_sums, has_aux=True)
            gradients, (batch_stats, sums) = gradient(params, batch_stats, part, counts)
            return batch_stats, (gradients, sums)

        batch_stats, (gradients, sums) = _accumulate(
            gradients_of, state.variables["batch_stats"], batch, config.train.accumulate
        )
        # Everything crosses the wire here, once.
        gradients, sums = lax.psum((gradients, sums), DATA_AXIS)
        if network.task_devices > 1:
            own, shared = _split(gradients, network.stacked_layers)
            gradients = own | lax.psum(shared, TASK_AXIS)
        batch_stats = lax.pmean(batch_stats, DATA_AXIS)

        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        variables = {"params": params, "batch_stats": batch_stats}
        average = state.average
        if average is not None:
            average = optim.update_average(
                average, variables, state.step, config.optim.ema
            )
        state = TrainState(state.step + 1, variables, opt_state, average)
        return state, sums

    return train_step


def _split(tree: Any, stacked: frozenset[str]) -> tuple[Any, Any]:
    """Returns the layers that are stacked over tasks, and the others."""
    own = {layer: leaves for layer, leaves in tree.items() if layer in stacked}
    return own, {layer: leaves for layer, leaves in tree.items() if layer not in own}


def make_eval_step(
    network: MultitaskResNet,
) -> Callable[[Any, Batch], tuple[metrics.Sums, dict[str, Array]]]:
    """Returns the evaluation of one device, for a map over the axis `DATA_AXIS`.

    It takes the variables and the device's share of a batch; it returns the sums of the
    whole batch, and the logits `{task: [B, K]}` of the device's share.
    """

    def eval_step(
        variables: Any, batch: Batch
    ) -> tuple[metrics.Sums, dict[str, Array]]:
        logits: Any = network.apply(variables, batch["image"])
        per_example = _cross_entropies(logits, batch["labels"], 0.0)
        sums = metrics.sums(logits, batch["labels"], per_example)
        return lax.psum(sums, DATA_AXIS), logits

    return eval_step


def _cross_entropies(
    logits: Mapping[str, Array], labels: Mapping[str, Array], label_smoothing: float
) -> dict[str, Array]:
    return {
        task: losses.cross_entropy(logits[task], labels[task], label_smoothing)
        for task in logits
    }


def _accumulate(
    compute: Callable[[Any, Batch], tuple[Any, Any]],
    batch_stats: Any,
    batch: Batch,
    parts: int,
) -> tuple[Any, Any]:
    """Runs `compute` over equal parts of a batch and adds up what it returns.

    Args:
      compute: `(batch_stats, part) -> (batch_stats, summands)`; the batch statistics
        are handed from part to part.
      batch_stats: of the first part.
      batch: of one device.
      parts: how many; each has B / parts examples.
    """
    if parts == 1:
        return compute(batch_stats, batch)
    batch = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def add_part(carry: Any, part: Batch) -> tuple[Any, None]:
        batch_stats, total = carry
        batch_stats, summands = compute(batch_stats, part)
        return (batch_stats, jax.tree.map(jnp.add, total, summands)), None

    first = jax.tree.map(lambda x: x[0], batch)
    _, shapes = jax.eval_shape(compute, batch_stats, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return lax.scan(add_part, (batch_stats, zeros), batch)[0]


def abstract_state(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    mesh: Mesh,
) -> TrainState:
    """Returns the shapes and dtypes of a state, and how it lies on the devices.

    Each device has all of it, but of what is stacked over tasks only its part of
    `TASK_AXIS`.
    """
    state = jax.eval_shape(lambda: create_state(network, optimizer, config))
    stacked = network.stacked_layers

    def place(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        layers = {key.key for key in path if isinstance(key, jax.tree_util.DictKey)}
        divided = network.task_devices > 1 and layers & stacked
        sharding = NamedSharding(mesh, P(TASK_AXIS) if divided else P())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map_with_path(place, state)


def create(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    abstract: TrainState,
) -> TrainState:
    """Returns `create_state` on the devices, as `abstract` says, in one program."""
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    return jax.jit(
        lambda: create_state(network, optimizer, config), out_shardings=places
    )()


def partition_specs(abstract: Any) -> Any:
    """Returns over which axes each array is divided, from `abstract_state`."""
    return jax.tree.map(lambda leaf: leaf.sharding.spec, abstract)


def gradient_norm(network: MultitaskResNet) -> Callable[[Any], Array]:
    """Returns the norm of a whole gradient, of which each device may have a part."""
    if network.task_devices == 1:
        return optax.tree.norm

    def norm(gradients: Any) -> Array:
        own, shared = _split(gradients, network.stacked_layers)
        squares = lax.psum(optax.tree.norm(own, squared=True), TASK_AXIS)
        return jnp.sqrt(squares + optax.tree.norm(shared, squared=True))

    return norm


def map_train_step(
    step: Callable[..., Any], mesh: Mesh, specs: Any = _WHOLE
) -> Callable[..., Any]:
    """Maps a train step over devices; the state that goes in is used up.

    Args:
      step: from `make_train_step`.
      mesh: of the axis `DATA_AXIS`, and `TASK_AXIS` if the state is divided over it.
      specs: of the state; by default every device has all of it.
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, P(DATA_AXIS)),
        out_specs=(specs, P()),
        # The step says itself what crosses devices, so that `pmap` can run it too.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0)


def map_eval_step(
    step: Callable[..., Any], mesh: Mesh, specs: Any = _WHOLE
) -> Callable[..., Any]:
    """Maps an evaluation step over devices.

    Args:
      step: from `make_eval_step`.
      mesh: see `map_train_step`.
      specs: of the variables.
    """
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, P(DATA_AXIS)),
        out_specs=(P(), P(DATA_AXIS)),
        check_vma=False,
    )
    return jax.jit(mapped)
