"""Mixed search judged: a problem small enough to be worked out by hand, and real CLIP features."""

from pathlib import Path

import numpy as np
import pytest

from vacsr_jax.data.embeddings import Embeddings
from vacsr_jax.evaluation import mixed_search as M
from vacsr_jax.evaluation.mixed_diagnosis import diagnose
from vacsr_jax.evaluation.mixed_problem import (
    best_candidates,
    candidate_scores,
    cautions,
    fit,
    fit_labelled,
    make_problem,
)
from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.pair.adapter import DeterministicAdapter
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.search import standardization as S
from vacsr_jax.towers.presets import PRESETS

COCO = Path(__file__).parents[2].parent / "shared/data/clip_features_coco500/features.npz"


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def embeddings(vectors, ids, modality, **lists):
    return Embeddings(vectors, np.array(ids), np.array(modality), **lists)


@pytest.fixture(scope="module")
def gap():
    """Twelve topics; texts and images of a topic are near, but all images lie a gap away from all texts."""
    rng = np.random.default_rng(0)
    n, d = 12, 16
    topic = rng.normal(size=(n, d))
    image = topic + 0.3 * rng.normal(size=(n, d)) + 4 * np.eye(d)[0]
    text, query = (topic + 0.4 * rng.normal(size=(n, d)) - 4 * np.eye(d)[0] for _ in range(2))
    bank = embeddings(
        unit(np.concatenate([image, text])),
        [f"i{j}" for j in range(n)] + [f"t{j}" for j in range(n)],
        ["image"] * n + ["text"] * n,
    )
    half = [(f"i{j}",) if j % 2 else (f"t{j}",) for j in range(n)]
    hidden = [(f"t{j}",) if j % 2 else () for j in range(n)]
    queries = embeddings(
        unit(query), [f"q{j}" for j in range(n)], ["text"] * n, answers=tuple(half), exclude=tuple(hidden)
    )
    return queries, bank


@pytest.fixture(scope="module")
def table(gap):
    return M.compare(make_problem(*gap), [1, 4, 24])


def test_every_method_is_judged_by_group_with_the_bounds(table):
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
    got = M.summarize(ranks, np.array(["image", "image and text", "image"]), [1, 20])
    assert got["recall@1"] == {"all": 0.5 / 3, "image": 0.25, "image and text": 0, "macro": 0.125}
    assert got["recall@20"]["all"] == pytest.approx(2 / 3)
    first, second, third = 1 / np.log2([2, 3, 4])
    assert got["ndcg@10"]["image and text"] == pytest.approx(second)
    assert got["ndcg@10"]["image"] == pytest.approx((first + third) / (first + second) / 2)


def test_blocks_of_queries_change_nothing(gap, table, monkeypatch):
    monkeypatch.setattr("vacsr_jax.evaluation.mixed_problem.BLOCK_SCORES", 6 * 24)
    again = M.compare(make_problem(*gap), [1, 4, 24])
    assert {m: t["recall@4"] for m, t in again.items()} == {m: t["recall@4"] for m, t in table.items()}


def test_fitting_on_the_judged_queries_and_on_a_copy_of_them_is_the_same(gap, table):
    problem = make_problem(*gap)
    assert M.compare(problem, [1, 4, 24], fit_on=problem) == table


def test_another_models_scores_join(gap, table):
    def match(queries, bank):
        return 10 * queries @ bank.T - 3

    got = M.compare(make_problem(*gap), [4], match=match)
    assert got["match"] == {k: v for k, v in table["raw"].items() if k in got["match"]}
    assert got["match_standardized"] == {k: v for k, v in table["standardized"].items() if k in got["match"]}


def test_a_models_own_score_is_its_logit_of_embeddings_it_made():
    x = unit(np.random.default_rng(0).normal(size=(3, 64)))
    params = {"pair": {"log_scale": np.float32(2.0), "bias": np.float32(-1.0)}}
    match = M.match_by(ImageTextModel(PRESETS["tiny"], CosineModel(0.0)), params)
    np.testing.assert_allclose(match(x[:2], x), np.exp(2.0) * x[:2] @ x.T - 1, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="embeddings have 5 dimensions and the model's 64"):
        match(x[:, :5], x[:, :5])
    raw = DeterministicAdapter(dim=64, width=8, embeddings="raw", initial_logit=0.0)
    with pytest.raises(ValueError, match="trained on raw embeddings"):
        M.match_by(ImageTextModel(PRESETS["tiny"], raw), {})


def test_what_cannot_be_judged_is_refused(gap):
    queries, bank = gap
    problem = make_problem(queries, bank)
    with pytest.raises(ValueError, match=r"k: got \[0\]"):
        M.compare(problem, [0])
    nothing = make_problem(embeddings(queries.vectors, queries.ids, queries.modality), bank)
    with pytest.raises(ValueError, match="12 of 12 queries have none"):
        M.compare(nothing, [1])
    own = embeddings(queries.vectors, queries.ids, queries.modality, answers=queries.answers, exclude=queries.answers)
    with pytest.raises(ValueError, match="12 queries exclude their own answer"):
        M.compare(make_problem(own, bank), [1])
    column = embeddings(bank.vectors, bank.ids, np.where(bank.modality == "text", "macro", "image"))
    with pytest.raises(ValueError, match="modality 'macro' is the name of a column"):
        M.compare(make_problem(queries, column), [1])


