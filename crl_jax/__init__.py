"""Deep cross-residual learning: one network for several related label sets.

Jou and Chang, "Deep Cross Residual Learning for Multitask Visual Recognition",
ACM Multimedia 2016, https://arxiv.org/abs/1604.01335.
"""

__version__ = "0.1.0"
