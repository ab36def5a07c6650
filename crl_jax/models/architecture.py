"""The ResNets: their units and stages by name, and which of them are branched."""

from typing import Any

from ml_collections import ConfigDict

from crl_jax.errors import UserError
from crl_jax.models import units

Unit = type[units.BasicUnit] | type[units.BottleneckUnit]

# Depth: kind of unit, and units per stage (He et al. 2015, table 1). 12 is a tiny one.
ARCHITECTURES: dict[int, tuple[Unit, tuple[int, int, int, int]]] = {
    12: (units.BasicUnit, (1, 1, 1, 2)),
    18: (units.BasicUnit, (2, 2, 2, 2)),
    34: (units.BasicUnit, (3, 4, 6, 3)),
    50: (units.BottleneckUnit, (3, 4, 6, 3)),
    101: (units.BottleneckUnit, (3, 4, 23, 3)),
    152: (units.BottleneckUnit, (3, 8, 36, 3)),
}

# Parts of a network below its heads; a unit's name begins with its stage's.
STAGES = ("stem", "res2", "res3", "res4", "res5")


def unit_names(stage_sizes: tuple[int, ...]) -> list[list[str]]:
    """Returns the unit names per stage, `[["res2a", "res2b"], ["res3a", ...], ...]`.

    Units are lettered in stages of up to six, and numbered in longer ones,
    `res4a, res4b1, res4b2`, as in the original release of ResNet-101 and ResNet-152.
    """
    names = []
    for stage, size in enumerate(stage_sizes, start=2):
        if size <= 6:
            suffixes = list("abcdef"[:size])
        else:
            suffixes = ["a", *(f"b{i}" for i in range(1, size))]
        names.append([f"res{stage}{suffix}" for suffix in suffixes])
    return names


def layer_names(depth: int) -> list[str]:
    """Returns what `branch_from` can be: stem, the units from first to last, head."""
    stages = unit_names(ARCHITECTURES[depth][1])
    return ["stem", *(name for stage in stages for name in stage), "head"]


def frozen_layers(depth: int, frozen: str) -> frozenset[str]:
    """Returns the layers up to the end of a stage; none for "none"."""
    if frozen == "none":
        return frozenset()
    kept = STAGES[: STAGES.index(frozen) + 1]
    return frozenset(name for name in layer_names(depth) if name.startswith(kept))


def has_cross_weights(model: ConfigDict, tasks: int) -> bool:
    """Whether there are several tasks, and weights by which something may cross.

    Args:
      model: `config.model` of a checked config.
      tasks: T.
    """
    return tasks > 1 and bool(model.cross.init != 0 or model.cross.learned)


def crosses(model: ConfigDict, tasks: int) -> bool:
    """Whether cross-residuals carry anything from task to task.

    All branches of the first branched unit see the same x. If it is also the last one,
    whose shortcut is the identity in every ResNet, what crosses there is x itself.

    Args:
      model: `config.model` of a checked config.
      tasks: T.
    """
    branched = branched_units(model.depth, model.branch_from)
    return has_cross_weights(model, tasks) and len(branched) > 1


def split_layers(tree: Any, layers: frozenset[str]) -> tuple[Any, Any]:
    """Returns the layers of a parameter tree that are in `layers`, and the others."""
    own = {layer: leaves for layer, leaves in tree.items() if layer in layers}
    return own, {layer: leaves for layer, leaves in tree.items() if layer not in own}


def branched_layers(depth: int, branch_from: str) -> frozenset[str]:
    """Returns the layers that each task has for itself, heads included.

    Raises:
      UserError: `branch_from` is not a layer of this network.
    """
    names = layer_names(depth)
    if branch_from not in names:
        raise UserError(
            f"config.model.branch_from={branch_from!r} is not a layer of "
            f"ResNet-{depth}; it can be: {', '.join(names)}."
        )
    return frozenset(names[names.index(branch_from) :])


def branched_units(depth: int, branch_from: str) -> list[str]:
    """Returns the residual units that each task has for itself, from first to last.

    Raises:
      UserError: see `branched_layers`.
    """
    branched = branched_layers(depth, branch_from) - {"stem", "head"}
    return [name for name in layer_names(depth) if name in branched]
