"""Runs in processes of their own, and what they leave in their folders."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax

from crl_jax import checkpoints, devices, models, optim, train_state, workdir
from crl_jax.kinds import widths

PROJECT = Path(__file__).parents[1]


def with_devices(count: int) -> dict[str, str]:
    """This process's environment, with another number of CPU devices."""
    flags = (
        f"--xla_force_host_platform_device_count={count} "
        "--xla_backend_optimization_level=0"
    )
    return os.environ | {"XLA_FLAGS": flags}


def start(
    directory: Path,
    *overrides: str,
    device_count: int = 1,
    python: Sequence[str] = ("-m", "crl_jax.main"),
    within: Sequence[str] = (),
    **environment: str,
) -> subprocess.Popen[str]:
    """Starts a training of a tiny network on some CPU devices.

    `python` is what Python is told to run, and `within` a command that starts it.
    """
    command = [*within, sys.executable, *python]
    command += ["--config=configs/manifest.py", f"--workdir={directory}"]
    command += [
        "--config.model.depth=12",
        "--config.model.width=0.125",
        "--config.model.stem=small",
        "--config.data.image_size=16",
        "--config.data.batch_size=8",
        "--config.train.epochs=0",
        "--config.train.log_every=1",
        "--config.optim.learning_rate=0.01",
    ]
    return subprocess.Popen(
        [*command, *overrides],
        cwd=PROJECT,
        env=with_devices(device_count) | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Waits for a process that must succeed, and returns what it printed."""
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error[-2000:]
    return out


def rewind(whole: Path, directory: Path, step: int) -> None:
    """Copies a finished run as if it had been stopped, with a checkpoint of `step`."""
    shutil.copytree(whole, directory)
    (directory / "result.json").unlink()
    for checkpoint in (directory / "checkpoints").glob("[0-9]*"):
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)


def abstract_state(directory: Path) -> Any:
    """Shapes and places of the state of the run in `directory`."""
    run = workdir.read(directory)
    network = models.build(run.config, widths(run.kinds))
    optimizer = optim.make(run.config.optim, lambda count: 0.0)
    return train_state.abstract_state(
        network, optimizer, run.config, run.kinds, devices.make_mesh()
    )


def saved_state(directory: Path, which: str = "latest") -> Any:
    """The state in the latest or best checkpoint, as NumPy arrays."""
    abstract = abstract_state(directory)
    with closing(checkpoints.Checkpoints(directory, read_only=True)) as saved:
        return jax.device_get(getattr(saved, f"restore_{which}")(abstract)[1])
