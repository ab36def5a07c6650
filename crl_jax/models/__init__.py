"""Cross-residual networks as pure Flax Linen modules; only JAX is needed here."""

from crl_jax.models.network import MultitaskResNet, build

__all__ = ["MultitaskResNet", "build"]
