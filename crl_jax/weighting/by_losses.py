"""Weights of the tasks that follow from their losses."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from crl_jax.weighting.method import TINY, State, Weighting

Array = jax.Array


@dataclass(frozen=True)
class Uncertainty(Weighting):
    """Minimises the sum of exp(-s) L + s / 2 over s too (Kendall et al. 2018, eq. 10).

    s is the logarithm of a task's variance; every loss is treated as a classification
    loss.
    """

    rate: float = 0.025

    def start(self) -> State:
        """Returns variances of 1."""
        return {"log_variance": jnp.zeros(self.tasks, jnp.float32)}

    def weights(self, state: State, losses: Array, seen: Array) -> Array:
        """Returns one over the variances."""
        return jnp.exp(-state["log_variance"])

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Takes a step in s down the slope of the sum."""
        slope = jnp.where(seen, 0.5 - weights * losses, 0.0)
        return {"log_variance": state["log_variance"] - self.rate * slope}, weights


@dataclass(frozen=True)
class DynamicWeightAverage(Weighting):
    """T softmax(r / temperature), r = L(epoch - 1) / L(epoch - 2) (Liu et al. 2019).

    L is the mean of an epoch's steps (equation 7). r is 1 if it does not exist.
    """

    temperature: float = 2.0
    epoch_steps: int = 1

    def start(self) -> State:
        """Returns sums over no steps, and means of no epochs."""
        zeros = jnp.zeros(self.tasks, jnp.float32)
        means = {"last": zeros, "before": zeros}
        return means | {"sum": zeros, "count": zeros, "steps": jnp.zeros((), jnp.int32)}

    def weights(self, state: State, losses: Array, seen: Array) -> Array:
        """Returns the softmax of the ratios."""
        last, before = state["last"], state["before"]
        ratio = last / jnp.maximum(before, TINY)
        ratio = jnp.where((last > 0) & (before > 0), ratio, 1.0)
        return self.tasks * jax.nn.softmax(ratio / self.temperature)

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Adds up the losses of an epoch."""
        total, count = state["sum"] + losses, state["count"] + seen
        steps = state["steps"] + 1
        same_epoch = {"last": state["last"], "before": state["before"]}
        same_epoch |= {"sum": total, "count": count, "steps": steps}
        next_epoch = self.start() | {
            "last": total / jnp.maximum(count, 1),
            "before": state["last"],
        }
        ends = steps == self.epoch_steps
        state = jax.tree.map(lambda a, b: jnp.where(ends, a, b), next_epoch, same_epoch)
        return state, weights


@dataclass(frozen=True)
class GeometricMean(Weighting):
    """The gradient of (L_1 ... L_T)^(1 / T), over the tasks labelled in the batch."""

    looks_ahead = True

    def weights(self, state: State, losses: Array, seen: Array) -> Array:
        """Returns how much the mean changes with each loss."""
        count = jnp.maximum(jnp.sum(seen), 1)
        losses = jnp.maximum(losses, TINY)
        mean = jnp.exp(jnp.sum(jnp.where(seen, jnp.log(losses), 0.0)) / count)
        return jnp.where(seen, mean / (count * losses), 0.0)
