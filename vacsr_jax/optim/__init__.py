"""Optimizers in optax's form: `vacsr_jax.optim.adamp`."""

from vacsr_jax.optim.adamp import adamp, scale_by_adamp

__all__ = ["adamp", "scale_by_adamp"]
