"""Pictures computed a few at a time, beside each alone and all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_models import CLASSES, images, init, perturbed, tiny

from crl_jax.models import groups, layers
from crl_jax.models.architecture import split_layers
from crl_jax.models.groups import groups_in_cache

BATCH, SIZE = 6, 16
# Behind stage 2: 8 channels of float32.
PICTURE_BYTES = SIZE * SIZE * 8 * 4


@pytest.fixture
def small_cache(monkeypatch):
    """Holds two of the pictures."""
    monkeypatch.setattr(groups, "_BYTES_IN_CACHE", 2 * PICTURE_BYTES)


def loops(network, variables, batch, **settings):
    traced = jax.make_jaxpr(lambda *v: network.apply(*v, **settings))(variables, batch)
    return [e for e in traced.eqns if e.primitive.name == "scan"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"branch_from": "res4a"},
        {"branch_from": "head"},
        {"depth": 50, "width": 0.03125, "branch_from": "res5b"},
        {"stem": "large", "width": 2.0},
    ],
)
def test_groups_give_the_logits_of_each_picture_alone(small_cache, settings):
    network = tiny(**{"branch_from": "res5b"} | settings)
    batch = images(BATCH, SIZE)
    variables = perturbed(init(network, batch))
    (loop,) = loops(network, variables, batch)
    assert loop.params["length"] == BATCH // 2
    assert not loops(network, variables, batch[:1])
    forward = jax.jit(network.apply)
    logits = forward(variables, batch)
    for i in range(BATCH):
        expected = forward(variables, batch[i : i + 1])
        for task in CLASSES:
            np.testing.assert_allclose(
                logits[task][i], expected[task][0], rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize(
    "settings",
    [{"branch_from": "stem"}, {"branch_from": "res3a"}, {"fusion": "mtan"}],
)
def test_no_groups_where_tasks_part_before(small_cache, settings):
    settings = {"branch_from": "head"} | settings
    network, batch = tiny(**settings), images(BATCH, SIZE)
    assert not loops(network, init(network, batch), batch)


def test_no_groups_in_training_or_where_activations_are_kept(small_cache):
    network, batch = tiny(), images(BATCH, SIZE)
    variables = init(network, batch)
    assert loops(network, variables, batch)
    of_batch = {"train": True, "mutable": ["batch_stats"]}
    assert not loops(network, variables, batch, **of_batch)
    kept = {"capture_intermediates": True, "mutable": ["intermediates"]}
    assert not loops(network, variables, batch, **kept)
    with layers.traced_for("any"):
        assert not loops(network, variables, batch)


def test_frozen_stages_in_groups_leave_the_gradient_as_it_is(monkeypatch):
    network, batch = tiny(frozen="res3"), images(BATCH, SIZE)
    variables = perturbed(init(network, batch))
    stats = variables["batch_stats"]
    frozen, trained = split_layers(variables["params"], network.frozen_layers)

    def gradient(picture_bytes, loop):
        monkeypatch.setattr(groups, "_BYTES_IN_CACHE", picture_bytes)

        def loss(trained):
            found = {"params": frozen | trained, "batch_stats": stats}
            assert bool(loops(network, found, batch, **of_batch)) == loop
            logits, changed = network.apply(found, batch, **of_batch)
            return sum(jnp.sum(v**2) for v in logits.values()), changed

        return jax.jit(jax.grad(loss, has_aux=True))(trained)

    of_batch = {"train": True, "mutable": ["batch_stats"]}
    found = gradient(2 * PICTURE_BYTES, loop=True)
    expected = gradient(BATCH * PICTURE_BYTES, loop=False)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max()),
        found,
        expected,
    )


def test_number_of_groups(small_cache):
    assert groups_in_cache(2, PICTURE_BYTES) == 1
    assert groups_in_cache(3, PICTURE_BYTES) == 3  # groups are equal in size
    assert groups_in_cache(8, PICTURE_BYTES) == 4
    assert groups_in_cache(4, 100 * PICTURE_BYTES) == 4
    with layers.traced_for("any"):
        assert groups_in_cache(8, PICTURE_BYTES) == 1
