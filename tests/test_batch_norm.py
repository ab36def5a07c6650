"""Batch normalisation against NumPy, JAX's own derivative, and the whole batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import cli, costs
from crl_jax.models import layers
from crl_jax.models.batch_norm import BatchNorm

EPSILON = 1e-5
SHAPE = (8, 3, 5, 4)


def pictures(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).normal(2, 3, shape).astype(np.float32)


def parameters(seed=1, shape=SHAPE[-1:]):
    scale, bias = np.random.default_rng(seed).normal(1, 1, (2, *shape))
    return {"scale": scale.astype(np.float32), "bias": bias.astype(np.float32)}


def start_statistics(shape=SHAPE[-1:]):
    return {"mean": np.zeros(shape, np.float32), "var": np.ones(shape, np.float32)}


class Nothing:
    """A convolution that changes nothing."""

    features = SHAPE[-1]

    def __call__(self, x, scale=None):
        return x if scale is None else x * layers.channels(scale)


def apply(params, x, stats, axis_name=None):
    module = BatchNorm(train=True, axis_name=axis_name)
    variables = {"params": params, "batch_stats": stats}
    return module.apply(variables, Nothing(), x, mutable=["batch_stats"])


def loss(params, x, axis_name=None):
    y, _ = apply(params, x, start_statistics(), axis_name)
    return jnp.sum(jnp.sin(y))


def plain_loss(params, x):
    """The formula, for JAX to derive."""
    mean, var = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
    scale, bias = (params[k].reshape(1, 1, 1, -1) for k in ("scale", "bias"))
    return jnp.sum(jnp.sin((x - mean) / jnp.sqrt(var + EPSILON) * scale + bias))


def assert_close(a, b):
    chex.assert_trees_all_close(a, b, rtol=1e-5, atol=1e-5)


def test_training_and_running_averages_against_numpy():
    params, stats = parameters(), start_statistics()
    running = {k: v.astype(np.float64) for k, v in stats.items()}
    for seed in (0, 1):
        x = pictures(seed)
        y, updated = apply(params, x, stats)
        stats = updated["batch_stats"]

        mean, var = (f(x.astype(np.float64), (0, 1, 2)) for f in (np.mean, np.var))
        expected = (x - mean) / np.sqrt(var + EPSILON)
        np.testing.assert_allclose(
            y, expected * params["scale"] + params["bias"], rtol=1e-5, atol=1e-5
        )
        running["mean"] = 0.9 * running["mean"] + 0.1 * mean
        running["var"] = 0.9 * running["var"] + 0.1 * var
    for name, value in running.items():
        np.testing.assert_allclose(stats[name], value, rtol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_evaluation_uses_the_running_averages(backend):
    x, params = pictures(), parameters()
    stats = {"mean": pictures(2)[0, 0, 0], "var": abs(pictures(3)[0, 0, 0]) + 1}
    variables = {"params": params, "batch_stats": stats}
    with layers.traced_for(backend):
        y = BatchNorm(train=False).apply(variables, Nothing(), x)
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON)
    expected = expected * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_gradient_is_that_of_the_formula():
    arguments = parameters(), pictures()
    assert_close(
        jax.grad(loss, (0, 1))(*arguments), jax.grad(plain_loss, (0, 1))(*arguments)
    )


def test_gradient_of_tasks_and_seeds_is_that_of_each():
    """Under one `vmap` over tasks and another over seeds."""
    params = parameters(shape=(2, 3, SHAPE[-1]))
    x = pictures(shape=(2, 3, *SHAPE))
    gradient = jax.grad(loss, (0, 1))
    together = jax.vmap(jax.vmap(gradient))(params, x)
    for s in range(2):
        for t in range(3):
            pick = functools.partial(jax.tree.map, lambda v, s=s, t=t: v[s, t])
            assert_close(pick(together), gradient(pick(params), x[s, t]))


def test_gradient_over_devices_is_that_of_the_whole_batch():
    params, x = parameters(), pictures()
    gradient = jax.grad(functools.partial(loss, axis_name="data"), (0, 1))
    mapped = jax.vmap(gradient, in_axes=(None, 0), axis_name="data")
    of_params, of_x = mapped(params, x.reshape(4, 2, *SHAPE[1:]))
    summed = jax.tree.map(lambda v: v.sum(axis=0), of_params)
    assert_close((summed, of_x.reshape(SHAPE)), jax.grad(loss, (0, 1))(params, x))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dtype_is_kept_and_statistics_are_float32(dtype):
    x = jnp.asarray(pictures(), dtype)
    y, updated = apply(parameters(), x, start_statistics())
    chex.assert_type(y, dtype)
    chex.assert_type(jax.tree.leaves(updated), jnp.float32)
    chex.assert_type(jax.grad(loss, 1)(parameters(), x), dtype)


def test_bfloat16_halves_the_memory_of_activations():
    def activation_bytes(dtype):
        overrides = [("model.dtype", dtype), ("data.image_size", "32")]
        overrides += [("model.depth", "12")]
        config = cli.load_config("configs/vso.py", overrides)
        return costs.cost(config, {"a": 2, "b": 3}).activation_bytes

    assert activation_bytes("bfloat16") < 0.6 * activation_bytes("float32")
