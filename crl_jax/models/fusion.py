"""Baselines that mix the tasks after a unit: cross-stitch units and NDDR."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from crl_jax.models.cross_residual import mix

Array = jax.Array

OWN = 0.9  # start of a task's own weight; the others share the rest


class Fusion(nn.Module):
    """Sums the outputs of the tasks' units with learned weights.

    `y[t] = sum over j of A[t, j] x[j]`. A begins as 0.9 for a task's own output, and
    the rest is divided among the others, which both papers found to train well.

    Attributes:
      kind: "cross_stitch", one number per channel (Misra et al. 2016, equation 1);
        "nddr", a 1x1 convolution of all tasks' channels (Gao et al. 2019, equation 4),
        whose batch norm is left out: the next unit's convolution is normalised anyway.
    """

    kind: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Mixes `[T, B, H, W, C]`, and keeps its shape."""
        tasks, channels = x.shape[0], x.shape[-1]
        if tasks == 1:
            return x
        share = np.full((tasks, tasks), (1 - OWN) / (tasks - 1), np.float32)
        np.fill_diagonal(share, OWN)
        identity = np.eye(channels) if self.kind == "nddr" else np.ones(channels)
        start = np.multiply.outer(share, identity.astype(np.float32))
        weight = self.param("weight", lambda _: jnp.asarray(start))
        return mix(weight.astype(x.dtype), x)
