"""Tensors in files of other libraries, read without those libraries.

Only numbers are read: no code in a file can run. The shapes that a file states are
known before any tensor is in memory.
"""

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crl_jax.errors import UserError

_LARGEST_PICKLE = 2**24  # bytes; the pickle of a ResNet-152 has 200 kB


class _Unchangeable:
    """What a pickle may make, but not change afterwards, when it has been checked."""

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"it changes a {type(self).__name__}")


@dataclass(frozen=True)
class Tensor(_Unchangeable):
    """A tensor in a file.

    Attributes:
      shape: as the file states it.
      read: returns the numbers, float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


Tensors = dict[str, Tensor]


def read_torch(path: Path) -> Tensors:
    """Returns the tensors of a `.safetensors`, `.pth` or `.pt` file by their names.

    Raises:
      UserError: the file cannot be read, or holds more than plain tensors; or, from
        `Tensor.read`, its numbers cannot be read.
    """
    read = _safetensors if path.suffix == ".safetensors" else _pth
    mend = "Save it as safetensors, or with torch.save(model.state_dict())."
    with _answered(path, mend):
        return _all_answered(read(path), path, mend)


@contextmanager
def _answered(path: Path, mend: str) -> Iterator[None]:
    """Raises a UserError for whatever a damaged file makes its reader raise."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"config.init.from={path} cannot be read ({type(error).__name__}: "
            f"{error}). {mend}"
        ) from error


def _all_answered(tensors: Tensors, path: Path, mend: str) -> Tensors:
    def reader(tensor: Tensor) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with _answered(path, mend):
                return tensor.read()

        return read

    return {name: Tensor(x.shape, reader(x)) for name, x in tensors.items()}


def _safetensors(path: Path) -> Tensors:
    try:
        from safetensors import safe_open
    except ImportError as error:
        raise _needs("safetensors") from error
    with safe_open(path, framework="np") as file:
        names = list(file.keys())
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}

    def reader(name: str) -> Callable[[], np.ndarray]:
        def read() -> np.ndarray:
            with safe_open(path, framework="np") as file:
                return np.asarray(file.get_tensor(name), np.float32)

        return read

    return {name: Tensor(shape, reader(name)) for name, shape in shapes.items()}


@dataclass(frozen=True)
class _Storage(_Unchangeable):
    """Numbers in a `.pth`: their dtype, archive member and count."""

    dtype: str
    member: str
    count: int