def test_the_best_candidates_are_those_of_the_whole_ranking(gap):
    problem = make_problem(*gap)
    stats = fit(problem)
    rows, scores, z = best_candidates(problem, stats, 5)
    whole = np.asarray(S.standardize(candidate_scores(problem), problem.modality, stats))
    np.testing.assert_array_equal(rows, np.argsort(-whole, axis=1)[:, :5])
    np.testing.assert_allclose(z, np.take_along_axis(whole, rows, 1))
    np.testing.assert_allclose(scores, np.take_along_axis(np.asarray(candidate_scores(problem)), rows, 1))
    only_images, _, unmoved = best_candidates(problem, stats, 5, {"image": 100.0})
    assert (problem.modality[only_images] == 0).all()
    assert (unmoved < 50).all()  # z is without the prior
    assert (best_candidates(problem, stats, 24)[0] == -1).sum() == 6  # the excluded
    with pytest.raises(ValueError, match="prior: unknown modality 'sound'"):
        best_candidates(problem, stats, 5, {"sound": 1.0})


def test_a_diagnosis_sees_the_bias_go(gap):
    problem = make_problem(*gap)
    found = diagnose(problem, fit(problem), 4)
    assert found.share_raw == {"image": 0, "text": 1}
    assert 0.3 < found.share["image"] < 0.7
    assert sum(found.share.values()) == pytest.approx(1)
    assert found.documents == {"image": 12, "text": 12}
    between = np.linalg.norm(problem.bank[:12].mean(0) - problem.bank[12:].mean(0))
    assert found.gap[("image", "text")] == pytest.approx(between, rel=1e-5)
    assert len(found.top1["text"]) == 12


def test_cautions(gap):
    queries, bank = gap
    problem = make_problem(queries, bank)
    (few,) = cautions(problem, fit(problem))
    assert "12 fit queries are few: z-scores are uncertain by 0.29" in few
    one = make_problem(embeddings(queries.vectors[:1], queries.ids[:1], queries.modality[:1]), bank)
    assert "1 fit queries tell no spread" in cautions(one, fit(one))[0]
    texts = embeddings(bank.vectors[12:], bank.ids[12:], bank.modality[12:])
    alone = make_problem(
        embeddings(queries.vectors, queries.ids, queries.modality), texts, modalities=("image", "text")
    )
    notes = cautions(alone, fit(alone))
    assert notes[:2] == ["the bank has no image", "the bank is all text: the ranking is that of the cosines"]
    small = S.empty(("image", "text"), [5, 12])
    assert "image was fitted on 5 and is now 12" in cautions(problem, S.update(small, np.zeros((300, 2))))[0]
    copies = make_problem(embeddings(bank.vectors[12:], queries.ids, queries.modality), bank)
    assert "the best text of a query has a mean cosine of 1.000" in cautions(copies, fit(copies))[-1]
    asked = make_problem(queries, bank, query_modalities=("image", "text"))
    with pytest.raises(ValueError, match="of the modality 'text', of which no query was fitted"):
        cautions(asked, S.update(S.empty(("image", "text"), query_modalities=("image", "text")), np.zeros((9, 2)), 0))


def test_the_labelled_fit_reads_the_true_pairs(gap):
    problem = make_problem(*gap)
    stats = fit_labelled(problem)
    np.testing.assert_array_equal(stats.count, [[6, 6]])
    pairs = [problem.queries[j] @ problem.bank[j] for j in range(1, 12, 2)]
    assert float(stats.mean[0, 0]) == pytest.approx(np.mean(pairs), rel=1e-5)


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
def test_real_clip_features_give_the_measured_recalls():
    with np.load(COCO) as file:
        images, texts = file["image"], file["text"]
    n = len(images)
    bank = embeddings(
        unit(np.concatenate([images, texts])),
        [f"i{i}" for i in range(n)] + [f"t{i}" for i in range(n)],
        ["image"] * n + ["text"] * n,
    )
    queries = embeddings(
        unit(texts),
        [f"t{i}" for i in range(n)],  # itself in the bank: excluded by id, without being told
        ["text"] * n,
        answers=tuple((f"i{i}",) for i in range(n)),
    )
    assert make_problem(queries, bank).exclude.tolist() == [[n + i] for i in range(n)]
    table = M.compare(make_problem(queries, bank), [20])
    for method, recall in MEASURED.items():
        assert table[method]["recall@20"]["all"] == pytest.approx(recall, abs=0.002), method
    assert "labelled" not in table  # no answer is a text
