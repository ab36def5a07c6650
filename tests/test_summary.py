"""The summary: the paper's numbers, and costs against counts by hand."""

import contextlib
import io
import sys

import jax
import jax.numpy as jnp
import pytest

from crl_jax import cli, config_check, costs, networks, summary
from crl_jax import config as config_lib
from crl_jax.errors import UserError

PAPER = {"noun": 167, "adjective": 117, "anp": 553}


@pytest.fixture(scope="module")
def of_the_paper():
    """What the summary of the paper's networks prints, and the costs that it counts."""
    counted, cost = [], costs.cost

    def counting(*network):
        counted.append(cost(*network))
        return counted[-1]

    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as text,
    ):
        patch.setattr(costs, "cost", counting)
        patch.setattr(sys, "argv", ["summary", "--config=configs/vso.py"])
        summary.main()
    return text.getvalue(), dict(zip("SMX", counted, strict=True))


def test_summary_of_vso_prints_the_numbers_of_the_paper(of_the_paper):
    text, _ = of_the_paper
    for number in ("72,239,109", "43,073,413", "43.07", "40.4%"):
        assert number in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_costs_of_resnet_50_by_hand(of_the_paper):
    _, by_name = of_the_paper
    assert by_name["S"].branch == 23_508_032
    assert by_name["S"].heads == {
        "noun": 342_183,
        "adjective": 239_733,
        "anp": 1_133_097,
    }
    assert by_name["M"].total == by_name["X"].total == 43_073_413
    # With the stride in the 1x1: 3.8e9 multiply-adds in He et al. 2015, table 1.
    assert by_name["S"].flops / 3 / 2e9 == pytest.approx(3.8, abs=0.1)
    assert by_name["M"].flops == by_name["X"].flops < by_name["S"].flops / 2
    assert by_name["M"].activation_bytes < by_name["S"].activation_bytes / 2


@pytest.mark.parametrize(
    ("depth", "expected"),
    [(18, 1.814), (34, 3.664), (50, 4.089), (101, 7.801), (152, 11.514)],
)
def test_flops_are_those_that_torchvision_publishes(depth, expected):
    """For 1,000 classes at 224 px, in thousand millions of multiply-adds."""
    config = config_lib.default()
    config.model.depth = depth
    config = config_check.with_tasks(config_check.check(config), {"label": 1000})
    found = costs.cost(config, {"label": 1000}).flops
    assert found / 2e9 == pytest.approx(expected, abs=0.0005)


def test_flops_of_a_loop_are_those_of_all_its_turns():
    def loop(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=10)[0]

    assert costs.flops(loop, jnp.zeros((8, 8))) == 10 * 2 * 8**3


def test_learned_cross_weights_are_counted():
    overrides = [("model.cross.learned", "True"), ("model.cross.kind", "conv")]
    config = cli.load_config("configs/vso.py", overrides)
    cost = costs.cost(config, PAPER)
    # Six ordered pairs of tasks, two units, 2048 x 2048 each.
    assert cost.cross == 6 * 2 * 2048**2
    assert cost.total == 43_073_413 + cost.cross


def test_summary_reads_classes_from_a_manifest(solid_pictures, monkeypatch, capsys):
    arguments = [
        "--config=configs/manifest.py",
        f"--config.data.manifest={solid_pictures}",
    ]
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    summary.main()
    assert "head number (7)" in capsys.readouterr().out


def test_summary_has_all_tasks_of_the_data(monkeypatch, capsys):
    """Also if the config gives the classes of only some of them."""
    arguments = ["--config=configs/digits.py", "--config.tasks.noun.classes=10"]
    monkeypatch.setattr("sys.argv", ["summary", *arguments])
    summary.main()
    assert ", 3 tasks, " in capsys.readouterr().out


def test_networks_differ_only_in_what_they_are_named_for():
    config = cli.load_config("configs/vso.py")
    s, m, x = (networks.named(config, name) for name in "SMX")
    assert config_lib.differences(config, x) == []
    assert config_lib.differences(x, m) == ["model.cross.init"]
    assert config_lib.differences(m, s) == ["model.branch_from"]


def test_synchronised_batch_norm_costs_the_same():
    overrides = [("model.depth", "12"), ("data.image_size", "32")]
    config = cli.load_config("configs/vso.py", overrides)
    synced = cli.load_config(
        "configs/vso.py", [*overrides, ("model.sync_batch_norm", "True")]
    )
    assert costs.cost(synced, PAPER) == costs.cost(config, PAPER)


def test_without_data_or_classes_the_message_names_both(monkeypatch):
    monkeypatch.setattr("sys.argv", ["summary", "--config=configs/manifest.py"])
    with pytest.raises(UserError, match=r"--config.tasks.NAME.classes=10"):
        summary.main()
