"""npz files of embeddings: what is read, what is repaired with a note, and what is refused by name."""

import numpy as np
import pytest

from vacsr_jax.data.embeddings import (
    check_same_space,
    excluded_rows,
    numbered,
    read_embeddings,
    rows_of,
    write_embeddings,
)


def good(**changes):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(np.float32)
    arrays = {
        "embeddings": x / np.linalg.norm(x, axis=1, keepdims=True),
        "ids": np.array(["a", "b", "c"]),
        "modality": np.array(["text", "image", "text"]),
    }
    return {name: value for name, value in (arrays | changes).items() if value is not None}


@pytest.fixture
def write(tmp_path):
    def write(name="x.npz", **changes):
        np.savez(tmp_path / name, **good(**changes))
        return tmp_path / name

    return write


def test_a_good_file_comes_back_without_a_note(write):
    found = read_embeddings(write(answers=np.array(["x y", "", "z"]), exclude=np.array(["", " w ", ""])))
    np.testing.assert_allclose(found.vectors, good()["embeddings"], atol=1e-7)
    assert found.vectors.dtype == np.float32
    assert found.ids.tolist() == ["a", "b", "c"]
    assert found.modality.tolist() == ["text", "image", "text"]
    assert found.answers == (("x", "y"), (), ("z",))
    assert found.exclude == ((), ("w",), ())
    assert found.notes == ()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_become_float32_unit_vectors(write, dtype):
    found = read_embeddings(write(embeddings=good()["embeddings"].astype(dtype)))
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-6)
    assert found.notes == ()


def test_vectors_of_other_lengths_are_scaled_with_a_note(write):
    found = read_embeddings(write(embeddings=good()["embeddings"] * np.array([[1], [5], [0.1]], np.float32)))
    np.testing.assert_allclose(found.vectors, good()["embeddings"], atol=1e-6)
    assert "2 of 3 embeddings are not of unit length (0.1 to 5); they were scaled to it" in found.notes[0]


X = good()["embeddings"]
BAD = {
    "no array": ({"ids": None}, "there is no array 'ids', only embeddings, modality"),
    "no modality": ({"modality": None}, "there is no array 'modality'"),
    "objects": ({"ids": np.array(["a", "b", None], object)}, "arrays of str, not objects"),
    "numbers as ids": (
        {"ids": np.arange(3)},
        "ids: got int64 [3], expected strings [n]; convert them with .astype(str)",
    ),
    "a duplicate": ({"ids": np.array(["a", "b", "a"])}, "ids: 1 occur twice, the first ['a']"),
    "an empty name": ({"modality": np.array(["text", " ", "text"])}, "modality: 1 are empty, the first of ['b']"),
    "too few names": ({"modality": np.array(["text"])}, "modality: got 1 entries for 3 ids"),
    "too few answers": ({"answers": np.array(["text"])}, "answers: got 1 entries for 3 ids"),
    "too few rows": ({"embeddings": X[:2]}, "embeddings: got 2 rows for 3 ids"),
    "integers": ({"embeddings": np.ones((3, 4), int)}, "embeddings: got int64 [3, 4], expected floats"),
    "one vector": ({"embeddings": X[0]}, "embeddings: got float32 [4], expected floats"),
    "nothing": (
        {"embeddings": X[:0], "ids": np.array([], str), "modality": np.array([], str)},
        "expected at least one item",
    ),
    "NaN": ({"embeddings": X * np.array([[1], [np.nan], [1]])}, "embeddings: 1 are not finite, the first of ['b']"),
    "infinity": (
        {"embeddings": X * np.array([[1], [1], [np.inf]])},
        "embeddings: 1 are not finite, the first of ['c']",
    ),
    "zeros": ({"embeddings": X * np.array([[0], [1], [0]])}, "embeddings: 2 are all zero, the first of ['a', 'c']"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_named_with_what_is_wrong(case, write):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=r"x\.npz") as caught:
        read_embeddings(write(**changes))
    assert message in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text", b"\x80\x04N."])
def test_what_is_no_npz_is_refused_and_no_pickle_is_loaded(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npz cannot be read as npz"):
        read_embeddings(tmp_path / "x.npz")


def test_a_single_array_and_a_missing_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ValueError, match="it holds one array, expected several"):
        read_embeddings(tmp_path / "x.npy")
    with pytest.raises(OSError, match="none"):
        read_embeddings(tmp_path / "none.npz")


def test_lists_of_ids_are_rows_of_the_documents(write):
    documents = read_embeddings(write())
    np.testing.assert_array_equal(rows_of((("c", "a"), (), ("b",)), documents, "answers"), [[2, 0], [-1, -1], [1, -1]])
    assert rows_of(((), ()), documents, "answers").shape == (2, 0)
    with pytest.raises(ValueError, match=r"answers: 2 ids are not among the documents, the first \['d', 'my'\]"):
        rows_of((("d", "a"), ("my", "a")), documents, "answers")


def test_a_query_is_no_candidate_of_its_own(write):
    documents = read_embeddings(write())
    queries = read_embeddings(
        write(
            "q.npz",
            ids=np.array(["a", "b", "c"]),  # b is a text here and an image among the documents
            modality=np.array(["text", "text", "text"]),
            exclude=np.array(["b", "unknown", "c"]),
        )
    )
    np.testing.assert_array_equal(excluded_rows(queries, documents), [[1, 0], [-1, -1], [2, -1]])
    answered = read_embeddings(write("q.npz", answers=np.array(["a", "a", "a"])))
    np.testing.assert_array_equal(excluded_rows(answered, documents), [[-1], [1], [2]])


def test_modalities_are_numbered_and_unknown_ones_named():
    np.testing.assert_array_equal(numbered(np.array(["text", "image"]), ("image", "text"), "documents"), [1, 0])
    with pytest.raises(ValueError, match="documents: unknown modality 'audio'; expected image, text"):
        numbered(np.array(["text", "audio"]), ("image", "text"), "documents")


def test_queries_and_documents_of_other_dimensions(write):
    with pytest.raises(ValueError, match="queries have 4 dimensions and documents 3"):
        check_same_space(read_embeddings(write()), read_embeddings(write("b.npz", embeddings=X[:, :3])))


def test_write_makes_the_folder_and_keeps_the_name(tmp_path):
    write_embeddings(tmp_path / "new" / "x", **good())
    assert read_embeddings(tmp_path / "new" / "x").ids.tolist() == ["a", "b", "c"]
