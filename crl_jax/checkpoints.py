"""Checkpoints of a run with Orbax: the latest two and the best."""

import errno
import functools
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from jax import lax
from orbax.checkpoint import checkpoint_managers as policies

from crl_jax import devices, library_logs
from crl_jax.errors import UserError
from crl_jax.terminal import LONG, console
from crl_jax.train_state import TrainState


class Checkpoints:
    """The checkpoints in `<workdir>/checkpoints`, one folder per step.

    A checkpoint is the whole `TrainState`; its step number is the position in the data,
    so nothing else is needed to go on. Orbax writes it next to its place, in the
    background, and renames it when it is whole. It includes a checksum of each array,
    since nothing else would notice a bit that changed on the disk.
    """

    def __init__(self, workdir: Path, read_only: bool = False) -> None:
        self._directory = (workdir / "checkpoints").resolve()
        self._damaged = workdir / "damaged"
        self._read_only = read_only
        library_logs.drop_late_answers()
        devices.first_alone(self._check_scores)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        best = policies.BestN(
            get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False
        )
        with library_logs.no_warnings():  # of what read_only says
            options = ocp.CheckpointManagerOptions(
                best_fn=_score,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(2), best]
                ),
                read_only=self._read_only,
                cleanup_tmp_directories=not self._read_only,
                # Where folders cannot be made, threads would wait minutes for them.
                async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
            )
            return ocp.CheckpointManager(
                epath.Path(self._directory), options=options, item_handlers=_handler()
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def _newest_first(self) -> list[int]:
        return sorted(self._manager.all_steps(), reverse=True)

    def _best_first(self) -> list[int]:
        """Returns the steps of checkpoints; those without a score come last."""
        steps = self._newest_first()
        scores = {step: self._manager.metrics(step) for step in steps}
        scored = [step for step in steps if scores[step]]
        scored.sort(key=lambda step: -_score(scores[step]))
        return scored + [step for step in steps if not scores[step]]

    def save(self, state: TrainState, step: int, score: float | None = None) -> None:
        """Begins to write a checkpoint, unless this step has one.

        If it cannot be written, that is reported; earlier ones stay whole.

        Args:
          state: what to save.
          step: steps done.
          score: by which the best is chosen, higher is better; None: not evaluated.
        """
        start = time.monotonic()
        self.wait()
        if (waited := time.monotonic() - start) > LONG:
            console.print(
                f"Step {step:,} waited {waited:.0f} s for the previous checkpoint to "
                "be written: is the disk slow?",
                soft_wrap=True,
            )
        if step == self.latest:
            return
        metrics = None if score is None else {"score": score}
        content = _content(state)
        saved = {"state": content, "checksums": _checksums(content)}
        try:
            self._manager.save(step, args=ocp.args.PyTreeSave(saved), metrics=metrics)
        except Exception as error:  # whatever the file system answers
            self._tell_of_failure(error)

    def restore_latest(self, abstract_state: TrainState) -> tuple[int, Any]:
        """Returns the newest whole checkpoint's step and state, or 0 and None."""
        return self._restore_first(self._newest_first, abstract_state)

    def restore_best(self, abstract_state: TrainState) -> tuple[int, Any]:
        """Returns the step and state of the best whole checkpoint, or 0 and None."""
        return self._restore_first(self._best_first, abstract_state)

    def _restore_first(
        self, order: Callable[[], list[int]], abstract_state: TrainState
    ) -> tuple[int, Any]:
        """Restores the first whole checkpoint; sets aside the damaged ones before it.

        If none is whole, all stay where they are: whatever is wrong may be elsewhere.

        Args:
          order: gives the steps of the checkpoints, the first to try first.
          abstract_state: shapes, dtypes and places, from `train_state.abstract_state`.

        Raises:
          UserError: one is damaged, and they may only be read; or all are; or one
            cannot be read for another reason, such as too little memory.
        """
        damaged: dict[int, str] = {}
        for step in order():
            folder, state = self._directory / str(step), None
            found = "another process could not read it"
            try:
                state = self._restore(step, abstract_state)
            except Exception as error:  # whatever Orbax finds wrong with the files
                self._check_damage(folder, error)
                found = _first_line(error)
            if not devices.anywhere(state is None):
                if damaged:
                    devices.first_alone(functools.partial(self._set_aside, damaged))
                    self._manager.reload()
                return step, state
            if not folder.exists():  # a training has just replaced it
                self._manager.close()
                self._manager = self._open()  # a reload would not forget it all
                return self._restore_first(order, abstract_state)
            if self._read_only:
                raise _damage(folder, found)
            damaged[step] = found
        if damaged or self._damaged.exists():
            found = next(iter(damaged.values()), f"see {self._damaged}")
            raise UserError(
                f"No checkpoint in {self._directory} is whole ({found}): give another "
                "--workdir to begin anew."
            )
        return 0, None

    def _check_damage(self, folder: Path, error: Exception) -> None:
        """Raises UserError unless an error means that a checkpoint is damaged."""
        number = getattr(error, "errno", None)
        if said := _OF_SYSTEM.search(str(error)):  # by TensorStore, in a ValueError
            number = int(said[1])
        if isinstance(error, _NOT_DAMAGE) or number not in _DAMAGE:
            raise UserError(
                f"The checkpoint {folder} could not be read for now "
                f"({_first_line(error)}). It was left as it is: once it can be read, "
                "the same command goes on from it."
            ) from error

    def _restore(self, step: int, abstract_state: TrainState) -> TrainState:
        content = _content(abstract_state)
        sums = jax.eval_shape(_checksums, content)
        place = jax.tree.leaves(abstract_state)[0].sharding
        sums = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), sums
        )
        abstract = {"state": content, "checksums": sums}
        places = ocp.checkpoint_utils.construct_restore_args(abstract)
        arguments = ocp.args.PyTreeRestore(abstract, restore_args=places)
        saved = self._manager.restore(step, args=arguments)
        found = jax.device_get(_checksums(saved["state"]))
        if found != jax.device_get(saved["checksums"]):
            raise ValueError("its numbers are not those that were saved")
        return abstract_state.replace(**saved["state"])

    def _check_scores(self) -> None:
        """Sets checkpoints aside whose score cannot be read, which Orbax needs."""
        damaged: dict[int, str] = {}
        for path in self._directory.glob("*/metrics/metrics"):
            folder = path.parent.parent
            if not folder.name.isdigit():
                continue
            try:
                _score(json.loads(path.read_text("utf-8")))
            except FileNotFoundError:  # a training has just replaced it
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                self._check_damage(folder, error)
                if self._read_only:
                    raise _damage(folder, _first_line(error)) from error
                damaged[int(folder.name)] = _first_line(error)
        self._set_aside(damaged)

    def _set_aside(self, damaged: Mapping[int, str]) -> None:
        """Moves damaged checkpoints away, those that another process has not moved."""
        for step, found in damaged.items():
            folder = self._directory / str(step)
            if not folder.exists():
                continue
            try:
                self._damaged.mkdir(exist_ok=True)
                shutil.rmtree(self._damaged / folder.name, ignore_errors=True)
                shutil.move(folder, self._damaged / folder.name)
            except OSError as error:  # it may lie on another disk
                raise UserError(
                    f"The checkpoint {folder} is damaged ({found}), and could not be "
                    f"moved to {self._damaged} ({_first_line(error)}): move it away, "
                    "and the same command goes on from the previous checkpoint."
                ) from error
            console.print(
                f"The checkpoint {folder} is damaged ({found}); it was moved to "
                f"{self._damaged}.",
                soft_wrap=True,
            )

    def wait(self) -> None:
        """Waits until what was saved is written, and reports it if it cannot be."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever the file system answers
            self._tell_of_failure(error)

    def _tell_of_failure(self, error: Exception) -> None:
        failure = (
            f"A checkpoint could not be written to {self._directory} ({_reason(error)})"
        )
        if jax.process_count() > 1:
            raise UserError(
                f"{failure}. The same command goes on from the newest whole one."
            ) from error
        for partial in self._directory.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(partial, ignore_errors=True)  # it may fill the disk
        # The old manager would fail again each time.
        self._manager = self._open()
        console.print(
            f"{failure}. The run goes on; the newest whole one is from step "
            f"{self.latest or 0:,}.",
            soft_wrap=True,
        )

    def check_saved(self, step: int) -> None:
        """Raises UserError if the checkpoint of the run's last step is not there."""
        if self.latest != step:
            raise UserError(
                f"The network of step {step:,} is lost: its checkpoint could not be "
                f"written to {self._directory}. Once it can be, the same command goes "
                f"on from step {self.latest or 0:,}."
            )

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        self.wait()
        self._manager.close()


