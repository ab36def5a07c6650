"""The cross-residual: each task's shortcut, mixed with the other tasks'."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from crl_jax.models import layers

Array = jax.Array


class CrossResidual(nn.Module):
    """Sums the tasks' shortcuts with cross weights (Jou and Chang 2016).

    `y[t] = sum over j of W[t, j] s[j]`, where `W[t, t]` is the identity and `s[j]` is
    the shortcut of task j, after its projection if it has one. The paper says neither
    what kind of W to use nor how large it should be; both are settings.

    Attributes:
      kind: what a cross weight from task j to task t is: "scalar", one number;
        "channel", one number per channel; "conv", a 1x1 convolution.
      start: value that every cross weight begins with (for "conv", times the identity).
      learned: whether the cross weights are parameters.
      task_axis: mapped axis that T is divided over; None: not at all. Only the sums
        over source tasks cross it.
    """

    kind: str = "scalar"
    start: float = 0.1
    learned: bool = False
    task_axis: str | None = None

    @nn.compact
    def __call__(self, shortcuts: Array) -> Array:
        """Mixes `shortcuts`, `[T, B, H, W, C]`, into one sum per target task."""
        own, channels = shortcuts.shape[0], shortcuts.shape[-1]
        tasks = own if self.task_axis is None else own * lax.axis_size(self.task_axis)
        if tasks == 1 or (self.start == 0 and not self.learned):
            return shortcuts  # nothing crosses: the plain multitask network
        weight = self._weight(tasks, channels).astype(shortcuts.dtype)
        # The self shortcut is added as it is: an accelerator multiplies with fewer
        # digits than it adds.
        if self.task_axis is None:
            return shortcuts + mix(weight, shortcuts)
        # This device sums over its source tasks for all targets; then each target's sum
        # goes to the device that has the task.
        first = lax.axis_index(self.task_axis) * own
        weight = lax.dynamic_slice_in_dim(weight, first, own, axis=1)
        sums = mix(weight, shortcuts)
        return shortcuts + lax.psum_scatter(sums, self.task_axis, tiled=True)

    def _weight(self, tasks: int, channels: int) -> Array:
        """Returns W without its diagonal, with axes target, source, ...

        It is `[T, T]`, `[T, T, C]` or `[T, T, C, C]`.
        """
        one = {
            "scalar": np.ones(()),
            "channel": np.ones(channels),
            "conv": np.eye(channels),
        }[self.kind].astype(np.float32)
        targets, sources = task_pairs(tasks)

        def start(_key: Array | None = None) -> Array:
            pairs = np.stack([self.start * one] * len(targets))
            return jnp.asarray(pairs, jnp.float32)

        cross = self.param("weight", start) if self.learned else start()
        weight = jnp.zeros((tasks, tasks, *one.shape), jnp.float32)
        return weight.at[targets, sources].set(cross)


def mix(weight: Array, x: Array) -> Array:
    """Returns a weighted sum over source tasks for each target task.

    Args:
      weight: of T targets and S sources: one number, `[T, S]`; one number per channel,
        `[T, S, C]`; or a 1x1 convolution, `[T, S, C, C]`.
      x: `[S, B, H, W, C]`.

    Returns:
      `[T, B, H, W, C]`.
    """
    if weight.ndim == 4:
        return jnp.einsum("tjcd,jbhwc->tbhwd", weight, x)
    if not layers.on("cpu"):
        # Fused with what comes before and after, and without a product's fewer digits.
        factors = weight.reshape(*weight.shape[:2], 1, 1, 1, -1)
        return jnp.sum(factors * x[None], axis=1)
    if weight.ndim == 3:
        return jnp.einsum("tjc,jbhwc->tbhwc", weight, x)
    # One matrix product: far faster than an einsum over five axes.
    sources, *shape = x.shape
    return (weight @ x.reshape(sources, -1)).reshape(-1, *shape)


def pair_sizes(weights: np.ndarray) -> np.ndarray:
    """Returns one number for each learned cross weight, `[T * (T - 1)]`.

    It is the weight, the mean over channels, or a convolution's Frobenius norm divided
    by the root of its number of channels, which is |w| for w times the identity.

    Args:
      weights: `[T * (T - 1)]`, `[T * (T - 1), C]` or `[T * (T - 1), C, C]`.
    """
    if weights.ndim == 3:
        return np.linalg.norm(weights, axis=(1, 2)) / np.sqrt(weights.shape[-1])
    return weights.reshape(len(weights), -1).mean(axis=1)


def task_pairs(tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns target and source task of each learned cross weight, `[T * (T - 1)]`."""
    targets, sources = np.nonzero(~np.eye(tasks, dtype=bool))
    return targets, sources
