"""Weights of other libraries' ResNets for a network of ours.

A trunk takes them as they are, each branch starts as a copy, and heads are new. Nothing
here needs the library that a file comes from.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from crl_jax.errors import UserError
from crl_jax.models import units
from crl_jax.models.architecture import ARCHITECTURES, unit_names
from crl_jax.models.imported import Import
from crl_jax.models.network import MultitaskResNet
from crl_jax.models.weight_files import Tensor, read_keras, read_torch

# Where an array lies in the variables: ("params", "res2a", "conv1", "kernel").
Key = tuple[str, ...]

_KERAS_EPSILON = 1.001e-5  # of Keras's batch norm; ours is 1e-5
_KERAS_MEAN = (123.68, 116.779, 103.939)  # that Keras subtracts: red, green, blue


def check(path: Path, network: MultitaskResNet, variables: Any) -> None:
    """Raises what `load` would raise, as far as no number has to be read for that.

    Args:
      path: see `load`.
      network: see `load`.
      variables: shapes and dtypes suffice.
    """
    _check_fits(path, _source(path, network), network, _flat(variables))


def _source(path: Path, network: MultitaskResNet) -> "_Source":
    if path.suffix not in _READERS:
        raise UserError(
            f"config.init.from={path}: weights are read from {', '.join(_READERS)}, or "
            "from the folder of a run."
        )
    if not path.is_file():
        raise UserError(f"config.init.from={path}: there is no such file.")
    return _READERS[path.suffix](path, network)


def load(path: Path, network: MultitaskResNet, variables: Any) -> Import:
    """Returns the variables of a network, taken from a file as far as it has them.

    Args:
      path: `.safetensors`, `.pth` or `.pt` of timm's or torchvision's ResNets, or
        `.h5` or `.keras` of Keras's.
      network: the one they are for.
      variables: of the network as it starts; what the file lacks stays as it is.

    Raises:
      UserError: there is no such file, it cannot be read, it is of another network, or
        a shape does not fit.
    """
    source, flat = _source(path, network), _flat(variables)
    new = _check_fits(path, source, network, flat)
    result = Import(None, new=new, left=source.left, notes=source.notes)
    for key, (name, _, read) in source.tensors.items():
        if key not in flat:
            result.left[name] = f"a ResNet-{network.depth} has no {'/'.join(key[1:])}"
            continue
        numbers = read().astype(np.float32)
        flat[key] = np.ascontiguousarray(np.broadcast_to(numbers, flat[key].shape))
        result.matched.append("/".join(key))
    result.variables = traverse_util.unflatten_dict(flat)
    return result


def _flat(variables: Any) -> dict[Key, Any]:
    return dict(traverse_util.flatten_dict(variables))


@dataclass
class _Source:
    """What a file has, by our paths, with kernels in the order of our axes."""

    tensors: dict[Key, tuple[str, tuple[int, ...], Callable[[], np.ndarray]]]
    left: dict[str, str]
    notes: list[str]


def _check_fits(
    path: Path, source: _Source, network: MultitaskResNet, flat: Mapping[Key, Any]
) -> list[str]:
    """Returns the paths of the arrays that a file has not, and heads and the like need.

    Raises:
      UserError: it lacks others, or a shape does not fit.
    """
    stacked = network.stacked_layers
    new, layers_missing = [], []
    for key, leaf in flat.items():
        if key not in source.tensors:
            new.append("/".join(key))
            if key[1] != "head" and not key[1].endswith("_cross"):
                layers_missing.append("/".join(key))
            continue
        name, shape, _ = source.tensors[key]
        expected = leaf.shape[1:] if key[1] in stacked else leaf.shape
        if tuple(shape) != tuple(expected):
            raise UserError(
                f"config.init.from={path}: {name} is {tuple(shape)} there, and "
                f"{'/'.join(key)} of this network is {tuple(expected)}: the config's "
                "model.depth, width and stem must match the weights."
            )
    if layers_missing:
        raise UserError(
            f"config.init.from={path} lacks {layers_missing[0]} and "
            f"{len(layers_missing) - 1} more arrays of a ResNet-{network.depth}: the "
            "weights belong to another network."
        )
    return new


def _layers(network: MultitaskResNet) -> tuple[list[list[str]], bool]:
    """Returns the unit names per stage, and whether the units are bottlenecks."""
    unit, sizes = ARCHITECTURES[network.depth]
    return unit_names(sizes), unit is units.BottleneckUnit


# Our collection and name for each array of a batch norm.
_TORCH_NORM = {
    "weight": ("params", "scale"),
    "bias": ("params", "bias"),
    "running_mean": ("batch_stats", "mean"),
    "running_var": ("batch_stats", "var"),
}


def _torch_source(path: Path, network: MultitaskResNet) -> _Source:
    """Reads the layout of torchvision and timm."""
    stages, bottleneck = _layers(network)
    if bottleneck and network.stride_in != "3x3":
        raise UserError(
            f"config.init.from={path}: ResNets of torchvision and timm have the stride "
            "in the 3x3 convolution: set config.model.stride_in=3x3."
        )
    convs = {"conv1": ("stem", "conv")}
    norms = {"bn1": ("stem", "norm")}
    for stage, names in enumerate(stages, start=1):
        for i, unit in enumerate(names):
            prefix = f"layer{stage}.{i}"
            for n in (1, 2, 3) if bottleneck else (1, 2):
                convs[f"{prefix}.conv{n}"] = (unit, f"conv{n}")
                norms[f"{prefix}.bn{n}"] = (unit, f"norm{n}")
            convs[f"{prefix}.downsample.0"] = (unit, "projection")
            norms[f"{prefix}.downsample.1"] = (unit, "projection_norm")

    source = _Source({}, {}, [])
    for name, tensor in read_torch(path).items():
        layer, _, weight = name.rpartition(".")
        layer = layer.removeprefix("module.")
        if layer in convs and weight == "weight" and len(tensor.shape) == 4:
            out, into, rows, columns = tensor.shape
            source.tensors[("params", *convs[layer], "kernel")] = (
                name,
                (rows, columns, into, out),
                _torch_kernel_reader(tensor),
            )
        elif layer in norms and weight in _TORCH_NORM:
            collection, leaf = _TORCH_NORM[weight]
            key = (collection, *norms[layer], leaf)
            source.tensors[key] = (name, tensor.shape, tensor.read)
        else:
            if re.match(r"layer\d+\.", layer) and weight != _COUNT:
                raise _of_another(path, name, network)
            source.left[name] = _why_left(weight, layer in ("fc", "classifier"))
    return source


def _torch_kernel_reader(tensor: Tensor) -> Callable[[], np.ndarray]:
    return lambda: tensor.read().transpose(2, 3, 1, 0)


_COUNT = "num_batches_tracked"


def _of_another(path: Path, name: str, network: MultitaskResNet) -> UserError:
    return UserError(
        f"config.init.from={path} has {name}, and a ResNet-{network.depth} has no such "
        "unit or layer: the weights belong to another network."
    )


def _why_left(weight: str, head: bool) -> str:
    if head:
        return "heads are new"
    if weight == _COUNT:
        return "a count that is not needed"
    return "no layer of this network"


_KERAS_NORM = {
    "gamma": ("params", "scale"),
    "beta": ("params", "bias"),
    "moving_mean": ("batch_stats", "mean"),
    "moving_variance": ("batch_stats", "var"),
}


def _keras_source(path: Path, network: MultitaskResNet) -> _Source:
    """Reads the layout of Keras's ResNet50, ResNet101 and ResNet152.

    A convolution's bias shifts the batch statistics by as much; the variances grow by
    what Keras's epsilon is larger than ours; and the stem takes red, green and blue,
    divided by `network.std`, instead of blue, green and red.
    """
    stages, bottleneck = _layers(network)
    if not bottleneck:
        raise UserError(
            f"config.init.from={path}: Keras has no ResNet-{network.depth}, only 50, "
            "101 and 152."
        )
    if network.stride_in != "1x1":
        raise UserError(
            f"config.init.from={path}: Keras's ResNets have the stride in the first "
            "1x1 convolution: set config.model.stride_in=1x1."
        )
    layers = {"conv1": ("stem", "conv", "norm")}
    for stage, names in enumerate(stages, start=2):
        for i, unit in enumerate(names, start=1):
            for n in (1, 2, 3):
                layers[f"conv{stage}_block{i}_{n}"] = (unit, f"conv{n}", f"norm{n}")
            shortcut = (unit, "projection", "projection_norm")
            layers[f"conv{stage}_block{i}_0"] = shortcut

    stored = read_keras(path)
    source = _Source({}, {}, [])
    for name, tensor in stored.items():
        keras_layer, _, weight = name.partition("/")
        block, _, kind = keras_layer.rpartition("_")
        if block not in layers or kind not in ("conv", "bn"):
            if re.match(r"conv\d+_block\d+_", keras_layer):
                raise _of_another(path, name, network)
            head = keras_layer in ("predictions", "probs", "fc1000")
            source.left[name] = _why_left(weight, head)
            continue
        unit, conv, norm = layers[block]
        if kind == "conv" and weight == "kernel":
            stem = unit == "stem"
            read = _stem_reader(tensor, network.std) if stem else tensor.read
            key = ("params", unit, conv, "kernel")
            source.tensors[key] = (name, tensor.shape, read)
        elif kind == "bn" and weight in _KERAS_NORM:
            collection, leaf = _KERAS_NORM[weight]
            bias = stored.get(f"{block}_conv/bias")
            if bias is not None and bias.shape != tensor.shape:
                raise UserError(
                    f"config.init.from={path}: {block}_conv/bias is {bias.shape}, and "
                    f"{name} is {tensor.shape}: the file is damaged."
                )
            read = _norm_reader(weight, tensor, bias)
            key = (collection, unit, norm, leaf)
            source.tensors[key] = (name, tensor.shape, read)
        elif weight != "bias":
            source.left[name] = _why_left(weight, head=False)
    if not np.allclose(255 * np.array(network.mean), _KERAS_MEAN, atol=1e-3):
        mean = ", ".join(f"{m / 255:.6f}" for m in _KERAS_MEAN)
        source.notes.append(
            "Keras's weights were trained with a different mean of the pictures: "
            f"config.data.mean='({mean})' is theirs."
        )
    return source


def _stem_reader(tensor: Tensor, std: tuple[float, ...]) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        kernel = tensor.read()[:, :, ::-1]
        return kernel * (255 * np.array(std, np.float32)).reshape(1, 1, 3, 1)

    return read


def _norm_reader(
    weight: str, tensor: Tensor, bias: Tensor | None
) -> Callable[[], np.ndarray]:
    if weight == "moving_mean" and bias is not None:
        return lambda: tensor.read() - bias.read()
    if weight == "moving_variance":
        return lambda: tensor.read() + np.float32(_KERAS_EPSILON - 1e-5)
    return tensor.read


_READERS: dict[str, Callable[[Path, MultitaskResNet], _Source]] = {
    ".safetensors": _torch_source,
    ".pth": _torch_source,
    ".pt": _torch_source,
    ".h5": _keras_source,
    ".keras": _keras_source,
}
