"""Frozen layers, rates a layer, weights to start from, and what can cross."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import Mesh

from crl_jax import config_check, models, optim
from crl_jax.config import default
from crl_jax.devices import put_batch
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical
from crl_jax.models.architecture import crosses, layer_names
from crl_jax.models.network import DATA_AXIS, TASK_AXIS
from crl_jax.program import Program
from crl_jax.train import train, what_cannot_cross

CLASSES = {"noun": 4, "anp": 7}
KINDS = {t: Categorical(tuple(map(str, range(k)))) for t, k in CLASSES.items()}
RATE = 0.1


def make_config(**changes):
    config = default()
    config.model.depth = 12
    config.model.width = 0.125
    config.model.stem = "small"
    config.data.image_size = 8
    config.init["from"] = "weights"
    for name, value in changes.items():
        config_check.set_field(config, name, value)
    return config_check.with_tasks(config_check.check(config), CLASSES)


def prepare(task_devices=1, **changes):
    """Returns the mapped train step, its state and a batch."""
    config = make_config(**changes | {"train.task_devices": task_devices})
    network = models.build(config, CLASSES)
    grid = np.array(jax.devices()[:task_devices]).reshape(1, task_devices)
    mesh = Mesh(grid, (DATA_AXIS, TASK_AXIS))
    program = Program(config, KINDS, network, mesh, lambda _: RATE)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (4, 8, 8, 3), np.uint8),
        "labels": {
            t: rng.integers(0, k, 4).astype(np.int32) for t, k in CLASSES.items()
        },
    }
    return program.train_step(), program.new_state(0), put_batch(batch, mesh)


def flat(tree):
    leaves = traverse_util.flatten_dict(jax.device_get(tree)).items()
    return {path: np.array(leaf) for path, leaf in leaves}


LAYERS = layer_names(12)


@pytest.fixture(scope="module")
def whole():
    """The program that trains all layers, and its state."""
    mapped, state, batch = prepare()
    return mapped.lower(state, batch).compile(), state


@pytest.mark.parametrize(("frozen", "count"), [("res3", 3), ("res5", 6)])
def test_frozen_layers_cost_no_memory_no_backward_pass_and_stay(whole, frozen, count):
    kept = set(LAYERS[:count])
    mapped, state, batch = prepare(**{"model.frozen": frozen})
    program = mapped.lower(state, batch).compile()
    if frozen == "res5":  # forwards, and backwards through the heads alone
        flops = program.cost_analysis()["flops"]
        assert flops < 0.45 * whole[0].cost_analysis()["flops"]
    sizes = {
        layer: sum(leaf.size for leaf in jax.tree.leaves(leaves))
        for layer, leaves in state.variables["params"].items()
    }
    memory, all_memory = (
        sum(leaf.size for leaf in jax.tree.leaves(s.opt_state))
        for s in (state, whole[1])
    )
    assert all_memory - memory == sum(sizes[layer] for layer in kept)

    before = flat(state.variables)
    state, _ = program(state, batch)
    for path, new in flat(state.variables).items():
        if path[1] in kept:
            np.testing.assert_array_equal(new, before[path], str(path))
        elif path[1] == "head" or path[-2:] == ("norm1", "mean"):
            assert not np.array_equal(new, before[path]), path


@pytest.mark.parametrize("task_devices", [1, 2])
def test_a_step_with_frozen_parts_against_the_rule(task_devices):
    """w - r (g + d w), g of the network as it evaluates, but for what is frozen."""
    changes = {"model.frozen": "res3", "model.frozen_batch_stats": True}
    mapped, state, batch = prepare(task_devices, **changes)
    network = models.build(make_config(), CLASSES)
    images, labels = jax.device_get((batch["image"], batch["labels"]))

    def loss(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits = network.apply(variables, images)
        each = optax.softmax_cross_entropy_with_integer_labels
        return sum(jnp.mean(each(logits[t], labels[t])) for t in CLASSES)

    old = jax.device_get(state.variables)
    gradient = flat(jax.jit(jax.grad(loss))(old["params"], old["batch_stats"]))
    state, _ = mapped(state, batch)
    for path, w in flat(old["params"]).items():
        g = gradient[path] + (1e-4 * w if path[-1] == "kernel" else 0)
        rate = 0 if path[0] in LAYERS[:3] else RATE
        found = flat(state.variables["params"])[path]
        np.testing.assert_allclose(found, w - rate * g, atol=2e-5, err_msg=str(path))
    for path, kept in flat(old["batch_stats"]).items():
        np.testing.assert_array_equal(flat(state.variables["batch_stats"])[path], kept)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_rates_of_layers_are_products_of_the_factors(name):
    expected = {"head": 10, "res5a": 1 / 2, "res5b": 1 / 2, "res4b22": 1 / 4}
    expected |= {"res3d": 1 / 8, "res2a": 1 / 16, "stem": 1 / 32, "res5b_cross": 1}
    params = {layer: {"kernel": jnp.array([1.0, -2.0])} for layer in expected}

    def update(**changes):
        config = make_config(**changes | {"optim.name": name, "optim.clip_norm": 1.0})
        optimizer = optim.make(config.optim, lambda _: RATE)
        state = optimizer.init(params)
        for scale in (3.0, -1.0):
            gradients = jax.tree.map(lambda p, s=scale: s * (p + 1), params)
            updates, state = optimizer.update(gradients, state, params)
        return updates

    plain = update()
    scaled = update(**{"optim.head_multiplier": 10.0, "optim.layer_decay": 0.5})
    for layer, factor in expected.items():
        found, before = scaled[layer]["kernel"], plain[layer]["kernel"]
        np.testing.assert_allclose(found, factor * before, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.frozen": "res6"}, r"model.frozen is 'res6'; it can be: none, stem"),
        (
            {"model.frozen": "res2", "init.from": ""},
            r"model.frozen=res2 would keep .* config.init.from",
        ),
        (
            {"model.frozen_batch_stats": True, "init.from": ""},
            r"model.frozen_batch_stats=True would keep",
        ),
        ({"optim.layer_decay": 1.5}, r"layer_decay is 1.5; it must be between 0 and 1"),
        ({"optim.layer_decay": 0.0}, r"layer_decay is 0.0; it must be above 0"),
        ({"optim.head_multiplier": -1.0}, r"head_multiplier is -1.0; it must be above"),
    ],
)
def test_values_that_cannot_be(changes, message):
    with pytest.raises(UserError, match=message):
        make_config(**changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.safetensors", "there is no such file"),
        ("absent", "weights are read from .safetensors"),
        ("", "no checkpoint of a run. Give the folder of a run; of an export"),
    ],
)
def test_missing_weights_are_told_of_before_data_is_prepared(
    new_config, tmp_path, name, message
):
    config = new_config()
    config.init["from"] = str(tmp_path / name)
    config.data.dir = str(tmp_path / "shards")
    with pytest.raises(UserError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "run").exists()


def test_a_run_of_another_network_is_told_of_before_data_is_prepared(
    trained, new_config, tmp_path
):
    config = new_config()
    config.model.depth = 18
    config.init["from"] = str(trained[0])
    config.data.dir = str(tmp_path / "shards")
    with pytest.raises(UserError, match=r"model.depth is 12 there, and 18 here"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "shards").exists()


def test_fine_tuning_from_a_run_that_is_gone_later(trained, new_config, tmp_path):
    """The weights are needed at the start alone; a run that has begun goes on."""
    directory, _ = trained
    origin = tmp_path / "origin"
    origin.symlink_to(directory)
    config = new_config()
    config.train.steps = 2
    config.model.frozen = "res4"
    config.init["from"] = str(origin)
    train(config, tmp_path / "run")
    origin.unlink()
    result = tmp_path / "run" / "result.json"
    result.unlink()
    train(config, tmp_path / "run")
    assert result.exists()


@pytest.mark.parametrize("branch_from", ["stem", "res5a", "res5b", "head"])
def test_what_crosses_is_what_another_tasks_branch_changes(branch_from):
    """In a network of random weights: noun's logits as a function of anp's branch."""
    config = make_config(**{"model.branch_from": branch_from})
    network = models.build(config, CLASSES)
    images = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    params = jax.tree.map(lambda x: x + 0.1, variables["params"])

    def noun(params):
        return jnp.sum(network.apply(variables | {"params": params}, images)["noun"])

    gradient = flat(jax.jit(jax.grad(noun))(params))
    stacked = network.stacked_layers
    depends = any(np.any(g[1]) for path, g in gradient.items() if path[0] in stacked)
    assert depends == crosses(config.model, 2)
    assert depends == (what_cannot_cross(config.model, 2) == "")


def test_a_run_says_that_nothing_crosses(new_config, tmp_path, capsys):
    config = new_config()
    config.train.steps = 1
    train(config, tmp_path / "run")
    found = capsys.readouterr().out
    assert found.count("Warning: nothing crosses between the tasks.") == 1
    assert "set config.model.branch_from to res5a or before" in found
    assert what_cannot_cross(config.model, 1) == ""
    config.model.cross.init = 0.0
    assert what_cannot_cross(config.model, 2) == ""
    config.model.branch_from = "res5a"
    assert not crosses(config.model, 2)
