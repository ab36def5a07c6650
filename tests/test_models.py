"""The network against formulas, counts and other networks."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crl_jax.errors import UserError
from crl_jax.models import MultitaskResNet, layers
from crl_jax.models.architecture import layer_names
from crl_jax.models.cross_residual import CrossResidual
from crl_jax.models.layers import convolve

CLASSES = {"noun": 5, "adjective": 4, "anp": 7}
PAPER_CLASSES = {"noun": 167, "adjective": 117, "anp": 553}


def tiny(**settings):
    settings = {"depth": 12, "width": 0.125, "stem": "small"} | settings
    return MultitaskResNet(CLASSES, **settings)


def images(batch=2, size=16):
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)


def init(network, batch):
    return jax.jit(network.init)(jax.random.key(0), batch)


def apply(network, variables, batch):
    return jax.jit(network.apply)(variables, batch)


def perturbed(variables, seed=1):
    """Moves every parameter, so that no scale is zero and no bias is missing."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [
        jnp.abs(leaf + 0.1 * jax.random.normal(k, leaf.shape))
        if leaf.ndim < 4
        else leaf
        for leaf, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


def shape_tree(network, size=64):
    return jax.eval_shape(
        network.init, jax.random.key(0), jnp.zeros((1, size, size, 3), jnp.uint8)
    )


def parameter_count(network):
    return sum(leaf.size for leaf in jax.tree.leaves(shape_tree(network)["params"]))


@pytest.mark.parametrize(
    ("depth", "branch_from"),
    [(depth, "res5b") for depth in (12, 18, 34, 50, 101, 152)]
    + [(18, name) for name in layer_names(18)],
)
def test_logit_shapes_of_every_depth(depth, branch_from):
    network = MultitaskResNet(CLASSES, depth=depth, branch_from=branch_from)
    variables = shape_tree(network)
    logits = jax.eval_shape(network.apply, variables, jnp.zeros((2, 64, 64, 3)))
    for task, count in CLASSES.items():
        chex.assert_shape(logits[task], (2, count))
        chex.assert_type(logits[task], jnp.float32)


@pytest.mark.parametrize(
    ("stem", "stride_in", "kind", "dtype"),
    [
        ("large", "3x3", "scalar", jnp.float32),
        ("small", "1x1", "channel", jnp.bfloat16),
        ("large", "1x1", "conv", jnp.float32),
    ],
)
def test_every_setting_gives_finite_logits_and_gradients(stem, stride_in, kind, dtype):
    network = MultitaskResNet(
        CLASSES,
        depth=50,
        width=0.0625,
        branch_from="res5b",
        cross_kind=kind,
        cross_learned=True,
        stem=stem,
        stride_in=stride_in,
        dtype=dtype,
    )
    variables = jax.jit(network.init)(jax.random.key(0), images(2, 32))

    @jax.jit
    def loss_gradients(params):
        def loss(params):
            both = {**variables, "params": params}
            logits, _ = network.apply(
                both, images(2, 32), train=True, mutable=["batch_stats"]
            )
            return sum(jnp.sum(values**2) for values in logits.values())

        return jax.grad(loss)(params)

    gradients = loss_gradients(variables["params"])
    chex.assert_tree_all_finite(gradients)
    chex.assert_trees_all_equal_shapes_and_dtypes(gradients, variables["params"])
    weights = variables["params"]["res5c_cross"]["weight"]
    c = 2048 // 16
    chex.assert_shape(
        weights, {"scalar": (6,), "channel": (6, c), "conv": (6, c, c)}[kind]
    )
    assert float(jnp.abs(gradients["res5c_cross"]["weight"]).max()) > 0


@pytest.mark.parametrize(
    ("branch_from", "count"),
    [
        ("stem", 72_239_109),
        ("res5a", 55_152_517),
        ("res5b", 43_073_413),
        ("res5c", 34_148_229),
        ("head", 25_223_045),
    ],
)
def test_parameter_counts_of_the_paper(branch_from, count):
    """Computed by hand for ResNet-50 and 167 + 117 + 553 classes."""
    for cross in (0.0, 0.1):
        network = MultitaskResNet(
            PAPER_CLASSES, branch_from=branch_from, cross_init=cross
        )
        assert parameter_count(network) == count


