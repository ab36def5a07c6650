"""Runs on devices that are not the host's, as on a GPU or TPU; this needs neither."""

import subprocess
import sys
from pathlib import Path

import beside_host
import jax
import launched
import numpy as np
import pytest

DEVICES = 2
BESIDE_HOST = (beside_host.__file__, str(DEVICES))
OVERRIDES = [
    "--config.model.branch_from=res5a",  # so that something crosses
    "--config.model.cross.learned=True",
    "--config.optim.ema=0.9",
    "--config.train.steps=4",
    "--config.train.eval_every=2",
]


@pytest.fixture(scope="module")
def train(solid_pictures, shards):
    """Trains in a folder, or goes on there; returns what was printed."""

    def train(directory, *python):
        data = f"--config.data.manifest={solid_pictures}", f"--config.data.dir={shards}"
        flags = *data, *OVERRIDES
        process = launched.start(directory, *flags, device_count=DEVICES, python=python)
        return launched.finish(process)

    return train


@pytest.fixture(scope="module")
def run(train, tmp_path_factory):
    """A run beside the host: its folder, and what it printed."""
    directory = tmp_path_factory.mktemp("beside_host")
    return directory, train(directory, *BESIDE_HOST, "crl_jax.main")


def assert_same(a, b):
    """Two runs' checkpoints, log and result, to the last bit."""
    for which in ("latest", "best"):
        states = (launched.saved_state(folder, which) for folder in (a, b))
        jax.tree.map(np.testing.assert_array_equal, *states)
    for name in ("result.json", "metrics.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_the_devices_and_the_host_refuse_each_others_arrays():
    """Or the tests below would show nothing."""
    beside_host = "import beside_host; beside_host.add_devices(1); import jax; "
    add = "x, y = (jax.device_put(1.0, jax.devices(name)[0]) for name in (None, 'cpu'))"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{beside_host}{add}; jax.jit(lambda x, y: x + y)(x, y)",
        ],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    assert "incompatible devices" in done.stderr


def test_training_gives_the_bits_of_the_host(run, train, tmp_path):
    directory, printed = run
    expected = train(tmp_path, "-m", "crl_jax.main")
    assert f"on {DEVICES} cpu devices" in printed
    assert printed.splitlines()[-8:] == expected.splitlines()[-8:]
    assert_same(directory, tmp_path)


def test_a_stopped_run_goes_on(run, train, tmp_path):
    stopped = tmp_path / "stopped"
    launched.rewind(run[0], stopped, 2)
    printed = train(stopped, *BESIDE_HOST, "crl_jax.main")
    assert "Going on from step 2 of 4" in printed
    assert_same(run[0], stopped)


@pytest.mark.slow
def test_seeds_train_side_by_side(train, tmp_path):
    seeds = "--networks=X", "--seeds=2", "--together=2"
    printed = train(tmp_path, *BESIDE_HOST, "crl_jax.compare", *seeds)
    assert "Training 2 runs" in printed
    assert (tmp_path / "report.html").stat().st_size


def output(run, *python):
    """What a command prints of a run."""
    done = subprocess.run(
        [sys.executable, *python, "--workdir", str(run[0])],
        cwd=launched.PROJECT,
        env=launched.with_devices(DEVICES),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("module", ["evaluate", "predict"])
def test_a_network_answers_as_on_the_host(module, run, solid_pictures):
    ask = [f"crl_jax.{module}"]
    if module == "predict":
        ask += ["--format=csv", str(solid_pictures.parent)]
    answer = output(run, *BESIDE_HOST, *ask)
    assert answer
    assert answer == output(run, "-m", *ask)


@pytest.mark.parametrize(
    ("ask", "written"),
    [(["report"], "report.html"), (["export", "--to=stablehlo"], "export/stablehlo")],
)
def test_what_is_written_about_a_run(ask, written, run):
    output(run, *BESIDE_HOST, f"crl_jax.{ask[0]}", *ask[1:])
    assert (run[0] / written).exists()
