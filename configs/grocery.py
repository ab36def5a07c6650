"""Grocery photographs (Klasson et al. 2019), three levels of labels.

python -m crl_jax.main --config=configs/grocery.py --workdir=runs/grocery-fine \
      --config.data.manifest=labels.csv

Like manifest.py, except that the finest labels choose the checkpoint. 13 minutes on one
core.
"""

from ml_collections import ConfigDict

from crl_jax.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model.depth = 18
    config.model.branch_from = "res5a"  # at res5b nothing would cross in a ResNet-18

    config.data.image_size = 64
    config.data.batch_size = 64
    config.train.best_by = "fine"
    config.train.log_every = 1000

    config.train.epochs = 30.0
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    return config
