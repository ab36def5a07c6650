"""Batch normalisation that keeps only its input for the backward pass."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crl_jax.models import layers

Array = jax.Array


class BatchNorm(nn.Module):
    """Batch normalisation of a convolution's output (Ioffe and Szegedy 2015).

    Mean, variance, scale and bias are first folded into one factor and one summand per
    channel, so that the pictures are read once. Statistics and arithmetic are float32.

    Attributes:
      train: whether to use, and record, the statistics of this batch.
      axis_name: mapped axis over which the statistics are averaged; None: not at all.
      momentum: share of the running statistics that a batch leaves as it is.
      epsilon: added to the variance.
    """

    train: bool
    axis_name: str | None = None
    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Callable[..., Array] = nn.initializers.ones

    @nn.compact
    def __call__(self, conv: layers.Conv, x: Array) -> Array:
        """Normalises `conv(x)`, `[B, H, W, C]`, and keeps its dtype.

        Args:
          conv: the layer before this one.
          x: its input.
        """
        of = ((conv.features,), jnp.float32)
        scale = self.param("scale", self.scale_init, *of)
        bias = self.param("bias", nn.initializers.zeros, *of)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, *of)
        running_var = self.variable("batch_stats", "var", jnp.ones, *of)
        if not self.train:
            inverse_std = lax.rsqrt(running_var.value + self.epsilon)
            factor, summand = _fold(running_mean.value, inverse_std, scale, bias)
            return layers.convolve_scaled(conv, x, factor, summand)

        x = conv(x)
        axis_name = None if self.is_initializing() else self.axis_name
        mean, var = batch_statistics(lax.stop_gradient(x), axis_name)
        if not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var
        inverse_std = lax.rsqrt(var + self.epsilon)
        return normalise(axis_name, x, mean, inverse_std, scale, bias)


def batch_statistics(x: Array, axis_name: str | None) -> tuple[Array, Array]:
    """Returns the mean and variance of the channels of `x`, `[C]` each, float32.

    Args:
      x: `[B, H, W, C]`.
      axis_name: mapped axis over which they are averaged; None: not at all.
    """
    mean, mean_of_squares = layers.means_of_powers(x.astype(jnp.float32))
    if axis_name is not None:
        mean, mean_of_squares = lax.pmean((mean, mean_of_squares), axis_name)
    # Rounding can push the variance of a constant channel below zero.
    return mean, jnp.maximum(mean_of_squares - mean * mean, 0.0)


# JAX's own derivative would keep float32 copies of x; this one keeps x as it is.
@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalise(
    axis_name: str | None,
    x: Array,
    mean: Array,
    inverse_std: Array,
    scale: Array,
    bias: Array,
) -> Array:
    """Normalises `x` with its own batch statistics.

    The derivative with respect to x includes what x does through the statistics (Ioffe
    and Szegedy 2015, section 3); hence the one with respect to the statistics is zero.

    Args:
      axis_name: mapped axis that the statistics were averaged over; None: not at all.
      x: `[B, H, W, C]`.
      mean: of the channels of x, `[C]` float32.
      inverse_std: one over their standard deviation, `[C]` float32.
      scale: `[C]` float32.
      bias: `[C]` float32.

    Returns:
      `[B, H, W, C]`, of the dtype of x.
    """
    return layers.scale_and_shift(x, *_fold(mean, inverse_std, scale, bias))


def _normalise_forward(
    axis_name: str | None,
    x: Array,
    mean: Array,
    inverse_std: Array,
    scale: Array,
    bias: Array,
) -> tuple[Array, tuple[Array, ...]]:
    y = layers.scale_and_shift(x, *_fold(mean, inverse_std, scale, bias))
    return y, (x, mean, inverse_std, scale)


def _normalise_backward(
    axis_name: str | None, kept: tuple[Array, ...], y_bar: Array
) -> tuple[Array, ...]:
    x, mean, inverse_std, scale = kept
    y_bar = y_bar.astype(jnp.float32)
    bias_bar = jnp.sum(y_bar, axis=(0, 1, 2))
    scale_bar = (jnp.sum(y_bar * x, axis=(0, 1, 2)) - mean * bias_bar) * inverse_std

    # Over devices, x acts through the mean of their statistics; scale and bias do not.
    bias_mean, scale_mean = bias_bar, scale_bar
    if axis_name is not None:
        bias_mean, scale_mean = lax.pmean((bias_bar, scale_bar), axis_name)
    count = x.size // x.shape[-1]
    factor = scale * inverse_std
    slope = -factor * inverse_std * scale_mean / count
    summand = -factor * bias_mean / count - slope * mean
    x_bar = (
        y_bar * layers.channels(factor)
        + x * layers.channels(slope)
        + layers.channels(summand)
    )
    none = jnp.zeros_like(mean)
    return x_bar.astype(x.dtype), none, none, scale_bar, bias_bar


normalise.defvjp(_normalise_forward, _normalise_backward)


def _fold(
    mean: Array, inverse_std: Array, scale: Array, bias: Array
) -> tuple[Array, Array]:
    """Returns what normalisation multiplies by, and what it adds, `[C]` each."""
    factor = scale * inverse_std
    return factor, bias - mean * factor
