"""Cross-residual networks as pure Flax Linen modules; only JAX is needed here."""

from crl_jax.models.network import MultitaskResNet, abstract_variables, build

__all__ = ["MultitaskResNet", "abstract_variables", "build"]
