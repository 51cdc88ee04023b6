"""What importing costs, and which way imports point."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vacsr_jax"
FOUNDATION = {"arrays", "atomic_files", "ops"}

# What a room may import of the package, itself included. `evaluation` sits on models; `training` selects checkpoints
# by evaluating, and writes no pages; `pretrained` joins all of them for users, `commands` for the command line.
ALLOWED = {
    "arrays": set(),
    "atomic_files": set(),
    "ops": {"ops"},
    "losses": {"losses", *FOUNDATION},
    "models": {"models", *FOUNDATION},
    "metrics": {"metrics"},
    "search": {"search", *FOUNDATION},
    "optim": {"optim"},
    "data": {"data", *FOUNDATION},
    "evaluation": {"evaluation", "search", "data", "metrics", "models", *FOUNDATION},
    "report": {"report", "evaluation", "data", "metrics", "atomic_files"},
    "training": {"training", "evaluation", "data", "losses", "optim", "metrics", "models", *FOUNDATION},
    "pretrained": {"training", "evaluation", "data", "models", *FOUNDATION},
    "classify": {"pretrained", "report", "evaluation", "data", "atomic_files"},
    "commands": {"classify", "pretrained", "report", "training", "evaluation", "data", "atomic_files", "metrics"},
    "search_commands": {"commands", "pretrained", "report", "search", "data"},
    "config_files": set(),
    "cli": {
        "cli",
        "classify",
        "commands",
        "search_commands",
        "config_files",
        "data",
        "evaluation",
        "search",
        "report",
        "metrics",
        "atomic_files",
        "__init__",
    },
    "main": {"cli"},
    "__init__": {"optim", "pretrained"},
    "__main__": {"main"},
}


def imported_rooms(path):
    """The rooms of the package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            names = [node.module]
            if node.module == "vacsr_jax":  # `from vacsr_jax import load` is the package's own name
                names = [f"vacsr_jax.{a.name}" if is_room(a.name) else "vacsr_jax.__init__" for a in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("vacsr_jax."))


def is_room(name):
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_room_has_its_rule():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_downward(room):
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    wrong = {path.name: set(imported_rooms(path)) - ALLOWED[room] for path in files}
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_the_rules_themselves_have_no_cycle():
    below, left = set(), dict(ALLOWED)
    while left:
        free = {room for room, rooms in left.items() if rooms - {room, "__init__"} <= below}
        assert free, f"{sorted(left)} import each other"
        below |= free
        left = {room: rooms for room, rooms in left.items() if room not in free}


HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow", "torch", "transformers", "matplotlib"}


@pytest.mark.parametrize("room", ["metrics", "data"])
def test_metrics_and_data_are_numpy_in_numpy_out(room):
    for path in (PACKAGE / room).glob("*.py"):
        for node in ast.parse(path.read_text()).body:  # the top level; the tokenizer imports transformers late
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & HEAVY, path.name


def test_ops_know_no_flax_and_no_config():
    for path in (PACKAGE / "ops").glob("*.py"):
        assert not any(f"import {name}" in path.read_text() for name in ("flax", "ml_collections", "optax"))


def run(code):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout.split()


def test_importing_the_package_loads_nothing_heavy():
    loaded = run("import sys, vacsr_jax; print(*{name.split('.')[0] for name in sys.modules})")
    assert not HEAVY & set(loaded)
    assert "numpy" not in loaded


def test_loading_and_the_command_line_load_no_tensorflow_torch_or_matplotlib():
    code = "import sys, vacsr_jax, vacsr_jax.main; vacsr_jax.load; print(*{n.split('.')[0] for n in sys.modules})"
    assert not {"tensorflow", "torch", "torchvision", "matplotlib", "transformers"} & set(run(code))


def seconds(imports):
    code = f"import time\nstart = time.perf_counter()\n{imports}\nprint(time.perf_counter() - start)"
    return float(run(code)[0])


def test_importing_takes_at_most_one_and_a_half_times_jax_and_flax():
    pairs = [(seconds("import jax, flax, vacsr_jax"), seconds("import jax, flax")) for _ in range(3)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    assert ours <= 1.5 * theirs
    assert seconds("import vacsr_jax") <= 1.5 * theirs
