"""What travels with an exported network: labels, settings, and a model card.

The names and the layout are those of the Hugging Face Hub: `README.md` with metadata,
`config.json`, `preprocessor_config.json`.
"""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import crl_jax
from crl_jax import json_files, metrics
from crl_jax.inference import exported, space
from crl_jax.kinds import Categorical, Kinds, Multilabel, Regression
from crl_jax.trained import Trained

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
    image.paste(transparent, mask=transparent)
    side = max(round({crop} * min(image.size)), 1)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    how = Image.Resampling.BOX if side > 2 * {size} else Image.Resampling.BILINEAR
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize(({size}, {size}), how, box))


images = np.stack([prepare("a.jpg"), prepare("b.jpg")])  # [B, H, W, 3] uint8"""


def write(trained: Trained, folder: Path, workdir: Path, what: dict[str, str]) -> None:
    """Writes all that belongs to a network but the network.

    Args:
      trained: the network.
      folder: where it was exported to.
      workdir: the run's folder, for its name, the accuracies that it ended with, and
        which labels occur together.
      what: `format`, and `data_name` and `data_license` as the user said them.

    Raises:
      UserError: it is to be a Space, and a package that one needs is not installed.
    """
    data = trained.run.config.data
    description = {
        "model_type": "crl_jax",
        "architectures": ["MultitaskResNet"],
        "library_version": crl_jax.__version__,
        "image_size": data.image_size,
        **exported.description(trained),
    }
    preprocessor = {
        "image_processor_type": "crl_jax",
        "do_center_crop": True,
        "crop_share_of_shorter_side": data.eval_crop,
        "do_resize": True,
        "size": {"height": data.image_size, "width": data.image_size},
        # The network does these itself.
        "do_rescale": False,
        "do_normalize": False,
    }
    json_files.write(folder / "config.json", description)
    json_files.write(folder / "preprocessor_config.json", preprocessor)
    if (combinations := workdir / "combinations.json").exists():
        shutil.copy(combinations, folder)
    result = _result(workdir)
    if what["format"] == "space":
        title = _line(what.get("data_name") or workdir.resolve().name)
        space.write(folder, title)
        metadata = space.settings(title)
    else:
        metadata = _metadata(trained, result, what)
    if license_name := what.get("data_license"):
        metadata |= {"license": "other", "license_name": license_name}
    # JSON is YAML, too.
    head = "".join(f"{key}: {json.dumps(value)}\n" for key, value in metadata.items())
    card = f"---\n{head}---\n\n{text(trained, result, what)}"
    (folder / "README.md").write_text(card, "utf-8")


def _result(workdir: Path) -> dict[str, Any]:
    """Returns what the run ended with; empty if it has not ended."""
    path = workdir / "result.json"
    return json_files.read(path) if path.exists() else {}


