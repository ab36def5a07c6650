"""What `fuzz` needs to throw changed files at the readers of weights."""

import functools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from crl_jax.models import MultitaskResNet, pretrained
from tests import made_weights

Reader = tuple[bytes, Callable[[bytes], object]]


@functools.cache
def _network(**settings: object) -> tuple[MultitaskResNet, object]:
    network = MultitaskResNet({"noun": 3}, branch_from="head", **settings)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    variables = jax.jit(network.init)(jax.random.key(0), images)
    return network, jax.device_get(variables)


def pth_reader(folder: Path) -> Reader:
    """Returns the pickle in a `.pth` file, and what reads such a file."""
    network, variables = _network(depth=12, width=0.125)
    path = folder / "a.pth"
    made_weights.write_pth(path, made_weights.torch_tensors(network))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def read(content: bytes) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name, stored in members.items():
                archive.writestr(name, content if name.endswith(".pkl") else stored)
        pretrained.load(path, network, variables)

    return members["archive/data.pkl"], read


def safetensors_reader(folder: Path) -> Reader:
    """Returns the header of a `.safetensors` file, and what reads such a file."""
    network, variables = _network(depth=12, width=0.125)
    path = folder / "a.safetensors"
    header, numbers = {}, b""
    for name, array in made_weights.torch_tensors(network).items():
        offsets = [len(numbers), len(numbers) + array.nbytes]
        header[name] = {
            "dtype": "F32",
            "shape": array.shape,
            "data_offsets": offsets,
        }
        numbers += array.tobytes()

    def read(content: bytes) -> None:
        path.write_bytes(len(content).to_bytes(8, "little") + content + numbers)
        pretrained.load(path, network, variables)

    return json.dumps(header).encode(), read


def keras_reader(folder: Path) -> Reader:
    """Returns an `.h5` file, and what reads one."""
    network, variables = _network(depth=50, width=1 / 64, stride_in="1x1")
    path = folder / "a.h5"
    made_weights.write_keras(path, variables)

    def read(content: bytes) -> None:
        path.write_bytes(content)
        pretrained.load(path, network, variables)

    return path.read_bytes(), read
