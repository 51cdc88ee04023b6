"""What the tests of steps share."""

import jax
import pytest


@pytest.fixture(scope="module")
def compile_fast():
    """Steps here are compiled to be run three times: XLA's optimizations would cost minutes."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("run")