def text(trained: Trained, result: dict[str, Any], what: dict[str, str]) -> str:
    """Returns what the model card says to people, in Markdown.

    Args:
      trained: the network.
      result: content of the run's `result.json`, or empty.
      what: see `write`.
    """
    run, data, name = trained.run, trained.run.config.data, _name(trained, what)
    tasks = ", ".join(f"{task} ({kind.size})" for task, kind in run.kinds.items())
    classes = _table(
        "| task | classes |\n|---|---:|",
        (f"| {_cell(task)} | {kind.size} |" for task, kind in run.kinds.items()),
    )
    prepare = _PREPARE.format(crop=data.eval_crop, size=data.image_size)
    return "\n\n".join(
        [
            f"# {name}: {tasks}",
            _introduction(trained),
            "## Trained on",
            f"{name}. Licence of the data: {_line(what.get('data_license', _UNKNOWN))}",
            classes,
            _outputs(run.kinds),
            "## Accuracy",
            _accuracies(result, run.kinds),
            "## Use",
            "Pictures are turned upright, what is transparent becomes white, and "
            f"they are cut to the middle {data.eval_crop:.4g} of their shorter side, "
            f"and resized to {data.image_size} x {data.image_size}; the network does "
            "the rest. In training this was done by TensorFlow; Pillow does "
            "nearly the same:",
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
    elif model.cross.init or model.cross.learned:
        start = "learned from" if model.cross.learned else "fixed at"
        network = (
            f"cross-residual {network}, with cross weights ({model.cross.kind}) "
            f"{start} {model.cross.init:g} ([Jou and Chang 2016]({_PAPER}))"
        )
    return (
        f"One network for {several}: a {network}. Made with crl_jax "
        f"{crl_jax.__version__}; checkpoint of step {trained.step:,}."
    )


_UNKNOWN = (
    "not stated. The pictures may have owners whose terms also bind what was trained "
    "on them: ask before you pass this on."
)
_LIMITS = (
    "It answers with its labels for any picture, also for one of something else.",
    "Its probabilities were not calibrated.",
    "It has learnt what is common in its data, and that data's biases with it. Do not "
    "let it decide about people.",
    "The accuracy above is of one training, on pictures like those it was trained on.",
)


def _name(trained: Trained, what: dict[str, str]) -> str:
    data = trained.run.config.data
    return _line(what.get("data_name") or data.tfds or Path(data.manifest).stem)


def _metadata(
    trained: Trained, result: dict[str, Any], what: dict[str, str]
) -> dict[str, Any]:
    """Returns what the Hub wants to know of a model."""
    name = _name(trained, what)
    fields: dict[str, Any] = {
        "library_name": "crl_jax",
        "pipeline_tag": "image-classification",
        "tags": ["multitask", "cross-residual", "jax", "flax", what["format"]],
    }
    values = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": name, "name": name, "split": result["split"]},
            "metrics": [{"type": "accuracy", "value": round(of["top1"], 4)}],
        }
        for task, of in result.get("result", {}).items()
        if task != metrics.JOINT and of.get("top1") is not None
    ]
    if values:
        fields["model-index"] = [{"name": f"{name}-crl_jax", "results": values}]
    return fields


def _outputs(kinds: Kinds) -> str:
    """Returns where the labels are, and what the outputs of each task mean."""
    text = (
        "All labels are in `config.json`, under `labels`, in the order of the "
        "probabilities."
    )
    for task, kind in kinds.items():
        if isinstance(kind, Multilabel):
            text += f" Those of `{task}` are each label's own, and need not sum to one."
        if isinstance(kind, Regression):
            text += f" `{task}` is a number a picture, `[B]`, in its labels' own unit."
    return text


def _accuracies(result: dict[str, Any], kinds: Kinds) -> str:
    """Returns a table a kind, of the first two measures of each."""
    if not result:
        return "Not known: the training had not ended."
    numbers = {
        task: {n: math.nan if v is None else v for n, v in values.items()}
        for task, values in result["result"].items()
    }
    tables: dict[str, list[str]] = {}
    for task in metrics.measures(kinds):
        kind = Categorical if task == metrics.JOINT else type(kinds[task])
        shown = kind.measures[:2]
        columns = " | ".join(measure.title for measure in shown)
        head = f"| task | pictures | {columns} |\n|---|---:|---:|---:|"
        what = "all tasks right" if task == metrics.JOINT else _cell(task)
        of = numbers[task]
        cells = " | ".join(m.text(of.get(m.name, math.nan)) for m in shown)
        line = f"| {what} | {of['count']:,} | {cells} |"
        tables.setdefault(head, []).append(line)
    text = "\n\n".join(_table(head, lines) for head, lines in tables.items())
    numeric = any(isinstance(kind, Regression) for kind in kinds.values())
    unit = "In percent" + (", but MAE and Pearson are not" if numeric else "")
    return f"{unit}, split {result['split']}:\n\n{text}"


def _table(head: str, lines: Iterable[str]) -> str:
    return "\n".join([head, *lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
