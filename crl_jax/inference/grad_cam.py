"""Where in a picture a task looked: Grad-CAM, Selvaraju et al. 2017."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.module import InterceptorContext

from crl_jax.models import MultitaskResNet

Array = jax.Array


def grad_cam(
    network: MultitaskResNet,
    variables: Any,
    images: Array,
    labels: Mapping[str, Array],
) -> dict[str, Array]:
    """Returns how much each place of the last unit speaks for a label.

    A task's head is linear in the mean over places. So the gradient of a logit with
    respect to the features is the label's column of the head at every place, and
    equation 2 of the paper is that column times the features, with negative values set
    to 0.

    Args:
      network: the one whose last unit is looked at.
      variables: of the network.
      images: `[B, H, W, 3]` uint8.
      labels: `{task: [B]}`, what to look for.

    Returns:
      `{task: [B, H', W']}`, 0 to 1; the largest of each picture is 1 unless all are 0.
    """
    features = _last_features(network, variables, images)
    maps = {}
    for t, task in enumerate(network.classes):
        of_task = features[t] if features.ndim == 5 else features
        kernel = variables["params"]["head"][task]["kernel"]  # [C, K]
        columns = kernel.T[labels[task]]  # [B, C]
        cam = jnp.maximum(jnp.einsum("bhwc,bc->bhw", of_task, columns), 0)
        largest = jnp.max(cam, axis=(1, 2), keepdims=True)
        maps[task] = cam / jnp.where(largest > 0, largest, 1)
    return maps


def _last_features(network: MultitaskResNet, variables: Any, images: Array) -> Array:
    """Returns what goes into the heads, `[T, B, H', W', C]`; if shared, without T."""
    kept: list[Array] = []

    def keep(method: Any, arguments: Any, named: Any, where: InterceptorContext) -> Any:
        if where.module.name == "head" and where.method_name == "__call__":
            kept.append(arguments[0].astype(jnp.float32))
        return method(*arguments, **named)

    with nn.intercept_methods(keep):
        network.apply(variables, images)
    return kept[0]
