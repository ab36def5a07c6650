"""What a task's training minimises."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax

Array = jax.Array


def cross_entropy(logits: Array, labels: Array, label_smoothing: float = 0.0) -> Array:
    """Returns the softmax cross-entropy of each example, 0 where its label is missing.

    Args:
      logits: `[B, K]`.
      labels: `[B]`, from 0 to K - 1; -1 means missing.
      label_smoothing: share of the target that is spread over all classes
        (Szegedy et al. 2016, section 7).

    Returns:
      `[B]`, in nats.
    """
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    targets = optax.smooth_labels(targets, label_smoothing)
    losses = optax.softmax_cross_entropy(logits, targets)
    return jnp.where(labels >= 0, losses, 0.0)


def sigmoid_cross_entropy(
    logits: Array, labels: Array, label_smoothing: float = 0.0
) -> Array:
    """Returns the mean over classes of each one's own yes-or-no cross-entropy.

    Args:
      logits: `[B, K]`.
      labels: `[B, K]` of 0 and 1; -1 means missing, and adds nothing.
      label_smoothing: share of each target that is split equally between yes and no.

    Returns:
      `[B]`, in nats.
    """
    targets = labels.astype(logits.dtype) * (1 - label_smoothing) + label_smoothing / 2
    losses = optax.sigmoid_binary_cross_entropy(logits, targets)
    return jnp.mean(jnp.where(labels >= 0, losses, 0.0), axis=-1)


def _of_numbers(loss: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def masked(predicted: Array, targets: Array) -> Array:
        known = targets == targets
        # NaN must not reach the loss: its gradient would be NaN, too.
        return jnp.where(known, loss(predicted, jnp.where(known, targets, 0.0)), 0.0)

    return masked


# Losses of `[B]` predicted numbers against `[B]` targets, NaN where one is missing.
# Huber's is quadratic up to an error of 1, and linear beyond (Huber 1964).
OF_NUMBERS: Mapping[str, Callable[[Array, Array], Array]] = {
    "huber": _of_numbers(optax.huber_loss),
    "squared": _of_numbers(optax.squared_error),
}


def means(
    losses: Mapping[str, Array], counts: Mapping[str, Array], tasks: Sequence[str]
) -> Array:
    """Returns the mean loss of each task, `[T]`; 0 for one without labels.

    Args:
      losses: `{task: [B]}`, 0 where the label is missing; or their sums.
      counts: `{task: []}`, labelled examples that the mean is over. They may be spread
        over more devices or parts of a batch than `losses` are; then the means of all
        parts add up to the mean of the whole.
      tasks: in the order of the result.
    """
    return jnp.stack([jnp.sum(losses[t]) / jnp.maximum(counts[t], 1) for t in tasks])
