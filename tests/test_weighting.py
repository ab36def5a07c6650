"""Weightings of the tasks, against their formulas in NumPy and whole runs."""

import csv
from contextlib import closing

import chex
import jax
import jax.numpy as jnp
import launched
import numpy as np
import pytest
from jax.sharding import Mesh

from crl_jax import (
    config_check,
    devices,
    models,
    networks,
    weighting,
)
from crl_jax.checkpoints import Checkpoints
from crl_jax.config import default
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical
from crl_jax.models.network import DATA_AXIS, TASK_AXIS
from crl_jax.program import Program
from crl_jax.train import train
from crl_jax.weighting.by_gradients import CAGrad, GradNorm, PCGrad
from crl_jax.weighting.by_losses import DynamicWeightAverage, GeometricMean, Uncertainty

METHODS = "uncertainty", "dwa", "geometric", "gradnorm", "pcgrad", "cagrad"
CLASSES = {"noun": 4, "anp": 7}
KINDS = {t: Categorical(tuple(map(str, range(k)))) for t, k in CLASSES.items()}
LOSSES = np.array([[2.0, 0.5], [1.5, 0.6], [1.0, 0.1], [0.9, 0.2]], np.float32)
BOTH = jnp.array([True, True])
NO_PRODUCTS = jnp.zeros((2, 2))


def weights_of_steps(method, losses, grams=None):
    """The weights that a method gives in each of some steps."""
    state, result = method.start(), []
    for i, loss in enumerate(losses):
        gram = NO_PRODUCTS if grams is None else jnp.asarray(grams[i])
        weights = method.weights(state, loss, BOTH)
        state, weights = method.update(state, weights, loss, BOTH, gram)
        result.append(np.asarray(weights))
    return np.array(result)


def test_uncertainty_goes_down_the_slope_of_kendalls_loss():
    found = weights_of_steps(Uncertainty((1.0, 1.0), rate=0.1), LOSSES)
    s = np.zeros(2)
    for loss, weights in zip(LOSSES, found, strict=True):
        np.testing.assert_allclose(weights, np.exp(-s), rtol=1e-5)
        # Numerically, of sum(exp(-s) L + s / 2).
        high, low = (np.exp(-(s + h)) * loss + (s + h) / 2 for h in (1e-5, -1e-5))
        s = s - 0.1 * (high - low) / 2e-5


def test_dynamic_weight_average_compares_the_last_two_epochs():
    method = DynamicWeightAverage((1.0, 1.0), temperature=2.0, epoch_steps=2)
    found = weights_of_steps(method, np.concatenate([LOSSES, LOSSES]))
    np.testing.assert_allclose(found[:4], 1.0, rtol=1e-6)
    for epoch in (2, 3):
        last, before = (
            np.concatenate([LOSSES, LOSSES])[2 * e : 2 * e + 2].mean(axis=0)
            for e in (epoch - 1, epoch - 2)
        )
        powers = np.exp(last / before / 2)
        expected = 2 * powers / powers.sum()
        given = found[2 * epoch : 2 * epoch + 2]
        np.testing.assert_allclose(given, [expected] * 2, rtol=1e-5)


def test_geometric_mean_has_its_derivative_as_weights():
    method = GeometricMean((1.0, 1.0))
    for loss in LOSSES.astype(np.float64):
        mean = np.sqrt(loss[0] * loss[1])
        expected = [
            (np.sqrt((loss[0] + 1e-6) * loss[1]) - mean) / 1e-6,
            (np.sqrt(loss[0] * (loss[1] + 1e-6)) - mean) / 1e-6,
        ]
        found = method.weights(None, jnp.asarray(loss, jnp.float32), BOTH)
        np.testing.assert_allclose(found, expected, rtol=1e-4)
    without = method.weights(None, jnp.array([2.0, 0.0]), jnp.array([True, False]))
    np.testing.assert_allclose(without, [1.0, 0.0])


