"""Optimisers against their rules in NumPy, and the rates of the steps."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import assert_close, make, make_batch, prepare, run, step_of

from crl_jax import config_check, optim
from crl_jax.config import default


def test_weight_decay_touches_kernels_only():
    _, _, _, state = make()
    mask = optim.is_kernel(state.variables["params"])
    for path, marked in jax.tree.leaves_with_path(mask):
        assert marked == (path[-1].key == "kernel")
    learned = {"res5b_cross": {"weight": jnp.ones(2)}, "head": {"kernel": jnp.ones(2)}}
    marked = optim.is_kernel(learned)
    assert marked == {"res5b_cross": {"weight": False}, "head": {"kernel": True}}


def test_sgd_against_the_rule_in_numpy():
    """v = m v + (g + d w); w = w - r v, on a kernel; no decay on a bias."""
    config = config_check.check(default())
    optimizer = optim.make(config.optim, lambda count: 0.1)
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}
    state = optimizer.init(params)
    kernel, bias = np.array([1.0, -2.0]), np.array([3.0])
    v_kernel, v_bias = np.zeros(2), np.zeros(1)
    for _ in range(3):
        gradients = {"kernel": jnp.array([0.5, 0.25]), "bias": jnp.array([1.0])}
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        v_kernel = 0.9 * v_kernel + np.array([0.5, 0.25]) + 1e-4 * kernel
        v_bias = 0.9 * v_bias + np.array([1.0])
        kernel, bias = kernel - 0.1 * v_kernel, bias - 0.1 * v_bias
    np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-6)
    np.testing.assert_allclose(params["bias"], bias, rtol=1e-6)


def updated_kernel(gradients, **changes):
    """The kernel [1, -2] after a step of rate 0.1 along each of the gradients."""
    config = default()
    for name, value in changes.items():
        config_check.set_field(config, f"optim.{name}", value)
    optimizer = optim.make(config_check.check(config).optim, lambda count: 0.1)
    params = {"kernel": jnp.array([1.0, -2.0])}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = optimizer.update({"kernel": gradient}, state, params)
        params = optax.apply_updates(params, updates)
    return params["kernel"]


GRADIENTS = np.array([[0.5, 0.25], [-1.0, 2.0], [0.1, 0.0]], np.float32)


def test_nesterov_against_the_rule_in_numpy():
    """v = m v + g; w = w - r (g + m v), where g includes the decay."""
    w, v = np.array([1.0, -2.0]), np.zeros(2)
    for gradient in GRADIENTS:
        g = gradient + 1e-2 * w
        v = 0.9 * v + g
        w = w - 0.1 * (g + 0.9 * v)
    result = updated_kernel(GRADIENTS, nesterov=True, weight_decay=1e-2)
    np.testing.assert_allclose(result, w, rtol=1e-5)


def test_adamw_against_the_rule_in_numpy():
    """w = w - r (m / (sqrt(s) + e) + d w), m and s without their bias."""
    w, m, s = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for i, g in enumerate(GRADIENTS, start=1):
        m, s = 0.9 * m + 0.1 * g, 0.999 * s + 0.001 * g**2
        unbiased_m, unbiased_s = m / (1 - 0.9**i), s / (1 - 0.999**i)
        w = w - 0.1 * (unbiased_m / (np.sqrt(unbiased_s) + 1e-8) + 1e-2 * w)
    result = updated_kernel(GRADIENTS, name="adamw", weight_decay=1e-2)
    np.testing.assert_allclose(result, w, rtol=1e-5)


CLIPPED = {"optim.clip_norm": 0.1, "optim.learning_rate": 0.01}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_optimisers_average(name):
    _, _, train_step, state = make(**CLIPPED | {"optim.name": name, "optim.ema": 0.5})
    after, _ = run(train_step, state, make_batch(), devices=1, steps=1)
    before = jax.device_get(state)
    # At step 0 the average keeps min(0.5, 1 / 10) of itself.
    expected = jax.tree.map(
        lambda old, new: 0.1 * old + 0.9 * new, before.average, after.variables
    )
    assert_close(after.average, expected, 1e-6)


def test_gradients_are_clipped():
    """The first update of SGD is the gradient times the rate."""
    config, network, clipping, state = make(**CLIPPED)
    unclipped = step_of(*prepare(**CLIPPED | {"optim.clip_norm": 1e3}))

    def moved(train_step):
        after, _ = run(train_step, state, make_batch(), devices=1, steps=1)
        before, after = (s.variables["params"] for s in (state, after))
        return float(optax.tree.norm(jax.tree.map(lambda a, b: a - b, after, before)))

    rate = float(optim.learning_rate(config.optim, 10)(0))
    assert moved(unclipped) > 2 * 0.1 * rate
    assert moved(clipping) == pytest.approx(0.1 * rate, rel=0.1)


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_learning_rate_schedules(schedule):
    config = default().optim
    config.schedule, config.learning_rate, config.warmup = schedule, 1.0, 0.1
    rate = optim.learning_rate(config, 100)
    rates = np.array([float(rate(i)) for i in range(100)])
    assert 0 < rates[0] < rates[5] < rates[9] < 1
    assert rates[10] == 1.0
    progress = (np.arange(10, 100) - 10) / 90
    expected = {
        "cosine": 0.5 * (1 + np.cos(np.pi * progress)),
        "step": np.where(
            np.arange(10, 100) < 50, 1.0, np.where(np.arange(10, 100) < 75, 0.1, 0.01)
        ),
        "constant": np.ones(90),
    }
    np.testing.assert_allclose(rates[10:], expected[schedule], rtol=1e-4, atol=1e-6)


def test_two_falls_of_the_rate_on_the_same_step_both_count():
    config = default().optim
    config.schedule, config.learning_rate, config.warmup = "step", 1.0, 0.0
    config.decay_at = (0.8, 0.85)
    rate = optim.learning_rate(config, 10)
    rates = [float(rate(i)) for i in range(10)]
    np.testing.assert_allclose(rates, [1.0] * 8 + [0.01] * 2, rtol=1e-6)
