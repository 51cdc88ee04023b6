"""`vacsr embed`: what it writes, and what it refuses."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vacsr_jax
from vacsr_jax.main import main


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for i, name in enumerate(("a.png", "more/b.JPG")):
        Image.new("RGB", (40, 30), (90 * i, 10, 200)).save(folder / name)
    (folder / "notes.md").write_text("no picture")
    os.mkfifo(folder / "pipe.png")  # neither is this: opening it would block for ever
    return folder


def test_embed_with_nothing(refuse, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", f"--out={tmp_path / 'e.npz'}")
    assert "nothing to embed; give --images=FOLDER, --texts=FILE" in error


def test_embed_of_a_folder_without_pictures(refuse, model_folder, tmp_path):
    (tmp_path / "notes.md").write_text("")
    embed = ("embed", f"--model={model_folder}", f"--out={tmp_path / 'e.npz'}")
    assert f"{tmp_path} holds no picture" in refuse(*embed, f"--images={tmp_path}")
    assert "is not a folder" in refuse(*embed, f"--images={tmp_path / 'notes.md'}")


@pytest.mark.parametrize("left", [0, 30, 100, 700])
@pytest.mark.parametrize("name", ["a.png", "more/b.JPG"])
def test_embed_of_a_truncated_picture_names_it_and_writes_nothing(name, left, refuse, model_folder, pictures, tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(pictures / name)
    (pictures / name).write_bytes((pictures / name).read_bytes()[:left])
    out = tmp_path / "e.npz"
    assert Path(name).name in refuse("embed", f"--model={model_folder}", f"--images={pictures}", f"--out={out}")
    assert not out.exists()


@pytest.mark.parametrize(("text", "number"), [("", 1), ("one\n\nthree\n", 2), ("one\n \t\n", 2), ("one\ntwo\n\n", 3)])
def test_embed_of_an_empty_line_names_its_number(text, number, refuse, model_folder, tmp_path):
    (tmp_path / "t.txt").write_text(text)
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert f"t.txt: line {number} is empty" in error


def test_embed_of_a_file_that_is_no_text(refuse, model_folder, tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xff\xfe\x00red")
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert "t.txt is not UTF-8 text" in error


def test_embed_of_a_missing_text_file(refuse, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", f"--texts={tmp_path / 't.txt'}", f"--out={tmp_path / 'e.npz'}")
    assert "t.txt" in error


# What embed writes.


def test_embed_writes_embeddings_ids_and_modality(model_folder, pictures, tmp_path, capsys):
    (tmp_path / "t.txt").write_text("a red circle\r\na blue\u2028square\nthree", encoding="utf-8", newline="")
    out = tmp_path / "new" / "embeddings.npz"
    options = [f"--images={pictures}", f"--texts={tmp_path / 't.txt'}", f"--out={out}"]
    main(["embed", f"--model={model_folder}", *options])
    assert capsys.readouterr().out == f"{out}: 5 embeddings\n"
    with np.load(out) as written:
        assert written["embeddings"].shape == (5, 64)
        assert written["embeddings"].dtype == np.float32
        assert written["ids"].tolist() == ["a.png", "more/b.JPG", "t.txt:1", "t.txt:2", "t.txt:3"]
        assert written["modality"].tolist() == ["image"] * 2 + ["text"] * 3
        expected = vacsr_jax.load(model_folder).encode_texts(["a red circle", "a blue\u2028square", "three"])
        np.testing.assert_array_equal(written["embeddings"][2:], expected)
