"""3x3 convolutions of stride 1 with 4 or 2.25 multiplications where plain ones take 9.

F(2x2, 3x3) and F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks" (2016), section 4: tiles of m + 2 pixels square, which overlap by 2, and the
kernel are transformed and multiplied element by element, which is a matrix product over
channels for each of the (m + 2)^2 elements; the products are transformed back to m x m
pixels.
"""

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Order = Sequence[int]

# Axes of `[B, H, W, C]`, from the end, since each transform of them adds one in front.
_ROWS, _COLUMNS = -3, -2

# Fewest tiles for which F(4x4, 3x3) is faster: its kernels are 36 / 16 times as large.
_MANY = 96


@dataclass(frozen=True, eq=False)
class Form:
    """F(m x m, 3x3), with n = m + 2 rows and columns of a transformed tile.

    Attributes:
      size: m.
      tile: `B^T` of the paper, `[n, n]`.
      kernel: `G`, `[n, 3]`.
      back: `A^T`, `[m, n]`.
      turned: order of the rows of `kernel` for a kernel turned by half a turn.
    """

    size: int
    tile: np.ndarray
    kernel: np.ndarray
    back: np.ndarray
    turned: Order

    @property
    def plain(self) -> Order:
        """All rows in their own order."""
        return range(self.size + 2)


def _form(*points: float) -> Form:
    """Returns the form whose polynomials are evaluated at 0, infinity, p and -p.

    The convolution of a row is a product of polynomials, found by interpolation from
    its values at n points (Toom and Cook; Winograd 1980).

    Args:
      points: p, rising, with 1 / p of each, so that a turned kernel has the same
        values.
    """
    finite = np.array([0.0, *(sign * p for p in points for sign in (1, -1))])
    n = len(finite) + 1
    back, kernel, tile = np.zeros((n - 2, n)), np.zeros((n, 3)), np.zeros((n, n))
    back[:, :-1] = finite ** np.arange(n - 2)[:, None]
    kernel[:-1] = finite[:, None] ** np.arange(3)
    for i, point in enumerate(finite):
        others = np.delete(finite, i)
        scale = abs(point) or 1.0  # the kernel's row is then 1 / p, 1, p
        kernel[i] /= scale
        tile[i, :-1] = scale * np.poly(others)[::-1] / np.prod(point - others)
    back[-1, -1] = kernel[-1, -1] = 1
    tile[-1] = np.poly(finite)[::-1]
    pairs = [(i, i + 1) for i in range(1, n - 1, 2)]
    turned = (n - 1, *(i for pair in reversed(pairs) for i in pair), 0)
    # Elements that should be 0 are so only up to rounding.
    tile, kernel, back = (matrix.round(12) for matrix in (tile, kernel, back))
    return Form(n - 2, tile, kernel, back, turned)


SMALL = _form(1.0)
# Rounding errors are half those of the usual points 1 and 2. Points c and 1 / c: Alam
# et al., "Winograd Convolution for Deep Neural Networks: Efficient Point Selection"
# (2022).
LARGE = _form(math.sqrt(0.5), math.sqrt(2.0))


def convolve(x: Array, kernel: Array) -> Array:
    """Convolves pictures with a 3x3 kernel, padded by one pixel on every side.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[3, 3, C, C_out]`.

    Returns:
      `[B, H, W, C_out]`.
    """
    return convolve_in(form_for(x.shape), x, kernel)


def form_for(shape: tuple[int, ...]) -> Form:
    """Returns the form that suits pictures `[B, H, W, C]`."""
    batch, *size = shape[:3]
    small, large = (
        math.prod(math.ceil(n / form.size) for n in size) for form in (SMALL, LARGE)
    )
    # In an export for any number of pictures, B is not known.
    many = isinstance(batch, int) and batch * large >= _MANY
    return LARGE if many and 36 * large < 16 * small else SMALL


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def convolve_in(form: Form, x: Array, kernel: Array) -> Array:
    """Returns what `convolve` does, computed in the given form."""
    products = jnp.matmul(_tiles(form, x, form.plain), _transform_kernel(form, kernel))
    return _transform_back(form, products, x.shape, form.plain)


