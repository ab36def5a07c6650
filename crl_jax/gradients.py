"""What a step computes from its batch: the losses, and their gradients."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from crl_jax import losses, metrics, weighting
from crl_jax.data import Batch
from crl_jax.kinds import Kinds, losses_of
from crl_jax.models.architecture import split_layers
from crl_jax.models.network import DATA_AXIS, TASK_AXIS, MultitaskResNet
from crl_jax.train_state import TrainState

Array = jax.Array


class Gradients(NamedTuple):
    """What one batch gives, with the shares of all devices together.

    Attributes:
      weighted: gradients of the weighted sum of the losses, without the layers whose
        gradients the weighting combines.
      by_task: gradients that the weighting wants per task.
      sums: of the metrics.
      batch_stats: after the batch.
      weights: `[T]`, of the losses in the sum.
    """

    weighted: Any
    by_task: Any
    sums: metrics.Sums
    batch_stats: Any
    weights: Array


def make_differentiate(
    network: MultitaskResNet,
    config: ConfigDict,
    kinds: Kinds,
    method: weighting.Weighting,
) -> Callable[[TrainState, Batch, Mapping[str, Array], Array], Gradients]:
    """Returns the function that goes forwards and backwards through the network.

    It takes the state, the device's share of a batch, how many labels of each task all
    devices have, and whether there are any, `[T]`.
    """
    tasks = list(network.classes)

    def differentiate(
        state: TrainState, batch: Batch, counts: Mapping[str, Array], seen: Array
    ) -> Gradients:
        frozen, trained = split_layers(state.variables["params"], network.frozen_layers)

        def means_of(trained: Any, batch_stats: Any, part: Batch) -> tuple[Array, Any]:
            variables = {"params": frozen | trained, "batch_stats": batch_stats}
            outputs: Any = network.apply(
                variables, part["image"], train=True, mutable=["batch_stats"]
            )
            logits, updated = outputs
            smoothing = config.optim.label_smoothing
            per_example = losses_of(kinds, logits, part["labels"], smoothing)
            sums = metrics.sums(kinds, logits, part["labels"], per_example)
            means = losses.means(per_example, counts, tasks)
            return means, (updated["batch_stats"], sums)

        def forwards(batch_stats: Any, part: Batch) -> tuple[Any, Array]:
            means, (batch_stats, _) = means_of(trained, batch_stats, part)
            return batch_stats, means

        def backwards(batch_stats: Any, part: Batch) -> tuple[Any, Any]:
            _, pull_back, (batch_stats, sums) = jax.vjp(
                lambda trained: means_of(trained, batch_stats, part),
                trained,
                has_aux=True,
            )
            # Each device of `TASK_AXIS` has the logits, and so the loss, of all tasks.
            (gradients,) = pull_back(weights / network.task_devices)
            return batch_stats, (*method.split_gradients(gradients, pull_back), sums)

        old_stats, parts = state.variables["batch_stats"], config.train.accumulate
        ahead = jnp.zeros(len(tasks), jnp.float32)
        if method.looks_ahead:
            _, ahead = _accumulate(forwards, old_stats, batch, parts)
            ahead = lax.psum(ahead, DATA_AXIS)
        weights = method.weights(state.weighting, ahead, seen)
        batch_stats, summands = _accumulate(backwards, old_stats, batch, parts)
        if lax.axis_size(DATA_AXIS) > 1:  # XLA would copy what has nowhere to go
            # Everything crosses the wire here, once.
            summands = lax.psum(summands, DATA_AXIS)
        gradients, by_task, sums = summands
        if network.task_devices > 1:
            own, shared = split_layers(gradients, network.stacked_layers)
            gradients = own | lax.psum(shared, TASK_AXIS)
        batch_stats = lax.pmean(batch_stats, DATA_AXIS)
        return Gradients(gradients, by_task, sums, batch_stats, weights)

    return differentiate


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
      batch_stats: for the first part.
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