@pytest.mark.parametrize(
    ("depth", "count"),
    [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032), (101, 44_549_160)]
    + [(152, 60_192_808)],
)
def test_parameter_counts_are_the_published_ones(depth, count):
    """As torchvision's documentation gives them for 1,000 classes."""
    network = MultitaskResNet({"imagenet": 1000}, depth=depth, branch_from="head")
    assert parameter_count(network) == count


@pytest.mark.parametrize("kind", ["scalar", "channel", "conv"])
def test_zero_cross_weights_give_the_multitask_network_bit_for_bit(kind):
    m = tiny(branch_from="res5a", cross_init=0.0)
    x = tiny(branch_from="res5a", cross_kind=kind, cross_init=0.0, cross_learned=True)
    variables = perturbed(init(m, images()))
    crossed = init(x, images())
    weights = {k: v for k, v in crossed["params"].items() if k.endswith("_cross")}
    assert sorted(weights) == ["res5a_cross", "res5b_cross"]

    logits_m = apply(m, variables, images())
    both = {**variables, "params": {**variables["params"], **weights}}
    logits_x = apply(x, both, images())
    chex.assert_trees_all_equal(logits_m, logits_x)


def test_network_and_step_need_no_tensorflow():
    code = (
        "import sys, crl_jax.models, crl_jax.step;"
        "print(sorted(m for m in sys.modules if m.startswith('tensorflow')))"
    )
    arguments = [sys.executable, "-c", code]
    result = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_cross_weights_change_the_logits():
    m, x = (tiny(branch_from="res5a", cross_init=value) for value in (0.0, 0.1))
    variables = perturbed(init(m, images()))
    plain, crossed = (apply(network, variables, images()) for network in (m, x))
    for task in CLASSES:
        assert not np.allclose(plain[task], crossed[task])


@pytest.mark.parametrize("train", [False, True])
def test_branching_from_the_stem_is_separate_networks(train):
    together = tiny(branch_from="stem", cross_init=0.0)
    variables = perturbed(init(together, images(8)))

    def run(network, variables):
        @jax.jit
        def forward(variables):
            return network.apply(
                variables, images(8), train=train, mutable=["batch_stats"]
            )

        return forward(variables)

    logits, updated = run(together, variables)
    for t, task in enumerate(CLASSES):
        alone = MultitaskResNet(
            {task: CLASSES[task]},
            depth=12,
            width=0.125,
            stem="small",
            branch_from="head",
        )
        own = jax.tree.map(
            lambda leaf, t=t: leaf[t],
            {
                "params": {k: v for k, v in variables["params"].items() if k != "head"},
                "batch_stats": variables["batch_stats"],
            },
        )
        own["params"]["head"] = {task: variables["params"]["head"][task]}
        logits_alone, updated_alone = run(alone, own)
        chex.assert_trees_all_close(
            logits[task], logits_alone[task], rtol=1e-4, atol=1e-4
        )
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, t=t: leaf[t], updated),
            updated_alone,
            rtol=1e-4,
            atol=1e-5,
        )


def test_each_task_begins_with_weights_of_its_own():
    params = init(tiny(branch_from="res5b"), images())["params"]
    kernel = params["res5b"]["conv1"]["kernel"]
    chex.assert_shape(kernel, (3, 3, 3, 64, 64))
    assert not np.allclose(kernel[0], kernel[1])


def test_unknown_unit_is_answered_with_the_list():
    with pytest.raises(UserError, match=r"res6a.*ResNet-18.*stem, res2a.*res5b, head"):
        MultitaskResNet(CLASSES, depth=18, branch_from="res6a").init(
            jax.random.key(0), images()
        )