# A checkpoint may be whole, and yet not be restored; of what the system says, only
# these mean damage.
_NOT_DAMAGE = (MemoryError, jax.errors.JaxRuntimeError)
_OF_SYSTEM = re.compile(r"\[OS error (\d+)")
_DAMAGE = (None, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EIO)


def _score(metrics: Any) -> float:
    return metrics["score"]


def _reason(error: Exception) -> str:
    """Returns what the system said, which Orbax puts at the end of a long line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).partition("\n")[0].partition(" [")[0].rpartition(": ")[2]


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _damage(folder: Path, found: str) -> UserError:
    """Returns what to raise if a damaged checkpoint may not be moved."""
    return UserError(
        f"The checkpoint {folder} is damaged ({found}). Start its training again: it "
        "goes on from the previous checkpoint."
    )


def _handler() -> ocp.PyTreeCheckpointHandler:
    """Returns what writes from one device what all have, not a part from each.

    Orbax would compile the parting of every array at every start. And a device may
    round differently than another, while the checksum is of one.
    """
    arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def _content(state: TrainState) -> dict[str, Any]:
    """Returns the fields of a state, as a checkpoint names them.

    A run whose weighting remembers nothing has no field for it, as runs of before.
    """
    fields = dict(vars(state))
    if state.weighting is None:
        del fields["weighting"]
    return fields


@jax.jit
def _checksums(tree: Any) -> Any:
    """Returns a checksum of each array, `[]` uint32, which any changed bit changes."""

    def checksum(x: jax.Array) -> jax.Array:
        unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
        bits = lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).ravel()
        # Odd numbers have inverses: a change of one element changes the sum.
        odd = 2 * lax.iota(jnp.uint32, bits.size) + 1
        return jnp.sum(bits * odd, dtype=jnp.uint32)

    return jax.tree.map(checksum, tree)
