"""The paper's experiment: X-ResNet-50 on the Visual Sentiment Ontology.

  python -m crl_jax.main --config=configs/vso.py --workdir=runs/vso \
      --config.data.manifest=vso.csv

Nouns, adjectives and their pairs (ANPs) at 224 px. The recipe is Fernández et al. 2017
("More Cat than Cute?", same data, shared author); the paper's own is not published.
291,826 training pictures (of 307,185; the rest choose the checkpoint); 10 epochs are
22,799 steps. Meant for GPUs or TPUs.
It starts from ImageNet weights, which you name; without them expect less. Keras's
ResNet-50 is laid out like this network:
  --config.init.from=FILE.h5 --config.data.mean='(0.485020, 0.457957, 0.407604)'
and so are torchvision's and timm's with --config.model.stride_in=3x3.
To be expected of a single-task ResNet-50 from ImageNet weights, top-1 / top-5 in
percent, as credited to the paper: noun 41.64 / 69.81, adjective 28.45 / 57.87,
ANP 22.68 / 47.82.
"""

from ml_collections import ConfigDict

from crl_jax.config import default, default_task


def get_config() -> ConfigDict:
    config = default()
    config.model.depth = 50
    config.model.stride_in = "1x1"
    config.model.branch_from = "res5b"
    config.model.cross.init = 0.1

    for task, classes in {"noun": 167, "adjective": 117, "anp": 553}.items():
        config.tasks[task] = default_task()
        config.tasks[task].classes = classes
    config.data.val_split = "train[95%:]"
    config.data.train_split = "train[:95%]"
    config.train.best_by = "anp"

    config.train.epochs = 10.0
    config.optim.learning_rate = 0.01
    return config