def test_gradnorm_goes_down_the_slope_of_its_loss():
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(4, 2, 5)).astype(np.float32)
    grams = gradients @ gradients.transpose(0, 2, 1)
    method = GradNorm((1.0, 1.0), rate=0.1, alpha=1.5)
    found = weights_of_steps(method, LOSSES, grams)
    w = np.ones(2)
    for loss, g, weights in zip(LOSSES, gradients, found, strict=True):
        np.testing.assert_allclose(weights, w, rtol=1e-5)
        norms = np.linalg.norm(g, axis=1)
        ratio = loss / LOSSES[0]
        target = (w * norms).mean() * (ratio / ratio.mean()) ** 1.5  # a constant

        def balance(w, norms=norms, target=target):
            return np.abs(w * norms - target).sum()

        slope = [(balance(w + h) - balance(w - h)) / 2e-6 for h in 1e-6 * np.eye(2)]
        w = np.maximum(w - 0.1 * np.array(slope), 0.01)
        w = w * 2 / w.sum()


def in_terms_of_gradients(method, gradients):
    """The update that a method makes of gradients `[T, N]`, as a vector."""
    tasks = len(gradients)
    gram = jnp.asarray(gradients @ gradients.T)
    ones, seen = jnp.ones(tasks), jnp.ones(tasks, bool)
    _, weights = method.update(None, ones, ones, seen, gram)
    return np.asarray(weights) @ gradients


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_projects_each_gradient_away_from_the_others(tasks, seed):
    gradients = np.random.default_rng(seed).normal(size=(tasks, 4)).astype(np.float32)
    total = np.zeros(4)
    for i in range(tasks):
        g = gradients[i].astype(np.float64)
        for j in ((i + k) % tasks for k in range(1, tasks)):
            if g @ gradients[j] < 0:
                g = (
                    g
                    - (g @ gradients[j]) / (gradients[j] @ gradients[j]) * gradients[j]
                )
        total += g
    found = in_terms_of_gradients(PCGrad((1.0,) * tasks), gradients)
    np.testing.assert_allclose(found, total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [PCGrad((1.0,) * 3), CAGrad((1.0,) * 3)])
def test_combinations_do_not_depend_on_the_gradients_scale(method):
    gradients = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    expected = in_terms_of_gradients(method, gradients)
    for scale in (1e-9, 1e9):
        found = in_terms_of_gradients(method, np.float32(scale) * gradients)
        np.testing.assert_allclose(found / scale, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_cagrad_helps_the_worst_task_most(tasks, seed):
    """Its direction has no worse a worst task than any other near the mean."""
    rng = np.random.default_rng(seed)
    gradients = rng.normal(size=(tasks, 3)).astype(np.float32)
    gradients[0] *= 5
    c = 0.5
    found = in_terms_of_gradients(CAGrad((1.0,) * tasks, c=c), gradients)
    direction = found * (1 + c**2) / tasks
    mean = gradients.mean(axis=0)
    radius = c * np.linalg.norm(mean)
    assert np.linalg.norm(direction - mean) == pytest.approx(radius, rel=1e-4)
    others = rng.normal(size=(200_000, 3))
    others = mean + radius * others / np.linalg.norm(others, axis=1, keepdims=True)
    best = (others @ gradients.T).min(axis=1).max()
    assert (gradients @ direction).min() > best - 2e-3 * np.abs(best)


@pytest.mark.parametrize("seed", range(20))
def test_combinations_are_numbers_where_gradients_nearly_cancel(seed):
    rng = np.random.default_rng(seed)
    gradient = rng.normal(size=100)
    noise = 10.0 ** rng.uniform(-7, -3) * rng.normal(size=100)
    opposed = np.stack([gradient, noise - gradient]).astype(np.float32)
    for method in (PCGrad((1.0,) * 2), CAGrad((1.0,) * 2)):
        assert np.isfinite(in_terms_of_gradients(method, opposed)).all()


def test_methods_are_the_sum_where_gradients_agree_or_are_none():
    same = np.array([[1.0, 2.0], [1.0, 2.0]], np.float32)
    for method, expected in ((PCGrad((1.0, 1.0)), 2.0), (CAGrad((1.0, 1.0)), 2.4)):
        np.testing.assert_allclose(
            in_terms_of_gradients(method, same), expected * same[0], rtol=1e-4
        )
        nothing = in_terms_of_gradients(method, 0 * same)
        np.testing.assert_array_equal(nothing, [0.0, 0.0])


@pytest.mark.parametrize("name", METHODS)
def test_a_task_without_labels_in_the_batch_leaves_the_others_alone(name):
    config = make_config(name)
    method = weighting.make(config, models.build(config, CLASSES))
    gradients = np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)
    losses, seen = jnp.array([2.0, 0.0]), jnp.array([True, False])
    before = method.start()
    weights = method.weights(before, losses, seen)
    gram = jnp.asarray(gradients @ gradients.T)
    after, combined = method.update(before, weights, losses, seen, gram)
    assert jax.tree.all(jax.tree.map(lambda x: bool(jnp.isfinite(x).all()), after))
    # CAGrad goes half as far again along the only gradient, and divides by 1.25.
    expected = 1.5 / 1.25 if name == "cagrad" else 1.0
    assert combined[0] == pytest.approx(expected, rel=1e-5)
    if name == "uncertainty":
        assert after["log_variance"][1] == before["log_variance"][1]


