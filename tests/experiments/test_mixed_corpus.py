import numpy as np
import pytest

from experiments.mixed_search.corpus import mixed_corpus

INDEX = np.array([0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 4])  # picture 2 has one caption


@pytest.mark.parametrize(("share", "distractors", "sizes"), [(0, 0, (0, 4)), (0.5, 0, (2, 2)), (1, 0.5, (4, 2))])
def test_every_query_has_its_picture_or_another_caption_and_not_both(share, distractors, sizes):
    corpus = mixed_corpus(INDEX, share, seed=3, distractors=distractors)
    assert (len(corpus.image), len(corpus.caption)) == sizes
    documents = np.concatenate([corpus.image, INDEX[corpus.caption]])
    asked = INDEX[corpus.query]
    np.testing.assert_array_equal(documents[corpus.answer], asked)
    assert all((documents == picture).sum() == 1 for picture in asked)
    assert 2 not in documents
    assert len(set(asked)) == len(asked)
    assert not set(corpus.query) & set(corpus.caption)
    assert (corpus.answer < len(corpus.image)).mean() == share


def test_distractors_are_there_as_picture_and_as_caption():
    corpus = mixed_corpus(INDEX, 0.5, seed=0, distractors=0.5)
    nobody = set(corpus.image) & set(INDEX[corpus.caption])
    assert len(nobody) == 2
    assert not nobody & set(INDEX[corpus.query])


def test_captions_need_not_stand_in_the_order_of_the_pictures():
    shuffled = INDEX[np.random.default_rng(0).permutation(len(INDEX))]
    corpus = mixed_corpus(shuffled, 0.5, seed=0)
    documents = np.concatenate([corpus.image, shuffled[corpus.caption]])
    np.testing.assert_array_equal(documents[corpus.answer], shuffled[corpus.query])
    assert not set(corpus.query) & set(corpus.caption)


def test_seeds_draw_other_captions():
    drawn = {tuple(mixed_corpus(INDEX, 0.5, seed=seed).query) for seed in range(20)}
    assert len(drawn) > 5


def test_the_seed_draws_the_same_corpus_and_bad_input_is_refused():
    a, b = (mixed_corpus(INDEX, 0.5, seed=1) for _ in range(2))
    assert all((x == y).all() for x, y in zip(a, b, strict=True))
    with pytest.raises(ValueError, match=r"share 1\.5"):
        mixed_corpus(INDEX, 1.5, seed=0)
    with pytest.raises(ValueError, match="1 pictures have two captions"):
        mixed_corpus(INDEX[:5] * 0, 0.5, seed=0)
