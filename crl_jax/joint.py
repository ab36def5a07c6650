"""Let all heads decide together, with weights chosen on the validation split.

  python -m crl_jax.joint --workdir=runs/digits

If the labels of several tasks form a product, such as adjective x noun = pair, each
head knows something about the pair. From the heads' log-probabilities this scores the
combinations of labels that occur in training. It chooses on the validation split how
much each head counts, and prints how often the result is right on --split, next to each
head alone. `predict` and `demo` use the weights from then on.
"""

from crl_jax import cli


def main() -> None:
    """Reads the arguments, chooses and prints."""
    verb = cli.parser("joint", __doc__)
    cli.add_workdir(verb, "folder of a run that was trained")
    cli.add_data_of_run(verb)
    arguments = cli.read(verb)

    from crl_jax import devices
    from crl_jax.inference import joint

    devices.start()
    joint.choose_weights(**vars(arguments))


if __name__ == "__main__":
    cli.run(main)
