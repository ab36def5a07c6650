"""Computes pictures a few at a time: what a layer writes is in cache for the next."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
from flax import linen as nn

from crl_jax.models import layers

Array = jax.Array
Module = TypeVar("Module", bound=nn.Module)

# Bytes of the largest activations of a group. Most of what a unit computes is about as
# large, and third-level caches have 16 to 32 MB.
_BYTES_IN_CACHE = 6.5e6


def groups_in_cache(pictures: int, picture_bytes: int) -> int:
    """Returns the number of groups, equal in size, whose activations stay in cache.

    It is 1 anywhere but on a CPU, and if the number of pictures is not known yet.

    Args:
      pictures: B.
      picture_bytes: bytes of the largest activations of one picture.
    """
    if not layers.on("cpu") or not isinstance(pictures, int):
        return 1
    fewest = min(pictures, math.ceil(pictures * picture_bytes / _BYTES_IN_CACHE))
    return next(n for n in range(max(1, fewest), pictures + 1) if pictures % n == 0)


def in_groups(
    function: Callable[[Module, Array], Array],
    module: Module,
    images: Array,
    groups: int,
) -> Array:
    """Returns `function(module, images)`, computed one group of pictures at a time.

    Args:
      function: in which pictures do not depend on each other; it may use, but not
        change, the variables of the module.
      module: bound to its variables.
      images: `[B, H, W, C]`.
      groups: how many B is divided into.

    Returns:
      `[B, H', W', C']`.
    """
    loop = nn.scan(
        lambda module, carry, group: (carry, function(module, group)),
        variable_broadcast=True,
        split_rngs={},
    )
    _, found = loop(module, None, images.reshape(groups, -1, *images.shape[1:]))
    return found.reshape(-1, *found.shape[2:])