def test_units_of_long_stages_are_named_as_in_the_original_release():
    names = layer_names(101)
    assert names[:5] == ["stem", "res2a", "res2b", "res2c", "res3a"]
    assert "res4b22" in names
    assert names[-2:] == ["res5c", "head"]
    assert len(names) == 33 + 2


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("kind", ["scalar", "channel", "conv"])
def test_cross_residual_against_the_formula_in_loops(kind, backend):
    rng = np.random.default_rng(0)
    tasks, channels = 3, 4
    shortcuts = rng.normal(size=(tasks, 2, 3, 3, channels)).astype(np.float32)
    module = CrossResidual(kind=kind, start=0.1, learned=True)
    variables = module.init(jax.random.key(0), shortcuts)
    shape = variables["params"]["weight"].shape
    weight = rng.normal(size=shape).astype(np.float32)
    with layers.traced_for(backend):
        result = module.apply({"params": {"weight": weight}}, shortcuts)

    expected = np.zeros_like(shortcuts)
    pairs = [(t, j) for t in range(tasks) for j in range(tasks) if t != j]
    for t in range(tasks):
        expected[t] += shortcuts[t]
    for (t, j), w in zip(pairs, weight, strict=True):
        expected[t] += shortcuts[j] @ w if kind == "conv" else w * shortcuts[j]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


def conv_reference(x, kernel, stride):
    """A convolution with symmetric padding, written as loops over output pixels."""
    rows, columns = kernel.shape[:2]
    pad = ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0))
    padded = np.pad(x, pad)
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]), np.float64)
    for i in range(height):
        for j in range(width):
            top, left = i * stride, j * stride
            window = padded[:, top : top + rows, left : left + columns]
            out[:, i, j] = np.einsum("brcx,rcxy->by", window, kernel)
    return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (3, 3), (5, 4), (9, 9)])
def test_convolution_against_loops(stride, size, shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 3, 5)).astype(np.float32)
    np.testing.assert_allclose(
        convolve(x, kernel, stride),
        conv_reference(x, kernel, stride),
        rtol=2e-4,
        atol=2e-4,
    )


def norm_reference(x, params, stats):
    return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params[
        "scale"
    ] + params["bias"]


@pytest.mark.parametrize("depth", [12, 50])
def test_branched_stage_against_the_formula_in_numpy(depth):
    """`y[t] = relu(F[t](x[t]) + sum over j of W[t, j] s[j])`, from stem to logits."""
    network = MultitaskResNet(
        CLASSES, depth=depth, width=0.0625, stem="small", branch_from="res5a"
    )
    variables = perturbed(init(network, images(2, 16)))

    @jax.jit
    def forward(variables):
        return network.apply(
            variables,
            images(2, 16),
            capture_intermediates=True,
            mutable=["intermediates"],
        )

    logits, state = forward(variables)
    seen = state["intermediates"]
    params, stats = jax.device_get((variables["params"], variables["batch_stats"]))
    relu = functools.partial(np.maximum, 0)

    last_shared = layer_names(depth)[layer_names(depth).index("res5a") - 1]
    residual, shortcut = (np.asarray(v) for v in seen[last_shared]["__call__"][0])
    x = [relu(residual + shortcut)] * 3
    for name in [n for n in layer_names(depth) if n.startswith("res5")]:
        residuals, shortcuts = [], []
        for t in range(3):
            p = jax.tree.map(lambda v, t=t: v[t], params[name])
            s = jax.tree.map(lambda v, t=t: v[t], stats[name])
            convs = [k for k in ("conv1", "conv2", "conv3") if k in p]
            y = x[t]
            for i, conv in enumerate(convs, start=1):
                strided = name == "res5a" and i == (1 if depth == 12 else 2)
                y = conv_reference(y, p[conv]["kernel"], 2 if strided else 1)
                y = norm_reference(y, p[f"norm{i}"], s[f"norm{i}"])
                y = relu(y) if i < len(convs) else y
            short = x[t]
            if "projection" in p:
                short = conv_reference(short, p["projection"]["kernel"], 2)
                short = norm_reference(
                    short, p["projection_norm"], s["projection_norm"]
                )
            residuals.append(y)
            shortcuts.append(short)
        x = [
            relu(
                residuals[t]
                + sum((1.0 if j == t else 0.1) * shortcuts[j] for j in range(3))
            )
            for t in range(3)
        ]
    for t, task in enumerate(CLASSES):
        head = params["head"][task]
        expected = x[t].mean(axis=(1, 2)) @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(logits[task], expected, rtol=1e-3, atol=1e-3)
