"""Convolution, pooling and ReLU, as the units use them; here the backend matters."""

import contextlib
import contextvars
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crl_jax.models import cpu, gpu, mapping, windows, winograd, xla

Array = jax.Array
Dtype = Any
Tree = TypeVar("Tree")

# Variance-preserving for the backward pass, as in He et al., "Delving Deep into
# Rectifiers", and in torchvision's ResNets.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Largest output, in pixels, that a CPU convolves as one matrix product of patches; and
# fewest channels, and fewest tiles of a batch, for which Winograd's algorithm pays on a
# CPU (in float32; it would lose digits of bfloat16).
_SMALL, _WIDE, _TILES = 64, 64, 64

# Most channels that pictures may have for a GPU to convolve them as blocks of pixels.
_FEW = 4


# The backend that layers are traced for; None: the one that they will run on.
_backend = contextvars.ContextVar[str | None]("backend", default=None)


@contextlib.contextmanager
def traced_for(backend: str) -> Iterator[None]:
    """Traces layers in the block for a backend; the numbers are equal up to rounding.

    For what is counted, or runs elsewhere. Winograd's algorithm and folded batch norm
    round differently.

    Args:
      backend: "cpu", "gpu" or "tpu", in the forms that are fastest on it; or "any", as
        XLA's own operations.
    """
    token = _backend.set(backend)
    try:
        yield
    finally:
        _backend.reset(token)


def on(*backends: str) -> bool:
    """Returns whether layers are traced for one of these backends."""
    return (_backend.get() or jax.default_backend()) in backends


# Options that XLA needs for programs that contain a network.
CompilerOptions = dict[str, bool | int | str]


