"""`vacsr standardize`: what it writes, and what it says about files that do not fit."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.main import main
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.search.standardize import statistics as S
from vacsr_jax.towers.presets import PRESETS

pytestmark = pytest.mark.slow

N, D = 10, 64  # the tiny towers' dimension


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(0)
TOPIC = RNG.normal(size=(N, D))
GAP = 3 * np.eye(D)[0]
IMAGES, TEXTS, QUERIES = (unit(TOPIC + 0.3 * RNG.normal(size=(N, D)) + side * GAP) for side in (1, -1, -1))
DOCUMENTS = {
    "embeddings": np.concatenate([IMAGES, TEXTS]),
    "ids": np.array([f"i{j}" for j in range(N)] + [f"t{j}" for j in range(N)]),
    "modality": np.repeat(["image", "text"], N),
}
ASKED = {
    "embeddings": QUERIES,
    "ids": np.array([f"q{j}" for j in range(N)]),
    "modality": np.repeat("text", N),
    "answers": np.array([f"i{j} t{j}" if j == 0 else f"{'it'[j % 2]}{j}" for j in range(N)]),
    "exclude": np.array(["" if j == 0 else f"{'ti'[j % 2]}{j}" for j in range(N)]),
}


@pytest.fixture
def files(tmp_path):
    """Writes both files, with changes (None: without the array); returns the options that name them."""

    def write(queries=None, documents=None):
        for name, arrays in (("q", ASKED | (queries or {})), ("d", DOCUMENTS | (documents or {}))):
            np.savez(tmp_path / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
        return [f"--queries={tmp_path / 'q.npz'}", f"--documents={tmp_path / 'd.npz'}"]

    return write


@pytest.fixture
def refuse(refuse):
    return functools.partial(refuse, "standardize")


def test_fit_apply_and_diagnose_in_turn(files, tmp_path, capsys):
    both, stats = files(), tmp_path / "new" / "stats.json"
    main(["standardize", "fit", *both, f"--out={stats}", "--model_id=mine"])
    fitted = S.load(stats)
    assert (fitted.modalities, fitted.query_modalities) == (("image", "text"), ("text",))
    assert (fitted.pool_sizes, fitted.model_id) == ((10, 10), "mine")
    scores = QUERIES @ DOCUMENTS["embeddings"].T
    for j in range(1, N):
        scores[j, j + N if j % 2 == 0 else j] = -np.inf
    best = np.stack([scores[:, :N].max(1), scores[:, N:].max(1)], axis=1).astype(np.float64)
    np.testing.assert_allclose(fitted.mean[0], best.mean(0), rtol=1e-5)
    np.testing.assert_allclose(fitted.std[0], best.std(0), rtol=1e-4)
    out, err = capsys.readouterr()
    assert "mean of best" in out
    assert "note: 10 fit queries are few" in err

    results = tmp_path / "results.json"
    main(["standardize", "apply", *both, f"--stats={stats}", "--k=3", f"--out={results}", "--model_id=mine"])
    found = json.loads(results.read_text())
    z = np.asarray(S.standardize(scores, np.repeat([0, 1], N), fitted))
    for j, one in enumerate(found):
        assert one["query"] == f"q{j}"
        order = np.argsort(-z[j])[:3]
        assert [r["id"] for r in one["results"]] == DOCUMENTS["ids"][order].tolist()
        assert [r["modality"] for r in one["results"]] == DOCUMENTS["modality"][order].tolist()
        np.testing.assert_allclose([r["z"] for r in one["results"]], z[j, order], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose([r["score"] for r in one["results"]], scores[j, order], rtol=1e-4, atol=1e-6)
    assert "10 queries; shares of their best 3: image" in capsys.readouterr().out

    main(["standardize", "apply", *both, f"--stats={stats}", "--k=3", f"--out={results}", "--prior=image=-99,text=0.5"])
    assert {r["modality"] for one in json.loads(results.read_text()) for r in one["results"]} == {"text"}

    main(
        [
            "standardize",
            "apply",
            *both,
            f"--stats={stats}",
            "--k=3",
            f"--out={results}",
            both[0].replace("queries", "fit"),
        ]
    )
    balanced = z - 2 * np.log(np.mean(np.exp(z / 2), axis=0, where=np.isfinite(z)))
    for j, one in enumerate(json.loads(results.read_text())):
        assert [r["id"] for r in one["results"]] == DOCUMENTS["ids"][np.argsort(-balanced[j])[:3]].tolist()

    picture = tmp_path / "plots" / "d.png"
    main(["standardize", "diagnose", *both, f"--stats={stats}", "--k=5", f"--out={picture}"])
    out = capsys.readouterr().out
    assert "raw share of top 5" in out
    assert "gap between image and text" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("option", ["--labelled", "--mean_only", "--shrink=50"])
def test_the_variants_of_fit(option, files, tmp_path):
    both = files()
    for name, options in (("plain", []), ("variant", [option])):
        main(["standardize", "fit", *both, f"--out={tmp_path / name}.json", *options])
    plain, variant = (S.load(tmp_path / f"{name}.json") for name in ("plain", "variant"))
    if option == "--labelled":
        np.testing.assert_array_equal(variant.count, [[5, 6]])  # the first query has an answer of both
    elif option == "--mean_only":
        np.testing.assert_allclose(variant.std, 1)
        np.testing.assert_allclose(variant.mean, plain.mean)
    else:
        np.testing.assert_allclose(variant.std, S.shrink(plain, 50.0).std, rtol=1e-5)


def test_compare_writes_the_table_that_it_prints(files, tmp_path, capsys):
    out = tmp_path / "table.json"
    main(["standardize", "compare", *files(), "--k=1,4", f"--out={out}"])
    table = json.loads(out.read_text())
    expected = {"raw", "standardized", "centered", "centered_standardized", "interleave", "dbsf", "rrf", "oracle"}
    assert expected <= set(table)
    for method in table.values():
        assert set(method) == {"recall@1", "recall@4", "ndcg@10"}
        assert set(method["recall@4"]) == {"all", "image", "text", "image and text", "macro"}
    printed = capsys.readouterr().out
    for name, method in table.items():
        assert any(line.startswith(f"{name} ") and f"{method['recall@4']['all']:.3f}" in line
                   for line in printed.splitlines())  # fmt: skip


def test_compare_fits_on_other_queries_and_takes_a_models_score(files, tmp_path, monkeypatch):
    both = files()
    model = ImageTextModel(PRESETS["tiny"], CosineModel(0.0))
    params = {"pair": {"log_scale": np.float32(2.0), "bias": np.float32(-1.0)}}
    monkeypatch.setattr("vacsr_jax.load", lambda name: SimpleNamespace(model=model, params=params), raising=False)
    others = {name: value[::-1] for name, value in ASKED.items() if name != "answers"}
    np.savez(tmp_path / "fit.npz", **others)
    out = tmp_path / "table.json"
    extra = [f"--fit={tmp_path / 'fit.npz'}", "--model=any"]
    main(["standardize", "compare", *both, "--k=4", *extra, f"--out={out}"])
    table = json.loads(out.read_text())
    assert table["match"] == table["raw"]  # a sigmoid model's logit is its cosine, scaled
    assert table["match_standardized"] == table["standardized"]
    assert "labelled" not in table


# What does not fit.

X = DOCUMENTS["embeddings"]
BROKEN = np.where(np.arange(N) == 2, np.nan, 1)[:, None]
REFUSED = {
    "dimensions": ({}, {"embeddings": X[:, :5]}, "queries have 64 dimensions and documents 5"),
    "dtype": ({}, {"embeddings": (10 * X).astype(int)}, "d.npz: embeddings: got int64"),
    "NaN": ({"embeddings": QUERIES * BROKEN}, {}, "q.npz: embeddings: 1 are not finite, the first of ['q2']"),
    "duplicate ids": ({}, {"ids": np.repeat("same", 2 * N)}, "d.npz: ids: 1 occur twice, the first ['same']"),
    "pickles": ({}, {"ids": DOCUMENTS["ids"].astype(object)}, "d.npz cannot be read as npz"),
    "no array": ({}, {"modality": None}, "d.npz: there is no array 'modality'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_bad_files_are_refused_and_nothing_is_written(verb, case, files, refuse, tmp_path):
    queries, documents, message = REFUSED[case]
    out = tmp_path / "out.json"
    assert message in refuse(verb, *files(queries, documents), f"--out={out}")
    assert not out.exists()


def test_bad_options_are_refused(files, refuse, tmp_path):
    both, stats, out = files(), tmp_path / "stats.json", f"--out={tmp_path / 'out.json'}"
    assert "--k: got '1,x'" in refuse("compare", *both, "--k=1,x", out)
    assert "k: got [0], expected numbers of at least 1" in refuse("compare", *both, "--k=0", out)
    assert "--shrink: got -1.0" in refuse("fit", *both, "--shrink=-1", out)
    assert "stats.json" in refuse("apply", *both, f"--stats={stats}", out)
    S.save(S.update(S.empty(("image", "text")), np.ones((2, 2), np.float32)), stats)
    assert "prior: unknown modality 'sound'; expected image, text" in refuse(
        "apply", *both, f"--stats={stats}", "--prior=sound=1", out
    )
    assert "--prior: got 'image'" in refuse("apply", *both, f"--stats={stats}", "--prior=image", out)
    assert "is of model '', not 'clip'" in refuse("apply", *both, f"--stats={stats}", "--model_id=clip", out)
    strange = files({"answers": np.repeat("x9", N)})
    for verb in (["compare"], ["fit", "--labelled"]):
        assert "answers: 1 ids are not among the documents, the first ['x9']" in refuse(*verb, *strange, out)
    unlabelled = files({"answers": None})
    assert "q.npz has no answers" in refuse("fit", *unlabelled, "--labelled", out)
    assert "10 of 10 queries have none" in refuse("compare", *unlabelled, out)


def test_statistics_of_other_modalities_are_refused(files, refuse, tmp_path):
    stats, out = tmp_path / "stats.json", f"--out={tmp_path / 'out.json'}"
    S.save(S.update(S.empty(("audio", "text")), np.ones((2, 2), np.float32)), stats)
    assert "documents: unknown modality 'image'; expected audio, text" in refuse(
        "apply", *files(), f"--stats={stats}", out
    )
    S.save(S.update(S.empty(("image", "text"), query_modalities=("image",)), np.ones((2, 2), np.float32)), stats)
    assert "queries: unknown modality 'text'; expected image" in refuse("apply", *files(), f"--stats={stats}", out)


def test_what_is_mended_is_noted(files, tmp_path, capsys):
    stats = tmp_path / "stats.json"
    main(["standardize", "fit", *files(documents={"embeddings": 5 * X}), f"--out={stats}"])
    assert "20 of 20 embeddings are not of unit length (5 to 5)" in capsys.readouterr().err
    first = {name: value[:1] for name, value in ASKED.items()}
    main(["standardize", "fit", *files(queries=first), f"--out={stats}"])
    assert "1 fit queries give a modality no standard deviation" in capsys.readouterr().err
    texts = {name: value[N:] for name, value in DOCUMENTS.items()}
    main(["standardize", "fit", *files(documents=texts), f"--out={stats}"])
    said = capsys.readouterr().err
    assert "all documents are of the modality text: cosines rank as z-scores do" in said
    assert "exclude: 5 ids are not among the documents and exclude nothing, such as ['i1', 'i3', 'i5']" in said
    mixed = {"embeddings": X.astype(np.float16)}
    main(["standardize", "fit", *files(documents=mixed), f"--out={stats}"])  # float16 beside float32 is read as float32
    assert "unit length" not in capsys.readouterr().err
