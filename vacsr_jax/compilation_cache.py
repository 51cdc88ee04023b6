"""Keeps compiled programs between processes, so that a second start compiles nothing."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import platformdirs

MOST_BYTES = 1 << 30  # beyond it, the entries that were unused the longest are deleted
FASTEST = 0.2  # seconds; programs that compile faster are not kept


def keep_compiled() -> None:
    """Makes JAX keep compiled programs in a folder of the user's, unless the user set JAX's own options.

    `JAX_ENABLE_COMPILATION_CACHE=false` in the environment switches it off. `JAX_COMPILATION_CACHE_DIR` names another
    folder. Processes that write at the same time wait for each other: the size limit turns on a lock of the folder.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home directory that cannot be written to, as in some containers: nothing is kept
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": MOST_BYTES,
        "jax_persistent_cache_min_compile_time_secs": FASTEST,
    }
    if "jax" not in sys.modules:  # JAX reads the variables when it is imported
        for name, value in options.items():
            os.environ.setdefault(name.upper(), str(value))
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if jax.config.jax_compilation_cache_dir is None:  # type: ignore[attr-defined]  # jax adds it when it is imported
        for name, value in options.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()  # an earlier compilation may have switched the cache off


def cache_folder() -> Path:
    """Returns a folder for this kind of processor, since different machines may share a home directory."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    kind = hashlib.sha256(f"{platform.machine()} {flags}".encode()).hexdigest()[:12]
    return platformdirs.user_cache_path("vacsr_jax") / "compiled" / kind
