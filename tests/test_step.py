"""The step: masks, devices, accumulation and what crosses the wire."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from crl_jax import config_check, metrics, models, optim, step, train_state
from crl_jax.config import default
from crl_jax.devices import check_batch_size, make_mesh, put_batch
from crl_jax.errors import UserError
from crl_jax.kinds import Categorical
from crl_jax.models.network import DATA_AXIS, TASK_AXIS
from crl_jax.program import Program

CLASSES = {"noun": 4, "anp": 7}
KINDS = {t: Categorical(tuple(map(str, range(k)))) for t, k in CLASSES.items()}


def prepare(**changes):
    """A config and its network."""
    config = default()
    config.model.depth = 12
    config.model.width = 0.125
    config.model.stem = "small"
    config.model.sync_batch_norm = True
    config.data.image_size = 8
    config.data.batch_size = 16
    config.train.steps = 10
    for name, value in changes.items():
        config_check.set_field(config, name, value)
    config = config_check.with_tasks(config_check.check(config), CLASSES)
    return config, models.build(config, CLASSES)


def optimizer_of(config, network):
    rate = optim.learning_rate(config.optim, 10)
    return optim.make(config.optim, rate, step.gradient_norm(network))


def step_of(config, network):
    optimizer = optimizer_of(config, network)
    return step.make_train_step(network, optimizer, config, KINDS)


def make(**changes):
    """What `prepare` returns, its step and its first state, which takes a while."""
    config, network = prepare(**changes)
    optimizer, key = optimizer_of(config, network), jax.random.key(0)
    state = jax.jit(
        lambda: train_state.create_state(network, optimizer, config, KINDS, key)
    )()
    return config, network, step_of(config, network), state


def make_batch(size=16, seed=0, missing=True):
    rng = np.random.default_rng(seed)
    labels = {t: rng.integers(0, k, size, np.int32) for t, k in CLASSES.items()}
    if missing:
        labels["noun"][1:4] = -1
    images = rng.integers(0, 256, (size, 8, 8, 3), np.uint8)
    return {"image": images, "labels": labels}


def mesh_of(devices):
    return Mesh(np.array(jax.devices()[:devices]), (DATA_AXIS,))


def replicate(tree, mesh):
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def run(train_step, state, batch, devices, steps=2):
    mesh = mesh_of(devices)
    mapped = step.map_train_step(train_step, mesh)
    state = replicate(jax.tree.map(jnp.copy, state), mesh)
    for _ in range(steps):
        state, _ = mapped(state, put_batch(batch, mesh))
    return jax.device_get((state, state.sums))


def assert_close(a, b, tolerance=1e-5):
    chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


def test_one_device_eight_devices_and_pmap_agree():
    _, _, train_step, state = make()
    one = run(train_step, state, make_batch(), devices=1)
    eight = run(train_step, state, make_batch(), devices=8)
    assert_close(one, eight)

    devices = jax.devices()[:8]
    by_pmap = jax.pmap(train_step, axis_name=DATA_AXIS, devices=devices)
    copies = jax.tree.map(lambda x: jnp.stack([x] * 8), state)
    split = jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), make_batch())
    for _ in range(2):
        copies, _ = by_pmap(copies, split)
    first = jax.tree.map(lambda x: np.asarray(x[0]), copies)
    assert_close(eight, (first, first.sums))


@pytest.mark.parametrize(
    "changes",
    [
        {"optim.clip_norm": 0.1, "optim.name": "adamw", "optim.learning_rate": 0.01},
        {"model.cross.kind": "channel", "model.cross.learned": True, "optim.ema": 0.5},
        {"model.cross.kind": "conv", "model.cross.learned": True},
        {"model.branch_from": "stem", "model.sync_batch_norm": False},
    ],
)
def test_tasks_divided_over_devices_agree_with_one_device(changes):
    """Eight devices, 4 x 2; or 1 x 2 where data divided gives other statistics."""
    _, _, train_step, state = make(**changes)
    one, _ = run(train_step, state, make_batch(), devices=1)

    config, network = prepare(**changes | {"train.task_devices": 2})
    data_devices = 4 if config.model.sync_batch_norm else 1
    grid = np.array(jax.devices()[: 2 * data_devices]).reshape(data_devices, 2)
    mesh = Mesh(grid, (DATA_AXIS, TASK_AXIS))
    rate = optim.learning_rate(config.optim, 10)
    program = Program(config, KINDS, network, mesh, rate)
    divided, mapped = program.new_state(0), program.train_step()
    for _ in range(2):
        divided, _ = mapped(divided, put_batch(make_batch(), mesh))
    for layer, arrays in divided.variables["params"].items():
        for leaf in jax.tree.leaves(arrays):
            own = leaf.sharding.shard_shape(leaf.shape)
            parts = 2 if layer in network.stacked_layers else 1
            assert own[0] * parts == leaf.shape[0]
    assert_close(one, jax.device_get(divided), 2e-5)

    sums, logits = program.eval_step(divided.evaluated, put_batch(make_batch(), mesh))
    whole = network.clone(task_devices=1)
    expected = jax.jit(whole.apply)(one.evaluated, make_batch()["image"])
    assert_close(expected, jax.device_get(logits), 1e-4)
    for task, labels in make_batch()["labels"].items():
        assert int(sums[task]["count"]) == np.sum(labels >= 0)


@pytest.mark.parametrize(("task_devices", "tasks"), [(3, 3), (2, 3), (16, 16)])
def test_tasks_that_do_not_divide_over_the_devices(task_devices, tasks):
    with pytest.raises(UserError, match=rf"task_devices={task_devices} must divide"):
        make_mesh(task_devices, tasks)


@pytest.mark.parametrize("sync", [True, False])
def test_state_is_the_same_on_every_device(sync):
    _, _, train_step, state = make(**{"model.sync_batch_norm": sync})
    mesh = mesh_of(4)
    state, _ = step.map_train_step(train_step, mesh)(
        replicate(state, mesh), put_batch(make_batch(), mesh)
    )
    for leaf in jax.tree.leaves(state):
        shards = [np.asarray(s.data) for s in leaf.addressable_shards]
        assert len(shards) == 4
        for other in shards[1:]:
            np.testing.assert_array_equal(shards[0], other)


def test_compiled_step_gathers_nothing_and_sends_the_gradients_once():
    _, _, train_step, state = make(**{"model.sync_batch_norm": False})
    mesh = mesh_of(4)
    program = (
        step.map_train_step(train_step, mesh)
        .lower(replicate(state, mesh), put_batch(make_batch(), mesh))
        .compile()
        .as_text()
    )
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in program
    sent = re.findall(r"= (.*) all-reduce(?:-start)?\(", program)
    floats = sum(
        np.prod([int(n) for n in dims.split(",") if n], initial=1)
        for result in sent
        for dims in re.findall(r"f32\[([\d,]*)\]", result)
    )
    variables = sum(leaf.size for leaf in jax.tree.leaves(state.variables))
    # Gradients and batch statistics once; XLA may drop a few that are equal.
    assert floats == pytest.approx(variables, rel=0.01)


def test_missing_labels_change_nothing_for_the_other_tasks():
    _, network, _, state = make()
    evaluate = step.map_eval_step(step.make_eval_step(network, KINDS), mesh_of(2))
    complete, partial = make_batch(missing=False), make_batch(missing=True)
    a, _ = evaluate(state.variables, put_batch(complete, mesh_of(2)))
    b, _ = evaluate(state.variables, put_batch(partial, mesh_of(2)))
    chex.assert_trees_all_equal(a["anp"], b["anp"])
    assert int(a["noun"]["count"]) == 16
    assert int(b["noun"]["count"]) == 13
    assert int(b["joint"]["count"]) == 13


def test_a_task_without_labels_leaves_the_others_gradient_alone():
    """With no noun label in the batch, only the anp loss moves the shared layers."""
    only_anp, zero_weight = make_batch(), make_batch()
    only_anp["labels"]["noun"][:] = -1
    _, _, train_step, state = make()
    without_noun = step_of(*prepare(**{"tasks.noun.weight": 0.0}))
    a, _ = run(train_step, state, only_anp, devices=2, steps=1)
    b, _ = run(without_noun, state, zero_weight, devices=2, steps=1)
    assert_close(a.variables, b.variables, 1e-6)


def test_a_task_may_be_named_as_a_branched_layer():
    """Its head and its sums are not divided over devices, as the layer is."""
    config, _ = prepare(**{"train.task_devices": 2})
    layers = ["res5b", "stem"]
    names = dict(zip(layers, CLASSES.values(), strict=True))
    kinds = dict(zip(layers, KINDS.values(), strict=True))
    with config.unlocked():
        config.tasks = {}
    config = config_check.with_tasks(config, names)
    network = models.build(config, names)
    mesh = Mesh(np.array(jax.devices()[:2]).reshape(1, 2), (DATA_AXIS, TASK_AXIS))
    program = Program(config, kinds, network, mesh, lambda _: 0.1)
    batch = make_batch()
    batch["labels"] = dict(zip(layers, batch["labels"].values(), strict=True))
    state, _ = program.train_step()(program.new_state(0), put_batch(batch, mesh))
    assert int(state.step) == 1
    assert int(state.sums[layers[0]]["count"]) == 13  # of 16, three have no label


def test_masked_mean_is_over_all_devices_however_labels_are_spread():
    """All noun labels lie on the first device; the mean must not be per device."""
    batch = make_batch(missing=False)
    batch["labels"]["noun"][4:] = -1
    _, _, train_step, state = make()
    assert_close(
        run(train_step, state, batch, devices=1),
        run(train_step, state, batch, devices=4),
    )


@pytest.mark.parametrize("task_devices", [1, 2])
def test_stages_computed_again_change_no_number_and_save_memory(task_devices):
    def mapped(remat):
        config, network = prepare(
            **{"model.remat": remat, "train.task_devices": task_devices}
        )
        grid = np.array(jax.devices()[:task_devices]).reshape(1, task_devices)
        mesh = Mesh(grid, (DATA_AXIS, TASK_AXIS))
        program = Program(config, KINDS, network, mesh, lambda _: 0.1)
        state, batch = program.new_state(0), put_batch(make_batch(), mesh)
        compiled = program.train_step().lower(state, batch).compile()
        return compiled.memory_analysis().temp_size_in_bytes, compiled(state, batch)

    kept, (expected, _) = mapped(())
    again, (state, _) = mapped((2, 3, 4, 5))
    assert again < 0.9 * kept
    assert_close(jax.device_get(expected), jax.device_get(state))


def test_gradient_accumulation_matches_the_large_batch():
    """With the same batch statistics in each part, which equal parts have."""
    half = make_batch(8)
    twice = jax.tree.map(lambda x: np.concatenate([x, x]), half)
    _, _, whole, state = make()
    in_parts = step_of(*prepare(**{"train.accumulate": 2}))
    a, sums_a = run(whole, state, twice, devices=1, steps=1)
    b, sums_b = run(in_parts, state, twice, devices=1, steps=1)
    assert_close(a.variables["params"], b.variables["params"])
    assert_close(sums_a, sums_b)


def test_loss_against_numpy():
    _, network, _, state = make(**{"optim.label_smoothing": 0.0})
    batch = make_batch()
    evaluate = step.map_eval_step(step.make_eval_step(network, KINDS), mesh_of(1))
    sums, logits = evaluate(state.variables, put_batch(batch, mesh_of(1)))
    result = metrics.means([sums], KINDS)
    for task, labels in batch["labels"].items():
        x, seen = np.asarray(logits[task], np.float64), labels >= 0
        log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
        expected = -log_p[np.arange(16), labels][seen].mean()
        np.testing.assert_allclose(result[task]["loss"], expected, rtol=1e-5)


def test_train_step_smooths_the_labels():
    _, network, train_step, state = make(**{"optim.label_smoothing": 0.3})
    batch = make_batch(missing=False)
    forward = functools.partial(network.apply, train=True, mutable=["batch_stats"])
    by_device = jax.vmap(forward, in_axes=(None, 0), axis_name=DATA_AXIS)
    logits, _ = by_device(state.variables, batch["image"][None])
    _, sums = run(train_step, state, batch, devices=1, steps=1)
    result = metrics.means([sums], KINDS)
    for task, labels in batch["labels"].items():
        x = np.asarray(logits[task][0], np.float64)
        log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
        targets = 0.7 * np.eye(CLASSES[task])[labels] + 0.3 / CLASSES[task]
        expected = -(targets * log_p).sum(-1).mean()
        np.testing.assert_allclose(result[task]["loss"], expected, rtol=1e-4)


def test_the_average_is_evaluated_where_there_is_one():
    _, _, train_step, state = make(**{"optim.ema": 0.5})
    state, _ = run(train_step, state, make_batch(), devices=1, steps=1)
    chex.assert_trees_all_equal(state.evaluated, state.average)
    assert state.replace(average=None).evaluated is state.variables


def test_batch_that_does_not_divide_over_the_devices():
    config = config_check.check(default()).copy_and_resolve_references().unlock()
    config.data.batch_size = 30
    with pytest.raises(UserError, match=r"batch_size=30.*8 devices.*multiple of 8"):
        check_batch_size(config, make_mesh())
