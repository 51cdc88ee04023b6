"""The command line: what it reads, what it refuses, and how it says so."""

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import vacsr_jax
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import build_model
from vacsr_jax.losses.vacsr import vacsr
from vacsr_jax.main import main
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.checkpoint import config_from_dict, config_to_dict
from vacsr_jax.training.state import init_params

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")
SCENES = ROOT / "configs" / "scenes.py"
VERBS = ("train", "evaluate", "embed", "export", "score", "index", "search")
DATA_VERBS = ("classify", "data check", "data shots")
STANDARDIZE_VERBS = tuple(f"standardize {verb}" for verb in ("fit", "apply", "diagnose", "compare"))
ENTROPY_VERBS = tuple(f"entropy {verb}" for verb in ("fit", "bias", "apply"))


def run_program(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.fixture
def refuse(capsys):
    """Runs a command that must end with status 2 and one message; returns the message."""

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


def leaves(config, prefix=""):
    for name, value in config.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [(prefix + name, value)]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """An export of a model that was never trained."""
    config = load_config(str(SCENES), [])
    tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=300, context_length=8)
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    model = build_model(config, adapt_towers(PRESETS["tiny"], image_size=0, context_length=8, **ids))
    params = jax.device_get(init_params(model, 0))
    folder = tmp_path_factory.mktemp("export")
    Pretrained(model, params, tokenizer, config_to_dict(config), 3).save(folder)
    return folder


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "more/b.JPG")):
        Image.new("RGB", (40, 30), (90 * i, 10, 200)).save(folder / name)
    (folder / "notes.md").write_text("no picture")
    os.mkfifo(folder / "pipe.png")  # nor is this, and who opens it waits for ever
    return folder


# What the programs say.


@pytest.mark.parametrize(
    "program",
    [[sys.executable, "-m", "vacsr_jax"], [str(Path(sys.executable).with_name("vacsr"))]],
    ids=["-m", "vacsr"],
)
def test_both_programs_list_the_verbs(program):
    text = run_program(*program, "--help")
    assert text.startswith("usage: vacsr ")
    assert all(re.search(rf"^ +{verb} ", text, re.M) for verb in VERBS)


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
    # Read by other means: the loss's fields are its keywords, and the sizes are looked up by the split's name.
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


# User mistakes.

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
    "--config.data.name=coco": "data.name: got 'coco', expected one of scenes, image_folder",
}
SMALL = [f"--config.data.{split}_size=20" for split in ("train", "validation", "test")]


@pytest.mark.parametrize("override", BAD_FIELDS)
def test_a_bad_field_is_named(override, refuse, tmp_path):
    error = refuse("train", f"--config={SCENES}", f"--workdir={tmp_path / 'run'}", *SMALL, override)
    assert BAD_FIELDS[override] in error


BAD_FILES = {
    "no_such.py": "no file 'no_such.py'",
    f"{SCENES}:nois=1": "config argument 'nois': expected one of method, noise, held_out",
    f"{SCENES}:noise": "config argument 'noise': expected name=value",
    f"{SCENES}:noise=much": "noise=much: expected a value of type float",
    f"{SCENES}:held_out=maybe": "held_out=maybe: expected a value of type bool",
    f"{ROOT / 'configs' / 'default.py'}:noise=1": "default.py: TypeError",
    f"{ROOT / 'tests' / 'conftest.py'}": "conftest.py: AttributeError",
    f"{ROOT / 'pyproject.toml'}": "pyproject.toml: ",
}


@pytest.mark.parametrize("config", BAD_FILES, ids=lambda config: Path(config).name)
def test_a_bad_config_file_or_argument_is_named(config, refuse, tmp_path):
    assert BAD_FILES[config] in refuse("train", f"--config={config}", f"--workdir={tmp_path}")


def test_a_config_that_leaves_is_named(refuse, tmp_path):
    (tmp_path / "leaves.py").write_text("import sys\n\nsys.exit(3)\n")
    assert "leaves.py: SystemExit: 3" in refuse("train", f"--config={tmp_path / 'leaves.py'}", f"--workdir={tmp_path}")


def test_an_unknown_option_is_refused_with_the_near_miss(refuse, tmp_path):
    arguments = ("train", f"--config={SCENES}", f"--workdir={tmp_path}", f"--wrkdir={tmp_path}")
    assert "(did you mean --workdir?)" in " ".join(refuse(*arguments).split())


