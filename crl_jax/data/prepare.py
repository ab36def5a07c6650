"""Write the shards of a config's data ahead of the training, which then finds them.

  python -m crl_jax.data.prepare --config=configs/vso.py --config.data.manifest=vso.csv

Training writes the same shards at its start if they are not there. Stopped? The same
command goes on where it was.

--beam divides the pictures of a manifest among many machines with Apache Beam
(`pip install .[beam]`); all of them must see the pictures and config.data.dir:

  --beam="--runner=FlinkRunner --flink_master=HOST:8081"

docs/data.md has more runners.
"""

import argparse
import os

from ml_collections import ConfigDict

from crl_jax import cli
from crl_jax.errors import UserError


def main() -> None:
    """Reads the arguments and writes the shards."""
    verb = cli.parser("data.prepare", __doc__)
    cli.add_config(verb)
    verb.add_argument(
        "--beam",
        default=argparse.SUPPRESS,
        metavar="ARGUMENTS",
        help="of a Beam pipeline, --runner among them; default: no Beam",
    )
    arguments = cli.read(verb)

    from crl_jax.data import source

    if "beam" in arguments:
        _prepare_with_beam(arguments.config, arguments.beam)
    data = source.open_source(arguments.config)
    data.check_splits(arguments.config)
    print(f"Training finds its data in {data.builder.data_dir}")


def _prepare_with_beam(config: ConfigDict, arguments: str) -> None:
    from crl_jax.data import beam, builder

    data = config.data
    if not data.manifest:
        raise UserError("--beam reads the pictures of config.data.manifest: set it.")
    # Other machines have other current folders.
    folder = data.dir and os.path.abspath(os.path.expanduser(data.dir))
    builder.prepare_manifest(
        data.manifest, folder or None, data.resize, beam.pipeline_options(arguments)
    )


if __name__ == "__main__":
    cli.run(main)
