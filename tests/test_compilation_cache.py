"""Programs are kept for the next process, and the user's own choice wins."""

import os
import subprocess
import sys

import pytest

CODE = """
from vacsr_jax.compilation_cache import keep_compiled
{first}
keep_compiled()
import jax
print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: x * 3)(2).block_until_ready()
"""


def run(tmp_path, first="", **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_COMPIL", "JAX_PERSIST"))}
    clean |= {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(first=first)],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    "first", ["", "import jax; jax.jit(lambda x: x + 1)(1)"], ids=["before jax", "after a program"]
)
@pytest.mark.skipif(sys.platform != "linux", reason="the folder of caches is named by XDG_CACHE_HOME on Linux only")
@pytest.mark.slow
def test_a_program_is_kept_in_the_users_folder(tmp_path, first):
    folder, size = run(tmp_path, first)
    assert folder.startswith(str(tmp_path / "vacsr_jax/compiled"))
    assert int(size) == 1 << 30
    assert list(tmp_path.glob("vacsr_jax/compiled/*/*-cache"))


@pytest.mark.slow
def test_the_users_own_folder_wins(tmp_path):
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / "mine"))[0] == str(tmp_path / "mine")
    assert not (tmp_path / "vacsr_jax").exists()


@pytest.mark.slow
def test_without_a_place_to_write_nothing_is_kept(tmp_path):
    (tmp_path / "file").write_text("")
    assert run(tmp_path, XDG_CACHE_HOME=str(tmp_path / "file")) == ["None", "-1"]


@pytest.mark.slow
def test_one_line_switches_it_off(tmp_path):
    run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not list(tmp_path.rglob("*-cache"))
