"""All that a run can be refused for before anything of it is written."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh
from ml_collections import ConfigDict

from crl_jax import config_check, devices, models, start, weighting, workdir
from crl_jax.data import source
from crl_jax.schedule import Schedule


class Checked(NamedTuple):
    """A run that nothing is known to be wrong with.

    Attributes:
      config: with settings for exactly the tasks of the data.
      data: it need not be prepared yet.
      network: of the config.
      mesh: of all devices.
    """

    config: ConfigDict
    data: source.Source
    network: models.MultitaskResNet
    mesh: Mesh


def check(config: ConfigDict, folders: Iterable[Path]) -> Checked:
    """Returns what a run is made of.

    Args:
      config: a checked config.
      folders: of the run, or of several that differ in their seed.

    Raises:
      UserError: a mistake in the config, the data, or the weights to start from.
    """
    Schedule.check(config)
    data = source.find_source(config)
    data.check(config)
    config = config_check.with_tasks(config, data.widths)
    network = models.build(config, data.widths)
    mesh = devices.make_mesh(config.train.task_devices, len(data.kinds))
    devices.check_batch_size(config, mesh)
    weighting.make(config, network)  # refuses a network that it cannot work on
    if not all(workdir.has_checkpoint(folder) for folder in folders):
        start.check(config, network)
    return Checked(config, data, network, mesh)
