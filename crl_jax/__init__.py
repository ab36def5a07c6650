"""Deep cross-residual learning: one network for several related label sets.

Jou and Chang, "Deep Cross Residual Learning for Multitask Visual Recognition",
ACM Multimedia 2016, https://arxiv.org/abs/1604.01335.
"""

import os
import typing

if typing.TYPE_CHECKING:
    from crl_jax.inference.prediction import Predictor

__version__ = "0.1.0"


def load(workdir: str | os.PathLike[str]) -> "Predictor":
    """Returns the network of a run, which can be called with pictures.

        predictor = crl_jax.load("runs/digits")
        for prediction in predictor(["a.jpg", "b.jpg"]):
            print(prediction.file, prediction.top("noun"), prediction.joint)

    Args:
      workdir: folder of a trained run, or of its export to safetensors or as a Space.

    Raises:
      UserError: there is no run, or no checkpoint; an export is damaged; or this is one
        of several processes.
    """
    # JAX and TensorFlow take seconds to import; not everything needs them.
    from crl_jax.inference import prediction

    return prediction.load(workdir)