def make_config(name, **changes):
    config = default()
    config.model.depth = 12
    config.model.width = 0.125
    config.model.stem = "small"
    config.model.branch_from = "res5a"
    config.model.sync_batch_norm = True
    config.data.image_size = 8
    config.optim.weighting = name
    for field, value in changes.items():
        config_check.set_field(config, field, value)
    return config_check.with_tasks(config_check.check(config), CLASSES)


def step_of(config, batch, devices_of_mesh):
    """The state before and after one step, on NumPy's side."""
    network = models.build(config, CLASSES)
    grid = np.array(jax.devices()[: np.prod(devices_of_mesh)]).reshape(devices_of_mesh)
    mesh = Mesh(grid, (DATA_AXIS, TASK_AXIS))
    program = Program(config, KINDS, network, mesh, lambda _: 0.1)
    state = program.new_state(0)
    before = jax.device_get(state)
    after, report = program.train_step()(state, devices.put_batch(batch, mesh))
    return network, before, jax.device_get(after), jax.device_get(report)


def make_batch():
    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (4, 8, 8, 3), np.uint8)
    labels = {t: rng.integers(0, k, 8).astype(np.int32) for t, k in CLASSES.items()}
    labels["noun"][4:6] = -1
    return {"image": np.concatenate([half, half]), "labels": labels}


@pytest.mark.parametrize("name", ["geometric", "gradnorm", "cagrad"])
def test_a_step_combines_the_gradients_of_the_whole_batch(name):
    """On two devices in two parts, against a gradient a task of a plain network.

    All parts have the same pictures, so that batch statistics do not depend on them.
    """
    config = make_config(name, **{"train.accumulate": 2, "optim.weight_decay": 0.0})
    batch = make_batch()
    batch["image"] = np.concatenate([batch["image"][:2]] * 4)
    network, before, after, report = step_of(config, batch, (2, 1))
    plain = network.clone(batch_norm_axis=None)

    def loss(params, task):
        variables = before.variables | {"params": params}
        logits, _ = plain.apply(
            variables, batch["image"][:2], train=True, mutable=["batch_stats"]
        )
        log_p = jnp.tile(jax.nn.log_softmax(logits[task]), (4, 1))
        labels = batch["labels"][task]
        picked = jnp.take_along_axis(log_p, np.maximum(labels, 0)[:, None], axis=1)[
            :, 0
        ]
        return -jnp.sum(jnp.where(labels >= 0, picked, 0.0)) / np.sum(labels >= 0)

    losses, gradients = [], []
    for task in CLASSES:
        value, gradient = jax.jit(jax.value_and_grad(loss), static_argnums=1)(
            before.variables["params"], task
        )
        losses.append(value)
        gradients.append(jax.device_get(gradient))
    losses = jnp.stack(losses)

    method = weighting.make(config, network)
    looked_at = (
        [
            np.concatenate([g[k].ravel() for k in sorted(g)])
            for g in (flat(gradient, method.layers) for gradient in gradients)
        ]
        if method.layers
        else np.zeros((2, 1))
    )
    gram = jnp.asarray(np.array(looked_at) @ np.array(looked_at).T)
    weights = method.weights(before.weighting, losses, BOTH)
    remembered, combined = method.update(before.weighting, weights, losses, BOTH, gram)
    for t, task in enumerate(CLASSES):
        np.testing.assert_allclose(report["weights"][task], combined[t], rtol=1e-3)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        after.weighting,
        jax.device_get(remembered),
    )
    own = [np.asarray(w) for w in (weights, combined)]
    for layer, arrays in before.variables["params"].items():
        w = own[method.combines and layer in method.layers]
        expected = jax.tree.map(
            lambda p, a, b, w=w: p - 0.1 * (w[0] * a + w[1] * b),
            arrays,
            *(gradient[layer] for gradient in gradients),
        )
        found = after.variables["params"][layer]
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5),
            found,
            expected,
        )


