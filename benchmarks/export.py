"""Speed of a network in the formats it is exported to, beside the native one.

  python -m benchmarks.export --workdir=runs/grocery

All take the same uint8 pictures in turn, so that other programs disturb them equally; a
row has the median images/s. Formats that cannot be made or read here are left out, and
named.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crl_jax import cli
from crl_jax.errors import UserError

Answer = Callable[[np.ndarray], Any]

_BATCHES = (1, 16)


def stablehlo(folder: Path) -> Answer:
    """Reads the format that JAX runs without this package."""
    import jax

    data = bytearray((folder / "model.stablehlo").read_bytes())
    model = jax.jit(jax.export.deserialize(data).call)
    return lambda images: jax.block_until_ready(model(images))


def saved_model(folder: Path) -> Answer:
    """Reads the format that TensorFlow runs."""
    from crl_jax.data.quiet import tf

    model = tf.saved_model.load(str(folder / "saved_model"))
    answer = model.signatures["serving_default"]
    return lambda images: {k: v.numpy() for k, v in answer(tf.constant(images)).items()}


def onnx(folder: Path) -> Answer:
    """Reads the format that ONNX Runtime runs."""
    import onnxruntime

    model = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    return lambda images: model.run(None, {"image": images})


def measure(workdir: Path, repeats: int) -> dict[str, dict[int, float]]:
    """Returns images/s, `{format: {batch size: median}}`.

    Args:
      workdir: folder of a run.
      repeats: how often each format is measured.
    """
    import crl_jax
    from crl_jax import devices
    from crl_jax.export import export

    devices.start()
    predictor = crl_jax.load(workdir)
    answers: dict[str, Answer] = {"native": predictor.probabilities}
    with tempfile.TemporaryDirectory() as folder:
        for read in (stablehlo, saved_model, onnx):
            name = read.__name__
            out = Path(folder, name)
            try:
                export(workdir, {"format": name}, out)
                answers[name] = read(out)
            except (UserError, ImportError) as error:
                print(f"Without {name}: {error}")
    size = predictor.trained.run.config.data.image_size
    rng = np.random.default_rng(0)
    times: dict[str, dict[int, list[float]]] = {
        name: {batch: [] for batch in _BATCHES} for name in answers
    }
    for batch in _BATCHES:
        images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
        for answer in answers.values():
            answer(images)  # compiles
        for _ in range(repeats):
            for name, answer in answers.items():
                start = time.perf_counter()
                answer(images)
                times[name][batch].append(time.perf_counter() - start)
    return {
        name: {batch: batch / statistics.median(of) for batch, of in found.items()}
        for name, found in times.items()
    }


def main() -> None:
    """Reads the arguments, measures, and prints a table."""
    verb = cli.parser("export", __doc__)
    verb.prog = "python -m benchmarks.export"
    cli.add_workdir(verb, "folder of a run that was trained")
    verb.add_argument("--repeats", type=cli.positive, default=20, help="per format")
    arguments = cli.read(verb)
    speeds = measure(**vars(arguments))
    print("| format |" + "".join(f" batch {batch} |" for batch in _BATCHES))
    print("| --- |" + " ---: |" * len(_BATCHES))
    for name, of_format in speeds.items():
        print(f"| {name} |" + "".join(f" {s:,.0f} |" for s in of_format.values()))


if __name__ == "__main__":
    cli.run(main)
