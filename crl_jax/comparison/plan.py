"""What a comparison trains: networks, the values of a sweep, and seeds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from crl_jax import config as config_lib
from crl_jax import config_check, networks, workdir
from crl_jax.errors import UserError

BASELINE = "S"  # of the multitask gain, which is left out without it

Sweep = tuple[str, Sequence[Any]]  # dotted name of a field, and its values


@dataclass(frozen=True)
class Variant:
    """A network, under one value of a sweep or as the config has it.

    Attributes:
      network: a name in `networks.NETWORKS`.
      field: dotted name of the field that is swept; empty if none is.
      value: of the field.
    """

    network: str
    field: str = ""
    value: Any = None

    @property
    def label(self) -> str:
        """How the variant is named in tables."""
        return (
            f"{self.network} {self.field}={self.value}" if self.field else self.network
        )

    @property
    def folder(self) -> str:
        """Name of its folder in the comparison's folder."""
        return re.sub(r"[^\w.,=:%\[\]+-]", "_", self.label.replace(" ", ","))


@dataclass(frozen=True)
class PlannedRun:
    """A run of a comparison, and its folder."""

    variant: Variant
    seed: int
    folder: Path
    run: workdir.Run


@dataclass(frozen=True)
class Plan:
    """What a comparison trains.

    Attributes:
      configs: `{variant: checked config}`; each run sets its own seed.
      seeds: how many runs each variant has; their seeds count up from the config's.
    """

    configs: dict[Variant, ConfigDict]
    seeds: int

    @property
    def has_baseline(self) -> bool:
        """Whether there is a network for the others' multitask gain to be over."""
        return Variant(BASELINE) in self.configs

    def counterpart(self, variant: Variant, network: str) -> Variant | None:
        """Returns what to compare `variant` with: another network, in its setting.

        That is the network under the same value of the sweep, or as the config has it
        if the sweep does not concern it.
        """
        for other in (
            Variant(network, variant.field, variant.value),
            Variant(network),
        ):
            if other in self.configs:
                return other
        return None

    def seeds_of(self, variant: Variant) -> range:
        """Returns the seeds of the runs of a variant."""
        first = self.configs[variant].train.seed
        return range(first, first + self.seeds)


def make(
    config: ConfigDict, names: Sequence[str], seeds: int, sweeps: Sequence[Sweep]
) -> Plan:
    """Returns the plan of a comparison.

    Each sweep changes one field of the config and leaves the others as they are; it
    concerns the networks that do not set the field themselves.

    Args:
      config: a checked config; its network is X.
      names: of networks.
      seeds: runs per variant.
      sweeps: fields, and the values of each.

    Raises:
      UserError: no such network, field or value; two networks are the same; or a split
        is missing.
    """
    # Of a task that only the data name, the config has no settings yet.
    missing = {field for field, _ in sweeps} - dict(config_lib.fields(config)).keys()
    defaults = {field: config_check.expected_value(field) for field in missing}
    config = networks.with_settings(config, defaults)
    configs = {Variant(name): networks.named(config, name) for name in names}
    _check_differ(configs)
    for field, values in sweeps:
        concerned = [name for name in names if not networks.decides(name, field)]
        if not concerned:
            raise UserError(
                f"--sweep={field}: every network of --networks={','.join(names)} sets "
                "it itself."
            )
        if field == "train.seed":
            raise UserError("--sweep=train.seed: that is what --seeds is for.")
        for name in concerned:
            settings = networks.settings(name, config)
            for value in values:
                changed = networks.with_settings(config, settings | {field: value})
                if config_lib.differences(changed, configs[Variant(name)]):
                    configs[Variant(name, field, value)] = changed
    for variant in configs:
        _check_splits(configs[variant])
    _check_folders(list(configs))
    return Plan(configs, seeds)


def _check_splits(config: ConfigDict) -> None:
    for split in ("val_split", "test_split"):
        if not config.data[split]:
            raise UserError(
                f"config.data.{split} is empty: a comparison chooses checkpoints on "
                "one split and reports results on another. Part of a split is written "
                "train[90%:]."
            )


def _check_folders(variants: list[Variant]) -> None:
    labels: dict[str, str] = {}
    for variant in variants:
        other = labels.setdefault(variant.folder, variant.label)
        if other != variant.label:
            raise UserError(
                f"{other} and {variant.label} would be kept in one folder, "
                f"{variant.folder}: give one of the values another name."
            )


def _check_differ(configs: dict[Variant, ConfigDict]) -> None:
    variants = list(configs)
    for i, variant in enumerate(variants):
        for other in variants[:i]:
            if not config_lib.differences(configs[variant], configs[other]):
                raise UserError(
                    f"{other.label} and {variant.label} are the same network under "
                    "this config: leave one of them out, or give the config cross "
                    "weights (config.model.cross.init)."
                )
