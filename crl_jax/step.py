"""The train and evaluation steps of one device, and their mapping over devices."""

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
from crl_jax.gradients import make_differentiate
from crl_jax.kinds import Kinds, losses_of
from crl_jax.models import layers, mapping
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

    It takes the state (the same on every device, but for what is divided over
    `TASK_AXIS`) and the device's share of a batch; it returns the next state, likewise,
    and what to watch in the step:
    `{"losses": {task: []}, "weights": {task: []}, "skipped": []}`.

    If a loss or the gradient is NaN or infinite, only the count of skipped steps
    changes; and unless `config.train.skip_nonfinite` is set, no later step changes
    anything either, so that the state before the step stays for whoever looks into it.
    """
    tasks = list(network.classes)
    method = weighting.make(config, network, epoch_steps)
    differentiate = make_differentiate(network, config, kinds, method)
    norm, skip = gradient_norm(network), config.train.skip_nonfinite

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Report]:
        # Means are over the labelled examples of all devices, however they are spread.
        counts = lax.psum(
            {t: jnp.sum(k.is_labelled(batch["labels"][t])) for t, k in kinds.items()},
            DATA_AXIS,
        )
        seen = jnp.stack([counts[task] > 0 for task in tasks])
        found = differentiate(state, batch, counts, seen)
        losses_now = {task: found.sums[task]["loss"] for task in tasks}
        means = losses.means(losses_now, counts, tasks)
        remembered, weights, combined = method.combine(
            state.weighting, found.weights, means, seen, found.by_task
        )
        gradients = found.weighted | combined
        finite = _all_finite(losses_now, norm(gradients))

        def updated(state: TrainState) -> TrainState:
            params = state.variables["params"]
            frozen, trained = split_layers(params, network.frozen_layers)
            updates, opt_state = optimizer.update(gradients, state.opt_state, trained)
            trained = optax.apply_updates(trained, updates)
            variables = {"params": frozen | trained, "batch_stats": found.batch_stats}
            average = state.average
            if average is not None:
                average = optim.update_average(
                    average, variables, state.step, config.optim.ema
                )
            return TrainState(
                step=state.step + 1,
                variables=variables,
                opt_state=opt_state,
                average=average,
                weighting=remembered,
                sums=jax.tree.map(jnp.add, state.sums, found.sums),
                skipped=state.skipped,
            )

        good = finite if skip else finite & (state.skipped == 0)
        new = layers.update_if(good, updated, state)
        new = new.replace(
            step=state.step + 1 if skip else new.step,
            skipped=state.skipped + (~finite).astype(jnp.int32),
        )
        return new, {
            "losses": losses_now,
            "weights": {task: weights[t] for t, task in enumerate(tasks)},
            "skipped": new.skipped,
        }

    return train_step


def _all_finite(losses_now: Mapping[str, Array], norm: Array) -> Array:
    finite = jnp.isfinite(norm)
    for loss in losses_now.values():
        finite &= jnp.isfinite(loss)
    return finite


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
        per_example = losses_of(kinds, logits, batch["labels"], 0.0)
        sums = metrics.sums(kinds, logits, batch["labels"], per_example)
        return lax.psum(sums, DATA_AXIS), logits

    return eval_step


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
      mesh: with the axis `DATA_AXIS`, and `TASK_AXIS` if the state is divided over it.
      specs: of the state; by default every device has all of it.
      of_runs: whether states and batches are those of several runs side by side, with
        a first axis of runs. Every device works on all of them, and each run's numbers
        are those that it would have alone, up to rounding.
    """
    batch_specs = P(DATA_AXIS)
    if of_runs:
        step, batch_specs = mapping.over_runs(step), P(None, DATA_AXIS)
        specs = jax.tree.map(
            lambda spec: P(None, *spec), specs, is_leaf=lambda x: isinstance(x, P)
        )
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, batch_specs),
        out_specs=(specs, P()),
        # The step itself adds up what crosses devices; checked, JAX would do it, too.
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
