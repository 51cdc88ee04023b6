"""A retrieval problem from two files: its statistics, best documents, diagnosis and warnings."""

import jax
import numpy as np
import pytest

from tests.search.standardize import small_problem
from tests.search.standardize.small_problem import embeddings
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.standardize import statistics as S
from vacsr_jax.search.standardize.problem import (
    best_candidates,
    candidate_scores,
    cautions,
    fit,
    fit_labelled,
    make_problem,
)


@pytest.fixture(scope="module")
def gap():
    return small_problem.gap()


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
    assert (unmoved < 50).all()  # z leaves out the prior
    assert (best_candidates(problem, stats, 24)[0] == -1).sum() == 6  # the excluded
    with pytest.raises(ValueError, match="prior: unknown modality 'sound'"):
        best_candidates(problem, stats, 5, {"sound": 1.0})


def test_a_diagnosis_sees_the_bias_go(gap):
    problem = make_problem(*gap)
    found = problem.diagnose(fit(problem), 4)
    assert found.share_raw == {"image": 0, "text": 1}
    assert 0.3 < found.share["image"] < 0.7
    assert sum(found.share.values()) == pytest.approx(1)
    assert found.documents == {"image": 12, "text": 12}
    between = np.linalg.norm(problem.documents[:12].mean(0) - problem.documents[12:].mean(0))
    assert found.gap[("image", "text")] == pytest.approx(between, rel=1e-5)
    assert len(found.top1["text"]) == 12
    z = np.asarray(S.standardize(candidate_scores(problem), problem.modality, fit(problem)))
    best = problem.modality[np.argsort(-z, axis=1)[:, :4]]
    assert found.share["image"] == pytest.approx((best == 0).mean())
    scores = np.asarray(candidate_scores(problem))
    np.testing.assert_allclose(found.top1["image"], scores[:, problem.modality == 0].max(axis=1), rtol=1e-6)
    assert problem.diagnose(fit(problem), 1000).k == 24
    with pytest.raises(ValueError, match="k: got 0, expected a whole number from 1 to 24"):
        problem.diagnose(fit(problem), 0)


@pytest.mark.slow
def test_a_diagnosis_is_that_of_an_index_of_the_same_documents(gap):
    queries, documents = gap
    problem = make_problem(queries, documents)
    index = MixedIndex(devices=jax.devices()[:1])
    index.add(documents.vectors, documents.ids.tolist(), documents.modality.tolist())
    index.fit(queries.vectors, exclude=[list(x) for x in queries.exclude])
    ours, theirs = problem.diagnose(fit(problem), 5), index.diagnose(k=5)
    for name in ("mean", "std", "mean_error", "std_error", "gap"):
        for key, value in getattr(theirs, name).items():
            assert getattr(ours, name)[key] == pytest.approx(value, abs=2e-3), name  # the index rounds to bfloat16
    assert (ours.documents, ours.queries) == (theirs.documents, theirs.queries)


def test_queries_of_several_modalities_have_no_one_diagnosis(gap):
    queries, documents = gap
    kinds = np.where(np.arange(12) < 6, "text", "image")
    problem = make_problem(embeddings(queries.vectors, queries.ids, kinds), documents)
    with pytest.raises(ValueError, match="queries have 2 modalities, each with its own scale"):
        problem.diagnose(fit(problem), 4)


def test_cautions(gap):
    queries, documents = gap
    problem = make_problem(queries, documents)
    (few,) = cautions(problem, fit(problem))
    assert "12 fit queries are few: z-scores are uncertain by 0.29" in few
    one = make_problem(embeddings(queries.vectors[:1], queries.ids[:1], queries.modality[:1]), documents)
    assert "1 fit queries give a modality no standard deviation" in cautions(one, fit(one))[0]
    texts = embeddings(documents.vectors[12:], documents.ids[12:], documents.modality[12:])
    alone = make_problem(
        embeddings(queries.vectors, queries.ids, queries.modality), texts, modalities=("image", "text")
    )
    notes = cautions(alone, fit(alone))
    assert notes[:2] == [
        "no document is of the modality image",
        "all documents are of the modality text: cosines rank as z-scores do",
    ]
    small = S.empty(("image", "text"), [5, 12])
    assert "image was fitted on 5 documents and has 12" in cautions(problem, S.update(small, np.zeros((300, 2))))[0]
    copies = make_problem(embeddings(documents.vectors[12:], queries.ids, queries.modality), documents)
    assert "the best text of a query has a mean cosine of 1.000" in cautions(copies, fit(copies))[-1]
    asked = make_problem(queries, documents, query_modalities=("image", "text"))
    with pytest.raises(ValueError, match="queries have the modality 'text', but no query of that modality was fitted"):
        cautions(asked, S.update(S.empty(("image", "text"), query_modalities=("image", "text")), np.zeros((9, 2)), 0))


def test_the_labelled_fit_reads_the_true_pairs(gap):
    problem = make_problem(*gap)
    stats = fit_labelled(problem)
    np.testing.assert_array_equal(stats.count, [[6, 6]])
    pairs = [problem.queries[j] @ problem.documents[j] for j in range(1, 12, 2)]
    assert float(stats.mean[0, 0]) == pytest.approx(np.mean(pairs), rel=1e-5)
