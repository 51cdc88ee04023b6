"""Gives tests eight CPU devices and a shared compilation cache, and checks the shapes in signatures at every call."""

import mmap
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook


def xla_knows(flag):
    """Tells whether the installed XLA knows a flag. It ends the process at an unknown one, and flags come and go."""
    path = Path(find_spec("jaxlib").origin).with_name("libjax_common.so")
    if not path.exists():
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
        return library.find(flag.encode()) >= 0


@pytest.fixture
def refuse(capsys):
    """Runs a command that must end with status 2 and one message; returns the message."""
    from vacsr_jax.main import main

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert ended.value.code == 2
        assert not out
        assert "Traceback" not in err
        assert len(re.findall("^vacsr", err, re.M)) == 1
        return err

    return run


# Set by pytest's first process; its workers, and the processes that tests start, inherit them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    if xla_knows("xla_cpu_use_fusion_emitters"):  # without them a training step compiles in less than half the time
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    compiled = tempfile.TemporaryDirectory(prefix="compiled_")  # removed when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

install_import_hook(
    ["vacsr_jax.ops", "vacsr_jax.losses", "vacsr_jax.pair", "vacsr_jax.towers", "vacsr_jax.search"], "beartype.beartype"
)


@pytest.fixture(scope="module")
def compile_fast():
    """Leaves out most of XLA's optimizations: a step that runs three times is not worth minutes of compiling."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def one_device():
    """Lets training loops use one device, which compiles in half the time of eight; eight have their own tests."""
    import jax

    from vacsr_jax.training import loop
    from vacsr_jax.training.sharding import make_mesh

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_mesh", lambda: make_mesh(jax.devices()[:1]))
        yield
