"""The layers for CPUs against XLA's own: values, gradients, and under `vmap`."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from crl_jax.models import cpu, layers, windows, winograd


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


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 2)])
@pytest.mark.parametrize("rows", [3, 7])
@pytest.mark.parametrize("features", [2, 40])
def test_convolve_with_stride(size, rows, features):
    x, kernel = normal(2, *size, 3), 0.2 * normal(rows, rows, 3, features, seed=1)
    assert_same(
        lambda x, kernel: cpu.convolve_with_stride(x, kernel, 2),
        lambda x, kernel: xla_convolve(x, kernel, 2),
        x,
        kernel,
    )


FORMS = pytest.mark.parametrize("form", [winograd.SMALL, winograd.LARGE])


@FORMS
@pytest.mark.parametrize("size", [(6, 8), (7, 5), (2, 1)])
@pytest.mark.parametrize(("channels", "features"), [(3, 5), (5, 3)])
def test_winograd(form, size, channels, features):
    x = normal(2, *size, channels)
    kernel = 0.2 * normal(3, 3, channels, features, seed=1)
    assert_same(
        functools.partial(winograd.convolve_in, form),
        lambda x, kernel: xla_convolve(x, kernel, 1),
        x,
        kernel,
    )


def test_winograd_takes_large_tiles_where_they_are_many_and_filled():
    shapes = [(8, 56, 56), (8, 7, 7), (32, 7, 7), (64, 2, 2), ("any", 56, 56)]
    forms = [winograd.form_for((*shape, 64)) for shape in shapes]
    small, large = winograd.SMALL, winograd.LARGE
    assert forms == [large, small, large, small, small]


@FORMS
def test_winograd_rounds_about_as_little_as_a_plain_convolution(form):
    x, kernel = normal(2, 14, 14, 64), normal(3, 3, 64, 64, seed=1)
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, i : i + 14, j : j + 14] @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    errors = [
        np.abs(convolve(x, kernel) - exact).max()
        for convolve in (
            functools.partial(winograd.convolve_in, form),
            lambda x, k: xla_convolve(x, k, 1),
        )
    ]
    assert errors[0] < 3 * errors[1]


@pytest.mark.parametrize("size", [(6, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_max_pool(size, stride):
    x = normal(2, *size, 3)
    ours = functools.partial(windows.max_pool, size=3, stride=stride)
    assert_same(ours, lambda x: xla_max_pool(x, 3, stride), x)
    # Where no gradient is asked for.
    np.testing.assert_array_equal(ours(x), xla_max_pool(x, 3, stride))


def test_max_pool_gives_the_gradient_to_the_first_of_equals():
    x = np.array([[3, 3, 1], [2, 3, 0], [3, 0, 3]], np.float32).reshape(1, 3, 3, 1)
    ours = functools.partial(windows.max_pool, size=3, stride=2)
    assert_same(ours, lambda x: xla_max_pool(x, 3, 2), x)


@pytest.mark.parametrize(("size", "channels"), [(8, 6), (20, 6), (20, 64)])
def test_layers_compute_the_same_on_every_backend(size, channels):
    def outputs(x, kernel, narrow):
        pooled = layers.max_pool(layers.convolve(x, kernel, 1), 3, 2)
        return layers.convolve(pooled, narrow, 2)

    inputs = (
        normal(2, size, size, channels),
        normal(3, 3, channels, channels),
        normal(1, 1, channels, 4),
    )

    def value_and_gradients():
        value, backward = jax.vjp(outputs, *inputs)
        return value, *backward(value)

    on_cpu = value_and_gradients()
    for backend in ("gpu", "tpu", "any"):
        with layers.traced_for(backend):
            elsewhere = value_and_gradients()
        for ours, theirs in zip(elsewhere, on_cpu, strict=True):
            scale = float(jnp.abs(theirs).max())
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * scale)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_means_of_powers(backend):
    x = normal(2, 3, 4, 5)
    with layers.traced_for(backend):
        means, means_of_squares = layers.means_of_powers(x)
        each = jax.vmap(layers.means_of_powers)(np.stack([x, 2 * x]))
    over = (0, 1, 2)
    np.testing.assert_allclose(means, x.mean(over), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(means_of_squares, (x * x).mean(over), rtol=1e-5)
    np.testing.assert_allclose(each[0], [means, 2 * means], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
        each[1], [means_of_squares, 4 * means_of_squares], rtol=1e-5
    )


@pytest.mark.parametrize("shared", [False, True])
def test_relu(shared):
    x = normal(2, 3, 4)
    x[0] = 0
    assert_same(lambda x: layers.relu(x, shared), lambda x: jnp.where(x > 0, x, 0), x)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_what_is_not_updated_stays_as_it_was(backend):
    """One at a time, and of several at once those alone whose condition fails."""
    old = {"a": normal(3, 2), "b": np.arange(3, dtype=np.int32)}
    good = np.array([True, False, True])

    def update(tree):
        return {"a": jnp.log(-jnp.abs(tree["a"])), "b": tree["b"] + 1}  # no numbers

    with layers.traced_for(backend):
        several = jax.vmap(lambda g, o: layers.update_if(g, update, o))(good, old)
        for i, one in enumerate(good):
            of_one = jax.tree.map(lambda x, i=i: x[i], old)
            alone = jax.jit(lambda g, o: layers.update_if(g, update, o))(one, of_one)
            expected = update(of_one) if one else of_one
            chex.assert_trees_all_equal(alone, expected)
            chex.assert_trees_all_equal(
                jax.tree.map(lambda x, i=i: x[i], several), alone
            )


def test_an_update_writes_over_what_it_is_given():
    def step(old, good, gradient):
        def update(old):
            velocity = 0.9 * old["velocity"] + gradient + 1e-4 * old["param"]
            return {"param": old["param"] - velocity, "velocity": velocity}

        return layers.update_if(good, update, old)

    zeros = np.zeros((1000, 100), np.float32)
    jitted = jax.jit(step, donate_argnums=0)
    old = {"param": zeros, "velocity": zeros}
    compiled = jitted.lower(old, True, zeros).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < zeros.nbytes / 10
