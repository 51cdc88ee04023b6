"""Models as StableHLO and ONNX: loaded again without this library, they give the model's own scores."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from jax import export

import vacsr_jax
from vacsr_jax.data.tokenizer import load_tokenizer
from vacsr_jax.deploy import functions, stablehlo
from vacsr_jax.deploy.stablehlo import export_stablehlo
from vacsr_jax.main import main

SAVED = Path(__file__).parents[1] / "parity" / "golden" / "format2"
WORDS = ["a red circle", "a blue square left of a circle", "a"]
MODELS = ("vacsr", "propensity-conjunction", "pcmepp-GPO")  # one vector an item, and several; pooling by scans
SIZE = 4  # pictures; the export itself checks another number of them

pytestmark = pytest.mark.usefixtures("compile_fast")


def run(folder, load, size=SIZE):
    """Scores by the files alone, as functions.json describes them: name -> array. `load` opens one of them."""
    described = json.loads((folder / "functions.json").read_text())
    calls = {name: load(folder / about["file"]) for name, about in described["functions"].items()}
    side = described["images"]["size"]
    pictures = np.random.default_rng(5).integers(0, 256, (size, side, side, 3)).astype(np.uint8)
    tokens = load_tokenizer(folder / described["texts"]["tokenizer"])(WORDS)
    items = (*calls["image"](pictures), *calls["text"](tokens))
    sizes = {"n": size, "m": len(WORDS)}
    inputs = described["functions"]["score"]["inputs"]
    assert [np.shape(x) for x in items] == [tuple(sizes.get(d, d) for d in x["shape"]) for x in inputs]
    names = [x["name"] for x in described["functions"]["score"]["outputs"]]
    return pictures, dict(zip(names, map(np.asarray, calls["score"](*map(np.asarray, items))), strict=True))


def check(model, pictures, found, rtol):
    expected = model.score(list(pictures), WORDS)
    np.testing.assert_allclose(found["logit"], expected.logit, rtol=rtol, atol=rtol)
    for name in ("probability", "uncertainty"):
        if getattr(expected, name) is None:
            assert name not in found
        else:
            np.testing.assert_allclose(found[name], getattr(expected, name), rtol=rtol, atol=rtol)
    for name in ("label_score", "match_score"):
        np.testing.assert_allclose(found.get(name, found["logit"]), getattr(expected, name), rtol=rtol, atol=rtol)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS[:2])
def test_stablehlo_gives_the_models_scores_for_any_number_of_pictures(name, tmp_path):
    model = vacsr_jax.load(SAVED / name)
    assert export_stablehlo(model, tmp_path) < 1e-5
    pictures, found = run(tmp_path, lambda file: export.deserialize(bytearray(file.read_bytes())).call)
    check(model, pictures, found, 1e-5)
    assert json.loads((tmp_path / "functions.json").read_text())["model_id"] == model.fingerprint()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_models_scores_for_any_number_of_pictures(name, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    main(["export", f"--model={SAVED / name}", f"--out={tmp_path / 'out'}", "--format=onnx"])
    assert "score.onnx" in capsys.readouterr().out

    def load(file):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(file, options)
        names = [x.name for x in session.get_inputs()]
        described = json.loads((file.parent / "functions.json").read_text())["functions"][file.stem]
        assert names == [x["name"] for x in described["inputs"]]
        assert [x.name for x in session.get_outputs()] == [x["name"] for x in described["outputs"]]
        return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))

    model = vacsr_jax.load(SAVED / name)
    check(model, *run(tmp_path / "out", load), 1e-4)


@pytest.mark.slow
def test_the_command_says_what_it_wrote(tmp_path, capsys):
    main(["export", f"--model={SAVED / 'sigmoid'}", f"--out={tmp_path / 'out'}", "--format=stablehlo"])
    assert "score.stablehlo" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "functions.json",
        "image.stablehlo",
        "score.stablehlo",
        "text.stablehlo",
        "tokenizer",
    ]


@pytest.mark.slow
def test_an_export_that_differs_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    real = export.deserialize

    class Wrong:
        def __init__(self, file):
            self.call = lambda *arrays: [x + 0.01 for x in real(file).call(*arrays)]

    monkeypatch.setattr(stablehlo.export, "deserialize", Wrong)
    with pytest.raises(ValueError, match=r"image: image is off by 0\.0\d+ of its size"):
        export_stablehlo(vacsr_jax.load(SAVED / "sigmoid"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "image.onnx").write_text("before")

    def write(folder):
        (folder / "image.onnx").write_text("half")
        raise ValueError("no space left")

    with pytest.raises(ValueError, match="no space left"):
        functions.write_files(tmp_path, write)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("image.onnx", "before")]


def test_a_function_that_cannot_be_exported_is_one_message(tmp_path, monkeypatch, refuse):
    def fails(*arguments, **options):
        raise NotImplementedError("no rule for this operation")

    monkeypatch.setattr(stablehlo.export, "export", fails)
    arguments = ("export", f"--model={SAVED / 'sigmoid'}", f"--out={tmp_path / 'out'}", "--format=stablehlo")
    assert "cannot be exported as StableHLO: no rule for this operation" in refuse(*arguments)
    assert not (tmp_path / "out").exists()


def test_onnx_without_its_packages_is_named(tmp_path, monkeypatch, refuse):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    arguments = ("export", f"--model={SAVED / 'sigmoid'}", f"--out={tmp_path / 'out'}", "--format=onnx")
    assert 'pip install "vacsr_jax[onnx]"' in refuse(*arguments)