def options_to_train() -> CompilerOptions:
    """Returns the options of programs with a backward pass.

    XLA for CPUs removes optimisation barriers before it looks for what is computed
    twice; it would then keep what `nn.remat` means to compute again.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if on("cpu") else {}


def options_to_run_once() -> CompilerOptions:
    """Returns the options of programs that take longer to compile than to run."""
    return {"xla_backend_optimization_level": 1} if on("cpu") else {}


def update_if(condition: Array, update: Callable[[Tree], Tree], old: Tree) -> Tree:
    """Returns `update(old)` if a condition holds, otherwise `old`.

    On a CPU this is a branch, in which XLA writes over the old arrays; to choose
    element by element, it would keep copies of them. A GPU would wait at a branch for
    its host.

    Args:
      condition: `[]` bool.
      update: gives arrays of the same shapes and dtypes.
      old: what `update` is given.
    """
    if on("cpu"):
        return lax.cond(condition, update, lambda kept: kept, old)
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), update(old), old)


def convolve(x: Array, kernel: Array, stride: int, as_product: bool = True) -> Array:
    """Convolves pictures with a kernel, padded by half the kernel on every side.

    The padding is symmetric for every stride, as in torchvision and Keras's ResNets
    (XLA's "SAME" is not), so that pretrained weights mean the same here.

    Args:
      x: `[B, H, W, C]`.
      kernel: `[rows, columns, C, C_out]`, with odd rows and columns.
      stride: of both rows and columns.
      as_product: whether a 1x1 kernel may be computed as a matrix product.

    Returns:
      `[B, ceil(H / stride), ceil(W / stride), C_out]`.
    """
    rows, columns = kernel.shape[:2]
    if as_product and rows == columns and _is_product(rows, stride):
        multiply = cpu.matmul if on("cpu") else jnp.dot
        return multiply(x[:, ::stride, ::stride], kernel[0, 0])
    if on("cpu") and stride == 1 and _suits_winograd(x, kernel):
        return winograd.convolve(x, kernel)
    pixels = math.ceil(x.shape[1] / stride) * math.ceil(x.shape[2] / stride)
    if on("cpu") and pixels <= _SMALL:
        return cpu.convolve_patches(x, kernel, stride)
    if on("cpu") and stride > 1 and kernel.shape[-1] >= _WIDE:
        return cpu.convolve_with_stride(x, kernel, stride)
    if on("gpu") and stride > 1 and x.shape[-1] <= _FEW:
        return gpu.convolve_blocks(x, kernel, stride)
    return xla.convolve(x, kernel, stride)


def _is_product(size: int, stride: int) -> bool:
    """Returns whether a convolution is computed as one matrix product.

    XLA for CPUs runs the product much faster. On GPUs it crashes when it compiles the
    gradient of a product of every other pixel (openxla/xla issue 47381).
    """
    return size == 1 and (stride == 1 or on("cpu"))


def _suits_winograd(x: Array, kernel: Array) -> bool:
    tiles = x.shape[0] * math.ceil(x.shape[1] / 2) * math.ceil(x.shape[2] / 2)
    return (
        kernel.shape[:2] == (3, 3)
        and min(kernel.shape[2:]) >= _WIDE
        and x.dtype == jnp.float32
        # In an export for any number of pictures, B is not known.
        and (not isinstance(tiles, int) or tiles >= _TILES)
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
    pool = windows.max_pool if on("cpu", "gpu") else xla.max_pool
    return pool(x, size, stride)


def means_of_powers(x: Array) -> tuple[Array, Array]:
    """Returns the means of the channels of x and of x squared, `[C]` each.

    Args:
      x: `[B, H, W, C]`, float32.
    """
    others = tuple(range(x.ndim - 1))
    if not on("gpu"):
        return jnp.mean(x, others), jnp.mean(x * x, others)
    # A GPU would read the output of a matrix product twice. CPUs have fast kernels only
    # for single sums, and TPUs fuse each sum with the product.
    zeros = (jnp.zeros((), x.dtype),) * 2
    add = functools.partial(jax.tree.map, jnp.add)
    sums = lax.reduce((x, x * x), zeros, add, others)
    count = x.size // x.shape[-1]
    return sums[0] / count, sums[1] / count


@functools.cache
def _mapped_convolve(stride: int, over_runs: bool) -> Callable[[Array, Array], Array]:
    """Returns `convolve` for a `vmap` over tasks, over runs or over both."""
    plain = functools.partial(convolve, stride=stride)
    return mapping.for_runs(plain) if over_runs else mapping.for_tasks(plain)


def scale_and_shift(x: Array, factor: Array, summand: Array) -> Array:
    """Returns `x * factor + summand` in the dtype of x.

    Args:
      x: `[B, H, W, C]`.
      factor: `[C]`, float32.
      summand: `[C]`, float32.
    """
    return (x * channels(factor) + channels(summand)).astype(x.dtype)


def channels(v: Array) -> Array:
    """Returns `[C]` as `[1, 1, 1, C]`, since ranks are not promoted."""
    return jnp.expand_dims(v, (0, 1, 2))


def convolve_scaled(conv: "Conv", x: Array, factor: Array, summand: Array) -> Array:
    """Returns `conv(x) * factor + summand` in the dtype of `conv(x)`.

    On a GPU the factor is in the kernel, so that cuDNN's convolution can add the
    summand and the shortcut, and apply the ReLU, before it writes its output.

    Args:
      conv: a convolution.
      x: `[B, H, W, C]`.
      factor: `[C_out]`, float32.
      summand: `[C_out]`, float32.
    """
    if on("gpu"):
        y = conv(x, factor)
        return y + channels(summand).astype(y.dtype)
    return scale_and_shift(conv(x), factor, summand)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def relu(x: Array, shared: bool = False) -> Array:
    """Returns max(x, 0); its derivative at 0 is 0.

    The derivative is read from the result, which the next layer keeps anyway;
    `jax.nn.relu` would keep a mask beside it.

    Args:
      x: of any shape.
      shared: whether several layers read the result. XLA for CPUs and GPUs would
        otherwise compute it again for each of them, from all that it depends on.
    """
    y = jnp.maximum(x, 0)
    return lax.optimization_barrier(y) if shared and on("cpu", "gpu") else y


def _relu_forward(x: Array, shared: bool) -> tuple[Array, Array]:
    y = relu(x, shared)
    return y, y


def _relu_backward(shared: bool, y: Array, y_bar: Array) -> tuple[Array]:
    return (jnp.where(y > 0, y_bar, 0),)


relu.defvjp(_relu_forward, _relu_backward)


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
    def __call__(self, x: Array, scale: Array | None = None) -> Array:
        """Convolves `x`, `[B, H, W, C]`.

        Args:
          x: in the dtype that the layer before gives.
          scale: `[features]`, float32, that the output is multiplied by; see
            `convolve_scaled`.
        """
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal, shape, jnp.float32)
        if scale is not None:
            kernel = kernel * channels(scale)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        # Products of all tasks are one product with T as its batch dimension.
        over_runs = mapping.is_over_runs()
        if not _is_product(self.size, self.stride) and (over_runs or self.in_branch):
            return _mapped_convolve(self.stride, over_runs)(x, kernel)
        # XLA would not fuse a product with what is added next.
        alone = scale is None or self.in_branch or over_runs
        return convolve(x, kernel, self.stride, as_product=alone)
