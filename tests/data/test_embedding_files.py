"""Pairs of embeddings in every form they come in, and what is said of a file that is wrong."""

import numpy as np
import pytest

from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.data.source import caption_pairs, text_inputs
from vacsr_jax.data.splits import hashed_split

N, M, D = 6, 9, 4
RNG = np.random.default_rng(0)
IMAGES, T = RNG.normal(size=(N, D)).astype(np.float32), RNG.normal(size=(M, D)).astype(np.float32)
IMAGE_OF = np.array([3, 0, 1, 0, 2, 4, 5, 3, 3])


def good(**changes):
    arrays = {
        "image_embeddings": IMAGES,
        "text_embeddings": T,
        "image_of": IMAGE_OF,
        "image_ids": np.array([f"i{k}" for k in range(N)]),
        "texts": np.array([f"text {k}" for k in range(M)]),
        "split": np.array(["train"] * 4 + ["val", "test"]),
        "model_id": np.array("some/clip"),
    }
    return {name: x for name, x in (arrays | changes).items() if x is not None}


@pytest.fixture
def write(tmp_path):
    def write(**changes):
        np.savez(tmp_path / "p.npz", **good(**changes))
        return tmp_path / "p.npz"

    return write


def test_an_npz_becomes_a_source_of_each_split(write):
    pairs = read_pairs(write())
    source = pairs.source("train")
    assert list(source.ids) == ["i0", "i1", "i2", "i3"]
    assert [list(texts) for texts in source.captions] == [
        ["text 1", "text 3"],
        ["text 2"],
        ["text 4"],
        ["text 0", "text 7", "text 8"],
    ]
    np.testing.assert_array_equal(source.gather(np.array([3, 0])), IMAGES[[3, 0]])
    np.testing.assert_array_equal(source.image(2), IMAGES[2])
    texts, image_of = text_inputs(source, None)
    np.testing.assert_array_equal(texts[:], T[[1, 3, 2, 4, 0, 7, 8]])
    np.testing.assert_array_equal(image_of, caption_pairs(source)[1])
    assert pairs.source("validation").ids[0] == "i4"
    assert pairs.image_model == pairs.text_model == "some/clip"
    assert len(source.first(2)) == 2
    assert text_inputs(source.first(2), None)[0].shape == (3, D)


def test_without_splits_a_hash_of_the_id_decides(write):
    pairs = read_pairs(write(split=None, image_ids=None))
    assert pairs.splits().tolist() == [hashed_split(str(k)) for k in range(N)]
    assert pairs.source(None).ids[1] == "image 1"


def test_without_image_of_rows_belong_together(write):
    pairs = read_pairs(write(text_embeddings=T[:N], image_of=None, texts=None))
    np.testing.assert_array_equal(pairs.image_of, np.arange(N))
    assert list(pairs.source("test").captions[0]) == ["text 5"]


def test_images_without_a_text_are_left_out_with_a_warning(write):
    with pytest.warns(UserWarning, match="3 images have no text"):
        source = read_pairs(write(image_of=np.where(IMAGE_OF < 2, IMAGE_OF, 3), split=None)).source(None)
    assert list(source.ids) == ["i0", "i1", "i3"]


