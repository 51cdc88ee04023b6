"""VACSR in JAX: trains, evaluates and loads models of image-text similarity as a latent variable.

`vacsr_jax.load(path_or_hub_name)` is the one call that most people need. `vacsr_jax.optim.adamp` is an optimizer with
optax's interface. Everything else is imported from its module.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["__version__", "load", "optim"]


def __getattr__(name: str):
    # Imported late, so that `import vacsr_jax` costs nothing.
    if name == "load":
        from vacsr_jax.pretrained import load

        return load
    if name == "optim":
        return importlib.import_module("vacsr_jax.optim")
    raise AttributeError(f"module 'vacsr_jax' has no attribute {name!r}")
