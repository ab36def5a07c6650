"""Strict settings for every test: nothing is promoted, warned of or run on one device.

`crl_jax` sees eight CPU devices, so that what is mapped over devices really is.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

SHARED = Path(__file__).parents[2] / "shared" / "data"


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
