"""Cross-stitch, NDDR and MTAN against loops over tasks and channels."""

import functools

import jax
import numpy as np
import pytest

from crl_jax import cli, config_check, costs, models, networks
from crl_jax.config import default
from crl_jax.errors import UserError
from crl_jax.models.attention import StageAttention
from crl_jax.models.batch_norm import BatchNorm
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


def numpy_norm(x, weights):
    """Batch norm with the statistics of `x`, over all axes but the last."""
    axes = tuple(range(x.ndim - 1))
    x = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5)
    return x * weights["scale"] + weights["bias"]


def numpy_convolution(x, kernel, stride=1):
    """Convolves `[B, H, W, C]` place by place, padded by half the kernel."""
    size = kernel.shape[0]
    padded = np.pad(x, [(0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)])
    rows, columns = (-(-n // stride) for n in x.shape[1:3])
    y = np.zeros((len(x), rows, columns, kernel.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, stride * i :, stride * j :][:, :size, :size]
            y[:, i, j] = np.einsum("bhwc,hwcd->bd", patch, kernel)
    return y


def numpy_mask(a, weights, t):
    """The mask of task t: 1x1, norm, ReLU, 1x1, norm, sigmoid."""
    weights = jax.tree.map(lambda leaf: leaf[t], weights)
    a = numpy_norm(numpy_convolution(a, weights["conv1"]["kernel"]), weights["norm1"])
    a = numpy_convolution(np.maximum(a, 0), weights["conv2"]["kernel"])
    return 1 / (1 + np.exp(-numpy_norm(a, weights["norm2"])))


@pytest.mark.parametrize("first", [True, False])
def test_attention_is_the_papers_formula(first):
    rng = np.random.default_rng(0)
    early, x = (rng.normal(size=(2, 3, 3, 8)).astype(np.float32) for _ in range(2))
    before = rng.normal(size=(TASKS, 2, 6, 6, 4)).astype(np.float32)
    norm = functools.partial(BatchNorm, train=True)
    attention = StageAttention(TASKS, norm)
    inputs = early, x, None if first else before
    params = attention.init(jax.random.key(0), *inputs)["params"]
    params = jax.tree.map(
        lambda leaf: leaf + rng.normal(size=leaf.shape).astype(np.float32) / 4, params
    )
    apply = functools.partial(attention.apply, mutable=["batch_stats"])
    stats = attention.init(jax.random.key(0), *inputs)["batch_stats"]
    found, _ = apply({"params": params, "batch_stats": stats}, *inputs)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    if not first:  # the tasks share this convolution and its norm
        carried = [numpy_convolution(b, params["carry"]["kernel"], 2) for b in before]
        carried = np.maximum(numpy_norm(np.array(carried), params["carry_norm"]), 0)
    for t in range(TASKS):
        a = early if first else np.concatenate([early, carried[t]], axis=-1)
        expected = numpy_mask(a, params["mask"], t) * x
        np.testing.assert_allclose(found[t], expected, rtol=1e-3, atol=1e-4)


def test_mtan_counts_its_masks_and_what_they_cost():
    config = default()
    config.model.depth = 18
    config.model.width = 0.5
    config.data.image_size = 64
    classes = {"noun": 5, "adjective": 4, "anp": 7}
    config = config_check.with_tasks(config_check.check(config), classes)
    mtan, heads = (
        costs.cost(networks.named(config, name), classes) for name in ("MTAN", "heads")
    )
    parameters, products, before = 0, 0, 0
    for channels, side in ((32, 16), (64, 8), (128, 4), (256, 2)):
        entering = channels + (channels if before else 0)
        mask = entering * channels // 4 + channels // 4 * channels
        carry = 9 * before * channels
        parameters += TASKS * (mask + 2 * channels // 4 + 2 * channels)
        parameters += carry + (2 * channels if before else 0)
        products += TASKS * side**2 * (mask + carry)
        before = channels
    assert mtan.cross == mtan.total - heads.total == parameters
    assert mtan.flops - heads.flops == 2 * products


def test_new_masks_take_statistics_though_those_of_the_weights_are_kept():
    network = models.MultitaskResNet(
        {"a": 3, "b": 4},
        depth=12,
        width=0.125,
        stem="small",
        branch_from="head",
        cross_init=0.0,
        fusion="mtan",
        frozen_batch_stats=True,
    )
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    variables = network.init(jax.random.key(0), images)
    _, found = network.apply(variables, images, train=True, mutable=["batch_stats"])
    for layer, before in variables["batch_stats"].items():
        pairs = zip(
            jax.tree.leaves(before),
            jax.tree.leaves(found["batch_stats"][layer]),
            strict=True,
        )
        changed = any((old != new).any() for old, new in pairs)
        assert changed == layer.endswith("_cross"), layer


@pytest.mark.parametrize("fusion", ["cross_stitch", "nddr"])
def test_what_mixes_branches_needs_some(fusion):
    config = default()
    config.model.fusion, config.model.branch_from = fusion, "head"
    config.model.cross.init = 0.0
    with pytest.raises(UserError, match="mixes branches, and there are none"):
        config_check.check(config)


def test_mtan_attends_to_a_trunk_without_branches():
    config = default()
    config.model.fusion = "mtan"
    config.model.cross.init = 0.0
    with pytest.raises(UserError, match="set config.model.branch_from=head"):
        config_check.check(config)
