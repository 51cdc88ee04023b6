"""What every method must do, those of other packages too: embed, score, rank, sample, explain itself, search, be saved.

A new method is one line in `CASES` of tests/parity/methods.py; a method without one fails here.
"""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from tests.parity import methods
from vacsr_jax import load
from vacsr_jax.image_text import describe, from_description
from vacsr_jax.main import main
from vacsr_jax.pair import METHODS
from vacsr_jax.pair.propensity import MATCHES
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.scoring.pairs import score_all, score_candidates
from vacsr_jax.training.checkpoint import config_to_dict

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
NAMES = [name for name in methods.CASES if "tiles" not in name and "mixed" not in name]
# What these say of unit vectors, in place of a score.
REFUSES_UNIT_VECTORS = {
    "pcmepp": "GaussianDistance does not score unit vectors alone",
    "pcmepp, GPO": "GaussianDistance does not score unit vectors alone",
    "vacsr, raw": "trained on raw embeddings",
    "tokens": "TokensModel does not score unit vectors alone",
    "propensity, tokens": "TokensModel does not score unit vectors alone",
    "outside": "TokenModel does not score unit vectors alone",
    "propensity, outside": "TokenModel does not score unit vectors alone",
}
HAS_LATENT = {name for name in NAMES if "vacsr" in name}
PICTURES = methods.batch()["images"]


def test_every_method_and_every_match_has_a_case():
    fields = [methods.CASES[name] for name in NAMES]
    assert {f["method"] for f in fields} == {*METHODS, methods.OUTSIDE}
    assert {f.get("propensity.match", "cosine") for f in fields if f["method"] == "propensity"} == {
        *MATCHES,
        methods.OUTSIDE,
    }


@pytest.fixture(scope="module")
def models():
    """Models by name, each made once."""
    made = {}

    def model(name):
        if name not in made:
            config, built = methods.model_of(name)
            made[name] = Pretrained(built, methods.params_of(name), methods.tokenizer(), config_to_dict(config), 3)
        return made[name]

    return model


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(models, name):
    return models(name)


@pytest.fixture(scope="module")
def items(model):
    return model.encode_images(list(PICTURES)), model.encode_texts(methods.WORDS)


@pytest.fixture(scope="module")
def scores(model, items):
    return model.score(*items)


def test_scores_say_what_they_mean(model, scores):
    meaning = model.meaning
    assert scores.logit.shape == scores.match_score.shape == scores.label_score.shape == (8, 5)
    assert all(np.isfinite(x).all() for x in scores if x is not None)
    assert " " in meaning.logit
    assert (meaning.probability is None) == (scores.probability is None)
    assert (meaning.uncertainty is None) == (scores.uncertainty is None)
    if scores.probability is not None:
        np.testing.assert_allclose(scores.probability, 1 / (1 + np.exp(-scores.logit.astype(np.float64))), rtol=1e-5)


def test_pictures_and_words_score_as_their_items(model, scores):
    one = model.score([PICTURES[2]], methods.WORDS[:1])
    np.testing.assert_allclose(one.logit[0, 0], scores.logit[2, 0], rtol=1e-4, atol=1e-5)


def test_tiles_and_lists_score_as_the_whole(model, items, scores):
    scorer = prepare_scorer(model.model, model.params)
    tiled = score_all(scorer, *items, tile_pairs=6)
    chosen = np.array([[4, 0], [1, 2], [3, 3], [0, 1], [2, 4], [1, 0], [0, 0], [4, 3]])
    listed = score_candidates(scorer, *items, chosen)
    for field in ("logit", "uncertainty"):
        whole = getattr(scores, field)
        if whole is not None:
            np.testing.assert_allclose(getattr(tiled, field), whole, rtol=1e-4, atol=1e-5)
            expected = np.take_along_axis(whole, chosen, 1)
            np.testing.assert_allclose(getattr(listed, field), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tiled.by_match(), scores.match_score, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tiled.by_label(), scores.label_score, rtol=1e-4, atol=1e-5)


def test_the_best_are_the_best_by_match_score(model, items, scores):
    best = model.top_k(*items, 3)
    np.testing.assert_allclose(best.score, -np.sort(-scores.match_score, axis=1)[:, :3], rtol=1e-4, atol=1e-5)
    assert (best.uncertainty is None) == (scores.uncertainty is None)


