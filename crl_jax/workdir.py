"""A run's folder, and what it says the run is: `config.json` and files beside it."""

import errno
import fcntl
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import config_check, json_files, kinds
from crl_jax.errors import UserError
from crl_jax.kinds import Kinds, class_names

Classes = Mapping[str, Sequence[str]]

# Fields that may change between two starts of the same run: they change neither the
# network nor its updates (skip_nonfinite: only those that could not be made;
# task_devices: only what batch norm computes of a device's share of the batch).
FREE = {
    "data.dir",
    "data.manifest",
    "data.max_undecodable",
    "model.remat",
    "train.checkpoint_every",
    "train.eval_every",
    "train.log_every",
    "train.skip_nonfinite",
    "train.task_devices",
}


@dataclass(frozen=True)
class Run:
    """What a run is.

    Attributes:
      config: a checked config, with settings for each task.
      kinds: of the tasks, in their order.
      data: identity of its data (see `Source.identity`).
    """

    config: ConfigDict
    kinds: Kinds
    data: str

    @property
    def classes(self) -> Classes:
        """`{task: class names}`, none for a regression."""
        return class_names(self.kinds)


@contextmanager
def claim(workdir: Path, run: Run) -> Iterator[None]:
    """Describes a run in `workdir`, and keeps the folder for it until the block ends.

    An earlier run that made no checkpoint came to nothing; another may take its folder.

    Args:
      workdir: made if it does not exist.
      run: what is going to be trained.

    Raises:
      UserError: `workdir` cannot be written, is in use, or holds a run with another
        config or on other data.
    """
    with _lock(workdir):
        check_free(workdir, run)
        content = json.loads(run.config.to_json())
        for name in ("manifest", "dir"):  # it can then be evaluated from any folder
            if content["data"][name]:
                # Not resolved: pictures lie beside a link to a list, not its target.
                content["data"][name] = str(Path(content["data"][name]).absolute())
        known = {task: kind.known for task, kind in run.kinds.items()}
        with writing(workdir):
            json_files.write(workdir / "classes.json", known)
            json_files.write(workdir / "data.json", {"identity": run.data})
            json_files.write(workdir / "config.json", content)
        yield


@contextmanager
def writing(workdir: Path) -> Iterator[None]:
    """Turns what the disk refuses in the block into a `UserError`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "Make room on its disk, or give" if full else "Give"
        raise UserError(
            f"--workdir={workdir} cannot be written: {error.strerror}. {mend} another "
            "one."
        ) from error


@contextmanager
def _lock(workdir: Path) -> Iterator[None]:
    """Keeps other runs out of `workdir`, until the block or the process ends."""
    if workdir.is_file():
        raise UserError(f"--workdir={workdir} is a file; give a folder.")
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        file = (workdir / "lock").open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"--workdir={workdir} is in use by {file.read().strip()}: wait for it, "
                "stop it, or give another --workdir."
            ) from error
        except OSError:
            pass  # not all network file systems can lock a file
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def check_free(workdir: Path, run: Run) -> None:
    """Raises UserError if `workdir` holds a run other than this one.

    Args:
      workdir: a run's folder; it need not exist.
      run: what is going to be trained.
    """
    if not has_checkpoint(workdir) and (workdir / "damaged").exists():
        raise UserError(
            f"--workdir={workdir} has no whole checkpoint any more, only damaged ones: "
            "to begin anew, give another --workdir, or delete this one."
        )
    if not has_checkpoint(workdir) and not is_done(workdir):
        return
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} holds checkpoints of an unknown run (there is no "
            "config.json): give another one."
        )
    old = read(workdir)
    changed = config_lib.differences(old.config, run.config)
    if changed := [name for name in changed if name not in FREE]:
        there, now = (dict(config_lib.fields(of.config)) for of in (old, run))
        listed = "\n".join(
            f"  config.{name}: {there.get(name)!r} there, {now.get(name)!r} now"
            for name in changed
        )
        raise UserError(
            f"--workdir={workdir} holds a run with another config:\n{listed}\n"
            "Give another --workdir, or the same values to go on with that run. "
            "Another run can start from its weights: "
            f"--config.init.from={workdir}."
        )
    check_data(workdir, old, run.classes, run.data)
    if list(old.kinds) != list(run.kinds):  # the order of the branches in a checkpoint
        raise UserError(
            f"--workdir={workdir} holds a run whose tasks are in the order "
            f"{', '.join(old.kinds)}; now it is {', '.join(run.kinds)}. Give them in "
            "the run's order, or train in another --workdir."
        )


def check_data(workdir: Path, run: Run, classes: Classes, data: str) -> None:
    """Raises UserError unless the run in `workdir` was trained on this data.

    Args:
      workdir: named in the message.
      run: from `read`.
      classes: `{task: class names}` of the data.
      data: its identity.
    """
    for task in sorted(set(run.classes) | set(classes)):
        ours, theirs = tuple(run.classes.get(task, ())), tuple(classes.get(task, ()))
        if ours != theirs:
            raise UserError(
                f"--workdir={workdir} holds a run whose classes of task {task!r} "
                f"differ from the data's ({len(ours)} and {len(theirs)}, or different "
                "names): take the data it was trained on, or train in another "
                "--workdir."
            )
    if data != run.data:
        raise UserError(
            f"--workdir={workdir} holds a run on different data ({run.data} there, "
            f"{data} now): the pictures or the manifest have changed since. Take the "
            "data it was trained on, or train in another --workdir; `python -m "
            "crl_jax.evaluate --on=FILE` evaluates it on another list."
        )


def read(workdir: Path) -> Run:
    """Returns what the run in `workdir` is.

    Raises:
      UserError: there is no run, or one of its files is damaged.
    """
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--workdir={workdir} holds no run (no config.json): train one with "
            f"`python -m crl_jax.main --config=... --workdir={workdir}`."
        )
    content = json_files.read(workdir / "config.json")
    if "crl_jax" in content:  # see inference/exported.py
        raise UserError(
            f"--workdir={workdir} holds an exported network: give the folder of its "
            "run. Of exports, predict and demo read those to safetensors or as a Space."
        )
    config = config_check.check(config_lib.from_dict(content))
    known = json_files.read(workdir / "classes.json")
    data = json_files.read(workdir / "data.json").get("identity", "")
    try:
        return Run(config, kinds.from_known(config, known), data)
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{workdir / 'classes.json'} does not match config.json beside it: "
            "restore both from a copy, or train in another --workdir."
        ) from error


def has_checkpoint(workdir: Path) -> bool:
    """Whether the run in `workdir` has something to go on with."""
    folders = (workdir / "checkpoints").glob("*")
    return any(folder.name.isdigit() for folder in folders)


def is_done(workdir: Path) -> bool:
    """Whether the run in `workdir` has come to its end."""
    return (workdir / "result.json").exists()
