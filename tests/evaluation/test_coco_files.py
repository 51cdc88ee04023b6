"""Ground truth and ids from files, and `vacsr evaluate-matrix`: what it writes, prints and refuses."""

import json

import numpy as np
import pytest

from tests.parity.make_eccv_caption_golden import drawn_truth, matrix
from vacsr_jax.evaluation.coco import read_caption_truth, read_ids
from vacsr_jax.main import main
from vacsr_jax.metrics.coco import coco_metrics

TRUTH = drawn_truth()
SCORES, IMAGES, CAPTIONS = matrix(TRUTH)


@pytest.fixture
def files(tmp_path):
    """The options of `vacsr evaluate-matrix` for files that fit each other; a test breaks one of them."""
    folder = tmp_path / "truth"
    folder.mkdir()
    np.save(folder / "coco_test_ids.npy", TRUTH.test_ids)
    for name in ("original", "cxc", "eccv"):
        for kind, matches in zip(("image_to_caption", "caption_to_image"), getattr(TRUTH, name), strict=True):
            (folder / f"{name}_{kind}.json").write_text(json.dumps(matches))
    options = {"similarity": tmp_path / "S.npy", "image_ids": tmp_path / "i.txt", "caption_ids": tmp_path / "c.json"}
    np.save(options["similarity"], SCORES)
    options["image_ids"].write_text("".join(f"{i}\n" for i in IMAGES))
    options["caption_ids"].write_text(json.dumps(CAPTIONS.tolist()))
    return options | {"ground_truth": folder, "out": tmp_path / "new" / "metrics.json"}


def evaluate(files):
    main(["evaluate-matrix", *(f"--{name}={path}" for name, path in files.items())])


def refused(files, capsys):
    with pytest.raises(SystemExit) as ended:
        evaluate(files)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith("vacsr evaluate-matrix: ")
    assert err.count("\n") == 1
    assert not files["out"].exists()
    return err


def test_the_ground_truth_survives_its_files(files):
    read = read_caption_truth(files["ground_truth"])
    np.testing.assert_array_equal(read.test_ids, TRUTH.test_ids)
    assert (read.original, read.cxc, read.eccv) == (TRUTH.original, TRUTH.cxc, TRUTH.eccv)


def test_it_writes_what_the_function_gives_and_prints_it(files, capsys):
    evaluate(files)
    expected = coco_metrics(SCORES, IMAGES, CAPTIONS, TRUTH)
    assert json.loads(files["out"].read_text()) == expected
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["metric", "i2t", "t2i", "mean", "or", "sum"]
    assert [line.split()[0] for line in lines[2:]] == list(expected)
    assert len(expected) == 14
    assert all(f"coco_{n}k_r{k}" in expected for n in (1, 5) for k in (1, 5, 10))


AS_TEXT = {"i.json": json.dumps([str(i) for i in IMAGES]), "i.ids": "\r\n".join(map(str, IMAGES)), "i.npy": None}


@pytest.mark.parametrize(("name", "text"), AS_TEXT.items())
def test_ids_may_be_a_vector_a_list_or_lines(name, text, tmp_path):
    path = tmp_path / name
    if text is None:
        np.save(path, IMAGES.astype(np.int32))
    else:
        path.write_text(text, newline="")
    np.testing.assert_array_equal(read_ids(path), IMAGES)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("i.txt", "100\n12a\n", "i.txt: entry 2 is '12a', expected an integer id"),
        ("i.txt", b"\xff\xfe1", "i.txt is not UTF-8 text"),
        ("i.txt", str(2**63), "is too large for a 64-bit integer"),
        ("i.json", "[1, 2.5]", "i.json: entry 2 is 2.5"),
        ("i.json", "[true]", "i.json: entry 1 is True"),
        ("i.json", '{"a": 1}', "i.json: got dict, expected a JSON list"),
        ("i.json", "[1", "i.json is not JSON"),
        ("i.npy", b"\x93NUMPY", "i.npy is not a .npy file"),
        ("i.npy", b"", "i.npy is not a .npy file"),
        ("i.npy", np.ones(3), r"i.npy: got float64 [3], expected a vector of integers"),
        ("i.npy", np.ones((2, 2), int), r"i.npy: got int64 [2, 2], expected a vector of integers"),
        ("none.npy", None, "none.npy"),
    ],
)
def test_ids_that_are_none_are_refused(name, content, message, files, capsys):
    path = files["image_ids"].with_name(name)
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(files | {"image_ids": path}, capsys)


def test_a_matrix_that_is_none_is_refused(files, capsys):
    np.savez(files["similarity"].with_name("several.npz"), a=SCORES)
    assert "several arrays" in refused(files | {"similarity": files["similarity"].with_name("several.npz")}, capsys)
    np.save(files["similarity"], np.array([[None]]), allow_pickle=True)
    assert "S.npy is not a .npy file of numbers" in refused(files, capsys)


def test_nan_and_a_wrong_shape_are_refused(files, capsys):
    np.save(files["similarity"], np.where(np.eye(*SCORES.shape), np.nan, SCORES))
    assert "is NaN" in refused(files, capsys)
    np.save(files["similarity"], SCORES.T)
    assert "got shape [125, 25], expected [25, 125]" in refused(files, capsys)


def test_a_ground_truth_that_does_not_fit_is_refused(files, capsys):
    folder = files["ground_truth"]
    (folder / "cxc_caption_to_image.json").write_text("[1]")
    assert "cxc_caption_to_image.json: expected an object of id -> list of ids" in refused(files, capsys)
    for text in ('{"1": []}', '{"1": [1e999]}', "[" * 100_000):
        (folder / "cxc_caption_to_image.json").write_text(text)
        assert "cxc_caption_to_image.json" in refused(files, capsys)
    (folder / "cxc_caption_to_image.json").write_text('{"123456": [1]}')
    assert "cxc_caption_to_image.json: id 123456 is neither in original" in refused(files, capsys)
    (folder / "cxc_caption_to_image.json").unlink()
    assert "no cxc_caption_to_image.json; give the folder `data` of" in refused(files, capsys)
    (folder / "cxc_caption_to_image.json").write_text("{}")
    np.save(folder / "coco_test_ids.npy", TRUTH.test_ids[:-1])
    assert "got 124 ids, expected the 125 captions" in refused(files, capsys)
