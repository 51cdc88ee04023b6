import sys

import numpy as np
import pytest

from experiments.mixed_search import __main__ as balanced
from experiments.mixed_search import coco
from experiments.mixed_search.corpus import mixed_corpus
from vacsr_jax.data.embeddings import read_embeddings
from vacsr_jax.search.standardize.compare import compare
from vacsr_jax.search.standardize.problem import make_problem

N, D = 12, 8


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def drawn(seed=0):
    rng = np.random.default_rng(seed)
    topic = rng.normal(size=(N, D))
    texts = unit(np.repeat(topic, 2, axis=0) + 0.3 * rng.normal(size=(2 * N, D)))
    corpus = mixed_corpus(np.repeat(np.arange(N), 2), 0.5, seed, distractors=0.25)
    return balanced.as_embeddings(unit(topic + 0.3 * rng.normal(size=(N, D))), texts, corpus), corpus


def test_the_corpus_becomes_files_whose_answers_are_the_queries_own():
    (queries, documents), corpus = drawn()
    for vector, answers, asked in zip(queries.vectors, queries.answers, corpus.query, strict=True):
        kind, number = answers[0].split(":")
        assert (int(number) if kind == "image" else int(number) // 2) == asked // 2
        assert answers[0] in documents.ids
        assert not (documents.vectors == vector).all(axis=1).any()  # the query is not among them


@pytest.mark.slow
def test_the_temperatures_hold_the_default_of_the_method():
    (queries, documents), _ = drawn()
    problem = make_problem(queries, documents)
    assert (
        balanced.by_temperature(problem)["temperature 2.0"]["recall@20"]
        == compare(problem, [20])["inverted_softmax"]["recall@20"]
    )


def test_a_row_shows_both_sides_the_mean_and_what_it_lacks():
    def run(all_, image, text=None, **more):
        sides = {"image": image} | ({} if text is None else {"text": text})
        return {"raw": {"all": all_, **sides}, "inverted_softmax": {"all": all_ + 0.1, **sides}, **more}

    half = [run(0.4, 0.2, 0.6, labelled={"all": 0.5, "image": 0.5, "text": 0.5})] * 2
    rows, columns = balanced.rows({0.5: half, 1.0: [run(0.2, 0.2)] * 2})
    assert columns == ["recall@20", "50% pictures", "100% pictures", "mean", "inverted_softmax minus it"]
    name, half, pictures, (mean, error), (lead, lead_error) = rows[0]
    assert (name, half, pictures) == ("raw", "0.400 (0.200 / 0.600)", "0.200 (0.200 / –)")
    np.testing.assert_allclose([mean, error, lead, lead_error], [0.3, 0, 0.1, 0], atol=1e-9)
    assert rows[2] == ["labelled", "0.500 (0.500 / 0.500)", None, None, None]


def test_features_become_files_of_queries_and_bank(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    arrays = {
        name: unit(rng.normal(size=(3, 4))) for name in ("image", "text", "image_random_init", "text_random_init")
    }
    np.savez(tmp_path / "features.npz", **arrays, coco_image_id=np.arange(3), caption_id=np.arange(10, 13))
    for extra, suffix in (([], ""), (["--random-init"], "_random_init")):
        monkeypatch.setattr(sys, "argv", ["coco", f"--features={tmp_path}", f"--out={tmp_path / 'out'}", *extra])
        coco.main()
        queries, documents = (read_embeddings(tmp_path / "out" / f"{name}.npz") for name in ("queries", "documents"))
        np.testing.assert_allclose(queries.vectors, arrays[f"text{suffix}"], atol=1e-6)
        np.testing.assert_allclose(documents.vectors[:3], arrays[f"image{suffix}"], atol=1e-6)
        assert queries.answers == (("image:0",), ("image:1",), ("image:2",))
        assert queries.exclude == (("caption:10",), ("caption:11",), ("caption:12",))
    assert "500" not in capsys.readouterr().out
