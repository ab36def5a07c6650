"""What training leaves in a run's folder to be read: its result, and combinations.

These are `result.json` and `combinations.json`.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from crl_jax import json_files
from crl_jax import workdir as workdir_lib
from crl_jax.errors import UserError


def write_combinations(
    workdir: Path, combinations: np.ndarray, weights: Mapping[str, float] | None = None
) -> None:
    """Writes which labels occur together in training to `combinations.json`.

    Args:
      workdir: the run's folder.
      combinations: `[N, T]`, from `labels.combinations`.
      weights: of each task in the joint answer; None: those that were chosen before, if
        the run goes on.

    Raises:
      UserError: `workdir` cannot be written.
    """
    if weights is None and workdir_lib.has_checkpoint(workdir):
        with suppress(UserError):  # what is damaged is written anew
            weights = read_combinations(workdir)[1]
    content = {"combinations": combinations.tolist(), "weights": dict(weights or {})}
    with workdir_lib.writing(workdir):
        json_files.write(workdir / "combinations.json", content, None)


def read_combinations(
    workdir: Path, classes: workdir_lib.Classes | None = None
) -> tuple[np.ndarray, dict[str, float]]:
    """Returns what `write_combinations` wrote; empty if there is none.

    Args:
      workdir: the run's folder, or the folder of an export.
      classes: of the T categorical tasks; None: whatever they are.

    Raises:
      UserError: it is damaged, or belongs to other tasks or classes.
    """
    path = workdir / "combinations.json"
    content = json_files.read(path) if path.exists() else {"combinations": []}
    with _complete(path):
        combinations = np.array(content["combinations"], np.int64)
        if classes is not None and len(combinations):
            sizes = [len(names) for names in classes.values()]
            if combinations.shape[1:] != (len(sizes),):
                raise ValueError("other tasks")
            if np.any((combinations < 0) | (combinations >= sizes)):
                raise ValueError("other labels")
        weights = {t: float(w) for t, w in content.get("weights", {}).items()}
        if not all(map(math.isfinite, weights.values())):
            raise ValueError("no weights")
        return combinations, weights


def write_result(
    workdir: Path, split: str, step: int, result: Mapping[str, Mapping[str, float]]
) -> None:
    """Writes the accuracies that the run ended with to `result.json`.

    Args:
      workdir: the run's folder.
      split: what was evaluated.
      step: of the checkpoint.
      result: from `metrics.means`; what is NaN or infinite, which JSON has no name
        for, becomes null.
    """
    numbers = {
        task: {name: v if math.isfinite(v) else None for name, v in values.items()}
        for task, values in result.items()
    }
    content = {"split": split, "step": step, "result": numbers}
    with workdir_lib.writing(workdir):
        json_files.write(workdir / "result.json", content)


def read_result(workdir: Path) -> tuple[str, int, dict[str, dict[str, float]]]:
    """Returns what `write_result` wrote: the split, the step, and the accuracies.

    Raises:
      UserError: there is no result, or it is damaged.
    """
    path = workdir / "result.json"
    content = json_files.read(path)
    with _complete(path):
        result = {
            task: {name: math.nan if v is None else v for name, v in values.items()}
            for task, values in content["result"].items()
        }
        if not all("count" in values for values in result.values()):
            raise KeyError("count")
        return content["split"], content["step"], result


@contextmanager
def _complete(path: Path) -> Iterator[None]:
    """Turns what is wrong with a file that training writes anew into a `UserError`."""
    try:
        yield
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} is damaged: delete it, and the command that trained the run "
            "writes it again."
        ) from error
