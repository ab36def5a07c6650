"""How a process prepares JAX."""

import os
import platform
import subprocess
import sys

import pytest

from crl_jax import devices
from crl_jax.errors import UserError

# A program that takes 64 MiB for itself; prints how many pages a run of it touches for
# the first time.
PROGRAM = """
import resource
import sys

import jax
import jax.numpy as jnp

from crl_jax import devices

if "start" in sys.argv:
    devices.start()
x = jnp.arange(2.0**12)[:, None]
program = jax.jit(lambda x: (jnp.sin(x * x.T) @ x).sum())
touched = []
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    jax.block_until_ready(program(x))
    touched.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(touched))  # XLA may still choose another thread now and then
"""


@pytest.mark.parametrize("flags", [{"processes": 2}, {"process": 0}])
def test_processes_need_a_place_to_meet(flags):
    with pytest.raises(UserError, match="need --coordinator=HOST:PORT"):
        devices.start(**flags)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("tpu", "tpu,cpu"), ("cpu", "cpu"), ("cuda,cpu", "cuda,cpu")],
)
def test_the_cpu_is_known_beside_what_jax_platforms_names(given, expected):
    code = "import jax; from crl_jax import devices; devices.have_cpu(); "
    code += "print(jax.config.jax_platforms)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"JAX_PLATFORMS": given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is told so")
def test_a_step_uses_the_memory_of_the_one_before():
    def pages(*arguments):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        one_device = os.environ | {"XLA_FLAGS": ""}
        done = subprocess.run(
            command, env=one_device, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert pages() > 10_000  # of 4 KiB
    assert pages("start") < 100
