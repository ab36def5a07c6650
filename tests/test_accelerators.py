"""The step that a GPU's or TPU's compiler is given; this needs no such device."""

import collections
import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from test_step import CLASSES, KINDS, make_batch, prepare

from crl_jax.devices import make_mesh, put_batch
from crl_jax.models import layers
from crl_jax.program import Program

# What would wait for the host, or for another program.
WAITS = ("case", "if", "infeed", "outfeed", "send", "recv", "custom_call")


@pytest.fixture(params=["cuda", "tpu"])
def platform(request):
    return request.param


def lowered(platform, task_devices=1, runs=1, **changes):
    """Returns a step's StableHLO, and how many arrays its state has."""
    changes |= {"train.task_devices": task_devices}
    with layers.traced_for({"cuda": "gpu"}.get(platform, platform)):
        config, network = prepare(**changes)
        mesh = make_mesh(task_devices, len(CLASSES))
        program = Program(config, KINDS, network, mesh, lambda _: 0.1)
        state, batch = program.abstract_state, make_batch()
        if runs > 1:
            batch = jax.tree.map(lambda x: np.stack([x] * runs), batch)
            state = jax.tree.map(lambda leaf: side_by_side(leaf, runs), state)
        traced = program.train_step(runs=runs).trace(state, put_batch(batch, mesh))
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    return text, len(jax.tree.leaves(program.abstract_state))


def side_by_side(leaf, runs):
    spec = PartitionSpec(None, *leaf.sharding.spec)
    sharding = NamedSharding(leaf.sharding.mesh, spec)
    return jax.ShapeDtypeStruct((runs, *leaf.shape), leaf.dtype, sharding=sharding)


def operations(text):
    return set(re.findall(r"\bstablehlo\.(\w+)", text))


def products(text):
    """Counts convolutions and matrix products by what they compute with."""
    lines = re.findall(r"stablehlo\.(?:convolution|dot_general)\b.* : (.*)", text)
    return collections.Counter(
        frozenset(re.findall(r"x([a-z]+\d+)>", x)) for x in lines
    )


def every_other(text):
    """Returns the names of what is cut from pictures in strides."""
    return set(re.findall(r"(%\w+) = stablehlo\.slice .*:\d+:2\b", text))


def factors(text):
    """Returns the names of what is multiplied by `dot_general`."""
    lines = re.findall(r"stablehlo\.dot_general (%\w+), (%\w+)", text)
    return {name for names in lines for name in names}


def test_no_product_of_every_other_pixel_and_no_grouped_convolution():
    """XLA for GPUs crashes at the first's gradient, and the second is slow."""
    keeps = {"model.frozen_batch_stats": True, "init.from": "weights, not read here"}
    for runs, changes in (
        (1, {}),
        (2, {}),
        (2, {"model.depth": 50, **keeps}),
        (2, {"optim.weighting": "pcgrad"}),
    ):
        text, _ = lowered(
            "cuda", runs=runs, **{"model.branch_from": "res5b", **changes}
        )
        assert set(re.findall(r"_group_count = (\d+)", text)) == {"1"}, changes
    text, _ = lowered("cuda", **{"model.branch_from": "stem"})
    assert not every_other(text) & factors(text)
    assert set(re.findall(r"_group_count = (\d+)", text)) == {"1"}
    text, _ = lowered("cpu", **{"model.branch_from": "stem"})
    assert every_other(text) & factors(text)


def test_products_are_of_bfloat16_but_for_the_heads(platform):
    text, _ = lowered(platform, **{"model.dtype": "bfloat16"})
    found = products(text)
    assert set(found) == {frozenset({"bf16"}), frozenset({"f32"})}
    # A head is a product in float32, and so are its two gradients.
    assert found[frozenset({"f32"})] == 3 * len(CLASSES)


@pytest.mark.parametrize("task_devices", [1, 2])
def test_nothing_waits_and_the_state_is_written_over(platform, task_devices):
    text, leaves = lowered(platform, task_devices)
    assert not operations(text) & set(WAITS)
    arguments = re.search(r"func public @main\((.*?)\) -> ", text, re.DOTALL)[1]
    assert arguments.count("tf.aliasing_output") == leaves


def test_a_cpu_waits_for_a_case_which_it_does_not_mind():
    assert "case" in operations(lowered("cpu")[0])
