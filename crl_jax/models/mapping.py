"""Convolutions under `vmap`, over tasks and over runs, as one call for each.

JAX would batch a convolution over its kernels into a grouped convolution, which is
several times slower than the same convolutions one by one.
"""

import contextvars
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
Convolve = Callable[[Array, Array], Array]  # of pictures and kernel

_over_runs = contextvars.ContextVar[bool]("over_runs", default=False)


def over_runs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the `vmap` of a function over runs, each with kernels of its own."""

    def of_one(*inputs: Any) -> Any:
        token = _over_runs.set(True)
        try:
            return function(*inputs)
        finally:
            _over_runs.reset(token)

    return jax.vmap(of_one)


def is_over_runs() -> bool:
    """Returns whether what is traced now is mapped by `over_runs`."""
    return _over_runs.get()


def for_tasks(convolve: Convolve) -> Convolve:
    """Returns a convolution for a `vmap` over tasks.

    Reverse mode works only under it, so shared units use the plain convolution.
    """
    return _one_by_one(convolve, under=convolve)


def for_runs(convolve: Convolve) -> Convolve:
    """Returns a convolution for a `vmap` over runs, and any others."""

    def pull_back(x: Array, kernel: Array, y_bar: Array) -> Any:
        return jax.vjp(convolve, x, kernel)[1](y_bar)

    # For reverse mode without any `vmap` over tasks, the gradient is told as well.
    forward, backward = _one_by_one(convolve), _one_by_one(pull_back)
    mapped = jax.custom_vjp(forward)
    mapped.defvjp(
        lambda x, kernel: (forward(x, kernel), (x, kernel)),
        lambda kept, y_bar: backward(*kept, y_bar),
    )
    return mapped


def _one_by_one(
    function: Callable[..., Any], under: Callable[..., Any] | None = None
) -> Any:
    """Returns a function of which `vmap` makes a call for each element.

    Args:
      function: of arrays.
      under: what is called then; by default the same, for a `vmap` around it.
    """
    mapped = jax.custom_batching.custom_vmap(function)

    @mapped.def_vmap
    def each(axis_size: int, in_batched: list[bool], *inputs: Array) -> Any:
        def split(v: Array, batched: bool) -> list[Array]:
            # A split's gradient is a concatenation, that of v[t] is a padded sum.
            return list(jnp.unstack(v)) if batched else [v] * axis_size

        parts = zip(*map(split, inputs, in_batched), strict=True)
        results = [(under or mapped)(*part) for part in parts]
        stacked = jax.tree.map(lambda *found: jnp.stack(found), *results)
        return stacked, jax.tree.map(lambda _: True, stacked)

    return mapped
