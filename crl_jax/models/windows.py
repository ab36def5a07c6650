"""Windows that move over pictures: what is seen through them, and its maximum."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def shifted(
    x: Array, size: tuple[int, ...], stride: int, padding: float
) -> list[Array]:
    """Returns what each element of a window sees, `[B, H', W', C]` each, row by row.

    Args:
      x: `[B, H, W, C]`; it is padded by half the window on every side.
      size: rows and columns of the window, odd.
      stride: of both rows and columns.
      padding: value to pad with.
    """
    (rows, columns), (top, left) = size, (size[0] // 2, size[1] // 2)
    new_rows, new_columns = (math.ceil(n / stride) for n in x.shape[1:3])
    pad = ((0, 0), (top, top), (left, left), (0, 0))
    x = jnp.pad(x, pad, constant_values=padding)
    return [
        x[:, i : i + stride * new_rows : stride, j : j + stride * new_columns : stride]
        for i in range(rows)
        for j in range(columns)
    ]


# XLA's gradient of max pooling searches each window again: this is ten times slower on
# a CPU, and takes two more passes over memory on a GPU. TPUs have it as an operation.
@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Array, size: int, stride: int) -> Array:
    """Returns the largest value of each window, padded by half of it on every side.

    The gradient goes to the first of equal values, as XLA's does.

    Args:
      x: `[B, H, W, C]`.
      size: rows and columns of a window, odd.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    return _max_and_place(x, size, stride)[0]


def _max_and_place(x: Array, size: int, stride: int) -> tuple[Array, Array]:
    """Returns the largest value of each window, and its place in the window, uint8."""
    largest, *others = shifted(x, (size, size), stride, -jnp.inf)
    place = jnp.zeros(largest.shape, jnp.uint8)
    for i, value in enumerate(others, start=1):
        larger = value > largest
        largest = jnp.where(larger, value, largest)
        place = jnp.where(larger, jnp.uint8(i), place)
    return largest, place


def _max_pool_forward(
    x: Array, size: int, stride: int
) -> tuple[Array, tuple[Array, Array]]:
    largest, place = _max_and_place(x, size, stride)
    return largest, (x, place)


def _max_pool_backward(
    size: int, stride: int, kept: tuple[Array, Array], y_bar: Array
) -> tuple[Array]:
    x, place = kept  # only the shape of x is used
    parts = [
        [_of_phase(place, y_bar, (i, j), size, stride) for j in range(stride)]
        for i in range(stride)
    ]
    x_bar = jnp.stack([jnp.stack(row, axis=3) for row in parts], axis=2)
    b, h, _, w, _, c = x_bar.shape
    x_bar = x_bar.reshape(b, h * stride, w * stride, c)
    return (x_bar[:, : x.shape[1], : x.shape[2]],)


def _of_phase(
    place: Array, y_bar: Array, phase: tuple[int, int], size: int, stride: int
) -> Array:
    """Returns the gradient of every stride-th row and column of pixels.

    Args:
      place: of the largest value of each window, `[B, H', W', C]`.
      y_bar: the windows' gradient, of the same shape.
      phase: the first of the rows, and of the columns.
      size: see `max_pool`.
      stride: see `max_pool`.
    """
    rows, columns = (_seen(first, size, stride) for first in phase)
    return sum(
        (
            _moved_up(jnp.where(place == i * size + j, y_bar, 0), down, right)
            for i, down in rows
            for j, right in columns
        ),
        start=jnp.zeros_like(y_bar),
    )


def _seen(first: int, size: int, stride: int) -> list[tuple[int, int]]:
    """Returns where windows see the rows `first`, `first + stride` and so on.

    Returns:
      For each window that sees them: their row in it, and how many windows it comes
        after the window of the same number.
    """
    after, row = divmod(first + size // 2, stride)
    return [(i, after - n) for n, i in enumerate(range(row, size, stride))]


def _moved_up(x: Array, rows: int, columns: int) -> Array:
    """Returns `x[:, rows:, columns:]`, then zeros; negative numbers move x back."""
    moves = ((0, 0, 0), (-rows, rows, 0), (-columns, columns, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), moves)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
