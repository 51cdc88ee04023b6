"""The cost of importing, and the direction of imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vacsr_jax"
FOUNDATION = {"safe_npz", "atomic_files", "ops", "workdir", "compilation_cache", "shipped_models"}

# What a room may import of the package, itself included: ops -> losses, towers, pair -> scoring -> evaluation ->
# training -> cli. `training` selects checkpoints by evaluating, and writes no pages;
# `pretrained` joins all of them for users, `cli` for the command line.
ALLOWED = {
    "safe_npz": set(),
    "atomic_files": set(),
    "workdir": set(),
    "compilation_cache": set(),
    "shipped_models": {"atomic_files"},
    "ops": {"ops"},
    "losses": {"losses", *FOUNDATION},
    "towers": {"towers", *FOUNDATION},
    "pair": {"pair", "losses", "towers", *FOUNDATION},
    "image_text": {"pair", "towers"},
    "model_files": {"data", "image_text", "pair", "towers", *FOUNDATION},
    "scoring": {"scoring", "image_text", "pair", "towers", "data", *FOUNDATION},
    "metrics": {"metrics"},
    "calibration": {"calibration", "losses", *FOUNDATION},
    "search": {"search", "data", "metrics", *FOUNDATION},
    "optim": {"optim"},
    "data": {"data", *FOUNDATION},
    "evaluation": {
        *("evaluation", "scoring", "calibration", "search", "data", "metrics", "image_text", "pair", "towers"),
        *FOUNDATION,
    },
    "report": {"report", "evaluation", "data", "metrics", "atomic_files"},
    "training": {
        *("training", "evaluation", "data", "optim", "metrics", "model_files", "image_text", "pair", "towers"),
        "config_files",
        *FOUNDATION,
    },
    "pretrained": {
        *("training", "evaluation", "calibration", "scoring", "data", "model_files", "image_text", "pair", "towers"),
        *FOUNDATION,
    },
    "audit": {
        *("audit", "training", "pretrained", "scoring", "data", "losses", "pair", "ops"),
        *FOUNDATION,
    },
    "serve": {"serve", "search", "report", "pretrained", "scoring", "data", "pair", *FOUNDATION},
    "deploy": {"deploy", "pretrained", "evaluation", "report", "towers", "atomic_files", "workdir"},
    "config_files": set(),
    "cli": {
        "cli",
        "config_files",
        "audit",
        "deploy",
        "towers",
        "calibration",
        "data",
        "evaluation",
        "scoring",
        "search",
        "report",
        "metrics",
        "training",
        "pretrained",
        "serve",
        "atomic_files",
        "shipped_models",
        "workdir",
        "__init__",
    },
    "main": {"cli", "compilation_cache", "__init__"},
    "__init__": {"optim", "pretrained"},
    "__main__": {"main"},
}

# What a room inside `search` may import of `search`, itself included, and which of them read the rooms beside it.
ALLOWED_IN_SEARCH = {
    "checks": set(),
    "filters": set(),
    "standardize": {"standardize", "checks"},
    "text_entropy": {"standardize", "checks"},
    "stores": {"stores", "standardize", "filters", "checks"},
    "index": {"index", "stores", "standardize", "text_entropy", "filters", "checks"},
}
FROM_SEARCH_OUTWARD = {
    "data": {
        "search/checks.py",
        "search/index/files.py",
        "search/index/stored.py",
        "search/standardize/problem.py",
    },  # for vectors of any length, for indexes of the first format, for samples, and for problems read from files
    "metrics": {"search/standardize/compare.py", "search/text_entropy.py"},  # recall, for comparing and choosing
}


def imported_rooms(path, of="vacsr_jax"):
    """The rooms of a package that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports here are absolute"
            names = [node.module]
            if node.module == of:  # `from vacsr_jax import load` is the package's own name
                names = [f"{of}.{a.name}" if is_room(a.name, of) else f"{of}.__init__" for a in node.names]
        else:
            continue
        yield from (name.removeprefix(f"{of}.").split(".")[0] for name in names if name.startswith(f"{of}."))