def flat(tree, layers):
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in leaves
        if path[0].key in layers
    }


@pytest.mark.parametrize("name", ["geometric", "uncertainty"])
def test_tasks_divided_over_devices_agree_with_one_device(name):
    batch = make_batch()
    _, _, one, _ = step_of(make_config(name), batch, (1, 1))
    divided = make_config(name, **{"train.task_devices": 2})
    _, _, two, _ = step_of(divided, batch, (1, 2))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), one, two
    )


def test_a_stopped_run_ends_as_an_undisturbed_one(small_config, tmp_path):
    small_config.model.branch_from = "res5a"
    small_config.optim.weighting = "gradnorm"
    small_config.optim.learning_rate = 0.02
    small_config.train.steps = 4
    train(small_config, tmp_path / "whole")
    launched.rewind(tmp_path / "whole", tmp_path / "stopped", step=2)
    train(small_config, tmp_path / "stopped")
    a, b = (launched.saved_state(tmp_path / d) for d in ("whole", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, a, b)

    with (tmp_path / "whole" / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"]
    assert len(rows) == 4
    for row in rows:
        assert np.isfinite([float(row["hue_loss"]), float(row["number_loss"])]).all()
        assert 0 < float(row["hue_weight"]) + float(row["number_weight"]) < 5


@pytest.mark.parametrize("name", ["uncertainty", "dwa", "gradnorm"])
def test_what_a_method_remembers_is_in_a_checkpoint(name, tmp_path):
    config = make_config(name)
    network, mesh = models.build(config, CLASSES), devices.make_mesh()
    abstract = Program(config, KINDS, network, mesh, lambda _: 0.1).abstract_state
    method = weighting.make(config, network)
    remembered, _ = method.update(
        method.start(), jnp.ones(2), jnp.asarray(LOSSES[0]), BOTH, jnp.eye(2)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(remembered, abstract.weighting)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    state = zeros.replace(weighting=jax.device_get(remembered))
    places = jax.tree.map(lambda x: x.sharding, abstract)
    with closing(Checkpoints(tmp_path)) as saved:
        saved.save(jax.device_put(state, places), 1)
        saved.wait()
        _, restored = saved.restore_latest(abstract)
    chex.assert_trees_all_equal(jax.device_get(restored), state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.weighting": "best"}, "it can be: fixed, equal, uncertainty"),
        (
            {"optim.weighting": "dwa", "tasks.noun.weight": 2.0},
            r"tasks.noun.weight is 2.0, which .*weighting=dwa would ignore",
        ),
        (
            {"optim.weighting": "pcgrad", "train.task_devices": 2},
            r"pcgrad needs the gradients of all tasks on one device",
        ),
    ],
)
def test_what_a_weighting_cannot_be_used_with(changes, message):
    with pytest.raises(UserError, match=message):
        make_config("fixed", **changes)


def test_networks_that_share_nothing_keep_fixed_weights():
    config = make_config("pcgrad")
    assert networks.named(config, "S").optim.weighting == "fixed"
    assert networks.named(config, "M").optim.weighting == "pcgrad"


@pytest.mark.parametrize(
    "changes",
    [
        {"model.branch_from": "stem"},
        {"model.frozen": "res4", "init.from": "weights"},
    ],
)
def test_gradients_are_not_looked_at_where_nothing_is_shared(changes):
    config = make_config("cagrad", **changes)
    network = models.build(config, CLASSES)
    with pytest.raises(UserError, match="there are none: set config.model.branch_from"):
        weighting.make(config, network)
