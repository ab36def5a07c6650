"""Convolution as XLA's own operation; `layers` says where it runs."""

import jax
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
