"""What travels with an exported network: labels, settings, and a model card.

The names and the layout are those of the Hugging Face Hub: `README.md` with metadata,
`config.json`, `preprocessor_config.json`.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import crl_jax
from crl_jax import json_files, metrics, run_files
from crl_jax import workdir as workdir_lib
from crl_jax.inference import exported, model_card, space
from crl_jax.inference.model_card import Result
from crl_jax.kinds import categorical_classes
from crl_jax.models.architecture import crosses
from crl_jax.trained import Trained


def files(trained: Trained, workdir: Path, what: dict[str, str]) -> dict[str, Any]:
    """Returns what `write` writes: `{name of a file: content of a JSON file, or text}`.

    Args:
      trained: the network.
      workdir: the run's folder, for its name, the accuracies that it ended with, and
        which labels occur together.
      what: `format`, and `data_name` and `data_license` as the user gave them.

    Raises:
      UserError: a file in the run's folder is damaged; or the export is to be a Space,
        and a package that a Space needs is not installed.
    """
    kinds, data = trained.run.kinds, trained.run.config.data
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
    if data.resize:
        preprocessor["largest_shorter_side_before_crop"] = data.resize
    run_files.read_combinations(workdir, categorical_classes(kinds))  # fails if damaged
    result = _result(workdir, trained.step)
    if what["format"] == "space":
        metadata = space.settings(_title(workdir, what), _tags(trained))
    else:
        metadata = _metadata(trained, result, what)
    if license_name := what.get("data_license"):
        metadata |= {"license": "other", "license_name": license_name}
    head = "".join(f"{key}: {_as_yaml(value)}\n" for key, value in metadata.items())
    card = f"---\n{head}---\n\n{model_card.text(trained, result, what)}"
    return {
        "config.json": description,
        "preprocessor_config.json": preprocessor,
        "README.md": card,
    }


def write(
    contents: dict[str, Any], workdir: Path, folder: Path, what: dict[str, str]
) -> None:
    """Writes all that belongs to a network except the network itself.

    Args:
      contents: from `files`.
      workdir: the run's folder.
      folder: where the network was exported to.
      what: see `files`.
    """
    for name, content in contents.items():
        if isinstance(content, str):
            (folder / name).write_text(content, "utf-8")
        else:
            json_files.write(folder / name, content)
    if (combinations := workdir / "combinations.json").exists():
        shutil.copy(combinations, folder)
    else:  # of an earlier export
        (folder / combinations.name).unlink(missing_ok=True)
    if what["format"] == "space":
        space.write(folder, _title(workdir, what))


def _as_yaml(value: Any) -> str:
    """Returns a value on one line: as JSON, but with YAML's escapes."""

    def escaped(letter: str) -> str:
        code = ord(letter)
        return f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"

    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def _title(workdir: Path, what: dict[str, str]) -> str:
    return model_card.line(what.get("data_name") or workdir.resolve().name)


def _tags(trained: Trained) -> list[str]:
    model, tasks = trained.run.config.model, len(trained.run.kinds)
    network = ["multitask", "jax", "flax"]
    return [*network, "cross-residual"] if crosses(model, tasks) else network


def _result(workdir: Path, step: int) -> Result | None:
    """Returns what the run ended with; None if it has not ended, or at another step."""
    if not workdir_lib.is_done(workdir):
        return None
    split, step_of_result, result = run_files.read_result(workdir)
    return (split, result) if step_of_result == step else None


def _metadata(
    trained: Trained, result: Result | None, what: dict[str, str]
) -> dict[str, Any]:
    """Returns what the Hub wants to know about a model."""
    name = model_card.name(trained, what)
    fields: dict[str, Any] = {
        "library_name": "crl_jax",
        "pipeline_tag": "image-classification",
        "tags": [*_tags(trained), what["format"]],
    }
    split, measured = result or ("", {})
    values = [
        {
            "task": {"type": "image-classification", "name": task},
            "dataset": {"type": name, "name": name, "split": split},
            "metrics": [{"type": "accuracy", "value": round(of["top1"], 4)}],
        }
        for task, of in measured.items()
        if task != metrics.JOINT and not math.isnan(of.get("top1", math.nan))
    ]
    if values:
        fields["model-index"] = [{"name": f"{name}-crl_jax", "results": values}]
    return fields
