"""The baseline whose tasks each look at a part of a shared trunk: MTAN."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from crl_jax.models import layers, units

Array = jax.Array

_REDUCTION = 4  # times fewer channels between a mask's two convolutions


class StageAttention(nn.Module):
    """What each task attends to at the end of a stage (Liu, Johns and Davison 2019).

    `y[t] = m[t](a) * x`, elementwise, where x is the stage's output and the mask m[t]
    lies between 0 and 1 (equations 1 and 2). Its input a is the output of the stage's
    first unit and, beside it, what task t attended to one stage before, brought to this
    stage's size by a convolution that the tasks share.

    Attributes:
      tasks: T.
      norm: normalisation, with `train` set.
      dtype: of the computation.
    """

    tasks: int
    norm: units.Layer
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, early: Array, x: Array, before: Array | None) -> Array:
        """Returns what each task attends to, `[T, B, H, W, C]`.

        Args:
          early: `[B, H, W, C]`, output of the stage's first unit.
          x: `[B, H, W, C]`, output of its last unit.
          before: `[T, B, 2 H, 2 W, C']`, from the stage before; None: there is none.
        """
        mask = units.over_tasks(_Mask, self.tasks)
        mask = mask(x.shape[-1], norm=self.norm, dtype=self.dtype, name="mask")
        early = units.to_each_task(early, self.tasks)
        if before is None:
            return mask(early) * x[None]
        carry = layers.Conv(
            x.shape[-1], size=3, stride=2, dtype=self.dtype, name="carry"
        )
        carried = self.norm(name="carry_norm")(
            carry, before.reshape(-1, *before.shape[2:])
        )
        carried = layers.relu(carried)
        carried = carried.reshape(early.shape)
        return mask(jnp.concatenate([early, carried], axis=-1)) * x[None]


class _Mask(nn.Module):
    """Two 1x1 convolutions: how much of each place and channel passes, 0 to 1."""

    features: int
    norm: units.Layer
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        conv = functools.partial(layers.Conv, size=1, dtype=self.dtype, in_branch=True)
        first = conv(max(1, self.features // _REDUCTION), name="conv1")
        x = layers.relu(self.norm(name="norm1")(first, x))
        second = conv(self.features, name="conv2")
        return nn.sigmoid(self.norm(name="norm2")(second, x))
