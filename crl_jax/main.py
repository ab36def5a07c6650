"""Train one network for several label sets.

  python -m crl_jax.main --config=configs/digits.py --workdir=runs/digits

The run goes on where it stopped when it is started again with the same --workdir.
Any field of the config can be set here: --config.train.epochs=30.
"""

from crl_jax import cli


def main() -> None:
    """Reads the arguments and trains."""
    verb = cli.parser("main", __doc__)
    cli.add_config(verb)
    cli.add_workdir(verb, "the run's folder, for checkpoints, logs and the config")
    cli.add_processes(verb)
    arguments = vars(cli.read(verb))
    config, workdir = arguments.pop("config"), arguments.pop("workdir")

    # JAX and TensorFlow are imported only once the config is right.
    from crl_jax import devices
    from crl_jax.train import train

    devices.start(**arguments)
    train(config, workdir)


def command() -> None:
    """Runs the command `crl-jax`."""
    cli.run(main)


if __name__ == "__main__":
    command()
