"""What a model card says to people."""

import math
from collections.abc import Iterable
from pathlib import Path

import crl_jax
from crl_jax import config as config_lib
from crl_jax import metrics
from crl_jax.kinds import Categorical, Kinds, Multilabel, Regression
from crl_jax.models.architecture import crosses
from crl_jax.trained import Trained

Result = tuple[str, metrics.Means]  # a split, and the measures on it

_PAPER = "https://arxiv.org/abs/1604.01335"

_USE_HERE = """import crl_jax

predictor = crl_jax.load(".")  # predictor("a.jpg") reads and cuts pictures itself
probabilities = predictor.probabilities(images)  # {task: [B, K]}"""
_USE = {
    "stablehlo": """import jax

with open("model.stablehlo", "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
probabilities = model.call(images)  # {task: [B, K]}""",
    "onnx": """import onnxruntime

model = onnxruntime.InferenceSession("model.onnx")
tasks = [output.name for output in model.get_outputs()]
answers = model.run(tasks, {"image": images})
probabilities = dict(zip(tasks, answers))  # {task: [B, K]}""",
    "safetensors": _USE_HERE,
    "space": _USE_HERE,
    "saved_model": """import tensorflow as tf

model = tf.saved_model.load("saved_model").signatures["serving_default"]
probabilities = model(image=tf.constant(images))  # {task: [B, K]}""",
}

_PREPARE = """import numpy as np
from PIL import Image, ImageOps


def prepare(file):
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    transparent = image.convert("RGBA")
    image = Image.new("RGB", image.size, "white")
    image.paste(transparent, mask=transparent){scale}
    side = max(round({crop} * min(image.size)), 1)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    how = Image.Resampling.BOX if side > 2 * {size} else Image.Resampling.BILINEAR
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize(({size}, {size}), how, box))


images = np.stack([prepare("a.jpg"), prepare("b.jpg")])  # [B, H, W, 3] uint8"""


# With `config.data.resize`, as pictures are scaled before they are stored for training.
_SCALE = """
    scale = {resize} / min(image.size)
    if scale < 1:
        sides = tuple(max(round(scale * side), 1) for side in image.size)
        image = image.resize(sides, Image.Resampling.LANCZOS)"""


def text(trained: Trained, result: Result | None, what: dict[str, str]) -> str:
    """Returns what the model card says to people, in Markdown.

    Args:
      trained: the network.
      result: what the run ended with, if that is known.
      what: see `export_files.files`.
    """
    run, data, called = trained.run, trained.run.config.data, name(trained, what)
    tasks = ", ".join(f"{task} ({kind.size})" for task, kind in run.kinds.items())
    classes = _table(
        "| task | classes |\n|---|---:|",
        (f"| {_cell(task)} | {kind.size} |" for task, kind in run.kinds.items()),
    )
    licence = line(what.get("data_license", _UNKNOWN))
    scale = _SCALE.format(resize=data.resize) if data.resize else ""
    prepare = _PREPARE.format(crop=data.eval_crop, size=data.image_size, scale=scale)
    largest = f"those whose shorter side has more than {data.resize} pixels are"
    scaled = f"{largest} scaled down to that, " if data.resize else ""
    return "\n\n".join(
        [
            f"# {called}: {tasks}",
            _introduction(trained),
            "## Trained on",
            f"{called}. Licence of the data: {licence}{_origin(trained)}",
            classes,
            _outputs(run.kinds),
            "## Accuracy",
            _accuracies(result, run.kinds),
            "## Use",
            "Pictures are turned upright, transparent parts become white, "
            f"{scaled}and they are cut to the middle {data.eval_crop:.4g} of their "
            f"shorter side and resized to {data.image_size} x {data.image_size}; the "
            "network does the rest. In training this was done by TensorFlow; Pillow "
            "does nearly the same:",
            f"```python\n{prepare}\n```",
            f"```python\n{_USE[what['format']]}\n```",
            "## Limits",
            "\n".join(f"- {limit}" for limit in _LIMITS),
            "",
        ]
    )


def _introduction(trained: Trained) -> str:
    model, tasks = trained.run.config.model, len(trained.run.classes)
    several = f"{tasks} label sets" if tasks > 1 else "a label set"
    network = f"multitask ResNet-{model.depth}, branched from {model.branch_from}"
    if model.fusion != "none":
        network += f" (the baseline {model.fusion})"
    elif crosses(model, tasks):
        start = "learned from" if model.cross.learned else "fixed at"
        network = (
            f"cross-residual {network}, with cross weights ({model.cross.kind}) "
            f"{start} {model.cross.init:g} ([Jou and Chang 2016]({_PAPER}))"
        )
    return (
        f"One network for {several}: a {network}. Made with crl_jax "
        f"{crl_jax.__version__}; {trained.checkpoint}."
    )


_UNKNOWN = (
    "not stated. The pictures may have owners whose terms also apply to what was "
    "trained on them: ask before you pass this on."
)
_LIMITS = (
    "It answers with its labels for any picture, even one of something else.",
    "Its probabilities were not calibrated.",
    "It has learnt what is common in its data, and with it that data's biases. Do not "
    "let it make decisions about people.",
    "The accuracy above is that of one training, on pictures like those it was trained "
    "on.",
)


def name(trained: Trained, what: dict[str, str]) -> str:
    """Returns what the data are called; see `export_files.files`."""
    data = trained.run.config.data
    return line(what.get("data_name") or data.tfds or Path(data.manifest).stem)


def _origin(trained: Trained) -> str:
    """Returns what the run started from, if not from the seed alone."""
    config = trained.run.config
    if not config.init["from"]:
        return ""
    origin = line(config_lib.without_places(config).init["from"]) or "another run"
    return (
        f"\n\nStarted from the weights of {origin}: the terms of the data that they "
        "were trained on may apply, too."
    )


def _outputs(kinds: Kinds) -> str:
    """Returns where the labels are, and what the outputs of each task mean."""
    text = (
        "All labels are in `config.json`, under `labels`, in the order of the "
        "probabilities."
    )
    for task, kind in kinds.items():
        if isinstance(kind, Multilabel):
            text += (
                f" Those of `{task}` are separate for each label, and need not sum to "
                "one."
            )
        if isinstance(kind, Regression):
            text += (
                f" `{task}` is one number per picture, `[B]`, in its labels' own unit."
            )
    return text


def _accuracies(result: Result | None, kinds: Kinds) -> str:
    """Returns one table per kind, of its first two measures."""
    if result is None:
        return "Not known: the run has no final result for this checkpoint."
    split, measured = result
    tables: dict[str, list[str]] = {}
    for task in filter(measured.__contains__, metrics.measures(kinds)):
        kind = Categorical if task == metrics.JOINT else type(kinds[task])
        shown = kind.measures[:2]
        columns = " | ".join(measure.title for measure in shown)
        head = f"| task | pictures | {columns} |\n|---|---:|---:|---:|"
        what = _cell(metrics.title(task))
        of = measured[task]
        cells = " | ".join(m.text(of.get(m.name, math.nan)) for m in shown)
        row = f"| {what} | {of['count']:,} | {cells} |"
        tables.setdefault(head, []).append(row)
    text = "\n\n".join(_table(head, lines) for head, lines in tables.items())
    numeric = any(isinstance(kind, Regression) for kind in kinds.values())
    unit = "In percent" + (" (except MAE and Pearson)" if numeric else "")
    return f"{unit}, split {split}:\n\n{text}"


def _table(head: str, lines: Iterable[str]) -> str:
    return "\n".join([head, *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def line(text: str) -> str:
    """Returns a text on one line."""
    return " ".join(text.split())
