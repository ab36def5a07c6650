"""What a network costs, from shapes alone."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from ml_collections import ConfigDict

from crl_jax import models
from crl_jax.models import layers
from crl_jax.models.architecture import branched_layers, split_layers


@dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
      shared: parameters of the trunk.
      branch: parameters that each task has to itself, without its head.
      heads: `{task: parameters}`.
      cross: learned cross weights.
      flops: of the forward pass of one image, see `flops`.
      activation_bytes: what the backward pass of one image keeps of the forward pass.
    """

    shared: int
    branch: int
    heads: Mapping[str, int]
    cross: int
    flops: int
    activation_bytes: int

    @property
    def total(self) -> int:
        """All parameters."""
        branches = self.branch * len(self.heads)
        return self.shared + branches + sum(self.heads.values()) + self.cross


def cost(config: ConfigDict, classes: Mapping[str, int]) -> Cost:
    """Returns the cost of the network of a config; nothing is computed or allocated.

    Args:
      config: a checked config.
      classes: `{task: K}`.
    """
    # As on one device: there is no axis here to average or sum over.
    network = models.build(config, classes).clone(batch_norm_axis=None, task_devices=1)
    size = config.data.image_size

    def images(count: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((count, size, size, 3), jnp.uint8)

    variables = models.abstract_variables(network, size)
    branched = branched_layers(config.model.depth, config.model.branch_from)
    parameters: dict[str, int] = {"shared": 0, "branch": 0, "cross": 0}
    for layer, tree in variables["params"].items():
        if layer != "head":
            kind = "branch" if layer in branched else "shared"
            kind = "cross" if layer.endswith("_cross") else kind
            parameters[kind] += _size(tree)

    def kept_for_backward(variables: Any, batch: Any) -> Any:
        frozen, trained = split_layers(variables["params"], network.frozen_layers)

        def forward(trained: Any) -> Any:
            both = {**variables, "params": frozen | trained}
            return network.apply(both, batch, train=True, mutable=["batch_stats"])

        return jax.vjp(forward, trained, has_aux=True)[1]

    one, two = (
        _bytes(jax.eval_shape(kept_for_backward, variables, images(n))) for n in (1, 2)
    )
    return Cost(
        shared=parameters["shared"],
        branch=parameters["branch"] // len(classes),
        heads={task: _size(variables["params"]["head"][task]) for task in classes},
        cross=parameters["cross"],
        flops=flops(network.apply, variables, images(1)),
        activation_bytes=two - one,  # parameters are kept too, but only once
    )


def flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Returns the FLOPs of a function of these inputs, or of their shapes.

    As is usual, they are those of convolutions and matrix products, also where a kernel
    lies on padding; a multiply-add counts as two. Convolutions are traced as plain
    ones, whatever the device computes instead.
    """
    with layers.traced_for("any"):
        # A function of its own, since another trace of this one may be cached.
        traced = jax.make_jaxpr(lambda *inputs: function(*inputs))(*inputs)
    return 2 * _multiply_adds(traced.jaxpr)


def _multiply_adds(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        for inner in core.jaxprs_in_params(equation.params):
            total += times * _multiply_adds(inner)
        if equation.primitive.name not in ("conv_general_dilated", "dot_general"):
            continue
        numbers = equation.params["dimension_numbers"]
        (_, weights), (result,) = equation.invars, equation.outvars
        if equation.primitive.name == "dot_general":
            (_, summed), _ = numbers
            each = math.prod(weights.aval.shape[axis] for axis in summed)
        else:
            each = weights.aval.size // weights.aval.shape[numbers.rhs_spec[0]]
        total += result.aval.size * each
    return total


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _bytes(tree: Any) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