BAD = {
    "no array": ({"text_embeddings": None}, "there is no array 'text_embeddings', only image_embeddings"),
    "integers": ({"image_embeddings": IMAGES.astype(int)}, r"image_embeddings: got int64 \[6, 4\], expected floats"),
    "NaN": ({"text_embeddings": T * np.where(np.arange(M) == 7, np.nan, 1)[:, None]}, "text_embeddings: row 7 is not"),
    "zero": ({"image_embeddings": IMAGES * (np.arange(N) != 2)[:, None]}, "image_embeddings: row 2 is all zero"),
    "points nowhere": (
        {"image_of": np.where(IMAGE_OF == 5, 6, IMAGE_OF)},
        "image_of: row 6 points to image 6, .* 0 to 5",
    ),
    "points below": ({"image_of": IMAGE_OF - 1}, "image_of: row 1 points to image -1"),
    "image_of of floats": ({"image_of": IMAGE_OF * 1.0}, "image_of: got float64"),
    "short image_of": ({"image_of": IMAGE_OF[:4]}, "image_of: got 4 entries for 9 texts"),
    "no image_of": ({"image_of": None}, "6 images and 9 texts without image_of"),
    "short ids": ({"image_ids": np.array(["a"])}, "image_ids: got 1 entries for 6 images"),
    "same ids": ({"image_ids": np.array(list("abcbef"))}, "image_ids: row 3 repeats 'b'"),
    "numbers as texts": ({"texts": np.arange(M)}, "texts: got int64"),
    "short split": ({"split": np.array(["train"])}, "split: got 1 entries for 6 images"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_malformed_file_is_named_with_row_and_fault(case, write):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=f"p.npz: {message}"):
        read_pairs(write(**changes))


def test_an_unknown_split_and_a_missing_file(write, tmp_path):
    with pytest.raises(ValueError, match=r"no image of split 'dev2'; expected one of test, train, validation"):
        read_pairs(write()).source("dev2")
    with pytest.raises(ValueError, match="there is no such file or folder; expected an npz"):
        read_pairs(tmp_path / "none.npz")
    with pytest.raises(ValueError, match="it has no img_emb/"):
        read_pairs(tmp_path)


def clip_retrieval(folder, metadata=None):
    for name, x in (("img_emb", IMAGES), ("text_emb", T[:N])):
        (folder / name).mkdir(parents=True)
        np.save(folder / name / f"{name}_9.npy", x[:4].astype(np.float16))
        np.save(folder / name / f"{name}_10.npy", x[4:].astype(np.float16))
    if metadata:
        (folder / "metadata").mkdir()
        write_parquet(folder / "metadata" / "metadata_9.parquet", {k: v[:4] for k, v in metadata.items()})
        write_parquet(folder / "metadata" / "metadata_10.parquet", {k: v[4:] for k, v in metadata.items()})
    return folder


def write_parquet(path, columns):
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)


def test_a_folder_of_clip_retrieval_is_read_in_the_order_of_its_numbers(tmp_path):
    pairs = read_pairs(clip_retrieval(tmp_path / "c"))
    np.testing.assert_allclose(pairs.images[:], IMAGES, atol=2e-3)
    np.testing.assert_allclose(pairs.texts[:], T[:N], atol=2e-3)


def test_metadata_of_clip_retrieval_joins_texts_of_one_image(tmp_path):
    metadata = {"image_path": ["b", "a", "b", "c", "d", "e"], "caption": [f"t{k}" for k in range(N)]}
    source = read_pairs(clip_retrieval(tmp_path / "c", metadata)).source(None)
    assert list(source.ids) == list("abcde")
    assert list(source.captions[1]) == ["t0", "t2"]
    np.testing.assert_allclose(source.image(1), IMAGES[0], atol=2e-3)


def test_a_parquet_file(tmp_path):
    columns = {"image_embedding": IMAGES.tolist(), "text_embedding": T[:N].tolist(), "image_id": list("abcbef")}
    write_parquet(tmp_path / "p.parquet", columns)
    pairs = read_pairs(tmp_path / "p.parquet")
    np.testing.assert_allclose(pairs.texts[:], T[:N], rtol=1e-6)
    np.testing.assert_array_equal(pairs.image_of, [0, 1, 2, 1, 3, 4])
    columns["text_embedding"][4] = [1.0]
    write_parquet(tmp_path / "q.parquet", columns)
    with pytest.raises(
        ValueError, match=r"q.parquet: column 'text_embedding': row 4 has 1 numbers and the first row 4"
    ):
        read_pairs(tmp_path / "q.parquet")
    (tmp_path / "r.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"r.parquet cannot be read as parquet"):
        read_pairs(tmp_path / "r.parquet")


def embedded(path, answers=True, texts=M):
    ids = np.array([f"i{k}" for k in range(N)] + [f"t{k}" for k in range(texts)])
    arrays = {"embeddings": np.concatenate([IMAGES, T[:texts]]), "ids": ids}
    arrays["modality"] = np.array(["image"] * N + ["text"] * texts)
    if answers:
        arrays["answers"] = np.array([""] * N + [f"i{k}" for k in IMAGE_OF[:texts]])
    np.savez(path, **arrays)
    return path


def test_what_embed_writes_is_paired_by_answers_or_by_order(tmp_path):
    pairs = read_pairs(embedded(tmp_path / "e.npz"))
    np.testing.assert_array_equal(pairs.image_of, IMAGE_OF)
    np.testing.assert_allclose(pairs.texts[2], T[2] / np.linalg.norm(T[2]), rtol=1e-5)
    with pytest.warns(UserWarning, match="text i is paired with image i"):
        pairs = read_pairs(embedded(tmp_path / "f.npz", answers=False, texts=N))
    np.testing.assert_array_equal(pairs.image_of, np.arange(N))
    with pytest.raises(ValueError, match="nothing says which belong together"):
        read_pairs(embedded(tmp_path / "g.npz", answers=False))
