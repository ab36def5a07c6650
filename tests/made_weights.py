"""Weights as other frameworks save them, made without those frameworks."""

import io
import zipfile
from collections import OrderedDict

import numpy as np

TORCH_NORM = ("weight", "bias", "running_mean", "running_var")


def torch_tensors(network, seed=0):
    """Random tensors by torchvision's names, from the shapes of ResNet papers."""
    rng = np.random.default_rng(seed)
    width = round(64 * network.width)
    tensors = OrderedDict()

    def conv(name, out, into, size):
        tensors[f"{name}.weight"] = rng.normal(size=(out, into, size, size))

    def norm(name, channels):
        for weight in TORCH_NORM:
            tensors[f"{name}.{weight}"] = rng.uniform(0.5, 1.5, channels)
        tensors[f"{name}.num_batches_tracked"] = np.zeros(())

    conv("conv1", width, 3, 7)
    norm("bn1", width)
    into = width
    for stage, units in enumerate((1, 1, 1, 2)):
        out = width * 2**stage
        for unit in range(units):
            prefix = f"layer{stage + 1}.{unit}"
            conv(f"{prefix}.conv1", out, into, 3)
            norm(f"{prefix}.bn1", out)
            conv(f"{prefix}.conv2", out, out, 3)
            norm(f"{prefix}.bn2", out)
            if into != out:
                conv(f"{prefix}.downsample.0", out, into, 1)
                norm(f"{prefix}.downsample.1", out)
            into = out
    tensors["fc.weight"] = rng.normal(size=(1000, into))
    tensors["fc.bias"] = rng.normal(size=1000)
    return OrderedDict((k, v.astype(np.float32)) for k, v in tensors.items())


def write_pth(path, tensors, extra=b"", after_each=b""):
    """Writes what `torch.save` writes, with opcodes by hand.

    `extra` comes at the end of the pickle, `after_each` after each tensor.
    """
    out = io.BytesIO()

    def text(value):
        data = value.encode()
        return b"X" + len(data).to_bytes(4, "little") + data

    def number(value):
        return b"J" + int(value).to_bytes(4, "little", signed=True)

    def numbers(values):
        return b"(" + b"".join(number(v) for v in values) + b"t"

    out.write(b"\x80\x02ccollections\nOrderedDict\n)R(")
    for i, (name, array) in enumerate(tensors.items()):
        strides = [s // array.itemsize for s in array.strides]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(str(i))
        storage += text("cpu") + number(array.size) + b"tQ"
        out.write(text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage)
        out.write(number(0) + numbers(array.shape) + numbers(strides))
        out.write(b"\x89ccollections\nOrderedDict\n)RtR" + after_each)
    out.write(b"u" + extra + b".")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", out.getvalue())
        for i, array in enumerate(tensors.values()):
            archive.writestr(f"archive/data/{i}", array.tobytes("A"))


def write_keras(path, variables):
    """Writes what Keras 2 saves of a ResNet-50, from variables of such a network."""
    import h5py

    params, stats = variables["params"], variables["batch_stats"]
    with h5py.File(path, "w") as file:

        def write(layer, unit, conv, norm):
            kernel = params[unit][conv]["kernel"]
            file[f"{layer}_conv/{layer}_conv/kernel:0"] = kernel
            file[f"{layer}_conv/{layer}_conv/bias:0"] = np.zeros(kernel.shape[-1])
            for name, values in (
                ("gamma", params[unit][norm]["scale"]),
                ("beta", params[unit][norm]["bias"]),
                ("moving_mean", stats[unit][norm]["mean"]),
                ("moving_variance", stats[unit][norm]["var"]),
            ):
                file[f"{layer}_bn/{layer}_bn/{name}:0"] = values

        write("conv1", "stem", "conv", "norm")
        for stage, units in enumerate((3, 4, 6, 3), start=2):
            for i, letter in enumerate("abcdef"[:units], start=1):
                unit, block = f"res{stage}{letter}", f"conv{stage}_block{i}"
                for n in (1, 2, 3):
                    write(f"{block}_{n}", unit, f"conv{n}", f"norm{n}")
                if i == 1:
                    write(f"{block}_0", unit, "projection", "projection_norm")
