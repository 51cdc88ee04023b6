"""Eight CPU devices, and the shapes in the signatures of ops, losses, models and search checked at every call."""

import os

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from jaxtyping import install_import_hook

install_import_hook(["vacsr_jax.ops", "vacsr_jax.losses", "vacsr_jax.models", "vacsr_jax.search"], "beartype.beartype")
