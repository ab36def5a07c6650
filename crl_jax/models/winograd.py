"""3x3 convolutions of stride 1 with 4 multiplications where a plain one takes 9.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
(2016), section 4.1: tiles of 4x4 pixels, which overlap by 2, and the kernel are
transformed; multiplied element by element, which is a matrix product over channels for
each of the 16 elements; and transformed back to 2x2 pixels. Rounding errors are as
large as those of a plain convolution.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Order = tuple[int, ...]

# Axes of `[B, H, W, C]`, from behind, since each transform of them adds one in front.
_ROWS, _COLUMNS = -3, -2

# Rows, or columns, of a transformed kernel; those of one turned by half a turn are
# these of the plain one.
_PLAIN, _TURNED = (0, 1, 2, 3), (3, 1, 2, 0)


@jax.custom_vjp
def convolve(x: Array, kernel: Array) -> Array:
    """Convolves pictures with a 3x3 kernel, padded by one pixel on every side.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, C, C_out]`.

    Returns:
      `[B, H, W, C_out]`.
    """
    products = jnp.matmul(_tiles(x), _transform_kernel(kernel))
    return _transform_back(products, x.shape)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel), (x, kernel)


def _backward(kept: tuple[Array, Array], y_bar: Array) -> tuple[Array, Array]:
    x, kernel = kept
    # The gradient of x is y_bar convolved with the kernel turned by half a turn. Tiles
    # in its order leave the transformed kernel as the forward pass has it.
    over_outputs = (((2,), (2,)), ((0,), (0,)))
    tiles = _tiles(y_bar, _TURNED)
    products = lax.dot_general(tiles, _transform_kernel(kernel), over_outputs)
    x_bar = _transform_back(products, x.shape, _TURNED)

    over_tiles = (((1,), (1,)), ((0,), (0,)))
    products_bar = _transform_back_transposed(y_bar)
    transformed_bar = lax.dot_general(_tiles(x), products_bar, over_tiles)
    return x_bar, _transform_kernel_transposed(transformed_bar)


convolve.defvjp(_forward, _backward)


def _tiles(x: Array, order: Order = _PLAIN) -> Array:
    """Returns the transformed tiles, `[16, tiles, C]`: `B^T d B` of the paper.

    Args:
      x: `[B, H, W, C]`.
      order: of the rows, and of the columns, of the 4x4 elements.
    """
    rows, columns = (math.ceil(n / 2) for n in x.shape[1:3])
    after = (1 + 2 * rows - x.shape[1], 1 + 2 * columns - x.shape[2])
    x = jnp.pad(x, ((0, 0), (1, after[0]), (1, after[1]), (0, 0)))
    for axis, tiles in ((_ROWS, rows), (_COLUMNS, columns)):
        a, b, c, d = (
            lax.slice_in_dim(x, i, i + 2 * tiles - 1, stride=2, axis=axis)
            for i in range(4)
        )
        elements = a - c, b + c, c - b, b - d
        x = jnp.stack([elements[i] for i in order])
    return x.reshape(16, -1, x.shape[-1])


def _transform_kernel(kernel: Array) -> Array:
    """Returns `[3, 3, C, C_out]` as `[16, C, C_out]`: `G g G^T` of the paper.

    Columns come before rows, as in the tiles.
    """
    for axis in (1, 0):
        a, b, c = kernel
        kernel = jnp.stack([a, (a + b + c) / 2, (a - b + c) / 2, c], axis)
    return kernel.reshape(16, *kernel.shape[2:])


def _transform_kernel_transposed(transformed: Array) -> Array:
    """Returns the transpose of `_transform_kernel`, from its result to its argument."""
    kernel = transformed.reshape(4, 4, *transformed.shape[1:])
    for axis in (1, 0):
        a, b, c, d = kernel
        kernel = jnp.stack([a + (b + c) / 2, (b - c) / 2, (b + c) / 2 + d], axis)
    return kernel


def _transform_back(
    products: Array, shape: tuple[int, ...], order: Order = _PLAIN
) -> Array:
    """Returns products `[16, tiles, C]` as pictures: `A^T m A` of the paper.

    Args:
      products: of tiles and kernel.
      shape: `[B, H, W, ...]` of the pictures.
      order: of the tiles.
    """
    batch, rows, columns, _ = shape
    tiles = (batch, math.ceil(rows / 2), math.ceil(columns / 2))
    x = products.reshape(4, 4, *tiles, -1)
    for axis in (4, 2):  # behind columns, then behind rows
        a, b, c, d = (x[i] for i in order)
        x = jnp.stack([a + b + c, b - c - d], axis)
    x = x.reshape(batch, 2 * tiles[1], 2 * tiles[2], -1)
    return x[:, :rows, :columns]


def _transform_back_transposed(x: Array) -> Array:
    """Returns the transpose of `_transform_back`, from its result to its argument."""
    odd_rows, odd_columns = (n % 2 for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, odd_rows), (0, odd_columns), (0, 0)))
    for axis in (_ROWS, _COLUMNS):
        a, b = (lax.slice_in_dim(x, i, None, stride=2, axis=axis) for i in range(2))
        x = jnp.stack([a, a + b, a - b, -b])
    return x.reshape(16, -1, x.shape[-1])
