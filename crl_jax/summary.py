"""Print what a network costs, for the classes of its data or those its config gives.

  python -m crl_jax.summary --config=configs/vso.py

It sets side by side S (one network per task), M (multitask, branched as the config
says) and X (the same with the config's cross-residuals).
"""

from collections.abc import Mapping

from ml_collections import ConfigDict

from crl_jax import cli, config_check, networks
from crl_jax import config as config_lib
from crl_jax.errors import UserError


def print_summary(config: ConfigDict, classes: Mapping[str, int]) -> None:
    """Prints the costs of S, M and X, one column each."""
    from crl_jax.costs import cost
    from crl_jax.terminal import console, print_table

    costs = {name: cost(networks.named(config, name), classes) for name in "SMX"}
    rows = [["shared"] + [f"{c.shared:,}" for c in costs.values()]]
    rows += [["branch, each task"] + [f"{c.branch:,}" for c in costs.values()]]
    for task, count in classes.items():
        row = [f"head {task} ({count:,})"]
        rows += [row + [f"{c.heads[task]:,}" for c in costs.values()]]
    if costs["X"].cross:
        between = "cross weights" if config.model.fusion == "none" else "between tasks"
        rows += [[between] + [f"{c.cross:,}" for c in costs.values()]]
    rows += [["total"] + [f"{c.total:,}" for c in costs.values()]]
    rows += [["total, millions"] + [f"{c.total / 1e6:.2f}" for c in costs.values()]]
    saved = [f"{100 * (1 - c.total / costs['S'].total):.1f}%" for c in costs.values()]
    rows += [["saved", "–", *saved[1:]]]
    rows += [["GFLOPs per image"] + [f"{c.flops / 1e9:.2f}" for c in costs.values()]]
    megabytes = [f"{c.activation_bytes / 1e6:.1f}" for c in costs.values()]
    rows += [["activations, MB per image"] + megabytes]
    model = config.model
    print_table(
        f"ResNet-{model.depth} at {config.data.image_size} px, {len(classes)} tasks, "
        f"branched from {model.branch_from}",
        ["parameters", *costs],
        rows,
    )
    crossing = (
        f"cross-residuals ({model.cross.kind}, "
        f"{'learned from' if model.cross.learned else 'fixed at'} "
        f"{model.cross.init:g})"
    )
    if model.fusion != "none":
        crossing = f"model.fusion={model.fusion}"
    console.print(f"S: one network per task. M: multitask. X: with {crossing}.")


def main() -> None:
    """Reads the arguments and prints the summary."""
    verb = cli.parser("summary", __doc__)
    cli.add_config(verb)
    config = cli.read(verb).config
    if config.data.manifest or config.data.tfds:
        from crl_jax.data import source

        classes = source.find_source(config).widths
    else:
        classes = config_lib.given_classes(config)
    if not classes:
        raise UserError(
            "The config gives neither data nor classes: set "
            "--config.data.manifest=FILE.csv, or --config.tasks.NAME.classes=10 for "
            "each task."
        )
    print_summary(config_check.with_tasks(config, classes), classes)


if __name__ == "__main__":
    cli.run(main)
