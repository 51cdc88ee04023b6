"""Tiles of any size see what a matrix of all pairs has, and the list keeps the best in little memory."""

import dataclasses

import numpy as np
import pytest
from scipy.special import expit, log_expit, logsumexp

from tests.audit.small_audit import WRONG, N, cosine_model, write_pairs
from vacsr_jax.audit import stream
from vacsr_jax.audit.cross_fit import digest_of
from vacsr_jax.audit.duplicates import similar_pairs
from vacsr_jax.audit.findings import Estimate, audit
from vacsr_jax.audit.judge import Judge, Labelled
from vacsr_jax.audit.label_model import match_logit, right_logit
from vacsr_jax.audit.marks import Mark, read_marks
from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.scoring.model import score_pairs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    source = read_pairs(write_pairs(tmp_path_factory.mktemp("pairs"))).source(None)
    return Labelled(source, source.text_image)


def test_models_of_folds_are_kept_for_their_data_alone(data):
    source, pairs = data.source, data.source.pairs
    kept = digest_of(source)
    assert digest_of(dataclasses.replace(pairs).source(None)) == kept
    texts = np.array(pairs.texts[:])
    texts[0, 0] += 1
    others = [
        dataclasses.replace(pairs, texts=texts).source(None),
        dataclasses.replace(pairs, image_of=pairs.image_of[::-1].copy()).source(None),
        pairs.source("train"),
    ]
    assert len({kept, *map(digest_of, others)}) == 4


def test_counts_end_where_there_are_no_more():
    assert Estimate(2.0, 0.5, 9.0).at_most(1) == Estimate(1, 0.5, 1)


