"""Let all heads decide together, with weights chosen on the validation split.

  python -m crl_jax.joint --workdir=runs/digits

Where the labels of several tasks form a product, such as adjective x noun = pair, each
head knows something of the pair. This scores the combinations of labels that training
pictures have by the heads' log-probabilities, chooses on the validation split how much
each head counts, and says how often that is right on --split, beside each head alone.
`predict` and `demo` use the weights from then on.
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