def test_it_samples_or_says_in_one_sentence_that_it_cannot(name, model, items):
    images, texts = (side[:2] for side in items)
    if name in HAS_LATENT:
        drawn = model.sample_similarity(jax.random.key(0), images, texts, 4)
        assert drawn.draws.shape == (4, 2, 2)
        assert ((drawn.draws > 0) & (drawn.draws < 1)).all()
        assert np.ptp(drawn.draws, axis=0).min() > 0
    else:
        with pytest.raises(ValueError, match=r"^\w+ has no latent to sample; load a model of method vacsr$"):
            model.sample_similarity(jax.random.key(0), images, texts, 4)


def test_it_describes_itself_and_comes_back(model, items, scores, tmp_path):
    assert from_description(json.loads(json.dumps(describe(model.model)))) == model.model
    model.save(tmp_path / "export")
    again = load(tmp_path / "export")
    assert again.fingerprint() == model.fingerprint()
    assert again.meaning == model.meaning
    np.testing.assert_array_equal(again.score(*items).match_score, scores.match_score)


def test_eight_devices_train_as_one(name, monkeypatch):
    # PCME++'s pseudo-labels jump where two logits differ in the last bit, so here they have no weight.
    monkeypatch.setitem(methods.CASES, "this", methods.CASES[name] | {"pcmepp.pseudo_positives": 0.0})
    one, eight = (methods.compute("this", devices) for devices in (1, 8))
    for part in ("terms", "norms"):
        for key, value in one[part].items():
            if key != "pseudo":
                np.testing.assert_allclose(eight[part][key], value, rtol=2e-4, atol=1e-5, err_msg=f"{part}, {key}")


def run(arguments, capsys):
    """A command's exit status, and what it wrote."""
    status = 0
    try:
        main(arguments)
    except SystemExit as ended:
        status = ended.code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return status, captured


def test_standardize_compare_takes_its_score(name, model, items, tmp_path, capsys):
    model.save(tmp_path / "model")
    vectors = np.random.default_rng(0).normal(size=(13, 12)).astype(np.float32)
    if name not in REFUSES_UNIT_VECTORS:
        vectors = np.concatenate([model.cosine_vectors(side) for side in items])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = np.array([f"d{i}" for i in range(13)])
    kinds = np.array(["image"] * 8 + ["text"] * 5)
    np.savez(tmp_path / "documents.npz", embeddings=vectors, ids=ids, modality=kinds)
    asked = {"ids": np.array([f"q{i}" for i in range(5)]), "modality": np.array(["text"] * 5)}
    np.savez(tmp_path / "queries.npz", embeddings=vectors[8:] + 0.01, answers=np.array(["d0"] * 5), **asked)
    files = [f"--queries={tmp_path / 'queries.npz'}", f"--documents={tmp_path / 'documents.npz'}"]
    out = tmp_path / "table.json"
    command = ["standardize", "compare", *files, f"--model={tmp_path / 'model'}", "--k=1", f"--out={out}"]
    status, printed = run(command, capsys)
    if name in REFUSES_UNIT_VECTORS:
        assert status == 2
        assert REFUSES_UNIT_VECTORS[name] in printed.err
        assert not out.exists()
    else:
        assert status == 0, printed.err
        assert "match" in json.loads(out.read_text())


@pytest.fixture(scope="module")
def index(models, tmp_path_factory):
    """An index of pictures and texts, made by the sigmoid model, and its folder."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "pictures").mkdir()
    for i, pixels in enumerate(PICTURES):
        Image.fromarray(pixels).save(folder / f"pictures/{i}.png")
    (folder / "texts.txt").write_text("\n".join(methods.WORDS) + "\n")
    models("sigmoid").save(folder / "model")
    inputs = [f"--images={folder / 'pictures'}", f"--texts={folder / 'texts.txt'}"]
    main(["index", f"--model={folder / 'model'}", *inputs, f"--out={folder / 'index'}"])
    return folder / "index"


def test_search_takes_it_as_a_second_look(index, model, tmp_path, capsys):
    model.save(tmp_path / "model")
    command = ["search", f"--index={index}", "--text=a red circle", "--k=13", f"--rerank={tmp_path / 'model'}"]
    status, printed = run(command, capsys)
    assert status == 0, printed.err
    pictures = [line.split()[1] for line in printed.out.splitlines() if ".png" in line]
    ranked = np.argsort(-model.score(list(PICTURES), ["a red circle"]).match_score[:, 0], kind="stable")
    assert pictures == [f"{i}.png" for i in ranked]