def test_tiles_give_what_all_pairs_give(data, monkeypatch):
    monkeypatch.setattr(stream, "ROWS", 16)
    monkeypatch.setattr(stream, "COLUMNS", 50)
    judge = Judge(cosine_model(), data, np.arange(N))
    parts = [Judge(judge.trained, data, rows) for rows in (np.arange(1, N, 2), np.arange(0, N, 2))]
    fitted, m = judge.fit(), len(data.image_of)
    seen = stream.Seen.nothing(m, 40)
    for part in parts:
        stream.look(part, fitted, seen)
    a, h = judge.parts(judge.image_items(np.arange(N)), judge.text_items(np.arange(m)))
    theta = fitted.among(N).theta
    z, right = match_logit(theta, N, a, h), right_logit(theta, a, h)
    place = (data.image_of, np.arange(m))
    np.testing.assert_allclose(np.log(seen.right), right[place], atol=2e-4)
    np.testing.assert_allclose(np.log(seen.total), logsumexp(right, axis=0), atol=2e-4)
    z[place] = right[place] = -np.inf
    assert seen.expected == pytest.approx(expit(z).sum(), rel=1e-4)
    assert seen.histogram.sum() == N * m - m
    np.testing.assert_array_equal(seen.better, np.argsort(-right, axis=0)[:3])
    score, pair = seen.best.sorted()
    order = np.argsort(-z.ravel())[: len(score)]
    np.testing.assert_allclose(np.log(score), z.ravel()[order], atol=2e-4)
    assert {tuple(p) for p in pair} == {(k // m, k % m) for k in order}


def test_the_parts_of_a_label_logit_give_it_back(data):
    judge = Judge(cosine_model(), data, np.arange(N))
    images, texts = judge.image_items(np.arange(5)), judge.text_items(np.arange(7))
    a, h = judge.parts(images, texts)
    scores = score_pairs(judge.trained.model, judge.trained.params, images, texts)
    np.testing.assert_allclose(log_expit(a) + h, scores.label_score, rtol=1e-5, atol=1e-5)
    assert np.ptp(h) > 0


def test_exchanged_captions_lead_the_list_and_their_own_images_are_missing_matches(data):
    found = audit([Judge(cosine_model(), data, np.arange(N))], 100)
    names = {data.source.captions[data.image_of[j]][0] for j in found.worst[: len(WRONG)]}
    wrong = {f"caption <{2 * i}>" for i in WRONG}
    texts = [text for own in data.source.captions for text in own]
    assert {texts[j] for j in found.worst[: len(WRONG)]} == wrong, names
    missing = {(data.source.ids[i], texts[j]) for i, j in found.missing[: len(WRONG)]}
    assert missing == {(f"i{i}", f"caption <{2 * i}>") for i in WRONG}
    for j in found.worst[: len(WRONG)]:
        assert f"caption <{2 * int(data.source.ids[found.better[0, j]][1:])}>" == texts[j]
    assert found.share.low < len(WRONG) / (2 * N) < found.share.high
    assert any("too few" in caution for caution in found.cautions)


def test_a_model_that_knows_nothing_of_the_data_is_told_of(data):
    shuffled = Labelled(data.source, np.random.default_rng(0).permutation(data.image_of))
    found = audit([Judge(cosine_model(), shuffled, np.arange(N))], 100)
    assert any("say next to nothing about these labels" in caution for caution in found.cautions)


def test_marks_move_the_probabilities(data):
    judges = [Judge(cosine_model(), data, np.arange(N))]
    before = audit(judges, 100)
    place = [int(j) for j in before.worst[:30]]
    marks = [Mark("suspect_labels", int(data.image_of[j]), j, True) for j in place]
    marks += [Mark("missing_matches", int(i), int(j), False) for i, j in before.missing[:30]]
    after = audit(judges, 100, marks)
    assert after.marks == 30 + min(30, len(before.missing))
    assert after.share.value < before.share.value / 2
    assert after.expected.value < before.expected.value / 2
    np.testing.assert_array_equal(after.worst[:30], before.worst[:30])
    with pytest.raises(ValueError, match="--marks: caption 0 is not labelled with image 59"):
        audit(judges, 100, [Mark("suspect_labels", 59, 0, True)])
    with pytest.raises(ValueError, match="these marks are of other data"):
        audit(judges, 100, [marks[0]._replace(data="0123456789abcdef")])


def test_marks_that_say_nothing_or_two_things_are_refused(tmp_path):
    file = tmp_path / "marks.csv"
    head, line = "list,image_index,caption_index,mark,data\n", "missing_matches,1,2,{},ab\n"
    file.write_text(head + line.format("right") * 2)
    assert read_marks(file) == [Mark("missing_matches", 1, 2, True, "ab")]
    for text, message in (
        (head, "holds no mark"),
        (head + line.format("right") + line.format("wrong"), "line 3: image 1 with caption 2 is marked both right and"),
        ("a,b\n", "has no column list, image_index, caption_index, mark; give the file that the page"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_marks(file)


def test_the_best_are_kept_in_the_memory_of_a_few():
    rng = np.random.default_rng(0)
    best, everything = stream.Best(20, -1.0), rng.normal(size=(50, 100))
    for k, row in enumerate(everything):
        best.add(row, np.stack([np.full(100, k), np.arange(100)], axis=1))
        assert len(best.score) <= 140
    score, pair = best.sorted()
    np.testing.assert_array_equal(score, np.sort(everything.ravel())[::-1][:20])
    np.testing.assert_array_equal(everything[tuple(pair.T)], score)


def test_similar_vectors_are_found_across_tiles(monkeypatch):
    monkeypatch.setattr("vacsr_jax.audit.duplicates.ROWS", 8)
    monkeypatch.setattr("vacsr_jax.audit.duplicates.COLUMNS", 16)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 12)).astype(np.float32)
    x[41], x[7], x[20] = 2 * x[3], x[30] + 0.01 * x[1], x[21]
    group = np.arange(50)
    group[20] = 21  # the same image
    cosine, pair = similar_pairs(x, group, 0.98, 10)
    assert pair.tolist() == [[3, 41], [7, 30]]
    assert cosine[0] == pytest.approx(1, abs=1e-6)
