"""What the commands do with a folder that holds everything at once, with broken pictures, and when they are stopped."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

import vacsr_jax
from vacsr_jax import atomic_files
from vacsr_jax.cli.search import content_of
from vacsr_jax.data import embedding_parts
from vacsr_jax.data.embeddings import read_embeddings
from vacsr_jax.main import main
from vacsr_jax.search.index import MixedIndex, files

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)


def draw(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path, {".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "JPEG"}.get(path.suffix))


@pytest.fixture
def messy(tmp_path):
    folder = tmp_path / "messy"
    for i, name in enumerate(("a.png", "b.tif", "c.jfif", "d.jpe", "e.mpo", "sub/f.webp")):
        draw(folder / name, i)
    for name in (".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/._a.png", "._a.png", "Thumbs.db", "notes.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"rubbish")
    draw(tmp_path / "elsewhere" / "g.png", 7)
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "sub" / "up").symlink_to(folder)
    return folder


GOOD = ["a.png", "b.tif", "c.jfif", "d.jpe", "e.mpo", "linked/g.png", "sub/f.webp"]
LEFT_OUT = "1 .txt, 1 circular link, 2 hidden files, 2 hidden folders"


def break_some(folder):
    """A truncated JPEG, and a file that is none."""
    whole = (folder / "c.jfif").read_bytes()
    (folder / "c.jfif").write_bytes(whole[: len(whole) // 2])
    (folder / "sub" / "f.webp").write_bytes(b"")
    return [x for x in GOOD if x not in ("c.jfif", "sub/f.webp")]


@pytest.mark.parametrize("out", ["e.npz", "e"])
def test_embed_takes_all_pictures_and_counts_the_rest(out, model_folder, messy, tmp_path, capsys, caplog):
    main(["embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / out}"])
    assert capsys.readouterr().out == f"{tmp_path / out}: 7 embeddings\n"
    assert caplog.messages == [f"{messy}: left out {LEFT_OUT}"]
    assert read_embeddings(tmp_path / out).ids.tolist() == GOOD


def test_nothing_but_rubbish_says_what_there_was(refuse, model_folder, messy, tmp_path):
    for name in GOOD:
        (messy / name).unlink()
    error = refuse("embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / 'e.npz'}")
    assert "holds no picture (.png, " in error
    assert f"only {LEFT_OUT}" in error


@pytest.mark.parametrize("out", ["e.npz", "e"])
def test_embed_keeps_what_was_done_before_a_broken_picture(out, refuse, model_folder, messy, tmp_path, capsys):
    good = break_some(messy)
    command = ["embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / out}", "--part_size=2"]
    parts = tmp_path / ("e.npz.parts" if out == "e.npz" else "e")
    error = refuse(*command)
    assert "c.jfif cannot be read (image file is truncated" in error
    assert f"The finished parts stay in {parts}; the same command with --on_error=skip goes on" in error
    assert [x.name for x in sorted(parts.glob("part-*"))] == ["part-00000.npz"]
    with pytest.warns(UserWarning, match=r"2 pictures were left out; the first: .*c\.jfif"):
        main([*command, "--on_error=skip"])
    assert "1 of 4 parts are there already" in capsys.readouterr().out
    assert read_embeddings(tmp_path / out).ids.tolist() == good
    assert parts.exists() == (out == "e")


def index(model_folder, *options):
    main(["index", f"--model={model_folder}", *map(str, options)])


def test_index_goes_on_after_a_broken_picture(refuse, model_folder, messy, tmp_path, capsys, monkeypatch):
    good, out = break_some(messy), tmp_path / "index"
    monkeypatch.setattr("vacsr_jax.cli.embed.Inputs.job", smaller_parts)
    command = ["index", f"--model={model_folder}", f"--images={messy}", f"--out={out}"]
    assert f"The finished parts stay in {out}.parts" in refuse(*command)
    assert not out.exists()
    with pytest.warns(UserWarning, match="2 pictures were left out"):
        main([*command, "--on_error=skip"])
    assert "1 of 4 parts are there already" in capsys.readouterr().out
    made = MixedIndex.load(out)
    assert sorted(made.store.ids("image")) == sorted(good)
    assert made.contents["linked/g.png"] == os.path.realpath(tmp_path / "elsewhere" / "g.png")
    assert not out.with_name("index.parts").exists()


def test_one_part_has_nothing_to_keep_but_says_how_to_go_on(refuse, model_folder, messy, tmp_path):
    break_some(messy)
    for verb, out in (("embed", "e.npz"), ("index", "index")):
        error = refuse(verb, f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / out}")
        assert "replace or remove it, or give --on_error=skip to leave out what cannot be read" in error
        assert sorted(x.name for x in tmp_path.iterdir()) == ["elsewhere", "messy"]


def smaller_parts(self, model_id, *, part_size=2, draft=False):
    return embedding_parts.Job(model_id, self.hash, len(self.pictures), len(self.texts), part_size, draft)


def test_parts_of_other_inputs_are_begun_again(refuse, model_folder, messy, tmp_path):
    break_some(messy)
    command = ["embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / 'e.npz'}", "--part_size=2"]
    refuse(*command)
    draw(messy / "c.jfif", 1)
    draw(messy / "sub" / "f.webp", 2)
    main(command)
    assert read_embeddings(tmp_path / "e.npz").ids.tolist() == GOOD
    assert not (tmp_path / "e.npz.parts").exists()


# Ctrl-C.


def interrupt(*args):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("out", "advice"), [("e", "the finished parts stay in {}; the same command goes on"), ("e.npz", "nothing was kept")]
)
def test_ctrl_c_promises_only_what_is_there(out, advice, model_folder, messy, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("vacsr_jax.pretrained.Pretrained.cosine_vectors", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / out}"])
    assert ended.value.code == 130
    error = capsys.readouterr().err
    assert advice.format(tmp_path / out) in error
    assert "checkpoint" not in error
    assert not (tmp_path / "e.npz").exists()


@pytest.mark.parametrize(("steps", "advice"), [((), "nothing was kept"), (("4",), "continue from the last checkpoint")])
def test_ctrl_c_in_train_before_and_after_a_checkpoint(steps, advice, tmp_path, monkeypatch, capsys):
    for step in steps:
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
    monkeypatch.setattr("vacsr_jax.cli.train.train_and_evaluate", lambda *args, **kwargs: interrupt())
    with pytest.raises(SystemExit):
        main(["train", "--config=configs/scenes.py", f"--workdir={tmp_path / 'run'}"])
    assert advice in capsys.readouterr().err


# A full disk.


def full(*args, **kwargs):
    raise SafetensorError("I/O error: No space left on device (os error 28)")


def full_os(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_old_index_in_one_line(refuse, model_folder, messy, tmp_path, monkeypatch, capsys):
    out = tmp_path / "index"
    index(model_folder, f"--images={messy}", f"--out={out}")
    capsys.readouterr()
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for failure in (full, full_os):
        with monkeypatch.context() as patch:
            patch.setattr(files, "save_file", failure)
            error = refuse("index", f"--model={model_folder}", f"--images={messy}", f"--out={out}")
            assert f"{out}: the index could not be written (" in error
            assert "No space left on device" in error
            assert "the index that was there is kept" in error
            error = refuse("index", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / 'new'}")
            assert "nothing was left behind" in error
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(x.name for x in tmp_path.iterdir()) == ["elsewhere", "index", "messy"]


def test_a_full_disk_names_the_file(refuse, model_folder, messy, tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez", full_os)
    for out in ("e.npz", "e"):
        error = refuse("embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / out}")
        assert "No space left on device; make room, then run the same command again: '" in error
        assert str(tmp_path / "e") in error
    with pytest.raises(OSError, match="make room"):
        atomic_files.replace_whole(tmp_path / "x", full_os)


# Adding to an index, and an index of one modality.


@pytest.fixture(scope="module")
def small_index(model_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    for i in range(3):
        draw(folder / "pictures" / f"{i}.png", i)
    index(model_folder, f"--images={folder / 'pictures'}", f"--out={folder / 'index'}")
    return folder


def copy(small_index, tmp_path):
    shutil.copytree(small_index, tmp_path / "copy")
    return tmp_path / "copy"


def test_pictures_alone_answer_a_text_by_cosine(small_index, model_folder, capsys):
    main(["search", f"--index={small_index / 'index'}", "--text=a red circle", "--k=3"])
    out = capsys.readouterr().out
    assert out.startswith("a red circle (ranked by cosine)\n")
    main(["search", f"--index={small_index / 'index'}", "--text=a red circle", "--k=3", "--json"])
    listed = json.loads(capsys.readouterr().out)["hits"]
    assert [x["z"] for x in listed] == [None] * 3
    assert listed[0]["cosine"] > 0
    assert "  z" not in out
    model, found = vacsr_jax.load(model_folder), MixedIndex.load(small_index / "index")
    text = model.cosine_vectors(model.encode_texts("a red circle"))
    pictures = model.cosine_vectors(model.encode_images(sorted((small_index / "pictures").iterdir())))
    cosines = (pictures @ text[0]) / np.linalg.norm(pictures, axis=1) / np.linalg.norm(text[0])
    hits = found.search(text, 3)
    assert hits.ids[0].tolist() == [f"{i}.png" for i in np.argsort(-cosines)]
    np.testing.assert_allclose(hits.z[0], np.sort(cosines)[::-1], atol=1e-4)
    main(["search", f"--index={small_index / 'index'}", f"--image={small_index / 'pictures' / '0.png'}", "--k=1"])
    assert "cosine" not in capsys.readouterr().out  # pictures have their own scale


def test_one_document_is_an_index(model_folder, tmp_path, capsys):
    draw(tmp_path / "pictures" / "a.png")
    index(model_folder, f"--images={tmp_path / 'pictures'}", f"--out={tmp_path / 'index'}")
    assert capsys.readouterr().out == f"{tmp_path / 'index'}: 1 documents; ranked by cosine\n"
    main(["search", f"--index={tmp_path / 'index'}", "--text=a red circle"])
    assert "1  a.png" in capsys.readouterr().out


def test_two_modalities_without_statistics_are_still_refused():
    mixed = MixedIndex()
    for name in ("image", "text"):
        mixed.add(RNG.normal(size=(3, 8)), [f"{name}{i}" for i in range(3)], name)
    with pytest.raises(ValueError, match="no statistics yet"):
        mixed.search(RNG.normal(size=(1, 8)), 1)
    mixed.fit(RNG.normal(size=(4, 8)), "image")
    with pytest.raises(ValueError, match="query_modality: got the modality 'text'"):
        mixed.search(RNG.normal(size=(1, 8)), 1)


def test_an_index_that_was_added_to_is_one_of_all_at_once(small_index, model_folder, tmp_path, capsys):
    here = copy(small_index, tmp_path)
    pictures, out = small_index / "pictures", here / "index"
    more = tmp_path / "all"
    shutil.copytree(pictures, more / "pictures")
    draw(more / "pictures" / "3.png", 3)
    (tmp_path / "t.txt").write_text("a red circle\na blue square\n")
    index(model_folder, f"--images={more / 'pictures'}", f"--texts={tmp_path / 't.txt'}", f"--out={more / 'index'}")
    shutil.copy(more / "pictures" / "3.png", pictures / "3.png")
    try:
        capsys.readouterr()
        main(["index", "--add", f"--images={pictures}", f"--texts={tmp_path / 't.txt'}", f"--out={out}"])
    finally:
        (pictures / "3.png").unlink()
    printed = capsys.readouterr().out
    assert "3 documents are in the index already" in printed
    assert "6 documents; scale of 4 of its own image documents (few), 2 of its own text documents (few)" in printed
    added, whole = MixedIndex.load(out), MixedIndex.load(more / "index")
    assert added.store.ids("image") == whole.store.ids("image")
    assert added.contents["t.txt:2"] == "a blue square"
    np.testing.assert_allclose(added.stats.mean, whole.stats.mean, atol=1e-4)
    main(["index", "--add", f"--texts={tmp_path / 't.txt'}", f"--out={out}"])  # again: nothing is new
    assert "2 documents are in the index already" in capsys.readouterr().out
    assert len(MixedIndex.load(out)) == 6


def test_what_cannot_be_added_is_refused(small_index, model_folder, refuse, tmp_path):
    here = copy(small_index, tmp_path)
    out = here / "index"
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    draw(tmp_path / "other" / "1.png", 99)
    add = ["index", "--add", f"--out={out}"]
    assert "the index has another document with the id '1.png'" in refuse(*add, f"--images={tmp_path / 'other'}")
    assert "holds no index.json" in refuse(
        "index", "--add", f"--images={tmp_path / 'other'}", f"--out={tmp_path / 'no'}"
    )
    np.savez(tmp_path / "d.npz", embeddings=np.eye(64, dtype=np.float32)[:2], ids=["x", "y"], modality=["text"] * 2)
    np.savez(
        tmp_path / "other.npz",
        embeddings=np.eye(64, dtype=np.float32)[:2],
        ids=["x", "y"],
        modality=["text"] * 2,
        model_id=np.array("another"),
    )
    assert "embeddings of model another, the index is of" in refuse(*add, f"--documents={tmp_path / 'other.npz'}")
    assert "leave them out with --add" in refuse(*add, f"--documents={tmp_path / 'd.npz'}", "--reference_images=x.npz")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    main([*add, f"--documents={tmp_path / 'd.npz'}"])
    assert len(MixedIndex.load(out)) == 5


def test_moved_pictures_are_said_and_found_again(small_index, model_folder, tmp_path, capsys):
    pictures, out, page = tmp_path / "pictures", tmp_path / "index", tmp_path / "page.html"
    shutil.copytree(small_index / "pictures", pictures)
    index(model_folder, f"--images={pictures}", f"--out={out}")
    pictures.rename(tmp_path / "moved")
    search = ["search", f"--index={out}", "--text=a red circle", f"--html={page}"]
    with pytest.warns(
        UserWarning, match=r"3 pictures cannot be shown; the first: .*png is not there\. If they were moved"
    ):
        main(search)
    assert page.read_text().count("is not there</em>") == 3
    main(["index", "--add", f"--images={tmp_path / 'moved'}", f"--out={out}"])
    main(search)
    assert page.read_text().count("<img") == 3
    assert "is not there" not in page.read_text()


def test_a_broken_picture_does_not_cost_the_page(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    content, fault = content_of(str(tmp_path / "a.png"), "image")
    assert content is None
    assert "a.png cannot be read" in fault
    assert content_of("/etc/passwd", "image") == (None, "")
    assert content_of(None, "image") == (None, "")
    assert content_of("a text", "text") == ("a text", "")


def test_cut_texts_of_embed_are_counted_once(model_folder, tmp_path, caplog):
    long = "a red circle left of a blue square above a green triangle"
    (tmp_path / "t.txt").write_text("\n".join([f"{long} {i}" for i in range(5)] + ["a red circle"]))
    main(
        [
            "embed",
            f"--model={model_folder}",
            f"--texts={tmp_path / 't.txt'}",
            f"--out={tmp_path / 'e'}",
            "--part_size=2",
        ]
    )
    (said,) = caplog.messages
    assert said.startswith("5 of 6 texts are longer than the context of 8 tokens and are cut")


def test_the_manifest_is_that_of_before(model_folder, messy, tmp_path):
    """Folders that earlier versions began are still the same jobs."""
    main(["embed", f"--model={model_folder}", f"--images={messy}", f"--out={tmp_path / 'e'}"])
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    assert set(manifest) == {"model", "inputs", "images", "texts", "part_size", "draft", "format"}
