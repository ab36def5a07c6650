"""Cross-stitch and NDDR against loops over tasks and channels."""

import jax
import numpy as np
import pytest

from crl_jax import cli, config_check, costs, models, networks
from crl_jax.config import default
from crl_jax.errors import UserError
from crl_jax.models.fusion import Fusion

TASKS, CHANNELS = 3, 4


def random_features():
    shape = (TASKS, 2, 3, 3, CHANNELS)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["cross_stitch", "nddr"])
def test_fusion_is_the_papers_sum(kind):
    x, fusion = random_features(), Fusion(kind)
    shape = jax.eval_shape(fusion.init, jax.random.key(0), x)["params"]["weight"].shape
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = fusion.apply({"params": {"weight": weight}}, x)
    for t in range(TASKS):
        for d in range(CHANNELS):
            expected = np.zeros(x.shape[1:4], np.float32)
            for j in range(TASKS):
                if kind == "cross_stitch":
                    expected += weight[t, j, d] * x[j, ..., d]
                else:
                    for c in range(CHANNELS):
                        expected += weight[t, j, c, d] * x[j, ..., c]
            np.testing.assert_allclose(found[t, ..., d], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["cross_stitch", "nddr"])
def test_fusion_begins_with_nine_tenths_of_its_own_task(kind):
    x, fusion = random_features(), Fusion(kind)
    variables = fusion.init(jax.random.key(0), x)
    found = fusion.apply(variables, x)
    expected = 0.85 * x + 0.05 * x.sum(axis=0, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_networks_by_name_learn_and_count_their_weights():
    overrides = [
        *(("model.depth", "12"), ("model.width", "0.125"), ("model.stem", "small")),
        *(("model.branch_from", "res5a"), ("data.image_size", "16")),
    ]
    config = cli.load_config("configs/vso.py", overrides)
    classes = {"noun": 5, "adjective": 4, "anp": 7}
    config = networks.with_settings(
        config, {f"tasks.{task}.classes": k for task, k in classes.items()}
    )
    # Two units of 64 channels: nine weights a channel, nine 64 x 64 convolutions.
    expected = {"M": 0, "cross-stitch": 2 * 9 * 64, "NDDR": 2 * 9 * 64**2}
    images = np.zeros((1, 16, 16, 3), np.uint8)
    for name, count in expected.items():
        named = networks.named(config, name)
        assert costs.cost(named, classes).cross == count
        network = models.build(named, classes).clone(batch_norm_axis=None)
        variables = jax.eval_shape(network.init, jax.random.key(0), images)
        units = [unit for unit in variables["params"] if unit.endswith("_cross")]
        assert units == ([] if name == "M" else ["res5a_cross", "res5b_cross"])


def test_fusion_is_instead_of_cross_residuals():
    config = default()
    config.model.fusion = "nddr"
    with pytest.raises(UserError, match="a baseline without cross-residuals"):
        config_check.check(config)
    config.model.cross.init = 0.0
    config.train.task_devices = 3
    with pytest.raises(UserError, match="needs all tasks on one device"):
        config_check.check(config)
