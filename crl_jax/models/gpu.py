"""Convolution in a form that a GPU computes fast."""

import math

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array

# Channels that a GPU's matrix units read at once.
_CHANNELS = 8


def convolve_blocks(x: Array, kernel: Array, stride: int) -> Array:
    """Convolves pictures of few channels, with a stride, as blocks of many channels.

    Each `stride x stride` pixels become one pixel of more channels, in the kernel too
    ("space to depth"): a 7x7 convolution of 3 channels and stride 2 is a 4x4 one of 12
    channels and stride 1. With 3 channels, matrix units would read 5 more that are
    zero.

    Args:
      x: `[B, H, W, C]`; it is padded by half the kernel on every side.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    pads, kernel_pads = [], []
    for size, pixels in zip(kernel.shape[:2], x.shape[1:3], strict=True):
        before = _whole(size // 2, stride)
        zeros = before - size // 2  # a window then begins where a block does
        window = _whole(zeros + size, stride)
        seen = _whole(pixels, stride) - stride + window
        pads.append((before, seen - before - pixels))
        kernel_pads.append((zeros, window - zeros - size))
    x = _blocks(jnp.pad(x, [(0, 0), *pads, (0, 0)]), stride)
    kernel = jnp.pad(kernel, [*kernel_pads, (0, 0), (0, 0)])
    kernel = jnp.moveaxis(_blocks(jnp.moveaxis(kernel, 3, 0), stride), 0, 3)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1),
        padding="VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _whole(pixels: int, size: int) -> int:
    """Returns `pixels` rounded up to whole blocks of a size."""
    return math.ceil(pixels / size) * size


def _blocks(x: Array, size: int) -> Array:
    """Returns `[B, size H, size W, C]` as `[B, H, W, size size C]` with zeros added."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(b, h // size, w // size, size * size * c)
    return jnp.pad(x, [(0, 0)] * 3 + [(0, -x.shape[-1] % _CHANNELS)])
