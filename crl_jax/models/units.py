"""Stem, residual units and heads, and how a layer is branched over tasks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from crl_jax.models.layers import max_pool, relu

Array = jax.Array
Layer = Callable[..., Any]


class Stem(nn.Module):
    """The layers before the first residual unit.

    Attributes:
      features: output channels.
      size: "large": a 7x7 convolution of stride 2 and a 3x3 max pooling of stride 2;
        "small", for pictures of about 32 px: a 3x3 convolution.
      conv: convolution, with `in_branch` and dtype set.
      norm: normalisation, with `train` set.
    """

    features: int
    size: str
    conv: Layer
    norm: Layer

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, H, W, 3]` to `[B, H', W', features]`; H' is H/4 or H."""
        large = self.size == "large"
        size, stride = (7, 2) if large else (3, 1)
        conv = self.conv(self.features, size=size, stride=stride, name="conv")
        x = relu(self.norm(name="norm")(conv, x))
        if large:
            x = max_pool(x, size=3, stride=2)
        return x


class BasicUnit(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2015, figure 5, left).

    Attributes:
      features: channels inside the unit and of its output.
      stride: of the first convolution and of the projection.
      conv, norm: see `Stem`.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer
    expansion = 1

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the residual and the shortcut of `x`, both `[B, H', W', C']`."""
        conv = self.conv(self.features, size=3, stride=self.stride, name="conv1")
        y = relu(self.norm(name="norm1")(conv, x))
        conv = self.conv(self.features, size=3, name="conv2")
        # The unit begins as its shortcut alone (Goyal et al. 2017, section 5.1).
        y = self.norm(name="norm2", scale_init=nn.initializers.zeros)(conv, y)
        return y, _shortcut(self, x, y.shape[-1])


class BottleneckUnit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2015, figure 5).

    Attributes:
      features: channels inside the unit; its output has four times as many.
      stride: of one convolution and of the projection.
      conv, norm: see `Stem`.
      stride_in: which convolution has the stride: "3x3", as in torchvision and timm, or
        "1x1" (the first), as in the original and in Keras.
    """

    features: int
    stride: int
    conv: Layer
    norm: Layer
    stride_in: str = "3x3"
    expansion = 4

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the residual and the shortcut of `x`, both `[B, H', W', C']`."""
        first, second = (
            (self.stride, 1) if self.stride_in == "1x1" else (1, self.stride)
        )
        conv = self.conv(self.features, size=1, stride=first, name="conv1")
        y = relu(self.norm(name="norm1")(conv, x))
        conv = self.conv(self.features, size=3, stride=second, name="conv2")
        y = relu(self.norm(name="norm2")(conv, y))
        conv = self.conv(self.features * self.expansion, size=1, name="conv3")
        y = self.norm(name="norm3", scale_init=nn.initializers.zeros)(conv, y)
        return y, _shortcut(self, x, y.shape[-1])


def _shortcut(unit: BasicUnit | BottleneckUnit, x: Array, channels: int) -> Array:
    """Returns `x`, projected if the unit changes its shape."""
    if unit.stride == 1 and x.shape[-1] == channels:
        return x
    conv = unit.conv(channels, size=1, stride=unit.stride, name="projection")
    return unit.norm(name="projection_norm")(conv, x)


def over_tasks(layer: type[nn.Module], tasks: int) -> Any:
    """Returns `layer` with a leading task axis on parameters, inputs and outputs.

    Parameters and batch statistics become `[T, ...]`, each task's initialised with a
    key of its own. The input is `[T, B, H, W, C]`.
    """
    return nn.vmap(
        layer,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        axis_size=tasks,
    )


def to_each_task(x: Array, tasks: int) -> Array:
    """Returns a shared `[B, H, W, C]` as `[T, B, H, W, C]`.

    Its gradient is a sum of slices, which XLA computes while it reads them; a
    broadcast's would be a reduction over the first axis, much slower on a CPU.
    """
    return jnp.stack([x] * tasks)


class Heads(nn.Module):
    """One linear layer per task, on the spatial mean; logits are float32.

    Attributes:
      classes: `{task: K}`.
      task_axis: mapped axis that T is divided over; None: not at all. Only the means
        cross it, so that every device has all logits.
    """

    classes: dict[str, int]
    task_axis: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """Maps `[T, B, H, W, C]`, or a shared `[B, H, W, C]`, to `{task: [B, K]}`."""
        features = jnp.mean(x.astype(jnp.float32), axis=(-3, -2))
        if self.task_axis is not None and x.ndim == 5:
            features = lax.all_gather(features, self.task_axis, tiled=True)
        return {
            task: nn.Dense(count, name=task)(features[t] if x.ndim == 5 else features)
            for t, (task, count) in enumerate(self.classes.items())
        }