_STORAGES = {  # names of dtypes, since a pickle could change an object
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of tensors, and refuses everything else.

    A pickle can name any function and call it; here only three kinds of names exist,
    and what they stand for merely notes where the numbers are.
    """

    def __init__(self, file: io.BytesIO, archive: Path) -> None:
        super().__init__(file)
        self._archive = archive

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise UserError(
            f"config.init.from={self._archive} holds more than plain tensors "
            f"({module}.{name}), so it is not read: save it anew with "
            "torch.save(model.state_dict(), FILE)."
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or dtype not in _STORAGES.values():
            raise ValueError(f"an unknown kind of storage, {kind!r}")
        return _Storage(dtype, f"data/{key}", int(count))

    def _tensor(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], *rest: Any
    ) -> Tensor:
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor without a storage")
        # A list could be changed after the check.
        shape, strides = tuple(shape), tuple(rest[0])
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if min((offset, *shape, *strides, 0)) < 0 or last >= max(storage.count, 1):
            raise ValueError(f"a tensor of shape {shape} outside its storage")

        def read() -> np.ndarray:
            flat = self._numbers(storage)
            size = flat.dtype.itemsize
            view = np.lib.stride_tricks.as_strided(
                flat[offset:], shape, [s * size for s in strides], writeable=False
            )
            return np.array(view, np.float32)

        return Tensor(shape, read)

    def _numbers(self, storage: _Storage) -> np.ndarray:
        with zipfile.ZipFile(self._archive) as archive:
            member = _member(archive, storage.member)
            size = storage.count * np.dtype(storage.dtype).itemsize
            if member.file_size != size:
                raise UserError(
                    f"config.init.from={self._archive} is damaged: {member.filename} "
                    f"has {member.file_size} bytes and should have {size}."
                )
            return np.frombuffer(archive.read(member), storage.dtype)


def _member(archive: zipfile.ZipFile, end: str) -> zipfile.ZipInfo:
    """Returns the member of an archive at a path below its one folder."""
    found = [m for m in archive.infolist() if m.filename.partition("/")[2] == end]
    if len(found) != 1:
        raise ValueError(f"no {end} in it")
    return _as_stored(found[0])


def _as_stored(member: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """Refuses a compressed member, which could be larger than any memory."""
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"its {member.filename} is compressed")
    return member


def _pth(path: Path) -> Tensors:
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"config.init.from={path} is not in the format that PyTorch has saved "
            "since version 1.6: load it with PyTorch once and save its state_dict anew."
        )
    with zipfile.ZipFile(path) as archive:
        member = _member(archive, "data.pkl")
        if member.file_size > _LARGEST_PICKLE:
            raise ValueError(f"its data.pkl has {member.file_size} bytes")
        pickled = archive.read(member)
    for opcode, argument, _ in pickletools.genops(pickled):
        # The unpickler would make room for all memo entries before this one.
        place = argument if opcode.name.endswith("PUT") else 0
        if isinstance(place, int) and place > len(pickled):
            raise ValueError("its data.pkl is damaged")
    content = _TensorUnpickler(io.BytesIO(pickled), path).load()
    if not isinstance(content, dict):
        raise ValueError("it does not map names to tensors")
    content = content.get("state_dict", content)
    tensors = {name: x for name, x in content.items() if isinstance(x, Tensor)}
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


def read_keras(path: Path) -> Tensors:
    """Returns the tensors of a Keras `.h5`, `.weights.h5` or `.keras` file.

    Returns:
      `{"<layer>/<weight>": tensor}`, such as `conv1_conv/kernel`.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        import h5py
    except ImportError as error:
        raise _needs("h5py") from error
    mend = "Save it anew with Keras's model.save_weights(FILE)."
    with _answered(path, mend):
        content: Any = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                member = _as_stored(archive.getinfo("model.weights.h5"))
                content = io.BytesIO(archive.read(member))
        file = h5py.File(content)  # stays open as long as tensors may be read
        if "layers" in file:
            tensors = _keras_3(file["layers"])
        else:
            tensors = _keras_2(file.get("model_weights", file))
        return _all_answered(tensors, path, mend)


_VARIABLES = {  # in the order of Keras 3
    True: ("gamma", "beta", "moving_mean", "moving_variance"),
    False: ("kernel", "bias"),
}


def _keras_3(layers: Any) -> Tensors:
    tensors = {}
    for group in layers.values():
        variables = group.get("vars", {})
        if not len(variables):
            continue
        layer = variables.attrs["name"]
        names = _VARIABLES[len(variables) == 4]
        for number, dataset in variables.items():
            tensors[f"{layer}/{names[int(number)]}"] = _dataset(dataset)
    return tensors


def _keras_2(layers: Any) -> Tensors:
    tensors = {}

    def add(path: str, item: Any) -> None:
        if hasattr(item, "shape"):
            layer, weight = path.split("/")[-2:]
            tensors[f"{layer}/{weight.removesuffix(':0')}"] = _dataset(item)

    layers.visititems(add)
    return tensors


def _dataset(dataset: Any) -> Tensor:
    # Such a dataset may need more memory than its file has bytes, or read other files.
    if dataset.chunks or dataset.is_virtual or dataset.external:
        raise ValueError(f"{dataset.name} is compressed or stored in another file")
    return Tensor(tuple(dataset.shape), lambda: np.asarray(dataset, np.float32))


def _needs(package: str) -> UserError:
    return UserError(
        f'config.init.from needs {package} for this file: pip install ".[pretrained]".'
    )
