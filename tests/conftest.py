"""Strict settings for every test: no rank promotion, no warnings, several devices.

`crl_jax` sees eight CPU devices, so that what is mapped over devices really is.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Tests compile much and compute little: level 0 halves their time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
)
os.environ["JAX_PLATFORMS"] = "cpu"
# What one test has compiled, others and the commands they start need not compile again.
os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax
import numpy as np
import pytest
from absl import logging
from ml_collections import ConfigDict
from PIL import Image

from crl_jax import cli
from crl_jax.config import default

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).parents[2] / "shared" / "data"


# The files that take longest begin first, so that no process is left with one of them
# while the others have nothing to do.
LONG = [
    f"test_{name}.py"
    for name in (
        *("readme", "processes", "step", "train", "disk", "notebooks", "compare"),
        *("seeds", "checkpoints", "models", "demo", "beside_host", "fine_tuning"),
        "groups",
    )
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


def pytest_sessionfinish() -> None:
    shutil.rmtree(os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)


@pytest.fixture(autouse=True)
def as_in_a_program() -> None:
    """Undoes what a verb, which an earlier test ran, has set for the whole process."""
    logging.set_verbosity(logging.WARNING)
    cli.is_command = False


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real photographs and label lists, beside the project."""
    if not SHARED.is_dir():
        pytest.skip(f"no real photographs: {SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder for prepared data sets, shared by the tests of a session."""
    return tmp_path_factory.mktemp("shards")


@pytest.fixture(scope="session")
def solid_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of 26 pictures; all pixels of picture i have red value 8 * i.

    Blue depends on where a pixel is, so a different crop or flip gives other pixels.

    Tasks: `hue` (dark, light) and `number` (seven classes), which the second row lacks.
    """
    folder = tmp_path_factory.mktemp("solid")
    rows = ["file,split,hue,number"]
    pixels = np.empty((20, 24, 3), np.uint8)
    pixels[..., 2] = 8 * np.arange(24) + np.arange(20)[:, None]
    for i in range(26):
        pixels[..., :2] = 8 * i, 255 - 8 * i
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
        split = "train" if i < 14 else "val" if i < 19 else "test"
        number = "" if i == 1 else f"n{i % 7}"
        rows.append(f"{i:02}.png,{split},{'dark' if i % 2 else 'light'},{number}")
    manifest = folder / "labels.csv"
    manifest.write_text("\n".join(rows))
    return manifest


@pytest.fixture(scope="session")
def photographs(solid_pictures: Path) -> list[Path]:
    """Two real photographs if there are any, otherwise two of `solid_pictures`."""
    found = sorted((SHARED / "grocery_store").rglob("*.jpg"))
    return (found or sorted(solid_pictures.parent.glob("*.png")))[:2]


@pytest.fixture(scope="session")
def new_config(solid_pictures: Path, shards: Path) -> Callable[[], ConfigDict]:
    """Makes configs for six steps (seconds) of a tiny network on `solid_pictures`."""

    def make() -> ConfigDict:
        config = default()
        config.model.depth = 12
        config.model.width = 0.125
        config.model.stem = "small"
        config.data.manifest = str(solid_pictures)
        config.data.dir = str(shards)
        config.data.image_size = 16
        config.data.batch_size = 8
        config.train.steps = 6
        return config

    return make


@pytest.fixture(scope="session")
def new_small_config(new_config: Callable[[], ConfigDict]) -> Callable[[], ConfigDict]:
    """Makes configs like `new_config`'s that evaluate every other step and log each."""

    def make() -> ConfigDict:
        config = new_config()
        config.train.eval_every = 2
        config.train.log_every = 1
        return config

    return make


@pytest.fixture
def small_config(new_small_config: Callable[[], ConfigDict]) -> ConfigDict:
    """A config from `new_small_config`, for one test to change."""
    return new_small_config()


@pytest.fixture(scope="session")
def whole(
    new_small_config: Callable[[], ConfigDict], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """An undisturbed run of `small_config`, and what its training returned."""
    from crl_jax.train import train

    directory = tmp_path_factory.mktemp("whole")
    return directory, train(new_small_config(), directory)


@pytest.fixture(scope="session")
def trained(
    new_config: Callable[[], ConfigDict], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any]:
    """A finished run of six steps, and what its training returned."""
    from crl_jax.train import train

    config = new_config()
    config.model.branch_from = "res5a"  # so that something crosses
    config.train.eval_every = 3
    config.optim.learning_rate = 0.02
    directory = tmp_path_factory.mktemp("trained")
    return directory, train(config, directory)
