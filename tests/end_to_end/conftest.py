"""What the whole runs share."""

import jax
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from vacsr_jax.training import loop
from vacsr_jax.training.sharding import make_mesh


@pytest.fixture(scope="module")
def compile_little(tmp_path_factory):
    """One device, which compiles in half the time of eight (those have tests of their own), and nothing twice."""
    before = jax.config.jax_compilation_cache_dir
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.mktemp("compiled")))
        jax.config.update("jax_disable_most_optimizations", True)
        reset_cache()  # JAX decides at its first compilation whether there is a cache
        yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.config.update("jax_compilation_cache_dir", before)
    reset_cache()
