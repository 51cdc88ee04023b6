"""The command line: what it reads, what it refuses, and how it says so."""

import ast
import inspect
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import vacsr_jax
from vacsr_jax.cli.train import FIELDS
from vacsr_jax.config_files import described_fields, load_config, published, split_argument, with_new_fields
from vacsr_jax.data.datasets import open_split
from vacsr_jax.losses.vacsr import vacsr
from vacsr_jax.main import VERBS as MODULES
from vacsr_jax.main import main
from vacsr_jax.training.checkpoint import config_from_dict, config_to_dict

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
SCENES = ROOT / "configs" / "scenes.py"
VERBS = ("train", "evaluate", "embed", "export", "evaluate-matrix", "index", "search", "configs", "push", "models")
DATA_VERBS = ("classify", "data check", "data shots")
STANDARDIZE_VERBS = tuple(f"standardize {verb}" for verb in ("fit", "apply", "diagnose", "compare"))
ENTROPY_VERBS = tuple(f"entropy {verb}" for verb in ("fit", "bias", "apply"))


def run_program(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


def leaves(config, prefix=""):
    for name, value in config.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [(prefix + name, value)]


# Messages.


@pytest.mark.parametrize(
    "program",
    [[sys.executable, "-m", "vacsr_jax"], [str(Path(sys.executable).with_name("vacsr"))]],
    ids=["-m", "vacsr"],
)
def test_both_programs_list_the_verbs(program):
    text = run_program(*program, "--help")
    assert text.startswith("usage: vacsr ")
    assert all(re.search(rf"^ +{verb}\s", text, re.M) for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS + DATA_VERBS + STANDARDIZE_VERBS + ENTROPY_VERBS)
def test_the_help_of_each_verb_shows_an_example_that_parses(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    assert ended.value.code == 0
    examples = re.findall(r"^ +(vacsr .*)$", capsys.readouterr().out.partition("example:")[2], re.M)
    assert examples
    for example in examples:
        options, _ = vacsr_jax.main.parse(shlex.split(example)[1:])
        assert options.verb == verb


def test_help_of_every_verb_answers_without_jax():
    verbs = [verb.split() for verb in (*VERBS, "score", *DATA_VERBS, *STANDARDIZE_VERBS, *ENTROPY_VERBS)]
    code = f"""
import contextlib, sys
from vacsr_jax.main import main
for verb in {verbs}:
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(None):
        main([*verb, "--help"])
print(*{{name.split('.')[0] for name in sys.modules}})
"""
    loaded = set(run_program(sys.executable, "-c", code).split())
    assert "vacsr_jax" in loaded
    assert not {"jax", "flax", "orbax", "ml_collections", "transformers", "scipy", "PIL", "matplotlib"} & loaded


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"vacsr_jax {vacsr_jax.__version__}\n"


def test_the_help_of_train_lists_fields_with_their_defaults_and_comments(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text, default = capsys.readouterr().out, load_config("default", [])
    shown = dict(re.findall(r"^  --config\.([\w.]+)=(\S+) +\S.*$", text, re.M))
    assert tuple(shown) == FIELDS
    values = dict(leaves(default))
    assert {name: ast.literal_eval(value) for name, value in shown.items()} == {n: values[n] for n in FIELDS}


def test_every_field_is_described():
    described = described_fields()
    assert set(described) == {name for name, _ in leaves(load_config("default", []))}
    assert [name for name, (_, comment) in described.items() if not comment] == []


# Adding a verb.


def test_a_verb_is_a_module_in_the_tuple_and_nothing_else(monkeypatch, capsys):
    greet = types.ModuleType("greet")
    source = """
def register(verbs):
    parser = verbs.add("greet", run, "Greet someone.", "example:\\n  vacsr greet --name=Ada", takes_config=True)
    parser.add_argument("--name", required=True)

def run(options, overrides):
    print(f"{options.verb} {options.name} {overrides}")
"""
    exec(source, greet.__dict__)
    monkeypatch.setattr(vacsr_jax.main, "VERBS", (*MODULES, greet))
    main(["greet", "--name=Ada", "--config.seed=1"])
    assert capsys.readouterr().out == "greet Ada ['--config.seed=1']\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "greet " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["greet", "--nane=Ada", "--name=Ada"])
    assert "(did you mean --name?)" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(SystemExit):
        main(["greet", "--nane=Ada"])
    assert "required: --name; unknown argument '--nane=Ada'" in " ".join(capsys.readouterr().err.split())


def test_every_file_of_the_folder_is_a_verb_in_the_tuple():
    files = {path.stem for path in (ROOT / "vacsr_jax" / "cli").glob("*.py")} - {"__init__", "verbs"}
    assert sorted(files) == sorted(module.__name__.rpartition(".")[2] for module in MODULES)


def test_the_old_name_of_evaluate_matrix_says_so(tmp_path, capsys):
    options = [f"--{name}={tmp_path / name}" for name in ("similarity", "image_ids", "caption_ids", "ground_truth")]
    errors = []
    for name in ("score", "evaluate-matrix"):
        with pytest.raises(SystemExit) as ended:
            main([name, *options, f"--out={tmp_path / 'm.json'}"])
        assert ended.value.code == 2
        errors.append(capsys.readouterr().err.splitlines())
    (note, old), (new,) = errors
    assert note == "note: `vacsr score` is now `vacsr evaluate-matrix`; the next release removes the old name"
    assert old == new.replace("vacsr evaluate-matrix:", "vacsr score:")


# Configs.


def test_there_are_configs():
    assert {"default", "scenes"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_locked_with_the_fields_and_types_of_the_default(path):
    config, default = load_config(str(path), []), load_config(str(ROOT / "configs" / "default.py"), [])
    assert config.is_locked
    assert {n: type(v) for n, v in leaves(config)} == {n: type(v) for n, v in leaves(default)}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_import_ml_collections_and_configs_only(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert (node.module, node.level) in (("ml_collections", 0), ("configs", 0))
        assert not isinstance(node, ast.Import)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_survives_json(path):
    config = load_config(str(path), [])
    assert config_from_dict(config_to_dict(config)) == config


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id] if isinstance(node, ast.Name) else parts))


def test_every_field_is_read_by_the_library():
    sources = [path.read_text() for path in (ROOT / "vacsr_jax").rglob("*.py")]
    read = {dotted(n) for text in sources for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Attribute)}
    # Not read by name: the loss's fields are passed as keywords, and the sizes are looked up by the split's name.
    elsewhere = {f"loss.{name}" for name in inspect.signature(vacsr).parameters}
    elsewhere |= {"data.train_size", "data.validation_size"}
    names = {name for name, _ in leaves(load_config(str(SCENES), []))}
    unread = {name for name in names if not any(f".{got}".endswith(f".{name}") for got in read)}
    assert unread - elsewhere == set()


@pytest.mark.parametrize(("split", "n"), [("train", 30), ("validation", 20), ("test", 10), ("test_novel", 10)])
def test_the_sizes_of_the_splits_are_read(split, n):
    sizes = [f"--config.data.{name}_size={k}" for name, k in (("train", 30), ("validation", 20), ("test", 10))]
    assert len(open_split(load_config(str(SCENES), sizes), split)) == n


def test_fields_can_be_set_and_keep_their_types():
    given = ["optim.lr=1e-4", "seed=3", "train.steps=7", "checkpoint.every=2", "data.noise=1", "adapter.sigmoid=false"]
    config = load_config(str(SCENES), [f"--config.{override}" for override in given])
    assert (config.optim.lr, config.seed, config.train.steps, config.checkpoint.every) == (1e-4, 3, 7, 2)
    assert (config.data.noise, config.adapter.sigmoid) == (1.0, False)
    assert isinstance(config.data.noise, float)
    assert config.is_locked


def test_a_tuple_and_a_string_can_be_set():
    overrides = ["--config.data.facts=(0.5,0.5,0.0)", "--config.model.pretrained=a=b,c"]
    config = load_config(str(SCENES), overrides)
    assert config.data.facts == (0.5, 0.5, 0.0)
    assert config.model.pretrained == "a=b,c"


def test_the_argument_string_sets_fields():
    config = load_config(f"{SCENES}:noise=0.5,method=sigmoid,held_out=true", ["--config.seed=2"])
    assert (config.data.noise, config.method, config.data.held_out, config.seed) == (0.5, "sigmoid", True, 2)


def test_a_config_can_be_loaded_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from configs import scenes\n\ndef get_config():\n    config = scenes.get_config()\n    config.seed = 9\n"
        "    return config\n"
    )
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    path = list(sys.path)
    assert load_config("mine.py", []).seed == 9
    assert sys.path == path


