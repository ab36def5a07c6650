"""Your own pictures, listed in a CSV: file,split,<task>,<task>,...

  python -m crl_jax.main --config=configs/manifest.py --workdir=runs/mine \
      --config.data.manifest=labels.csv

Splits are train, val and test; an empty cell is a missing label. Paths are relative to
the CSV. The settings are for a few thousand pictures and no GPU: 2,640 photographs take
13 minutes on one core. See the README for more.
"""

from ml_collections import ConfigDict

from crl_jax.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model.depth = 18
    config.model.branch_from = "res5a"  # at res5b nothing would cross in a ResNet-18

    config.data.image_size = 64
    config.data.batch_size = 64

    config.train.epochs = 30.0
    config.train.log_every = 1000
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    return config
