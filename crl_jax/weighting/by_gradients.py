"""Weights of the tasks that follow from their gradients in shared layers."""

import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from crl_jax.weighting.method import TINY, State, Weighting

Array = jax.Array

_LEAST_WEIGHT = 0.01  # of a task under GradNorm, whose steps could pass zero
# Over task pairs. At c = 0.5 more change the sixth digit for five tasks, and the fourth
# for eight; at c = 1, with gradients that almost cancel, they would change more.
_CAGRAD_SWEEPS = 10


@dataclass(frozen=True)
class GradNorm(Weighting):
    """Moves the weights so that norms w |g| follow mean(w |g|) r^alpha (Chen 2018).

    g is a task's gradient in the last shared layer, and r is how much of its first loss
    a task still has, relative to the mean of the tasks (section 3.2). The sum of the
    weights stays T.
    """

    rate: float = 0.025
    alpha: float = 1.5

    def start(self) -> State:
        """Returns weights of 1, before any loss."""
        ones = jnp.ones(self.tasks, jnp.float32)
        return {"weight": ones, "first_loss": jnp.zeros_like(ones)}

    def weights(self, state: State, losses: Array, seen: Array) -> Array:
        """Returns the weights as they are."""
        return state["weight"]

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Moves the weights one step towards equal norms."""
        first = state["first_loss"]  # 0: not yet seen
        first = jnp.where(seen & (first == 0), losses, first)
        count = jnp.maximum(jnp.sum(seen), 1)
        norms = jnp.sqrt(jnp.diagonal(gram))
        ratio = losses / jnp.maximum(first, TINY)
        ratio /= jnp.maximum(jnp.sum(jnp.where(seen, ratio, 0.0)) / count, TINY)
        mean = jnp.sum(jnp.where(seen, weights * norms, 0.0)) / count
        slope = jnp.sign(weights * norms - mean * ratio**self.alpha) * norms
        weight = weights - self.rate * jnp.where(seen, slope, 0.0)
        weight = jnp.maximum(weight, _LEAST_WEIGHT)
        weight *= self.tasks / jnp.sum(weight)
        return {"weight": weight, "first_loss": first}, weights


@dataclass(frozen=True)
class PCGrad(Weighting):
    """Takes from each task's gradient what points against another's, and adds them up.

    Algorithm 1 of Yu et al. 2020 goes through the other tasks in random order; here
    they come in the order of the tasks, from the task's own place on.
    """

    combines = True

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Returns the factor of each gradient in the sum of the projected ones."""
        gram = _relative(gram)
        total = jnp.zeros(self.tasks, gram.dtype)
        for i in range(self.tasks):
            own = jnp.zeros_like(total).at[i].set(1.0)  # in terms of all gradients
            for j in (*range(i + 1, self.tasks), *range(i)):
                product = own @ gram[:, j]
                share = product / jnp.maximum(gram[j, j], TINY)
                own = own.at[j].add(-jnp.minimum(share, 0.0))
            total += own
        return state, total


@dataclass(frozen=True)
class CAGrad(Weighting):
    """T times the direction that helps the worst task, near the mean gradient g.

    It is no further from g than c |g| (Liu et al. 2021, equation 3), and is found by
    the dual problem: the weights w on the simplex that minimise g_w g + c |g| |g_w|,
    where g_w is the weighted sum. It is divided by 1 + c^2, as in the authors' code.
    """

    combines = True
    c: float = 0.5

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Returns how much of each gradient is in the direction."""
        gram = _relative(gram)
        count = jnp.maximum(jnp.sum(seen), 1)
        equal = seen.astype(jnp.float32) / count
        radius = self.c * jnp.sqrt(jnp.maximum(equal @ gram @ equal, 0.0))

        def sweep(_: int, w: Array) -> Array:
            for i, j in itertools.combinations(range(self.tasks), 2):
                shifted = _shift(w, i, j, gram, equal, radius)
                w = jnp.where(seen[i] & seen[j], shifted, w)
            return w

        w = lax.fori_loop(0, _CAGRAD_SWEEPS, sweep, equal)
        norm = jnp.sqrt(jnp.maximum(w @ gram @ w, TINY))
        direction = equal + radius / norm * w
        return state, count * direction / (1 + self.c**2)


def _relative(gram: Array) -> Array:
    """Returns products scaled to sum to 1 on the diagonal, however small they were."""
    return gram / jnp.maximum(jnp.trace(gram), 1e-30)


def _shift(w: Array, i: int, j: int, gram: Array, equal: Array, radius: Array) -> Array:
    """Moves weight from j to i, or back, to where CAGrad's dual is least.

    Along that line the dual is a x + radius sqrt(b x^2 + 2 d x + e), which is convex.
    """
    line = jnp.zeros_like(w).at[i].set(1.0).at[j].set(-1.0)
    a = line @ gram @ equal
    b = jnp.maximum(line @ gram @ line, TINY)
    d, e = line @ gram @ w, w @ gram @ w
    rest = jnp.maximum(e - d * d / b, 0.0)
    slack = radius**2 * b - a * a  # not above zero: the dual falls to one end
    x = -jnp.sign(a) * jnp.sqrt(a * a * rest / (b * jnp.maximum(slack, TINY))) - d / b
    x = jnp.where(slack > 0, x, -2 * jnp.sign(a))
    return w + jnp.clip(x, -w[i], w[j]) * line
