"""Runs that differ in their seed, trained as one program, beside each run alone."""

import csv

import chex
import launched
import numpy as np
import pytest

from crl_jax import config_check, networks
from crl_jax.data import stream
from crl_jax.errors import UserError
from crl_jax.train import train, train_seeds

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def config(new_config):
    config = new_config()
    config.model.branch_from = "res5a"
    config.model.cross.learned = True
    config.train.log_every, config.train.eval_every = 1, 2
    # Rounding grows from step to step; so it grows little.
    config.model.sync_batch_norm, config.optim.learning_rate = True, 0.005
    config.train.steps = 4
    return config_check.check(config)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    """Each run alone: its folders, and what its training returned."""
    directory = tmp_path_factory.mktemp("alone")
    return {
        seed: (
            directory / str(seed),
            train(seeded(config, seed), directory / str(seed)),
        )
        for seed in SEEDS
    }


@pytest.fixture(scope="module")
def together(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("together")
    folders = {seed: directory / str(seed) for seed in SEEDS}
    results = train_seeds(config, folders)
    return {seed: (folders[seed], results[seed]) for seed in SEEDS}


def seeded(config, seed):
    return networks.with_settings(config, {"train.seed": seed})


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_run(a, b, tolerance=2e-4):
    """Checkpoints and rows are equal, to rounding."""
    states = launched.saved_state(a), launched.saved_state(b)
    chex.assert_trees_all_close(*states, rtol=tolerance, atol=tolerance)
    for one, other in zip(rows(a), rows(b), strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"split"}:
            np.testing.assert_allclose(
                float(one[name] or "nan"), float(other[name] or "nan"), rtol=2e-3
            )


@pytest.mark.parametrize("seed", SEEDS)
def test_each_run_is_what_it_would_be_alone(alone, together, seed):
    (a, expected), (b, result) = alone[seed], together[seed]
    assert_same_run(a, b)
    chex.assert_trees_all_close(result, expected, rtol=1e-3)


def test_seeds_differ(together):
    (a, _), (b, _) = together.values()
    with pytest.raises(AssertionError):
        assert_same_run(a, b)


def test_runs_that_stand_at_different_steps_go_on(config, alone, together, tmp_path):
    """One has done two steps alone, the other has not begun."""
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    first = SEEDS[0]
    launched.rewind(alone[first][0], folders[first], step=2)
    train_seeds(config, folders)
    for seed in SEEDS:
        assert_same_run(folders[seed], together[seed][0])


def test_runs_that_were_stopped_go_on(config, together, tmp_path):
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    for seed in SEEDS:
        launched.rewind(together[seed][0], folders[seed], step=2)
    train_seeds(config, folders)
    for seed in SEEDS:
        whole = launched.saved_state(together[seed][0])
        chex.assert_trees_all_equal(launched.saved_state(folders[seed]), whole)


def test_a_run_whose_loss_is_no_number_is_named(config, tmp_path, monkeypatch):
    """The second run, at its third step."""
    folders = {seed: tmp_path / str(seed) for seed in SEEDS}
    side_by_side = stream.side_by_side

    def broken(streams):
        for number, batch in enumerate(side_by_side(streams)):
            if number == 2:
                batch["image"] = batch["image"].astype(np.float32)
                batch["image"][1] = np.nan
            yield batch

    monkeypatch.setattr(stream, "side_by_side", broken)
    with pytest.raises(UserError, match=r"infinite at step 3.*4/broken_step.json"):
        train_seeds(config, folders)
    assert not (folders[3] / "broken_step.json").exists()
    assert launched.saved_state(folders[4]).step == 2
