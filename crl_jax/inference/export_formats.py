"""A trained network in the formats of other tools.

Each format except the bare arrays takes pictures `[B, H, W, 3]` uint8 named `image`,
with any B and H = W = `config.data.image_size`, normalises them itself, and returns the
probabilities of each task, `[B, K]` float32, under the task's name; for a regression
its numbers, `[B]`.
"""

import functools
import logging
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from crl_jax.errors import UserError
from crl_jax.inference import exported
from crl_jax.models import layers
from crl_jax.trained import Trained

# What JAX's StableHLO programs run on; the same file serves them all.
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


Answer = Callable[[Any, jax.Array], dict[str, jax.Array]]  # of variables and pictures


def _answer(trained: Trained, backend: str) -> Answer:
    """Returns what a file computes, written for a backend (`layers.traced_for`)."""

    def answer(variables: Any, image: jax.Array) -> dict[str, jax.Array]:
        with layers.traced_for(backend):
            logits: Any = trained.network.apply(variables, image)
        kinds = trained.run.kinds
        return {task: kind.answer(logits[task]) for task, kind in kinds.items()}

    return answer


def _answer_anywhere(trained: Trained) -> Answer:
    """Returns a program that holds both versions; each platform runs its own."""
    on_cpu, elsewhere = _answer(trained, "cpu"), _answer(trained, "any")
    return lambda variables, image: lax.platform_dependent(
        variables, image, cpu=on_cpu, default=elsewhere
    )


def write_stablehlo(trained: Trained, folder: Path) -> None:
    """Writes `model.stablehlo`, which `jax.export.deserialize` reads."""
    from jax import export

    (batch,) = export.symbolic_shape("batch")
    variables = jax.device_get(trained.variables)
    function = jax.jit(functools.partial(_answer_anywhere(trained), variables))
    exported = export.export(function, platforms=_PLATFORMS)(_images(trained, batch))
    (folder / "model.stablehlo").write_bytes(exported.serialize())


def write_onnx(trained: Trained, folder: Path) -> None:
    """Writes `model.onnx`, and `model.onnx.data` beside it if it is large.

    Raises:
      UserError: jax2onnx is not installed.
    """
    try:
        import jax2onnx
    except ImportError as error:
        raise UserError(
            "This format needs jax2onnx: in a clone of the project, and in an "
            'environment of its own, pip install ".[onnx]".'
        ) from error
    tasks, variables = list(trained.run.kinds), jax.device_get(trained.variables)
    function = functools.partial(_answer(trained, "any"), variables)

    def in_order(image: jax.Array) -> tuple[jax.Array, ...]:
        answer = function(image)
        return tuple(answer[task] for task in tasks)

    # jax2onnx warns about its own choices of types, which change nothing here.
    notes, level = logging.getLogger("onnx_ir"), logging.getLogger("onnx_ir").level
    notes.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            jax2onnx.to_onnx(
                in_order,
                [_images(trained, "batch")],
                model_name="crl_jax",
                return_mode="file",
                output_path=str(folder / "model.onnx"),
                input_names=["image"],
                output_names=tasks,
            )
    finally:
        notes.setLevel(level)


def write_saved_model(trained: Trained, folder: Path) -> None:
    """Writes `saved_model/` for TensorFlow, with the signature `serving_default`.

    Raises:
      UserError: this TensorFlow is too old for the programs of this JAX.
    """
    # First, since jax2tf would import TensorFlow with all its messages.
    from crl_jax.data.quiet import no_stderr, tf

    from jax.experimental import jax2tf  # isort: skip

    module = tf.Module()
    module.weights = tf.nest.map_structure(
        tf.Variable, jax.device_get(trained.variables)
    )
    converted = jax2tf.convert(
        _answer_anywhere(trained),
        polymorphic_shapes=[None, "(batch, ...)"],
        with_gradient=False,
        native_serialization_platforms=("cpu", "cuda", "tpu"),
    )
    size = trained.run.config.data.image_size
    image = tf.TensorSpec((None, size, size, 3), tf.uint8, name="image")
    module.probabilities = tf.function(
        lambda image: converted(module.weights, image),
        input_signature=[image],
        autograph=False,
    )
    try:
        with no_stderr():  # TensorFlow logs what it raises, too
            module.probabilities(tf.zeros((1, size, size, 3), tf.uint8))
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"TensorFlow {tf.__version__} cannot run what JAX {jax.__version__} "
            "writes: export with an older JAX (0.10 is known to work), or to another "
            "format."
        ) from error
    signatures = {"serving_default": module.probabilities.get_concrete_function()}
    tf.saved_model.save(module, str(folder / "saved_model"), signatures=signatures)


FORMATS: Mapping[str, Callable[[Trained, Path], None]] = {
    "stablehlo": write_stablehlo,
    "onnx": write_onnx,
    "safetensors": exported.write_arrays,
    "saved_model": write_saved_model,
    "space": exported.write_arrays,
}


# Of all formats.
_NETWORKS = (
    *("model.stablehlo", "model.onnx", "model.onnx.data"),
    *("model.safetensors", "saved_model"),
)


def remove_networks(folder: Path) -> None:
    """Deletes the network that an earlier export to `folder` wrote, in any format."""
    for name in _NETWORKS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)


def _images(trained: Trained, batch: Any) -> jax.ShapeDtypeStruct:
    size = trained.run.config.data.image_size
    return jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
