"""Where a new run starts from: the seed alone, or weights that the config names."""

import os
from pathlib import Path

import jax
from ml_collections import ConfigDict

from crl_jax import devices, models, trained, workdir
from crl_jax.errors import UserError
from crl_jax.kinds import widths
from crl_jax.models import MultitaskResNet, pretrained
from crl_jax.models.imported import describe
from crl_jax.models.transfer import check_alike, transfer
from crl_jax.program import Program
from crl_jax.terminal import console
from crl_jax.train_state import TrainState


def check(config: ConfigDict, network: MultitaskResNet) -> None:
    """Raises UserError if what `config.init.from` names does not suit a network.

    Of a file, that is all but the numbers.
    """
    origin = config.init["from"]
    path = Path(os.path.expanduser(origin))
    if origin and path.is_dir():
        run = _read_run(origin, path)
        check_alike(origin, models.build(run.config, widths(run.kinds)), network)
    elif origin:
        here = models.abstract_variables(network, config.data.image_size)
        pretrained.check(path, network, here)


def _read_run(origin: str, folder: Path) -> workdir.Run:
    if not workdir.has_checkpoint(folder):
        raise UserError(
            f"config.init.from={origin}: this folder has no checkpoint of a run. Give "
            "the folder of a run; of an export, that of the run that was exported."
        )
    try:
        return workdir.read(folder)
    except UserError as error:
        raise UserError(f"config.init.from={origin}: {error}") from error


def from_weights(state: TrainState, program: Program) -> TrainState:
    """Returns a new run's state with the weights that `config.init.from` names.

    It prints what was taken, what was left and why.

    Args:
      state: from the seed alone.
      program: of the run.

    Raises:
      UserError: the weights cannot be read, or do not fit.
    """
    origin = program.config.init["from"]
    if not origin:
        return state
    path, network = Path(os.path.expanduser(origin)), program.network
    here = jax.device_get(state.variables)
    if path.is_dir():
        other = trained.load(path, program.mesh)
        there, old = jax.device_get(other.variables), other.run.kinds
        same = {
            task
            for task, kind in program.kinds.items()
            if task in old
            and (old[task].name, old[task].names) == (kind.name, kind.names)
        }
        found = transfer(origin, other.network, there, network, here, same)
    else:
        found = pretrained.load(path, network, here)
    console.print(describe(found, origin), soft_wrap=True)
    variables = devices.place(found.variables, state.variables)
    average = state.average
    if average is not None:
        average = jax.tree.map(lambda x: x.copy(), variables)
    return state.replace(variables=variables, average=average)