def test_the_config_of_an_older_model_gets_the_fields_that_came_since():
    default = load_config("default", [])
    old = config_to_dict(default)
    old["data"] |= {"path": "mine", "gone": 3}
    for group, name in (("data", "caption_key"), ("train", "log_to")):
        del old[group][name]
    del old["augment"]
    found = with_new_fields(config_from_dict(old))
    assert found.is_locked
    assert (found.data.path, found.data.caption_key, found.data.gone, found.augment) == ("mine", "", 3, default.augment)


def test_a_published_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config("scenes:noise=0.5", ["--config.seed=2"]) == load_config(
        f"{SCENES}:noise=0.5", ["--config.seed=2"]
    )
    (tmp_path / "scenes").write_text("def get_config():\n    raise ValueError('mine')\n")
    with pytest.raises(ValueError, match="mine"):  # a file of one's own comes first
        load_config("scenes", [])


def test_a_config_of_ones_own_starts_from_a_published_one(tmp_path, monkeypatch, capsys):
    """The text that `vacsr configs show` prints is a config wherever it is saved, also where no configs/ is."""
    main(["configs", "show", "scenes"])
    (tmp_path / "mine.py").write_text(capsys.readouterr().out)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if Path(folder).resolve() != ROOT])
    for name in ("configs", "configs.default"):
        monkeypatch.delitem(sys.modules, name)
    assert load_config("mine.py", []).train.steps == load_config(str(SCENES), []).train.steps


