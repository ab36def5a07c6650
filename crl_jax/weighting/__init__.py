"""How the tasks' losses, or their gradients, become one update.

A method gives the weights of the tasks' losses before the backward pass; or it asks
for the gradients of shared layers per task, and combines those. Both only look at sums
over all devices and parts of a batch. What a method remembers is part of the train
state.

| `config.optim.weighting` | the gradient                                             |
|--------------------------|----------------------------------------------------------|
| `fixed`, `equal`         | weighted by `config.tasks.NAME.weight`, or by 1          |
| `uncertainty`            | weighted by learned variances (Kendall et al. 2018)      |
| `dwa`                    | weighted by how slowly losses fall (Liu et al. 2019)     |
| `geometric`              | of the losses' geometric mean (Chennupati et al. 2019)   |
| `gradnorm`               | weighted so that norms are alike (Chen et al. 2018)      |
| `pcgrad`                 | without conflicts in the trunk (Yu et al. 2020)          |
| `cagrad`                 | in the trunk, for the worst task too (Liu et al. 2021)   |
"""

from ml_collections import ConfigDict

from crl_jax.errors import UserError
from crl_jax.models.network import MultitaskResNet
from crl_jax.weighting.by_gradients import CAGrad, GradNorm, PCGrad
from crl_jax.weighting.by_losses import DynamicWeightAverage, GeometricMean, Uncertainty
from crl_jax.weighting.method import Weighting

__all__ = ["Weighting", "make"]


def make(
    config: ConfigDict, network: MultitaskResNet, epoch_steps: int = 1
) -> Weighting:
    """Returns the method that `config.optim.weighting` names.

    Args:
      config: a checked config, with settings for each task.
      network: the config's network.
      epoch_steps: steps that a pass over the data takes.

    Raises:
      UserError: the method needs trained layers that tasks share, and there are none.
    """
    optim, name = config.optim, config.optim.weighting
    weights = tuple(float(config.tasks[task].weight) for task in network.classes)
    if name in ("fixed", "equal"):
        return Weighting(weights)
    if name == "uncertainty":
        return Uncertainty(weights, rate=optim.weighting_rate)
    if name == "dwa":
        return DynamicWeightAverage(
            weights, temperature=optim.dwa_temperature, epoch_steps=epoch_steps
        )
    if name == "geometric":
        return GeometricMean(weights)
    trunk = network.trained_trunk
    if not trunk:
        raise UserError(
            f"config.optim.weighting={name} needs layers that the tasks share and that "
            "are trained, but there are none: set config.model.branch_from to a later "
            "layer, config.model.frozen to an earlier stage, or another "
            "config.optim.weighting."
        )
    if name == "gradnorm":
        last = frozenset(trunk[-1:])
        return GradNorm(weights, last, optim.weighting_rate, optim.gradnorm_alpha)
    if name == "pcgrad":
        return PCGrad(weights, frozenset(trunk))
    return CAGrad(weights, frozenset(trunk), optim.cagrad_c)
