"""Where a user has JAX compute in 64 bits, a run has the same arrays as elsewhere.

Its checkpoints could not be restored otherwise.
"""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_step import KINDS, make_batch, prepare

import crl_jax
from crl_jax import metrics
from crl_jax.devices import make_mesh, put_batch
from crl_jax.kinds import Categorical, Multilabel, Regression
from crl_jax.program import Program
from crl_jax.train import train

PLAIN = {"model.cross.init": 0.0}
CHANGES = [
    {"optim.name": "adamw"},
    {"train.accumulate": 2},
    PLAIN | {"model.fusion": "cross_stitch"},
    PLAIN | {"model.fusion": "nddr"},
    PLAIN | {"model.fusion": "mtan", "model.branch_from": "head"},
    *({"optim.weighting": name} for name in ("fixed", "uncertainty", "dwa")),
    *({"optim.weighting": name} for name in ("geometric", "gradnorm", "pcgrad")),
    {"optim.weighting": "cagrad"},
]


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_step_has_the_dtypes_of_32_bits(changes):
    config, network = prepare(**changes)
    mesh = make_mesh()

    def of_step():
        program = Program(config, KINDS, network, mesh, lambda _: 0.1)
        batch = put_batch(make_batch(), mesh)
        after, report = jax.eval_shape(
            program.train_step(), program.abstract_state, batch
        )
        return dtypes((program.abstract_state, after, report))

    expected = of_step()
    assert expected[0] == expected[1]
    with jax.enable_x64(True):
        assert of_step() == expected


def test_sums_over_no_examples_have_the_dtypes_of_32_bits():
    kinds = {
        "a": Categorical(("x", "y")),
        "b": Multilabel(("x", "y", "z")),
        "c": Regression(0.0, 1.0),
    }
    expected = dtypes(metrics.zeros(kinds))
    with jax.enable_x64(True):
        assert dtypes(metrics.zeros(kinds)) == expected


def test_a_run_is_read_and_gone_on_with(whole, small_config, tmp_path):
    undisturbed, expected = whole
    picture = Path(small_config.data.manifest).parent / "20.png"
    (answer,) = crl_jax.load(undisturbed)(picture)
    workdir = shutil.copytree(undisturbed, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / str(small_config.train.steps))
    (workdir / "result.json").unlink()
    with jax.enable_x64(True):
        (found,) = crl_jax.load(undisturbed)(picture)
        result = train(small_config, workdir)
    for task, probabilities in answer.probabilities.items():
        np.testing.assert_allclose(found.probabilities[task], probabilities, rtol=1e-5)
        assert result[task]["loss"] == pytest.approx(expected[task]["loss"], rel=1e-4)