@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")
def test_a_reader_that_ends_early_is_no_error(tmp_path):
    (tmp_path / "long.py").write_text("# first\n" + "# more than a pipe holds\n" * 20_000)
    command = f"{shlex.quote(sys.executable)} -m vacsr_jax configs show {tmp_path / 'long.py'} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("# first\n", "")


def test_the_configs_are_listed_with_a_line_each(capsys):
    main(["configs"])
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert list(listed) == published() == [path.stem for path in CONFIGS]
    assert listed["scenes"].startswith("The embedded default")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("scenes", ("scenes", "", "")),
        ("a/b.py:x=1:2", ("a/b.py", ":", "x=1:2")),
        (r"C:\runs\b.py:x=1", (r"C:\runs\b.py", ":", "x=1")),
        ("d:/b.py", ("d:/b.py", "", "")),
        ("s:x=1", ("s", ":", "x=1")),
    ],
)
def test_the_argument_of_a_config_starts_at_a_colon_that_is_no_drives(given, parts):
    assert split_argument(given) == parts


# Users' mistakes.

BAD_FIELDS = {
    "--config.optim.lrr=1": "no field 'optim.lrr'; did you mean optim.lr ",
    "--config.trian.steps=3": "no field 'trian.steps'; did you mean train.steps ",
    "--config.steps=5": "no field 'steps'; did you mean train.steps?",
    "--config.optim=5": "no field 'optim'; did you mean optim.lr ",
    "--config.qqq=5": "did you mean adapter.base_rate_bias or ",
    "--config.seed": "expected --config.FIELD=VALUE",
    "--config.train.steps=many": "--config.train.steps=many",
    "--config.train.steps=1.5": "--config.train.steps=1.5",
    "--config.adapter.sigmoid=perhaps": "--config.adapter.sigmoid=perhaps",
    "--config.method=clip": "method: got 'clip', expected one of infonce, cross_entropy, sigmoid, triplet, pcmepp, ",
    "--config.model.towers=small": "model.towers: got 'small', expected one of ViT-B/32",
    "--config.model.dtype=float16": "model.dtype: got 'float16', expected float32 or bfloat16",
    "--config.adapter.embeddings=l2": "adapter.embeddings: got 'l2', expected one of unit, raw",
    "--config.data.name=coco": "data.name: got 'coco', expected one of scenes, ",
}
SMALL = [f"--config.data.{split}_size=20" for split in ("train", "validation", "test")]


