"""Every method compared, on a problem small enough to work out by hand and on real CLIP features."""

from pathlib import Path

import numpy as np
import pytest

from tests.search.standardize import small_problem
from tests.search.standardize.small_problem import embeddings, unit
from vacsr_jax.search.standardize import compare as C
from vacsr_jax.search.standardize.problem import make_problem

pytestmark = pytest.mark.slow

COCO = Path(__file__).parents[3].parent / "shared/data/clip_features_coco500/features.npz"


@pytest.fixture(scope="module")
def gap():
    return small_problem.gap()


@pytest.fixture(scope="module")
def table(gap):
    return C.compare(make_problem(*gap), [1, 4, 24])


def test_every_method_is_evaluated_by_group_with_the_bounds(table):
    assert {"raw", "standardized", "mean_only", "labelled", "centered", "centered_standardized", "i0t"} <= set(table)
    assert {"interleave", "rrf", "dbsf", "per_query_z", "inverted_softmax", "oracle"} <= set(table)
    for method in table.values():
        assert list(method) == ["recall@1", "recall@4", "recall@24", "ndcg@10"]
        for of_group in method.values():
            assert list(of_group) == ["all", "image", "text", "macro"]
            assert of_group["all"] == pytest.approx((of_group["image"] + of_group["text"]) / 2)
            assert of_group["macro"] == pytest.approx(of_group["all"])
        assert method["recall@24"]["all"] == 1


def test_raw_cosine_never_finds_an_image_and_the_others_do(table):
    assert table["raw"]["recall@4"]["image"] == 0
    assert table["oracle"]["recall@4"]["image"] > 0.8
    for method in ("standardized", "labelled", "centered_standardized", "interleave", "inverted_softmax", "dbsf"):
        assert table[method]["recall@4"]["image"] > 0.5
        assert table[method]["recall@4"]["text"] > 0.5


def test_the_measures_by_hand():
    ranks = [np.array([1, 3]), np.array([2]), np.array([25])]
    got = C.summarize(ranks, np.array(["image", "image and text", "image"]), [1, 20])
    assert got["recall@1"] == {"all": 0.5 / 3, "image": 0.25, "image and text": 0, "macro": 0.125}
    assert got["recall@20"]["all"] == pytest.approx(2 / 3)
    first, second, third = 1 / np.log2([2, 3, 4])
    assert got["ndcg@10"]["image and text"] == pytest.approx(second)
    assert got["ndcg@10"]["image"] == pytest.approx((first + third) / (first + second) / 2)


@pytest.mark.slow
def test_blocks_of_queries_change_nothing(gap, table, monkeypatch):
    monkeypatch.setattr("vacsr_jax.search.standardize.problem.BLOCK_SCORES", 6 * 24)
    again = C.compare(make_problem(*gap), [1, 4, 24])
    assert {m: t["recall@4"] for m, t in again.items()} == {m: t["recall@4"] for m, t in table.items()}


def test_fitting_on_the_same_queries_and_on_a_copy_of_them_is_the_same(gap, table):
    problem = make_problem(*gap)
    assert C.compare(problem, [1, 4, 24], fit_on=problem) == table


def test_another_models_scores_join(gap, table):
    def match(queries, documents):
        return 10 * queries @ documents.T - 3

    got = C.compare(make_problem(*gap), [4], match=match)
    assert got["match"] == {k: v for k, v in table["raw"].items() if k in got["match"]}
    assert got["match_standardized"] == {k: v for k, v in table["standardized"].items() if k in got["match"]}


def test_what_cannot_be_compared_is_refused(gap):
    queries, documents = gap
    problem = make_problem(queries, documents)
    with pytest.raises(ValueError, match=r"k: got \[0\]"):
        C.compare(problem, [0])
    nothing = make_problem(embeddings(queries.vectors, queries.ids, queries.modality), documents)
    with pytest.raises(ValueError, match="12 of 12 queries have none"):
        C.compare(nothing, [1])
    own = embeddings(queries.vectors, queries.ids, queries.modality, answers=queries.answers, exclude=queries.answers)
    with pytest.raises(ValueError, match="12 queries exclude their own answer"):
        C.compare(make_problem(own, documents), [1])
    column = embeddings(documents.vectors, documents.ids, np.where(documents.modality == "text", "macro", "image"))
    with pytest.raises(ValueError, match="modality 'macro' is also the name of a column"):
        C.compare(make_problem(queries, column), [1])


MEASURED = {
    "raw": 0.000,
    "standardized": 0.678,
    "centered": 0.496,
    "centered_standardized": 0.798,
    "interleave": 0.862,
    "rrf": 0.862,
    "oracle": 0.942,
    "inverted_softmax": 0.944,
}


@pytest.mark.skipif(not COCO.is_file(), reason="shared/data/clip_features_coco500 is not beside this checkout")
@pytest.mark.slow
def test_real_clip_features_give_the_measured_recalls():
    with np.load(COCO) as file:
        images, texts = file["image"], file["text"]
    n = len(images)
    documents = embeddings(
        unit(np.concatenate([images, texts])),
        [f"i{i}" for i in range(n)] + [f"t{i}" for i in range(n)],
        ["image"] * n + ["text"] * n,
    )
    queries = embeddings(
        unit(texts),
        [f"t{i}" for i in range(n)],  # each query is among the documents, and is excluded by its id without an option
        ["text"] * n,
        answers=tuple((f"i{i}",) for i in range(n)),
    )
    assert make_problem(queries, documents).exclude.tolist() == [[n + i] for i in range(n)]
    table = C.compare(make_problem(queries, documents), [20])
    for method, recall in MEASURED.items():
        assert table[method]["recall@20"]["all"] == pytest.approx(recall, abs=0.002), method
    assert "labelled" not in table  # no answer is a text
