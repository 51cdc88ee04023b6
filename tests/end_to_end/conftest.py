"""Fixtures of the end-to-end runs."""

import jax
import pytest

from vacsr_jax.training import loop
from vacsr_jax.training.sharding import make_mesh


@pytest.fixture(scope="module")
def compile_little():
    """Uses one device and few optimizations: one compiles in half the time of eight, which have their own tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        jax.config.update("jax_disable_most_optimizations", True)
        yield
    jax.config.update("jax_disable_most_optimizations", False)
