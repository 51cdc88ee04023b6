"""Eight CPU devices, little compiled and nothing twice, and the shapes in signatures checked at every call."""

import mmap
import os
import re
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from jaxtyping import install_import_hook


def xla_knows(flag):
    """XLA ends the process at a flag it does not know, and flags come and go: is its name in the library?"""
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


# Set by the process that pytest starts with; its workers and whatever tests start inherit them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
    if xla_knows("xla_cpu_use_fusion_emitters"):  # without them a training step compiles in less than half the time
        flags.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    compiled = tempfile.TemporaryDirectory(prefix="compiled_")  # empty now, gone when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

install_import_hook(["vacsr_jax.ops", "vacsr_jax.losses", "vacsr_jax.models", "vacsr_jax.search"], "beartype.beartype")
