"""The statistics of a comparison against SciPy, simulation and sums by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from crl_jax.comparison import statistics
from crl_jax.errors import UserError


def test_spread_is_that_of_a_sample():
    mean, deviation = statistics.spread(np.array([1.0, 2.0, 6.0]))
    assert mean == 3
    assert deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert math.isnan(statistics.spread(np.array([1.0]))[1])


def test_the_interval_is_scipys_bootstrap_widened():
    rng = np.random.default_rng(1)
    a, b = rng.normal(2, 1, 12), rng.normal(1, 1, 12)
    found = statistics.paired_difference(a, b)
    theirs = stats.bootstrap(
        (a, b),
        lambda x, y: np.mean(x - y),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    mean = np.mean(a) - np.mean(b)
    widened = math.sqrt(12 / 11) * 2.200985 / 1.959964  # Student's t, 11 degrees
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean + widened * (theirs.low - mean), abs=0.04)
    assert found.high == pytest.approx(mean + widened * (theirs.high - mean), abs=0.04)


@pytest.mark.parametrize(("seeds", "narrowest"), [(3, 0.92), (5, 0.93), (10, 0.93)])
def test_the_interval_covers_the_truth_as_often_as_it_says(seeds, narrowest):
    """Plain percentiles would cover it in 70% to 90% of the cases."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        found = statistics.paired_difference(rng.normal(1, 2, seeds), np.zeros(seeds))
        covered += found.low <= 1 <= found.high
    assert narrowest <= covered / 400 <= 0.99


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0], "better"),
        ([-1.0, -1.1, -0.9, -1.0], "worse"),
        ([1.0, -1.1, 0.9, -0.7], "no difference seen"),
        ([0.0, 0.0, 0.0, 0.0], "no difference seen"),
        ([3.0], "no difference seen"),
    ],
)
def test_a_difference_is_judged_by_its_interval(values, verdict):
    found = statistics.paired_difference(np.array(values), np.zeros(len(values)))
    assert found.verdict == verdict


def test_multitask_gain_by_hand():
    gain = statistics.multitask_gain(
        {"noun": np.array([0.6, 0.5]), "anp": np.array([0.2, 0.3])},
        {"noun": np.array([0.5, 0.5]), "anp": np.array([0.25, 0.2])},
    )
    # (20% - 20%) / 2 and (0% + 50%) / 2
    np.testing.assert_allclose(gain, [0, 25], atol=1e-9)


def test_a_gain_over_nothing_is_an_error():
    with pytest.raises(UserError, match="needs a baseline for noun"):
        statistics.multitask_gain({"noun": np.array([0.5, 0.5])}, {})


def test_a_gain_over_a_network_that_is_never_right_does_not_exist():
    baseline = {"noun": np.array([0.0, 0.5])}
    gain = statistics.multitask_gain({"noun": np.array([0.5, 1.0])}, baseline)
    np.testing.assert_array_equal(gain, [np.nan, 100])
