"""What the training loop guards and evaluates."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax import evaluation_loop, step
from crl_jax.train import train


def test_a_step_that_needs_a_host_transfer_is_refused(
    small_config, tmp_path, monkeypatch
):
    map_train_step = step.map_train_step

    def with_transfer(*arguments):
        mapped = map_train_step(*arguments)

        def transferring(state, batch):
            jax.jit(jnp.sin)(np.ones(3, np.float32))
            return mapped(state, batch)

        return transferring

    monkeypatch.setattr(step, "map_train_step", with_transfer)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(small_config, tmp_path / "run")


def test_the_moving_average_is_what_is_evaluated(small_config, tmp_path, monkeypatch):
    small_config.optim.ema = 0.9
    small_config.train.eval_every = small_config.train.steps
    evaluated, states = [], []
    run, map_train_step = evaluation_loop.evaluate_batches, step.map_train_step

    def recording_run(eval_step, variables, *rest):
        evaluated.append(jax.device_get(variables))
        return run(eval_step, variables, *rest)

    def recording_map(*arguments):
        mapped = map_train_step(*arguments)

        def recorded(state, batch):
            state, sums = mapped(state, batch)
            states.append(state)
            return state, sums

        return recorded

    monkeypatch.setattr(evaluation_loop, "evaluate_batches", recording_run)
    monkeypatch.setattr(step, "map_train_step", recording_map)
    train(small_config, tmp_path / "run")
    last = jax.device_get(states[-1])
    assert len(evaluated) == 2  # on the validation and on the test split
    for variables in evaluated:
        chex.assert_trees_all_equal(variables, last.average)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(last.variables, last.average)
