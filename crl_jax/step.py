"""The train and evaluation step of one device, and its mapping over devices."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from crl_jax import losses, metrics, optim, weighting
from crl_jax.data import Batch
from crl_jax.kinds import Kinds
from crl_jax.models import layers
from crl_jax.models.architecture import split_layers
from crl_jax.models.network import DATA_AXIS, TASK_AXIS, MultitaskResNet
from crl_jax.train_state import TrainState

Array = jax.Array

# {"losses": {task: []}, "weights": {task: []}, "skipped": []}
Report = dict[str, Any]

_WHOLE = P()  # on every device


def make_train_step(
    network: MultitaskResNet,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    kinds: Kinds,
    epoch_steps: int = 1,
) -> Callable[[TrainState, Batch], tuple[TrainState, Report]]:
    """Returns the step of one device, for a map over the axis `DATA_AXIS`.

    It takes the state, the same on every device, and the device's share of a batch; it
    returns the next state, the same on every device, and what to watch of the step:
    `{"losses": {task: []}, "weights": {task: []}, "skipped": []}`.

    Where a loss or the gradient is infinite or no number, only the count of skipped
    steps changes; and unless `config.train.skip_nonfinite`, no later step changes
    anything either, so that the state before stays for whoever looks into it.
    """
    tasks = list(network.classes)
    method = weighting.make(config, network, epoch_steps)
    norm, skip = gradient_norm(network), config.train.skip_nonfinite

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        frozen, trained = split_layers(state.variables["params"], network.frozen_layers)
        # Means are over the labelled examples of all devices, however they are spread.
        counts = lax.psum(
            {t: jnp.sum(k.is_labelled(batch["labels"][t])) for t, k in kinds.items()},
            DATA_AXIS,
        )
        seen = jnp.stack([counts[task] > 0 for task in tasks])

        def losses_of(trained: Any, batch_stats: Any, part: Batch) -> tuple[Array, Any]:
            variables = {"params": frozen | trained, "batch_stats": batch_stats}
            outputs: Any = network.apply(
                variables, part["image"], train=True, mutable=["batch_stats"]
            )
            logits, updated = outputs
            smoothing = config.optim.label_smoothing
            per_example = _losses(kinds, logits, part["labels"], smoothing)
            sums = metrics.sums(kinds, logits, part["labels"], per_example)
            means = losses.means(per_example, counts, tasks)
            return means, (updated["batch_stats"], sums)

        def forwards(batch_stats: Any, part: Batch) -> tuple[Any, Array]:
            means, (batch_stats, _) = losses_of(trained, batch_stats, part)
            return batch_stats, means

        def backwards(batch_stats: Any, part: Batch) -> tuple[Any, Any]:
            _, pull_back, (batch_stats, sums) = jax.vjp(
                lambda trained: losses_of(trained, batch_stats, part),
                trained,
                has_aux=True,
            )
            # Each device of `TASK_AXIS` has the logits, and so the loss, of all tasks.
            (gradients,) = pull_back(weights / network.task_devices)
            return batch_stats, (*method.by_task(gradients, pull_back), sums)

        old_stats, parts = state.variables["batch_stats"], config.train.accumulate
        ahead = jnp.zeros(len(tasks))
        if method.looks_ahead:
            _, ahead = _accumulate(forwards, old_stats, batch, parts)
            ahead = lax.psum(ahead, DATA_AXIS)
        weights = method.weights(state.weighting, ahead, seen)
        batch_stats, summands = _accumulate(backwards, old_stats, batch, parts)
        # Everything crosses the wire here, once.
        gradients, by_task, sums = lax.psum(summands, DATA_AXIS)
        if network.task_devices > 1:
            own, shared = split_layers(gradients, network.stacked_layers)
            gradients = own | lax.psum(shared, TASK_AXIS)
        batch_stats = lax.pmean(batch_stats, DATA_AXIS)
        losses_now = {task: sums[task]["loss"] for task in tasks}
        means = losses.means(losses_now, counts, tasks)
        remembered, weights, combined = method.combine(
            state.weighting, weights, means, seen, by_task
        )
        gradients |= combined

        updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
        trained = optax.apply_updates(trained, updates)
        variables = {"params": frozen | trained, "batch_stats": batch_stats}
        average = state.average
        if average is not None:
            average = optim.update_average(
                average, variables, state.step, config.optim.ema
            )
        new = TrainState(
            step=state.step + 1,
            variables=variables,
            opt_state=opt_state,
            average=average,
            weighting=remembered,
            sums=jax.tree.map(jnp.add, state.sums, sums),
            skipped=state.skipped,
        )
        new = _unless_broken(state, new, losses_now, norm(gradients), skip)
        return new, {
            "losses": losses_now,
            "weights": {task: weights[t] for t, task in enumerate(tasks)},
            "skipped": new.skipped,
        }

    return train_step


def _unless_broken(
    old: TrainState,
    new: TrainState,
    losses_now: Mapping[str, Array],
    norm: Array,
    skip: bool,
) -> TrainState:
    """Returns `new`, or `old` where a loss or the gradient is infinite or no number.

    Args:
      old: state before the step.
      new: state after it.
      losses_now: `{task: []}` of the step.
      norm: of its gradient.
      skip: whether the run goes on after such a step; it then counts as done.
    """
    finite = jnp.isfinite(norm)
    for loss in losses_now.values():
        finite &= jnp.isfinite(loss)
    good = finite if skip else finite & (old.skipped == 0)
    kept = jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
    return kept.replace(
        step=new.step if skip else kept.step,
        skipped=old.skipped + (~finite).astype(jnp.int32),
    )


def make_eval_step(
    network: MultitaskResNet, kinds: Kinds
) -> Callable[[Any, Batch], tuple[metrics.Sums, dict[str, Array]]]:
    """Returns the evaluation of one device, for a map over the axis `DATA_AXIS`.

    It takes the variables and the device's share of a batch; it returns the sums of the
    whole batch, and the logits `{task: [B, K]}` of the device's share.
    """

    def eval_step(
        variables: Any, batch: Batch
    ) -> tuple[metrics.Sums, dict[str, Array]]:
        logits: Any = network.apply(variables, batch["image"])
        per_example = _losses(kinds, logits, batch["labels"], 0.0)
        sums = metrics.sums(kinds, logits, batch["labels"], per_example)
        return lax.psum(sums, DATA_AXIS), logits

    return eval_step


def _losses(
    kinds: Kinds,
    logits: Mapping[str, Array],
    labels: Mapping[str, Array],
    label_smoothing: float,
) -> dict[str, Array]:
    return {
        task: kind.loss(logits[task], labels[task], label_smoothing)
        for task, kind in kinds.items()
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


def gradient_norm(network: MultitaskResNet) -> Callable[[Any], Array]:
    """Returns the norm of a whole gradient, of which each device may have a part."""
    if network.task_devices == 1:
        return optax.tree.norm

    def norm(gradients: Any) -> Array:
        own, shared = split_layers(gradients, network.stacked_layers)
        squares = lax.psum(optax.tree.norm(own, squared=True), TASK_AXIS)
        return jnp.sqrt(squares + optax.tree.norm(shared, squared=True))

    return norm


def map_train_step(
    step: Callable[..., Any], mesh: Mesh, specs: Any = _WHOLE, of_runs: bool = False
) -> Callable[..., Any]:
    """Maps a train step over devices; the state that goes in is used up.

    Args:
      step: from `make_train_step`.
      mesh: of the axis `DATA_AXIS`, and `TASK_AXIS` if the state is divided over it.
      specs: of the state; by default every device has all of it.
      of_runs: whether states and batches are those of several runs side by side, with
        a first axis of runs. Every device works on all of them, and each run's numbers
        are those that it would have alone, to rounding.
    """
    batch_specs = P(DATA_AXIS)
    if of_runs:
        step, batch_specs = jax.vmap(step), P(None, DATA_AXIS)
        specs = jax.tree.map(
            lambda spec: P(None, *spec), specs, is_leaf=lambda x: isinstance(x, P)
        )
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, batch_specs),
        out_specs=(specs, P()),
        # The step says itself what crosses devices, so that `pmap` can run it too.
        check_vma=False,
    )
    options = layers.options_to_train()
    return jax.jit(mapped, donate_argnums=0, compiler_options=options)


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
