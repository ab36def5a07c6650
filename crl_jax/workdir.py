"""A run's folder: `config.json`, `classes.json`, `data.json`, `result.json`."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import config_check
from crl_jax.errors import UserError

Classes = Mapping[str, Sequence[str]]

# Fields that may change between two starts of the same run: they change neither the
# network nor its updates.
FREE = {
    "data.dir",
    "data.manifest",
    "train.checkpoint_every",
    "train.eval_every",
    "train.log_every",
}


def describe(workdir: Path, config: ConfigDict, classes: Classes, data: str) -> None:
    """Writes what the run in `workdir` is, or checks that it still is the same.

    Args:
      workdir: made if it does not exist.
      config: a checked config.
      classes: `{task: class names}` in the order of the labels.
      data: name of the prepared data, which another manifest or version changes.

    Raises:
      UserError: `workdir` is a file, or holds a run with another config or other data.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file; give a folder.")
    if (workdir / "config.json").exists():
        _check_same(workdir, config, classes, data)
    elif (workdir / "checkpoints").exists():
        raise UserError(
            f"--workdir={workdir} holds checkpoints of an unknown run (there is no "
            "config.json): give another one."
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be made: {error.strerror}. Give another one."
        ) from error
    content = json.loads(config.to_json())
    if config.data.manifest:  # the run can then be evaluated from any folder
        content["data"]["manifest"] = str(Path(config.data.manifest).resolve())
    _write_json(workdir / "classes.json", {t: list(c) for t, c in classes.items()})
    _write_json(workdir / "data.json", {"name": data})
    _write_json(workdir / "config.json", content)


def read(workdir: Path) -> tuple[ConfigDict, dict[str, tuple[str, ...]]]:
    """Returns the config and the class names of the run in `workdir`.

    Raises:
      UserError: there is no run.
    """
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} holds no run (no config.json): train one with "
            f"`python -m crl_jax.main --config=... --workdir={workdir}`."
        )
    content = json.loads((workdir / "config.json").read_text("utf-8"))
    classes = json.loads((workdir / "classes.json").read_text("utf-8"))
    config = config_check.check(config_lib.from_dict(content))
    return config, {t: tuple(c) for t, c in classes.items()}


def check_classes(workdir: Path, run: Classes, data: Classes) -> None:
    """Raises UserError unless the run in `workdir` and its data have the same classes.

    Args:
      workdir: named in the message.
      run: `{task: class names}` of the run.
      data: those of the data.
    """
    for task in sorted(set(run) | set(data)):
        ours, theirs = tuple(run.get(task, ())), tuple(data.get(task, ()))
        if ours != theirs:
            raise UserError(
                f"--workdir={workdir} holds a run with other classes of task {task!r} "
                f"than the data has ({len(ours)} and {len(theirs)}, or other names): "
                "take the data it was trained on, or train in another --workdir."
            )


def write_result(
    workdir: Path, split: str, step: int, result: Mapping[str, Mapping[str, float]]
) -> None:
    """Writes the accuracies that the run ended with to `result.json`.

    Args:
      workdir: the run's folder.
      split: what was evaluated.
      step: of the checkpoint.
      result: from `metrics.means`; a number that does not exist becomes null.
    """
    numbers = {
        task: {name: None if v != v else v for name, v in values.items()}
        for task, values in result.items()
    }
    content = {"split": split, "step": step, "result": numbers}
    _write_json(workdir / "result.json", content)


def _check_same(workdir: Path, config: ConfigDict, classes: Classes, data: str) -> None:
    old_config, old_classes = read(workdir)
    changed = [n for n in config_lib.differences(old_config, config) if n not in FREE]
    if changed:
        old, new = dict(config_lib.fields(old_config)), dict(config_lib.fields(config))
        listed = "\n".join(
            f"  config.{name}: {old.get(name)!r} there, {new.get(name)!r} now"
            for name in changed
        )
        raise UserError(
            f"--workdir={workdir} holds a run with another config:\n{listed}\n"
            "Give another --workdir, or the same values to go on with that run."
        )
    check_classes(workdir, old_classes, classes)
    old_data = json.loads((workdir / "data.json").read_text("utf-8"))["name"]
    if data != old_data:
        raise UserError(
            f"--workdir={workdir} holds a run on other data ({old_data} there, {data} "
            "now): the pictures or the manifest changed. Give another --workdir."
        )


def _write_json(path: Path, content: object) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False), "utf-8")
    partial.replace(path)
