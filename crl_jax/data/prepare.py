r"""Write the shards of a config's data ahead of training, which then finds them.

  python -m crl_jax.data.prepare --config=configs/vso.py \
      --config.data.manifest=vso.csv

Training writes the same shards at its start if they do not exist. Stopped? The same
command goes on from there.

--beam divides the pictures of a manifest among many machines with Apache Beam
(`pip install ".[beam]"` in an environment of its own); all of them must see the
pictures and config.data.dir:

  --beam="--runner=FlinkRunner --flink_master=HOST:8081"

docs/data.md has more runners.
"""

from crl_jax import cli
from crl_jax.errors import UserError


def main() -> None:
    """Reads the arguments and writes the shards."""
    verb = cli.parser("data.prepare", __doc__)
    cli.add_config(verb)
    verb.add_argument(
        "--beam",
        metavar="ARGUMENTS",
        help="for a Beam pipeline, including --runner; default: no Beam",
    )
    arguments = cli.read(verb)

    from crl_jax.data import source

    config, options = arguments.config, None
    if "beam" in arguments:
        from crl_jax.data import beam

        if not config.data.manifest:
            raise UserError(
                "--beam reads the pictures of config.data.manifest: set it."
            )
        options = beam.pipeline_options(arguments.beam)
    data = source.find_source(config)
    data.check(config)
    data = data.prepared(options)
    data.check(config)
    print(f"Training finds its data in {data.builder.data_dir}")


if __name__ == "__main__":
    cli.run(main)
