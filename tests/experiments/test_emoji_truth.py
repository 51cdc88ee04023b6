import numpy as np

from experiments.emoji.truth import frequent_words, graded_relevance


def emoji(identity, subgroup, *words):
    return {"id": identity, "label": subgroup, "keywords": list(words)}


QUERY = emoji("1f600", "face-smiling", "face", "grin", "happy", "teeth", "nice")


def test_grades_by_hand():
    cases = [
        (emoji("1f600", "other"), 3),  # the same id, whatever else
        (emoji("a", "face-smiling", "happy"), 2),  # subgroup and one word
        (emoji("b", "animal", "grin", "happy", "teeth"), 2),  # three words
        (emoji("c", "animal", "grin", "happy", "cat"), 1),  # two words are as good as one
        (emoji("d", "face-smiling", "sad"), 1),  # subgroup alone
        (emoji("e", "face-smiling", "face"), 1),  # "face" does not count
        (emoji("f", "animal", "face", "grin", "happy"), 1),  # nor as a third word
        (emoji("g", "animal", "face"), 0),
        (emoji("h", "animal", "grin", "grin", "grin"), 1),  # a word repeated is one word
        (emoji("i", "animal"), 0),
    ]
    relevance = graded_relevance([QUERY], [record for record, _ in cases], ignored={"face"})
    assert relevance.dtype == np.int8
    np.testing.assert_array_equal(relevance, [[grade for _, grade in cases]])


def test_rows_are_the_first_argument_and_the_relation_is_symmetric():
    a = [QUERY, emoji("x", "animal", "cat", "pet")]
    b = [emoji("y", "animal", "cat"), QUERY, emoji("z", "plant", "leaf")]
    np.testing.assert_array_equal(graded_relevance(a, b, ignored=()), [[0, 3, 0], [2, 0, 0]])
    np.testing.assert_array_equal(graded_relevance(b, a, ignored=()), graded_relevance(a, b, ignored=()).T)


def test_frequent_words_are_counted_once_a_record_and_above_the_limit():
    records = [emoji(str(i), "s", "often", "often", "rare" if i < 2 else "other") for i in range(3)]
    assert frequent_words(records, limit=2) == {"often"}
    assert frequent_words(records, limit=3) == set()
    assert frequent_words(records, limit=1) == {"often", "rare"}
    assert frequent_words(records) == set()
