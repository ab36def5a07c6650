"""CIFAR-100: 100 fine classes and their 20 superclasses; TFDS downloads it.

  python -m crl_jax.main --config=configs/cifar100.py --workdir=runs/cifar100

50,000 pictures of 32 px, of which the last tenth chooses the checkpoint; for a GPU.
"""

from ml_collections import ConfigDict

from crl_jax.config import default


def get_config() -> ConfigDict:
    config = default()
    config.model.depth = 18
    config.model.branch_from = "res5a"  # at res5b nothing would cross in a ResNet-18
    config.model.stem = "small"

    config.data.tfds = "cifar100"
    config.data.tasks.fine = "label"
    config.data.tasks.coarse = "coarse_label"
    config.data.train_split = "train[:90%]"
    config.data.val_split = "train[90%:]"
    config.data.image_size = 32
    config.data.augment = "pad_and_crop"
    config.data.eval_crop = 1.0

    config.train.epochs = 60.0
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 5e-4
    return config
