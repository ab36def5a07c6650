"""A trained network, as a run left it in its folder."""

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from crl_jax import models, optim, train_state, workdir
from crl_jax.checkpoints import Checkpoints
from crl_jax.errors import UserError
from crl_jax.kinds import widths


@dataclass(frozen=True)
class Trained:
    """A network with the variables of a run's best checkpoint.

    Attributes:
      run: what was trained, on what.
      network: whose logits follow the tasks of `run.kinds`.
      variables: of the network, on every device of a mesh.
      step: steps done.
    """

    run: workdir.Run
    network: models.MultitaskResNet
    variables: Any
    step: int


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
    optimizer = optim.make(run.config.optim, lambda count: 0.0)
    abstract = train_state.abstract_state(
        network, optimizer, run.config, run.kinds, mesh
    )
    with closing(Checkpoints(directory, read_only=True)) as checkpoints:
        best, state = checkpoints.restore_best(abstract)
    if state is None:
        raise UserError(f"--workdir={directory} has no checkpoint yet.")
    return Trained(run, network, state.evaluated, best)