@pytest.mark.parametrize("override", BAD_FIELDS)
def test_a_bad_field_is_named(override, refuse, tmp_path):
    error = refuse("train", f"--config={SCENES}", f"--workdir={tmp_path / 'run'}", *SMALL, override)
    assert BAD_FIELDS[override] in error


BAD_FILES = {
    "no_such.py": "no file 'no_such.py'",
    "scene": "did you mean --config=scenes?",
    "configs/scenes2.py": "did you mean --config=scenes?",
    f"{SCENES}:nois=1": "config argument 'nois': expected one of method, noise, held_out",
    f"{SCENES}:noise": "config argument 'noise': expected name=value",
    f"{SCENES}:noise=much": "noise=much: expected a value of type float",
    f"{SCENES}:held_out=maybe": "held_out=maybe: expected a value of type bool",
    f"{ROOT / 'configs' / 'default.py'}:noise=1": "default.py: TypeError",
    f"{ROOT / 'tests' / 'small_models.py'}": "small_models.py: AttributeError",
    f"{ROOT / 'pyproject.toml'}": "pyproject.toml: ",
}


@pytest.mark.parametrize("config", BAD_FILES, ids=lambda config: Path(config).name)
def test_a_bad_config_file_or_argument_is_named(config, refuse, tmp_path):
    assert BAD_FILES[config] in refuse("train", f"--config={config}", f"--workdir={tmp_path}")


@pytest.mark.parametrize(("arguments", "message"), [(["show"], "name a config: "), (["show", "scens"], "scenes?")])
def test_a_config_that_cannot_be_shown(arguments, message, refuse):
    assert message in refuse("configs", *arguments)


def test_a_config_that_leaves_is_named(refuse, tmp_path):
    (tmp_path / "leaves.py").write_text("import sys\n\nsys.exit(3)\n")
    assert "leaves.py: SystemExit: 3" in refuse("train", f"--config={tmp_path / 'leaves.py'}", f"--workdir={tmp_path}")


def test_an_unknown_option_is_refused_with_the_near_miss(refuse, tmp_path):
    arguments = ("train", f"--config={SCENES}", f"--workdir={tmp_path}", f"--wrkdir={tmp_path}")
    assert "(did you mean --workdir?)" in " ".join(refuse(*arguments).split())


def test_braces_that_the_shell_expanded_are_noticed(refuse, tmp_path):
    configs = [f"--config=webdataset:path={i:03d}.tar" for i in range(3)]
    error = " ".join(refuse("train", *configs, f"--workdir={tmp_path}").split())
    assert (
        "--config is given more than once; quote an argument with braces: '--config=webdataset:path=001.tar'" in error
    )


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["embed", "--config.seed=1", "--model=a", "--out=b"]])
def test_incomplete_commands_end_with_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_workdir_that_is_a_file(refuse, tmp_path):
    (tmp_path / "run").write_text("")
    assert "run" in refuse("train", f"--config={SCENES}", f"--workdir={tmp_path / 'run'}", *SMALL)
