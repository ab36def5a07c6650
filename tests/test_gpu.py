"""What is computed otherwise on a GPU, beside the same elsewhere; on a CPU."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_cpu import assert_same, normal, xla_convolve
from test_models import images, init, perturbed, tiny

from crl_jax.models import gpu, layers

BATCH, SIZE = 5, 32


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (1, 2)])
@pytest.mark.parametrize("kernel", [(7, 7), (3, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_convolve_blocks(size, kernel, stride):
    x, weights = normal(2, *size, 3), normal(*kernel, 3, 5, seed=1) / 10
    ours = functools.partial(gpu.convolve_blocks, stride=stride)
    assert_same(ours, lambda *v: xla_convolve(*v, stride), x, weights)


def test_blocks_have_channels_for_the_matrix_units():
    def shapes(x, kernel):
        jaxpr = jax.make_jaxpr(lambda *v: gpu.convolve_blocks(*v, 2))(x, kernel)
        (convolution,) = (
            e for e in jaxpr.eqns if e.primitive.name == "conv_general_dilated"
        )
        return [v.aval.shape for v in convolution.invars]

    found = shapes(jnp.zeros((1, 224, 224, 3)), jnp.zeros((7, 7, 3, 64)))
    assert found == [(1, 115, 115, 16), (4, 4, 16, 64)]


def prepared(settings):
    network = tiny(**settings)
    batch = images(BATCH, SIZE)
    return network, perturbed(init(network, batch)), batch


def assert_close(found, expected):
    for ours, theirs in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = max(float(jnp.abs(theirs).max()), 1e-3)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4 * scale)


def test_attention_gives_the_logits_of_a_cpu():
    network, *inputs = prepared({"fusion": "mtan", "branch_from": "head"})
    expected = jax.jit(network.apply)(*inputs)
    with layers.traced_for("gpu"):
        found = jax.jit(lambda *v: network.apply(*v))(*inputs)
    assert_close(found, expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"stem": "large", "branch_from": "stem"},
        {"stem": "large", "depth": 50, "width": 0.03125, "branch_from": "res5b"},
        {"fusion": "nddr", "branch_from": "res5a"},
    ],
)
def test_running_statistics_give_the_logits_and_gradients_of_a_cpu(settings):
    """The scale is in the kernel there, and both are trained."""
    network, variables, batch = prepared(settings)
    network = network.clone(frozen_batch_stats=True)

    def loss(params):
        logits = network.apply({**variables, "params": params}, batch, train=True)
        return sum(jnp.sum(jnp.sin(v)) for v in logits.values()), logits

    def logits_and_gradients():
        return jax.jit(jax.grad(lambda p: loss(p), has_aux=True))(variables["params"])

    expected = logits_and_gradients()
    with layers.traced_for("gpu"):
        assert_close(logits_and_gradients(), expected)


def scaled_pictures(platform):
    """Counts what is multiplied at each pixel of an evaluation."""
    network, variables, batch = prepared({"branch_from": "head"})
    with layers.traced_for({"cuda": "gpu"}.get(platform, platform)):
        traced = jax.jit(lambda *v: network.apply(*v)).trace(variables, batch)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    return len(re.findall(rf"stablehlo.multiply .* : tensor<{BATCH}x\d+x\d+x", text))


def test_an_evaluation_scales_kernels_and_no_pictures():
    assert scaled_pictures("cuda") == 0
    assert scaled_pictures("tpu") > 0
