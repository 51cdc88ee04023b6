"""`vacsr embed --out=FOLDER`: parts, resuming, shards, and what is refused."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import vacsr_jax
from vacsr_jax.data import embedding_parts
from vacsr_jax.data.embeddings import read_embeddings, read_parts
from vacsr_jax.main import main

pytestmark = pytest.mark.slow

TEXTS = ["a red circle", "a blue square", "a red square", "a blue circle", "a circle"]
IDS = [f"{i:02d}.png" for i in range(7)] + [f"t.txt:{i}" for i in range(1, 6)]
PARTS = [f"part-0000{i}.npz" for i in range(5)]  # of 3 items: 3, 3, 1 pictures, then 3, 2 texts


@pytest.fixture
def inputs(tmp_path):
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    folder.mkdir()
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{i:02d}.png")
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    return [f"--images={folder}", f"--texts={tmp_path / 't.txt'}", "--part_size=3"]


@pytest.fixture
def embed(model_folder, inputs, capsys):
    """Runs the command on the inputs, into a folder; returns what it prints."""

    def run(out, *more):
        main(["embed", f"--model={model_folder}", *inputs, f"--out={out}", *more])
        return capsys.readouterr().out

    return run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stop_after(parts, monkeypatch):
    """Ends the command before it writes one more part, as a kill would."""
    write, written = embedding_parts.write_part, []

    def write_or_die(folder, number, *rest):
        if len(written) == parts:
            (folder / f".part-{number:05d}.npz.123-ab.tmp").write_bytes(b"PK half a part")
            raise MemoryError("killed")
        written.append(number)
        write(folder, number, *rest)

    monkeypatch.setattr(embedding_parts, "write_part", write_or_die)


def test_a_folder_has_the_embeddings_of_one_file(embed, model_folder, tmp_path):
    assert embed(tmp_path / "e") == f"{tmp_path / 'e'}: 12 embeddings\n"
    assert sorted(contents(tmp_path / "e")) == ["manifest.json", *PARTS]
    embed(tmp_path / "e.npz")
    found, one = read_embeddings(tmp_path / "e"), read_embeddings(tmp_path / "e.npz")
    assert found.ids.tolist() == one.ids.tolist() == IDS
    assert found.modality.tolist() == one.modality.tolist() == ["image"] * 7 + ["text"] * 5
    np.testing.assert_array_equal(found.vectors, one.vectors)
    assert found.model_id == one.model_id == vacsr_jax.load(model_folder).fingerprint()
    assert [len(part) for part in read_parts(tmp_path / "e")] == [3, 3, 1, 3, 2]


def test_a_part_is_a_file_of_embeddings(embed, tmp_path):
    embed(tmp_path / "e")
    assert read_embeddings(tmp_path / "e" / PARTS[1]).ids.tolist() == IDS[3:6]


@pytest.mark.parametrize("parts", [0, 1, 3, 4])
@pytest.mark.slow
def test_a_killed_command_resumes_and_redoes_nothing(parts, embed, tmp_path, monkeypatch):
    embed(tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(parts, patch)
        with pytest.raises(MemoryError):
            embed(tmp_path / "e")
    before = {name: (tmp_path / "e" / name).stat().st_ino for name in PARTS[:parts]}
    written = []
    write = embedding_parts.write_part
    monkeypatch.setattr(embedding_parts, "write_part", lambda f, n, *rest: written.append(n) or write(f, n, *rest))
    out = embed(tmp_path / "e")
    assert f"{tmp_path / 'e'}: {12 - len(IDS[: [0, 3, 6, 7, 10][parts]])} embeddings" in out
    assert (f"{parts} of 5 parts are there already" in out) == (parts > 0)
    assert written == list(range(parts, 5))
    assert {name: (tmp_path / "e" / name).stat().st_ino for name in PARTS[:parts]} == before
    assert contents(tmp_path / "e") == contents(tmp_path / "whole")  # and the half part is gone


def test_a_finished_folder_is_left_alone(embed, tmp_path):
    embed(tmp_path / "e")
    before = contents(tmp_path / "e")
    assert embed(tmp_path / "e").endswith("5 of 5 parts are there already\n" + f"{tmp_path / 'e'}: 0 embeddings\n")
    assert contents(tmp_path / "e") == before


@pytest.mark.parametrize("shards", [2, 3, 7])
@pytest.mark.slow
def test_shards_write_the_files_of_one_run(shards, embed, tmp_path):
    embed(tmp_path / "whole")
    for i in reversed(range(shards)):
        embed(tmp_path / "e", f"--shard={i}/{shards}")
    assert contents(tmp_path / "e") == contents(tmp_path / "whole")


def test_a_missing_shard_is_named_when_the_folder_is_read(embed, tmp_path):
    embed(tmp_path / "e", "--shard=0/2")
    with pytest.raises(ValueError, match=r"part-00001.npz is missing, and 2 of 5 parts in all; run the same"):
        read_embeddings(tmp_path / "e")


@pytest.mark.parametrize("damage", ["half", "byte", "empty", "other job"])
def test_a_damaged_part_is_made_again_with_a_warning(damage, embed, tmp_path):
    embed(tmp_path / "e")
    before, path = contents(tmp_path / "e"), tmp_path / "e" / PARTS[1]
    good = path.read_bytes()
    middle = good.index(b"embeddings.npy") + 300
    if damage == "other job":
        arrays = dict(np.load(path))
        np.savez(path, **arrays | {"job": np.array("0" * 16)})
    else:
        byte = good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :]
        path.write_bytes({"half": good[: len(good) // 2], "byte": byte, "empty": b""}[damage])
    with pytest.raises(ValueError, match=PARTS[1]):
        read_embeddings(tmp_path / "e")
    with pytest.warns(UserWarning, match=rf"{PARTS[1]}.*embedding it again"):
        assert f"{tmp_path / 'e'}: 3 embeddings" in embed(tmp_path / "e")
    assert contents(tmp_path / "e") == before


def changed(name, tmp_path, inputs):
    """Options that make another job, and what the message must say."""
    pictures, texts, size = inputs
    if name == "picture":
        Image.new("RGB", (9, 9)).save(tmp_path / "pictures" / "03.png")
    if name == "texts":
        (tmp_path / "t.txt").write_text("\n".join([*TEXTS[:-1], "a star"]))
    return {
        "picture": (inputs, "names or sizes of pictures, or texts, have changed"),
        "texts": (inputs, "names or sizes of pictures, or texts, have changed"),
        "fewer": ([pictures, size], "the texts have changed"),
        "part_size": ([pictures, texts, "--part_size=4"], "(part_size 3, now 4); give that --part_size"),
        "draft": ([*inputs, "--draft"], "(draft False, now True)"),
    }[name]


@pytest.mark.parametrize("name", ["picture", "texts", "fewer", "part_size", "draft"])
def test_another_job_is_refused(name, embed, refuse, inputs, model_folder, tmp_path):
    embed(tmp_path / "e")
    before = contents(tmp_path / "e")
    options, message = changed(name, tmp_path, inputs)
    error = refuse("embed", f"--model={model_folder}", *options, f"--out={tmp_path / 'e'}")
    assert message in error
    assert error.count("\n") == 1
    assert contents(tmp_path / "e") == before


def test_another_model_is_refused(embed, refuse, inputs, model_folder, tmp_path):
    embed(tmp_path / "e")
    shutil.copytree(model_folder, tmp_path / "other")
    description = json.loads((tmp_path / "other" / "config.json").read_text())
    description["vacsr_jax"]["clip"]["vision"]["resize"] = "squash"
    (tmp_path / "other" / "config.json").write_text(json.dumps(description))
    error = refuse("embed", f"--model={tmp_path / 'other'}", *inputs, f"--out={tmp_path / 'e'}")
    assert "holds embeddings of another job (model " in error
    assert "give that model, or another --out" in error
    error = refuse("index", f"--model={tmp_path / 'other'}", f"--documents={tmp_path / 'e'}", f"--out={tmp_path / 'i'}")
    assert "embed again, or give that model" in error


def test_a_folder_of_something_else_is_refused(refuse, inputs, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 'pictures'}")
    assert "exists and is not a folder of embeddings" in error
    error = refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 't.txt'}")
    assert "exists and is not a folder of embeddings" in error


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1}', "{"])
def test_a_damaged_manifest_is_named(text, embed, refuse, inputs, model_folder, tmp_path):
    embed(tmp_path / "e")
    (tmp_path / "e" / "manifest.json").write_text(text)
    assert "manifest.json is" in refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 'e'}")


@pytest.mark.parametrize("shard", ["2/2", "-1/2", "1", "a/b", "0/0", "1/", "0.5/2"])
def test_a_wrong_shard_is_refused(shard, refuse, inputs, model_folder, tmp_path):
    error = refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 'e'}", f"--shard={shard}")
    assert f"--shard: got {shard!r}, expected I/N" in error
    error = refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 'e.npz'}", "--shard=0/2")
    assert "--shard: shards share a folder" in error
    assert not (tmp_path / "e").exists()


def test_an_unreadable_picture_is_named_and_finished_parts_stay(embed, refuse, inputs, model_folder, tmp_path):
    (tmp_path / "pictures" / "04.png").write_bytes(b"no picture")
    error = refuse("embed", f"--model={model_folder}", *inputs, f"--out={tmp_path / 'e'}")
    assert "04.png cannot be read" in error
    assert "The finished parts stay" in error
    assert "--on_error=skip" in error
    assert sorted(contents(tmp_path / "e")) == ["manifest.json", PARTS[0]]
    with pytest.warns(UserWarning, match="1 picture was left out; the first: .*04.png cannot be read"):
        out = embed(tmp_path / "e", "--on_error=skip")
    assert f"{tmp_path / 'e'}: 8 embeddings" in out
    assert read_embeddings(tmp_path / "e").ids.tolist() == [x for x in IDS if x != "04.png"]


def test_a_part_without_any_readable_picture_is_empty(embed, inputs, model_folder, refuse, tmp_path):
    (tmp_path / "pictures" / "06.png").write_bytes(b"")  # the only one of its part
    with pytest.warns(UserWarning, match="06.png"):
        embed(tmp_path / "e", "--on_error=skip")
    assert read_embeddings(tmp_path / "e").ids.tolist() == [x for x in IDS if x != "06.png"]
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"")
    with pytest.warns(UserWarning, match="7 pictures were left out"):
        main(["embed", f"--model={model_folder}", inputs[0], f"--out={tmp_path / 'none'}", "--on_error=skip"])
    with pytest.raises(ValueError, match="holds no embedding"):
        read_embeddings(tmp_path / "none")


def test_draft_changes_large_jpegs_only(model_folder, tmp_path):
    rng = np.random.default_rng(0)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    smooth.resize((320, 240), Image.Resampling.BICUBIC).save(pictures / "large.jpg")
    smooth.resize((320, 240), Image.Resampling.BICUBIC).save(pictures / "large.png")
    smooth.save(pictures / "small.jpg")
    model = vacsr_jax.load(model_folder)
    files = sorted(pictures.iterdir())
    whole, draft = (model.cosine_vectors(model.encode_images(files, draft=draft)) for draft in (False, True))
    cosines = np.einsum("nd,nd->n", whole, draft) / np.linalg.norm(whole, axis=1) / np.linalg.norm(draft, axis=1)
    assert cosines[0] > 0.95
    assert (whole[0] != draft[0]).any()
    np.testing.assert_array_equal(whole[1:], draft[1:])


@pytest.mark.slow
def test_index_and_standardize_read_a_folder_as_they_read_a_file(embed, model_folder, tmp_path, capsys):
    embed(tmp_path / "e")
    embed(tmp_path / "e.npz")
    hits, stats = [], []
    for name in ("e", "e.npz"):
        documents = f"--documents={tmp_path / name}"
        main(["index", f"--model={model_folder}", documents, f"--queries={tmp_path / name}", f"--out={tmp_path / 'i'}"])
        main(["search", f"--index={tmp_path / 'i'}", "--text=a red circle", "--k=5", f"--model={model_folder}"])
        hits.append(capsys.readouterr().out.split("scale of")[1])
        stats.append(tmp_path / f"{name}.json")
        main(["standardize", "fit", f"--queries={tmp_path / name}", documents, f"--out={stats[-1]}"])
    assert hits[0] == hits[1]
    assert stats[0].read_text() == stats[1].read_text()
