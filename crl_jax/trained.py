"""A trained network, as a run left it in its folder."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from crl_jax import models, step, workdir
from crl_jax.checkpoints import Checkpoints
from crl_jax.errors import UserError
from crl_jax.kinds import widths
from crl_jax.program import Program


@dataclass(frozen=True, eq=False)
class Trained:
    """A network with the variables of a run's best checkpoint.

    Attributes:
      run: what was trained, and on what.
      network: its logits follow the tasks of `run.kinds`.
      variables: of the network, on every device of `mesh`.
      step: steps done.
      mesh: of the devices.
      finished: whether the run has come to its end; of an export that is not known.
    """

    run: workdir.Run
    network: models.MultitaskResNet
    variables: Any
    step: int
    mesh: Mesh
    finished: bool = True

    @property
    def checkpoint(self) -> str:
        """What to call the checkpoint in a title."""
        title = checkpoint_title(self.step)
        return title if self.finished else f"{title} of an unfinished run"

    @cached_property
    def eval_step(self) -> Callable[..., Any]:
        """`step.make_eval_step`, mapped over the devices."""
        one = step.make_eval_step(self.network, self.run.kinds)
        return step.map_eval_step(one, self.mesh)


def load(directory: Path, mesh: Mesh) -> Trained:
    """Returns the network of the run in `directory`.

    Args:
      directory: the run's folder.
      mesh: of devices; each gets the whole network.

    Raises:
      UserError: there is no run, or no checkpoint.
    """
    run = workdir.read(directory)
    network = models.build(run.config, widths(run.kinds)).clone(task_devices=1)
    program = Program(run.config, run.kinds, network, mesh, lambda count: 0.0)
    with closing(Checkpoints(directory, read_only=True)) as checkpoints:
        best, state = checkpoints.restore_best(program.abstract_state)
    if state is None:
        raise UserError(f"--workdir={directory} has no checkpoint yet.")
    finished = workdir.is_done(directory)
    return Trained(run, network, state.evaluated, best, mesh, finished)


def checkpoint_title(step: int) -> str:
    """Returns what to call a checkpoint in a title."""
    return f"checkpoint of step {step:,}"
