"""How often each training example is drawn, where classes are not equally large."""

import numpy as np

# Exponent of a class's size in the share of draws that it gets.
EXPONENTS = {"balanced": 0.0, "square_root": 0.5}


def shares(labels: np.ndarray, sampling: str) -> np.ndarray:
    """Returns the share of draws that each example gets.

    Each class gets a share in proportion to its size to the power of `EXPONENTS`,
    divided equally among its examples. Examples without a label are drawn as often as
    they would be if all were equal.

    Args:
      labels: `[N]` of the task that counts; -1 means missing.
      sampling: a key of `EXPONENTS`.

    Returns:
      `[N]`, above 0, of sum 1.
    """
    result = np.full(len(labels), 1 / len(labels))
    labelled = labels >= 0
    if not labelled.any():
        return result
    _, of_class, sizes = np.unique(
        labels[labelled], return_inverse=True, return_counts=True
    )
    of_classes = sizes.astype(float) ** EXPONENTS[sampling]
    of_examples = (of_classes / of_classes.sum() / sizes)[of_class]
    result[labelled] = of_examples * labelled.mean()
    return result