def _forward(form: Form, x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return convolve_in(form, x, kernel), (x, kernel)


def _backward(
    form: Form, kept: tuple[Array, Array], y_bar: Array
) -> tuple[Array, Array]:
    x, kernel = kept
    # The gradient of x is y_bar convolved with the kernel turned by half a turn. With
    # tiles in its order, the transformed kernel stays as the forward pass has it.
    over_outputs = (((2,), (2,)), ((0,), (0,)))
    tiles = _tiles(form, y_bar, form.turned)
    products = lax.dot_general(tiles, _transform_kernel(form, kernel), over_outputs)
    x_bar = _transform_back(form, products, x.shape, form.turned)

    over_tiles = (((1,), (1,)), ((0,), (0,)))
    products_bar = _transform_back_transposed(form, y_bar)
    transformed_bar = lax.dot_general(
        _tiles(form, x, form.plain), products_bar, over_tiles
    )
    return x_bar, _transform_kernel_transposed(form, transformed_bar)


convolve_in.defvjp(_forward, _backward)


def _mix(matrix: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """Returns a sum of the parts for each row of a matrix, which holds the factors."""
    return [
        functools.reduce(
            operator.add,
            # A multiplication by one takes time to trace and compile.
            (p if f == 1 else f * p for f, p in zip(row, parts, strict=True) if f),
        )
        for row in matrix.tolist()
    ]


def _tiles(form: Form, x: Array, order: Order) -> Array:
    """Returns the transformed tiles, `[n^2, tiles, C]`: `B^T d B` of the paper.

    Args:
      form: of the transform.
      x: `[B, H, W, C]`.
      order: of the rows, and of the columns, of the n x n elements.
    """
    m, matrix = form.size, form.tile[list(order)]
    tiles = [math.ceil(n / m) for n in x.shape[1:3]]
    rows, columns = (1 + m * t - n for t, n in zip(tiles, x.shape[1:3], strict=True))
    x = jnp.pad(x, ((0, 0), (1, rows), (1, columns), (0, 0)))
    for axis, count in zip((_ROWS, _COLUMNS), tiles, strict=True):
        ends = range(m * (count - 1) + 1, m * count + 3)
        parts = [
            lax.slice_in_dim(x, i, end, stride=m, axis=axis)
            for i, end in enumerate(ends)
        ]
        x = jnp.stack(_mix(matrix, parts))
    return x.reshape(len(matrix) ** 2, -1, x.shape[-1])


def _transform_kernel(form: Form, kernel: Array) -> Array:
    """Returns `[3, 3, C, C_out]` as `[n^2, C, C_out]`: `G g G^T` of the paper.

    Columns come before rows, as in the tiles.
    """
    for axis in (1, 0):
        kernel = jnp.stack(_mix(form.kernel, list(kernel)), axis)
    return kernel.reshape(-1, *kernel.shape[2:])


def _transform_kernel_transposed(form: Form, transformed: Array) -> Array:
    """Returns the transpose of `_transform_kernel`, from its result to its argument."""
    n = form.size + 2
    kernel = transformed.reshape(n, n, *transformed.shape[1:])
    for axis in (1, 0):
        kernel = jnp.stack(_mix(form.kernel.T, list(kernel)), axis)
    return kernel


def _transform_back(
    form: Form, products: Array, shape: tuple[int, ...], order: Order
) -> Array:
    """Returns products `[n^2, tiles, C]` as pictures: `A^T m A` of the paper.

    Args:
      form: of the transform.
      products: of tiles and kernel.
      shape: `[B, H, W, ...]` of the pictures.
      order: of the tiles.
    """
    (batch, rows, columns, _), m = shape, form.size
    tiles = (batch, math.ceil(rows / m), math.ceil(columns / m))
    x = products.reshape(m + 2, m + 2, *tiles, -1)
    for axis in (4, 2):  # after columns, then after rows
        x = jnp.stack(_mix(form.back[:, list(order)], list(x)), axis)
    x = x.reshape(batch, m * tiles[1], m * tiles[2], -1)
    return x[:, :rows, :columns]


def _transform_back_transposed(form: Form, x: Array) -> Array:
    """Returns the transpose of `_transform_back`, from its result to its argument."""
    m = form.size
    rows, columns = (-n % m for n in x.shape[1:3])
    x = jnp.pad(x, ((0, 0), (0, rows), (0, columns), (0, 0)))
    for axis in (_ROWS, _COLUMNS):
        parts = [lax.slice_in_dim(x, i, None, stride=m, axis=axis) for i in range(m)]
        x = jnp.stack(_mix(form.back.T, parts))
    return x.reshape((m + 2) ** 2, -1, x.shape[-1])
