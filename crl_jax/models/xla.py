"""Convolution and pooling as XLA's own operations; `layers` chooses where they run."""

import jax
from flax import linen as nn
from jax import lax

Array = jax.Array


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves pictures with a kernel, padded by half the kernel on every side.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(size // 2, size // 2) for size in kernel.shape[:2]],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def max_pool(x: Array, size: int, stride: int) -> Array:
    """Returns the largest value of each window, padded by half of it on every side.

    Args:
      x: `[B, H, W, C]`.
      size: rows and columns of a window, odd.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C]`.
    """
    pad = (size // 2, size // 2)
    window, strides, padding = (size, size), (stride, stride), (pad, pad)
    # Arguments by name, or jax2onnx does not recognise it.
    return nn.max_pool(x, window_shape=window, strides=strides, padding=padding)
