"""Layers in forms that XLA runs fast on a CPU; `layers` chooses these or XLA's own.

Each computes what XLA's own does. docs/benchmarks.md has the measurements.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from crl_jax.models import xla
from crl_jax.models.windows import shifted

Array = jax.Array


@jax.custom_vjp
def matmul(x: Array, weight: Array) -> Array:
    """Returns `x @ weight`, `[..., C_out]`.

    Args:
      x: `[..., C]`.
      weight: `[C, C_out]`.
    """
    return jnp.dot(x, weight)


def _matmul_forward(x: Array, weight: Array) -> tuple[Array, tuple[Array, Array]]:
    return matmul(x, weight), (x, weight)


def _matmul_backward(kept: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, weight = kept
    return jnp.dot(y_bar, weight.T), _weight_gradient(x, y_bar)


matmul.defvjp(_matmul_forward, _matmul_backward)


def _weight_gradient(x: Array, y_bar: Array) -> Array:
    """Returns the gradient `[C, C_out]` of a weight between `x` and `y_bar`.

    XLA makes a transposed copy of the first factor. If x is much wider than `y_bar`,
    exchanging the factors and transposing the product copies less.
    """
    x, y_bar = (v.reshape(-1, v.shape[-1]) for v in (x, y_bar))
    over_rows = (((0,), (0,)), ((), ()))
    if x.size <= y_bar.size + x.shape[1] * y_bar.shape[1]:
        return lax.dot_general(x, y_bar, over_rows)
    # Without the barrier, XLA would exchange the factors again.
    return lax.optimization_barrier(lax.dot_general(y_bar, x, over_rows)).T


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_patches(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves as one matrix product of all patches: fast for small pictures.

    XLA's convolution is up to a hundred times slower than this on pictures smaller than
    the kernel (2x2: 2 as against 100 GFLOP/s on two cores).

    Args:
      x: `[B, H, W, C]`.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    patches = _patches(x, kernel.shape[:2], stride)
    return jnp.dot(patches, kernel.reshape(-1, kernel.shape[-1]))


def _convolve_patches_forward(
    x: Array, kernel: Array, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    return convolve_patches(x, kernel, stride), (x, kernel)


def _convolve_patches_backward(
    stride: int, kept: tuple[Array, Array], y_bar: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    # Patches are cut again, not kept: they are as large as x times the kernel's rows
    # and columns.
    patches_of = functools.partial(_patches, size=kernel.shape[:2], stride=stride)
    kernel_bar = _weight_gradient(patches_of(x), y_bar).reshape(kernel.shape)
    patches_bar = jnp.dot(y_bar, kernel.reshape(-1, kernel.shape[-1]).T)
    (x_bar,) = jax.linear_transpose(patches_of, x)(patches_bar)
    return x_bar, kernel_bar


convolve_patches.defvjp(_convolve_patches_forward, _convolve_patches_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_with_stride(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves as XLA does; the kernel's gradient is a matrix product per kernel row.

    XLA's own gradient of a strided kernel runs at half the speed of a matrix product,
    and for the stem's kernel on only one core.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    return xla.convolve(x, kernel, stride)


def _convolve_with_stride_forward(
    x: Array, kernel: Array, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    return xla.convolve(x, kernel, stride), (x, kernel)


def _convolve_with_stride_backward(
    stride: int, kept: tuple[Array, Array], y_bar: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    columns = kernel.shape[1]
    seen = shifted(x, kernel.shape[:2], stride, 0)
    rows = (seen[i : i + columns] for i in range(0, len(seen), columns))
    products = [_weight_gradient(jnp.concatenate(row, -1), y_bar) for row in rows]
    (x_bar,) = jax.linear_transpose(lambda x: xla.convolve(x, kernel, stride), x)(y_bar)
    return x_bar, jnp.stack(products).reshape(kernel.shape)


convolve_with_stride.defvjp(
    _convolve_with_stride_forward, _convolve_with_stride_backward
)


def _patches(x: Array, size: tuple[int, ...], stride: int) -> Array:
    """Returns what a kernel sees at each place: `[B, H', W', rows * columns * C]`."""
    return jnp.concatenate(shifted(x, size, stride, 0), axis=-1)