@pytest.mark.parametrize("arguments", [[], ["trian"], ["train"], ["embed", "--config.seed=1", "--model=a", "--out=b"]])
def test_incomplete_commands_end_with_status_two(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_a_workdir_that_is_a_file(refuse, tmp_path):
    (tmp_path / "run").write_text("")
    assert "run" in refuse("train", f"--config={SCENES}", f"--workdir={tmp_path / 'run'}", *SMALL)


@pytest.mark.parametrize("verb", ["evaluate", "export"])
def test_an_empty_folder_is_no_run(verb, refuse, tmp_path):
    options = [f"--out={tmp_path / 'out'}"] if verb == "export" else []
    assert f"{tmp_path} holds no checkpoints/" in refuse(verb, f"--workdir={tmp_path}", *options)


def test_a_run_without_a_finished_checkpoint(refuse, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    assert "no checkpoint is finished yet" in refuse("evaluate", f"--workdir={tmp_path}")


@pytest.mark.parametrize("split", ["all", "tset"])
def test_a_split_that_scenes_do_not_have(split, refuse, model_folder):
    error = refuse("evaluate", f"--workdir={model_folder}", f"--split={split}")
    assert f"got {split!r}, expected one of train, validation, test" in error


def test_evaluate_refuses_an_unknown_field(refuse, model_folder):
    error = refuse("evaluate", f"--workdir={model_folder}", "--config.data.pth=x")
    assert "did you mean data.path" in error


def test_export_to_a_file(refuse, model_folder, tmp_path):
    (tmp_path / "out").write_text("kept")
    assert "out" in refuse("export", f"--workdir={model_folder}", f"--out={tmp_path / 'out'}")
    assert (tmp_path / "out").read_text() == "kept"


def test_embed_with_nothing(refuse, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", f"--out={tmp_path / 'e.npz'}")
    assert "nothing to embed; give --images=FOLDER, --texts=FILE" in error


def test_embed_of_a_folder_without_pictures(refuse, model_folder, tmp_path):
    (tmp_path / "notes.md").write_text("")
    embed = ("embed", f"--model={model_folder}", f"--out={tmp_path / 'e.npz'}")
    assert f"{tmp_path} holds no picture" in refuse(*embed, f"--images={tmp_path}")
    assert "is no folder" in refuse(*embed, f"--images={tmp_path / 'notes.md'}")


@pytest.mark.parametrize("left", [0, 30, 100, 700])
@pytest.mark.parametrize("name", ["a.png", "more/b.JPG"])
def test_embed_of_a_truncated_picture_names_it_and_writes_nothing(name, left, refuse, model_folder, pictures, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(pictures / name)
    (pictures / name).write_bytes((pictures / name).read_bytes()[:left])
    out = tmp_path / "e.npz"
    assert Path(name).name in refuse("embed", f"--model={model_folder}", f"--images={pictures}", f"--out={out}")
    assert not out.exists()


@pytest.mark.parametrize(("text", "number"), [("", 1), ("one\n\nthree\n", 2), ("one\n \t\n", 2), ("one\ntwo\n\n", 3)])
def test_embed_of_an_empty_line_names_its_number(text, number, refuse, model_folder, tmp_path):
    (tmp_path / "t.txt").write_text(text)
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert f"t.txt: line {number} is empty" in error


def test_embed_of_a_file_that_is_no_text(refuse, model_folder, tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00red")
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert "t.txt is not UTF-8 text" in error


def test_embed_of_a_missing_text_file(refuse, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert "t.txt" in error


# What embed writes.


def test_embed_writes_embeddings_ids_and_modality(model_folder, pictures, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("a red circle\r\na blue\u2028square\nthree", encoding="utf-8", newline="")
    out = tmp_path / "new" / "embeddings"
    options = [f"--images={pictures}", f"--texts={tmp_path / 't.txt'}", f"--out={out}"]
    main(["embed", f"--model={model_folder}", *options])
    assert capsys.readouterr().out == f"{out}: 5 embeddings\n"
    with np.load(out) as written:
        assert written["embeddings"].shape == (5, 64)
        assert written["embeddings"].dtype == np.float32
        assert written["ids"].tolist() == ["a.png", "more/b.JPG", "t.txt:1", "t.txt:2", "t.txt:3"]
        assert written["modality"].tolist() == ["image"] * 2 + ["text"] * 3
        expected = vacsr_jax.load(model_folder).encode_texts(["a red circle", "a blue\u2028square", "three"])
        np.testing.assert_array_equal(written["embeddings"][2:], expected)
