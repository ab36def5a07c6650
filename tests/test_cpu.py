"""The layers for CPUs against XLA's own: values, gradients, and under `vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from crl_jax.models import cpu, layers


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def xla_convolve(x, kernel, stride):
    rows, columns = kernel.shape[:2]
    pad = [(rows // 2, rows // 2), (columns // 2, columns // 2)]
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def xla_max_pool(x, size, stride):
    return nn.max_pool(x, (size,) * 2, (stride,) * 2, ((size // 2,) * 2,) * 2)


def assert_same(ours, theirs, *inputs):
    """Compares values and gradients, of one input and of a stack of three."""

    def value_and_gradients(function, *inputs):
        y, backward = jax.vjp(function, *inputs)
        return y, backward(jnp.cos(y))

    for batched in (False, True):
        a, b = (functools.partial(value_and_gradients, f) for f in (ours, theirs))
        if batched:
            a, b = jax.vmap(a), jax.vmap(b)
            inputs = [np.stack([x, x[::-1], 2 * x]) for x in inputs]
        result, expected = (jax.jit(f)(*inputs) for f in (a, b))
        for left, right in zip(
            jax.tree.leaves(result), jax.tree.leaves(expected), strict=True
        ):
            np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("channels", "features"), [(3, 5), (5, 3)])
def test_matmul(channels, features):
    x, weight = normal(2, 3, 4, channels), normal(channels, features, seed=1)
    assert_same(cpu.matmul, jnp.dot, x, weight)


@pytest.mark.parametrize("size", [(4, 5), (7, 7), (1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("features", [2, 40])
def test_convolve_patches(size, stride, features):
    x, kernel = normal(2, *size, 3), normal(3, 3, 3, features, seed=1)
    assert_same(
        lambda x, kernel: cpu.convolve_patches(x, kernel, stride),
        lambda x, kernel: xla_convolve(x, kernel, stride),
        x,
        kernel,
    )


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool(size, stride):
    assert_same(
        lambda x: cpu.max_pool(x, 3, stride),
        lambda x: xla_max_pool(x, 3, stride),
        normal(2, *size, 3),
    )


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = np.array([[3, 3, 1], [2, 3, 0], [3, 0, 3]], np.float32).reshape(1, 3, 3, 1)
    assert_same(lambda x: cpu.max_pool(x, 3, 2), lambda x: xla_max_pool(x, 3, 2), x)


@pytest.mark.parametrize("size", [8, 20])
def test_layers_compute_the_same_on_every_backend(size, monkeypatch):
    def outputs(x, kernel, narrow):
        pooled = layers.max_pool(layers.convolve(x, kernel, 1), 3, 2)
        return layers.convolve(pooled, narrow, 2)

    inputs = normal(2, size, size, 3), normal(3, 3, 3, 6), normal(1, 1, 6, 4)
    on_cpu = outputs(*inputs)
    monkeypatch.setattr(layers, "_on_cpu", lambda: False)
    np.testing.assert_allclose(outputs(*inputs), on_cpu, rtol=1e-4, atol=1e-5)
