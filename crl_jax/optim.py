"""The optimiser and its learning rate, with Optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from crl_jax.models.architecture import STAGES

Array = jax.Array
LearningRate = Callable[[Any], Any]


def learning_rate(config: ConfigDict, steps: int) -> LearningRate:
    """Returns the learning rate as a function of the step.

    It rises linearly over the share `optim.warmup` of the run, then falls as
    `optim.schedule` says: to zero along a half cosine, by `optim.decay_by` at each of
    `optim.decay_at`, or not at all.

    Args:
      config: `config.optim` of a checked config.
      steps: length of the run.
    """
    peak = config.learning_rate
    warmup_steps = min(round(config.warmup * steps), steps - 1)
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, steps - warmup_steps)
    elif config.schedule == "step":
        boundaries: dict[int, float] = {}
        for share in config.decay_at:  # two may fall on the same step
            step = round(share * steps) - warmup_steps
            boundaries[step] = boundaries.get(step, 1.0) * config.decay_by
        after = optax.piecewise_constant_schedule(peak, boundaries)
    else:
        after = optax.constant_schedule(peak)
    # The first step already moves: the rate at step 0 is one part of the warm-up.
    warmup = optax.linear_schedule(
        peak / (warmup_steps + 1), peak, max(warmup_steps, 1)
    )
    return optax.join_schedules([warmup, after], [warmup_steps])


def make(
    config: ConfigDict,
    rate: LearningRate,
    norm: Callable[[Any], Array] = optax.tree.norm,
) -> optax.GradientTransformation:
    """Returns the optimiser that `config.optim` describes.

    SGD adds the weight decay to the gradient (as PyTorch does), AdamW to the step
    (Loshchilov and Hutter 2019). `optim.head_multiplier` and `optim.layer_decay` make
    the rate, and with it the decay, different for each layer (see `rate_factor`).

    Args:
      config: `config.optim` of a checked config.
      rate: from `learning_rate`.
      norm: of a gradient, of which a device may have only a part.
    """
    clip = [_clip_by_norm(config.clip_norm, norm)] if config.clip_norm > 0 else []
    decay = optax.add_decayed_weights(config.weight_decay, mask=is_kernel)
    if config.name == "sgd":
        momentum = optax.trace(config.momentum, nesterov=config.nesterov)
        parts = [*clip, decay, momentum]
    else:
        adam = optax.scale_by_adam(b1=config.momentum, nesterov=config.nesterov)
        parts = [*clip, adam, decay]
    if (config.head_multiplier, config.layer_decay) != (1.0, 1.0):
        parts.append(_scale_layers(config.head_multiplier, config.layer_decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def rate_factor(layer: str, head_multiplier: float, layer_decay: float) -> float:
    """Returns what multiplies the learning rate of a layer.

    Args:
      layer: such as "stem", "res4b", "head", or "res5b_cross", the learned weights
        between tasks, whose factor is 1.
      head_multiplier: the factor of heads.
      layer_decay: factor of the last stage, res5; res4 has its square, and so on down
        to the stem (Howard and Ruder 2018, section 3.2, with stages for layers).
    """
    if layer == "head":
        return head_multiplier
    if layer.endswith("_cross"):
        return 1.0
    return layer_decay ** (len(STAGES) - STAGES.index(layer[:4]))


def _scale_layers(
    head_multiplier: float, layer_decay: float
) -> optax.GradientTransformation:
    def scale(updates: Any, params: Any) -> Any:
        factors = {
            layer: rate_factor(layer, head_multiplier, layer_decay) for layer in updates
        }
        return {
            layer: jax.tree.map(lambda u, f=factors[layer]: f * u, leaves)
            for layer, leaves in updates.items()
        }

    return optax.stateless(scale)


def _clip_by_norm(
    largest: float, norm: Callable[[Any], Array]
) -> optax.GradientTransformation:
    """Returns `optax.clip_by_global_norm`, for a norm that is computed differently."""

    def clip(updates: Any, params: Any) -> Any:
        factor = largest / jnp.maximum(norm(updates), largest)
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates)

    return optax.stateless(clip)


def is_kernel(params: Any) -> Any:
    """Marks kernels, the only parameters that decay, in a tree like `params`.

    Not marked: batch-norm scales, biases, and learned cross weights.
    """
    return jax.tree.map_with_path(lambda path, _: path[-1].key == "kernel", params)


def update_average(average: Any, new: Any, step: jax.Array, decay: float) -> Any:
    """Moves an exponential moving average towards `new`.

    The first steps count more, so that the start is soon forgotten: the decay is at
    most (1 + step) / (10 + step), as in TensorFlow's ExponentialMovingAverage.
    """
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, n: keep * a + (1.0 - keep) * n, average, new)
