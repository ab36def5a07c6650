"""What is compiled for a config: its network, optimiser and steps, on all devices."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from crl_jax import devices, optim, step, train_state
from crl_jax.kinds import Kinds
from crl_jax.models import MultitaskResNet, layers
from crl_jax.train_state import TrainState


@dataclass(frozen=True, eq=False)
class Program:
    """The states and steps of a run; nothing is compiled before it is called.

    Attributes:
      config: a checked config.
      kinds: of its tasks.
      network: of the config.
      mesh: of the devices.
      learning_rate: of each step, from `optim.learning_rate`.
    """

    config: ConfigDict
    kinds: Kinds
    network: MultitaskResNet
    mesh: Mesh
    learning_rate: optax.Schedule

    @cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimiser of the config."""
        norm = step.gradient_norm(self.network)
        return optim.make(self.config.optim, self.learning_rate, norm)

    @cached_property
    def abstract_state(self) -> TrainState:
        """See `train_state.abstract_state`."""
        return train_state.abstract_state(
            self.network, self.optimizer, self.config, self.kinds, self.mesh
        )

    def new_state(self, seed: int) -> TrainState:
        """Returns the state before the first step, on the devices.

        It is computed on a CPU, so that it has the same bits wherever it goes; and for
        a GPU the many small kernels of random numbers take far longer to compile.
        """
        host = devices.host()
        with jax.default_device(host), layers.traced_for(host.platform):
            state = self._create(np.asarray(jax.random.key_data(jax.random.key(seed))))
        return devices.place(state, self.abstract_state)

    @cached_property
    def _create(self) -> Callable[[np.ndarray], TrainState]:
        # The seed is an argument, so that all seeds have one program.
        return jax.jit(
            lambda key_data: train_state.create_state(
                self.network,
                self.optimizer,
                self.config,
                self.kinds,
                jax.random.wrap_key_data(key_data),
            ),
            compiler_options=layers.options_to_run_once(),
        )

    def train_step(self, epoch_steps: int = 1, runs: int = 1) -> Callable[..., Any]:
        """Returns `step.make_train_step`, mapped over the devices.

        Args:
          epoch_steps: steps per epoch.
          runs: how many; if several, their states and batches are side by side.
        """
        one = step.make_train_step(
            self.network, self.optimizer, self.config, self.kinds, epoch_steps
        )
        specs = train_state.partition_specs(self.abstract_state)
        return step.map_train_step(one, self.mesh, specs, runs > 1)

    @cached_property
    def eval_step(self) -> Callable[..., Any]:
        """`step.make_eval_step`, mapped over the devices."""
        one = step.make_eval_step(self.network, self.kinds)
        specs = train_state.partition_specs(self.abstract_state.evaluated)
        return step.map_eval_step(one, self.mesh, specs)
