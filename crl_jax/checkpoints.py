"""Checkpoints of a run with Orbax: the latest two and the best."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers as policies


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`, one folder a step.

    A checkpoint is the whole `TrainState`; its step number is the position in the data,
    so nothing else is needed to go on. Orbax writes it beside its place, in the
    background, and renames it when it is whole.
    """

    def __init__(self, workdir: Path, read_only: bool = False) -> None:
        best = policies.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=policies.AnyPreservationPolicy(
                [policies.LatestN(2), best]
            ),
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        directory = epath.Path((workdir / "checkpoints").resolve())
        self._manager = ocp.CheckpointManager(directory, options=options)

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the highest score; the newest if none has one."""
        scores = {s: self._manager.metrics(s) for s in self._manager.all_steps()}
        scored = [step for step, metrics in scores.items() if metrics]
        if not scored:
            return self.latest
        return max(scored, key=lambda step: (_score(scores[step]), step))

    def save(self, state: Any, step: int, score: float | None) -> None:
        """Begins to write a checkpoint, unless this step has one.

        Args:
          state: the tree to save.
          step: updates done.
          score: by which the best is chosen, higher is better; None: not evaluated.
        """
        if step == self.latest:
            return
        metrics = None if score is None else {"score": score}
        self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Returns the state at `step`.

        Args:
          step: one that has a checkpoint.
          abstract_state: shapes, dtypes and places, from `step.abstract_state`.
        """
        return self._manager.restore(
            step, args=ocp.args.StandardRestore(abstract_state)
        )

    def wait(self) -> None:
        """Waits until what was saved is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self._manager.close()


def _score(metrics: Any) -> float:
    return metrics["score"]
