"""Convolution and batch normalisation, as the units use them."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Array = jax.Array
Dtype = Any

# Variance-preserving for the backward pass, as in He et al., "Delving Deep into
# Rectifiers", and in torchvision's ResNets.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Largest output, in pixels, that a CPU convolves as one matrix product of patches.
_SMALL = 16


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves pictures with a kernel, padded by half the kernel on every side.

    The padding is symmetric for every stride, as in torchvision and Keras's ResNets
    (XLA's "SAME" is not), so that pretrained weights mean the same here.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    rows, columns = kernel.shape[:2]
    if (rows, columns) == (1, 1):
        # The same numbers as a matrix product, which XLA runs much faster on CPU.
        return jnp.dot(x[:, ::stride, ::stride], kernel[0, 0])
    small = math.ceil(x.shape[1] / stride) * math.ceil(x.shape[2] / stride) <= _SMALL
    if small and jax.default_backend() == "cpu":
        return _convolve_patches(x, kernel, stride)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((rows // 2, rows // 2), (columns // 2, columns // 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _convolve_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Does what `convolve` does, as one matrix product of all patches.

    XLA's convolution on CPU is up to a hundred times slower than this on pictures
    smaller than the kernel (2x2: 3 as against 340 GFLOP/s on two cores).
    """
    rows, columns, _, features = kernel.shape
    new_rows, new_columns = (math.ceil(size / stride) for size in x.shape[1:3])
    top, left = rows // 2, columns // 2
    x = jnp.pad(x, ((0, 0), (top, top), (left, left), (0, 0)))
    shifted = [
        x[:, i : i + stride * new_rows : stride, j : j + stride * new_columns : stride]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.dot(jnp.concatenate(shifted, axis=-1), kernel.reshape(-1, features))


@functools.cache
def _task_convolve(stride: int) -> Callable[[Array, Array], Array]:
    """Returns `convolve` with its own rule for a `vmap` over tasks.

    JAX would batch a convolution over its kernels into a grouped convolution, which is
    several times slower than the same convolutions one by one. Reverse mode works under
    `vmap` alone, so shared units use the plain `convolve`.
    """

    @jax.custom_batching.custom_vmap
    def task_convolve(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel, stride)

    @task_convolve.def_vmap
    def one_by_one(
        axis_size: int, in_batched: list[bool], x: Array, kernel: Array
    ) -> tuple[Array, bool]:
        x_batched, kernel_batched = in_batched
        outputs = [
            convolve(
                x[t] if x_batched else x,
                kernel[t] if kernel_batched else kernel,
                stride,
            )
            for t in range(axis_size)
        ]
        return jnp.stack(outputs), True

    return task_convolve


class Conv(nn.Module):
    """A convolution without bias: `[B, H, W, C]` to `[B, H', W', features]`.

    Attributes:
      features: output channels.
      size: rows and columns of the kernel, odd.
      stride: of both rows and columns.
      dtype: of the computation; the kernel is float32.
      in_branch: whether a `vmap` over tasks reaches this layer.
    """

    features: int
    size: int
    stride: int = 1
    dtype: Dtype = jnp.float32
    in_branch: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Convolves `x`, `[B, H, W, C]`."""
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.in_branch:
            return _task_convolve(self.stride)(x, kernel)
        return convolve(x, kernel, self.stride)


class BatchNorm(nn.Module):
    """Batch normalisation of the channels of `[B, H, W, C]`, Ioffe and Szegedy 2015.

    Mean, variance, scale and bias are first folded to one factor and one summand a
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
    def __call__(self, x: Array) -> Array:
        """Normalises `x`, `[B, H, W, C]`, and keeps its dtype."""
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)

        if self.train:
            mean, var = self._batch_statistics(x)
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        factor, summand = (
            jnp.expand_dims(v, (0, 1, 2)) for v in (factor, bias - mean * factor)
        )
        return (x * factor + summand).astype(x.dtype)

    def _batch_statistics(self, x: Array) -> tuple[Array, Array]:
        x = x.astype(jnp.float32)
        mean = jnp.mean(x, axis=(0, 1, 2))
        mean_of_squares = jnp.mean(x * x, axis=(0, 1, 2))
        if self.axis_name is not None and not self.is_initializing():
            mean, mean_of_squares = lax.pmean((mean, mean_of_squares), self.axis_name)
        # Rounding can push the variance of a constant channel below zero.
        return mean, jnp.maximum(mean_of_squares - mean * mean, 0.0)
