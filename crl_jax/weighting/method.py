"""What a weighting of the tasks is, and the one with fixed weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from crl_jax.models.architecture import split_layers

Array = jax.Array
State = Any  # what a method remembers: a dictionary of arrays, or None

TINY = 1e-12  # keeps a division by zero finite


@dataclass(frozen=True)
class Weighting:
    """Fixed weights: what a method is if it does nothing of its own.

    Attributes:
      task_weights: one number per task, from the config.
      layers: shared layers whose gradient is wanted per task; empty: none.
      combines: whether those gradients are combined, or only looked at.
      looks_ahead: whether the weights need the losses of their own step: one more
        forward pass, which XLA finds to be the same if the batch is in one part.
    """

    task_weights: tuple[float, ...]
    layers: frozenset[str] = frozenset()
    combines = False
    looks_ahead = False

    @property
    def tasks(self) -> int:
        """T."""
        return len(self.task_weights)

    def start(self) -> State:
        """Returns what the method remembers before the first step."""
        return None

    def weights(self, state: State, losses: Array, seen: Array) -> Array:
        """Returns the weights `[T]` of the losses in the backward pass.

        Args:
          state: from the step before.
          losses: `[T]`, means over the whole batch; zeros unless `looks_ahead`.
          seen: `[T]`, whether any example of the batch has a label of the task.
        """
        return jnp.array(self.task_weights, jnp.float32)

    def split_gradients(
        self, gradients: Any, pull_back: Callable[..., Any]
    ) -> tuple[Any, Any]:
        """Returns the gradients of one device, and those that are wanted per task.

        Args:
          gradients: of the weighted sum of the losses.
          pull_back: from `jax.vjp` of the losses `[T]`; calling it again does not run
            the network forwards again.
        """
        if not self.layers:
            return gradients, {}
        (every,) = jax.vmap(pull_back)(jnp.eye(self.tasks, dtype=jnp.float32))
        wanted, _ = split_layers(every, self.layers)
        if self.combines:
            _, gradients = split_layers(gradients, self.layers)
        return gradients, wanted

    def combine(
        self, state: State, weights: Array, losses: Array, seen: Array, by_task: Any
    ) -> tuple[State, Array, Any]:
        """Returns the next state, the weights, and the gradients made from `by_task`.

        Args:
          state: from the step before.
          weights: from `weights`.
          losses: `[T]`, means over the whole batch.
          seen: see `weights`.
          by_task: the gradients per task from `split_gradients`, added up over the
            whole batch.
        """
        # An accelerator would otherwise multiply with fewer digits.
        with jax.default_matmul_precision("highest"):
            gram = gram_matrix(by_task, self.tasks)
            state, weights = self.update(state, weights, losses, seen, gram)
            if not self.combines:
                return state, weights, {}
            sums = jax.tree.map(lambda g: jnp.tensordot(weights, g, 1), by_task)
        return state, weights, sums

    def update(
        self, state: State, weights: Array, losses: Array, seen: Array, gram: Array
    ) -> tuple[State, Array]:
        """Returns the next state, and the weights of the gradients of `layers`.

        Args:
          state: from the step before.
          weights: from `weights`.
          losses: `[T]`, means over the whole batch.
          seen: see `weights`.
          gram: `[T, T]`, products of the tasks' gradients in `layers`.
        """
        return state, weights


def gram_matrix(gradients: Any, tasks: int) -> Array:
    """Returns the products `[T, T]` of gradients with a leading axis T."""
    total = jnp.zeros((tasks, tasks), jnp.float32)
    for leaf in jax.tree.leaves(gradients):
        rows = leaf.reshape(tasks, -1)
        total += rows @ rows.T
    return total
