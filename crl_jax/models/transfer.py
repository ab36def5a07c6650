"""Weights from one of our networks for another with different tasks or branch point."""

from collections.abc import Collection
from typing import Any

import numpy as np
from flax import traverse_util

from crl_jax.errors import UserError
from crl_jax.models import units
from crl_jax.models.architecture import ARCHITECTURES
from crl_jax.models.imported import Import
from crl_jax.models.network import MultitaskResNet


def transfer(
    origin: str,
    source: MultitaskResNet,
    source_variables: Any,
    network: MultitaskResNet,
    variables: Any,
    same_classes: Collection[str],
) -> Import:
    """Returns a network's variables, taken from another network as far as it has them.

    A task that both have takes its own branch, and its head if it has the same classes;
    a new task's branch starts as a copy of the first task's, and so does a trunk where
    the other network was branched. Cross weights are taken if the tasks are the same.

    Args:
      origin: what to call the source in messages.
      source: the network that weights come from.
      source_variables: its variables.
      network: the one that they go to.
      variables: its variables as it starts.
      same_classes: tasks that have the same classes in both.

    Raises:
      UserError: a shape, the depth or the place of the strides is different.
    """
    check_alike(origin, source, network)
    old, new = list(source.classes), list(network.classes)
    there = traverse_util.flatten_dict(source_variables)
    flat = dict(traverse_util.flatten_dict(variables))
    result = Import(None)
    for key, leaf in flat.items():
        name, layer = "/".join(key), key[1]
        own = layer == "head" or layer.endswith("_cross")
        found = there.get(key)
        if found is not None and not own:
            found = _branches(found, layer, source, network)
        elif found is not None and layer.endswith("_cross") and old != new:
            result.left[name] = "the tasks are different"
            found = None
        elif found is not None and layer == "head" and key[2] not in same_classes:
            result.left[name] = "its classes are different"
            found = None
        if found is None:
            result.new.append(name)
            continue
        if found.shape != leaf.shape:
            if own:
                result.left[name] = f"it is {found.shape} there, {leaf.shape} here"
                result.new.append(name)
                continue
            raise UserError(
                f"config.init.from={origin}: {name} is {found.shape} there, and "
                f"{leaf.shape} here: the config's model must match the run's."
            )
        flat[key] = found
        result.matched.append(name)
    for key in sorted(there.keys() - flat.keys()):
        result.left["/".join(key)] = "this network has no such layer"
    result.notes += _notes(source, network)
    result.variables = traverse_util.unflatten_dict(flat)
    return result


def check_alike(origin: str, source: MultitaskResNet, network: MultitaskResNet) -> None:
    """Raises UserError if weights of a network mean something else in another one.

    Args:
      origin: what to call the source in the message.
      source: the network that weights come from.
      network: the one that they go to.
    """
    names = ["depth"]
    if ARCHITECTURES[network.depth][0] is units.BottleneckUnit:
        names.append("stride_in")  # no shape shows it
    for name in names:
        there, here = getattr(source, name), getattr(network, name)
        if there != here:
            raise UserError(
                f"config.init.from={origin}: config.model.{name} is {there} there, and "
                f"{here} here: the config's model must match the run's."
            )


def _notes(source: MultitaskResNet, network: MultitaskResNet) -> list[str]:
    """Returns what to say about the weights that were taken."""
    old, notes = list(source.classes)[0], []
    for name in ("mean", "std"):
        there, here = getattr(source, name), getattr(network, name)
        if there != here:
            notes.append(f"config.data.{name} was {there} there, and is {here} here.")
    for layer in sorted(source.stacked_layers - network.stacked_layers):
        notes.append(f"{layer} was branched there: it takes {old}'s weights.")
    if source.stacked_layers & network.stacked_layers:
        for task in network.classes:
            if task not in source.classes:
                notes.append(f"{task} is new: its branch starts as a copy of {old}'s.")
    return notes


def _branches(
    found: Any, layer: str, source: MultitaskResNet, network: MultitaskResNet
) -> Any:
    """Returns an array with, or without, the task axis of the new network."""
    old, new = list(source.classes), list(network.classes)
    found = np.asarray(found)
    branched = layer in source.stacked_layers
    if layer not in network.stacked_layers:
        return found[0] if branched else found
    if not branched:
        return np.stack([found] * len(new))
    return found[[old.index(task) if task in old else 0 for task in new]]