def is_room(name, of="vacsr_jax"):
    folder = PACKAGE.parent.joinpath(*of.split("."))
    return (folder / name).is_dir() or (folder / f"{name}.py").is_file()


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_room_has_its_rule():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == set(ALLOWED)


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_point_downward(room):
    files = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    wrong = {path.name: set(imported_rooms(path)) - ALLOWED[room] for path in files}
    assert {name: rooms for name, rooms in wrong.items() if rooms} == {}


def test_imports_inside_search_point_downward():
    search = PACKAGE / "search"
    room_in_search = {
        path: path.relative_to(search).with_suffix("").parts[0]
        for path in search.rglob("*.py")
        if path != search / "__init__.py"
    }
    assert set(room_in_search.values()) == set(ALLOWED_IN_SEARCH)
    for path, room in room_in_search.items():
        assert set(imported_rooms(path, of="vacsr_jax.search")) <= ALLOWED_IN_SEARCH[room], path


@pytest.mark.parametrize("room", FROM_SEARCH_OUTWARD)
def test_few_files_of_search_read_other_rooms(room):
    readers = {path for path in (PACKAGE / "search").rglob("*.py") if room in imported_rooms(path)}
    assert {path.relative_to(PACKAGE).as_posix() for path in readers} == FROM_SEARCH_OUTWARD[room]


@pytest.mark.parametrize("rules", [ALLOWED, ALLOWED_IN_SEARCH], ids=["package", "search"])
def test_the_rules_themselves_have_no_cycle(rules):
    below, left = set(), dict(rules)
    while left:
        free = {room for room, rooms in left.items() if rooms - {room, "__init__"} <= below}
        assert free, f"{sorted(left)} import each other"
        below |= free
        left = {room: rooms for room, rooms in left.items() if room not in free}


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_only_the_room_of_towers_knows_a_tower():
    own = {f"vacsr_jax.towers.{path.stem}" for path in (PACKAGE / "towers").glob("clip*.py")}
    assert own
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) != "towers":
            assert not own & set(imported_modules(path)), path


def test_only_the_room_of_pairs_knows_a_pair_model():
    """No other room asks what a pair model is or what a method is called; a frozen CLIP gets its cosine once."""
    allowed = {"vacsr_jax.pair", "vacsr_jax.pair.base"}
    for path in PACKAGE.rglob("*.py"):
        if room_of(path) == "pair":
            continue
        known = {name for name in imported_modules(path) if name.startswith("vacsr_jax.pair.")}
        known = {name for name in known if not name.startswith("vacsr_jax.pair.base")} - allowed
        known -= {f"vacsr_jax.pair.{name}" for name in vars_of(PACKAGE / "pair/__init__.py")}
        expected = (
            {"vacsr_jax.pair.cosine", "vacsr_jax.pair.cosine.CosineModel"}
            if path.stem in ("model_files", "pretrained")
            else set()
        )
        assert known == expected, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Compare):
                text = ast.unparse(node)
                assert "config.method" not in text, f"{path}: {text}"


def vars_of(path):
    """The names that a module defines."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets)


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


SAVED = PACKAGE.parent / "tests/parity/golden/format2"


@pytest.mark.slow
def test_loading_an_export_reads_no_training_code_and_prints_nothing():
    code = f"import sys, vacsr_jax; vacsr_jax.load({str(SAVED / 'vacsr')!r}); print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = set(done.stdout.split())
    assert not {"grain", "orbax", "matplotlib", "optax", "transformers", "scipy.special"} & loaded
    assert not {name for name in loaded if name.startswith(("vacsr_jax.training", "vacsr_jax.evaluation"))}
    assert done.stderr == ""


@pytest.mark.slow
def test_loading_a_workdir_prints_nothing():
    command = [sys.executable, "-c", f"import vacsr_jax; vacsr_jax.load({str(SAVED / 'workdir')!r})"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert (done.stdout, done.stderr) == ("", "")


def seconds(imports):
    code = f"import time\nstart = time.perf_counter()\n{imports}\nprint(time.perf_counter() - start)"
    return float(run(code)[0])


@pytest.mark.slow
def test_importing_takes_at_most_one_and_a_half_times_jax_and_flax():
    pairs = [(seconds("import jax, flax, vacsr_jax"), seconds("import jax, flax")) for _ in range(3)]
    ours, theirs = (min(column) for column in zip(*pairs, strict=True))
    assert ours <= 1.5 * theirs
    assert seconds("import vacsr_jax") <= 1.5 * theirs
