"""Runs a module on devices that are not the host's CPU, as a GPU's or a TPU's are not.

    python tests/beside_host.py 2 crl_jax.main --config=...

They are CPU devices, too, but of a client of their own: JAX refuses to compute with
arrays of both, and every array that goes from one to the other has to be sent.
"""

import runpy
import sys

import jax
from jax._src import xla_bridge  # JAX's own plugins for GPUs and TPUs call it, too
from jaxlib import xla_client


def add_devices(count: int) -> None:
    """Makes devices that are not the host's CPU the ones that JAX computes on."""

    def client() -> object:
        return xla_client.make_cpu_client(num_devices=count)

    xla_bridge.register_backend_factory("beside_host", client, priority=1000)
    jax.config.update("jax_platforms", "beside_host,cpu")


if __name__ == "__main__":
    add_devices(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    sys.path.insert(0, "")
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
