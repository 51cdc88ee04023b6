"""`vacsr index` and `vacsr search`, with the tiny Hugging Face CLIP of the parity tests; and what they refuse."""

import json
import re
import shutil
import string
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import vacsr_jax
from vacsr_jax.cli.index import fit_index
from vacsr_jax.main import main
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.text_entropy import make_reference_images, save

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast")]
GOLDEN = Path(__file__).parents[1] / "parity" / "golden" / "hf_clip"
TEXTS = ["a red dot", "blue", "lime square", "two cats", "red", "a dog"]


def save_tokenizer(folder):
    """One token a letter, with the ids of start, end and padding that the tiny CLIP has."""
    from transformers import CLIPTokenizer

    vocab = {c + end: i for i, (c, end) in enumerate((c, end) for c in string.ascii_lowercase for end in ("", "</w>"))}
    vocab |= {f"unused{i}": i for i in range(len(vocab), 97)} | {"<|endoftext|>": 97, "<|startoftext|>": 98}
    CLIPTokenizer(vocab=vocab, merges=[], pad_token="unused60").save_pretrained(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a model, pictures and texts, and the index made of them."""
    folder = tmp_path_factory.mktemp("atomic_files")
    (folder / "clip").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name, folder / "clip")
    save_tokenizer(folder / "clip")
    (folder / "pictures" / "more").mkdir(parents=True)
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (70, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / ("more" if i else ".") / f"p{i}.png")
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    main(["index", *index_options(folder), f"--out={folder / 'index'}"])
    return folder


def index_options(folder):
    return [f"--model={folder / 'clip'}", f"--images={folder / 'pictures'}", f"--texts={folder / 'texts.txt'}"]


def rows(out):
    """Rank, what is shown and modality of each line of a table."""
    return re.findall(r"^ *(\d+)  (.*?)  +(image|text)\b", out, re.M)


def test_the_index_knows_what_it_is_made_of(files):
    index = MixedIndex.load(files / "index", model_id=vacsr_jax.load(files / "clip").fingerprint())
    assert {name: index.store.count(name) for name in index.store.modalities} == {"image": 5, "text": 6}
    assert index.contents["texts.txt:4"] == "two cats"
    assert Path(index.contents["more/p1.png"]) == (files / "pictures" / "more" / "p1.png").resolve()
    assert set(index.fits) == {"image", "text"}
    assert index.fits["text"].exclude[0] == ["texts.txt:1"]


def test_search_gives_json_with_the_numbers_of_the_index(files, capsys, tmp_path):
    asked = ["a red dot", "blue"]
    page = tmp_path / "page.html"
    main(["search", f"--index={files / 'index'}", *(f"--text={x}" for x in asked), "--k=7", "--json", f"--html={page}"])
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(answer["query"], answer["modality"]) for answer in answers] == [(x, "text") for x in asked]
    index, model = MixedIndex.load(files / "index"), vacsr_jax.load(files / "clip")
    found = index.search(model.encode_texts(asked), 7)
    for i, answer in enumerate(answers):
        assert [hit["id"] for hit in answer["hits"]] == found.ids[i].tolist()
        assert [hit["modality"] for hit in answer["hits"]] == found.modality[i].tolist()
        np.testing.assert_array_equal(np.float32([hit["z"] for hit in answer["hits"]]), found.z[i])
        np.testing.assert_array_equal(np.float32([hit["cosine"] for hit in answer["hits"]]), found.score[i])
        assert [hit["content"] for hit in answer["hits"]] == [index.contents[x] for x in found.ids[i]]
        assert {(hit["probability"], hit["uncertainty"]) for hit in answer["hits"]} == {(None, None)}
    assert page.exists()


def test_search_prints_what_the_index_finds(files, capsys):
    main(["search", f"--index={files / 'index'}", "--text=a red dot", "--text=blue", "--k=7"])
    out = capsys.readouterr().out
    index, model = MixedIndex.load(files / "index"), vacsr_jax.load(files / "clip")
    hits = index.search(model.encode_texts(["a red dot", "blue"]), 7)
    expected = [
        index.contents[x] if kind == "text" else x for x, kind in zip(hits.ids.flat, hits.modality.flat, strict=True)
    ]
    assert [shown.strip() for _, shown, _ in rows(out)] == expected
    assert [kind for _, _, kind in rows(out)] == hits.modality.ravel().tolist()
    assert f"{hits.z[0, 0]:.3f}" in out
    assert "uncertainty" not in out


def test_a_prior_brings_pictures_in(files, capsys):
    search = ["search", f"--index={files / 'index'}", "--text=red", "--k=4"]
    for prior, kinds in (("image=100", {"image"}), ("image=-100", {"text"})):
        main([*search, f"--prior={prior}"])
        assert {kind for _, _, kind in rows(capsys.readouterr().out)} == kinds


def test_a_picture_asks_and_the_page_shows_it(files, capsys, tmp_path):
    picture = files / "pictures" / "more" / "p2.png"
    page = tmp_path / "page.html"
    main(["search", f"--index={files / 'index'}", f"--image={picture}", f"--rerank={files / 'clip'}", f"--html={page}"])
    found = rows(capsys.readouterr().out)
    assert len(found) == 10
    assert "more/p2.png" in [shown for _, shown, _ in found]
    html = page.read_text()
    assert html.count("<img") == 1 + sum(kind == "image" for _, _, kind in found)
    assert "re-ranked by" in html


def test_the_second_stage_orders_the_pictures_of_a_text(files, capsys):
    main(["search", f"--index={files / 'index'}", "--text=two cats", "--k=11", f"--rerank={files / 'clip'}"])
    pictures = [shown for _, shown, kind in rows(capsys.readouterr().out) if kind == "image"]
    model = vacsr_jax.load(files / "clip")
    logits = model.score([files / "pictures" / name for name in pictures], ["two cats"]).logit[:, 0]
    assert len(pictures) == 5
    assert (np.diff(logits) <= 0).all()


def test_more_candidates_are_ordered_than_are_shown(files, capsys, refuse):
    search = [
        "search",
        f"--index={files / 'index'}",
        "--text=two cats",
        "--prior=image=100",
        f"--rerank={files / 'clip'}",
    ]
    main([*search, "--k=5"])
    best = [shown for _, shown, _ in rows(capsys.readouterr().out)]
    main([*search, "--k=2", "--candidates=5"])
    assert [shown for _, shown, _ in rows(capsys.readouterr().out)] == best[:2]
    without = refuse("search", f"--index={files / 'index'}", "--text=two cats", "--candidates=5")
    assert "--candidates: these are what --rerank orders" in without


@pytest.mark.slow
def test_embeddings_of_any_model(files, tmp_path, capsys):
    main(["embed", *index_options(files), f"--out={tmp_path / 'documents.npz'}"])
    queries = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    arrays = {
        "embeddings": queries,
        "ids": np.array(["p0.png", "q1", "q2"]),
        "modality": np.array(["image", "text", "text"]),
    }
    np.savez(tmp_path / "q.npz", **arrays, exclude=np.array(["texts.txt:1", "", ""]))
    index = ["index", f"--documents={tmp_path / 'documents.npz'}"]
    text = arrays["modality"] == "text"
    np.savez(tmp_path / "texts.npz", **{name: x[text] for name, x in arrays.items()})
    main([*index, f"--queries={tmp_path / 'texts.npz'}", f"--out={tmp_path / 'index'}"])
    assert "11 documents; scale of 2 text queries, 5 of its own image documents (few)" in capsys.readouterr().out
    main(["search", f"--index={tmp_path / 'index'}", f"--queries={tmp_path / 'q.npz'}", "--k=3"])
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in arrays["ids"]] == ["p0.png", "q1", "q2"]
    assert len(rows(out)) == 9

    reference_images = make_reference_images(np.random.default_rng(1).normal(size=(4, 24)), 1.0, weight=9.0)
    save(reference_images, tmp_path / "entropy.npz")
    main([*index, f"--reference_images={tmp_path / 'entropy.npz'}", f"--out={tmp_path / 'corrected'}"])
    corrected, plain = (MixedIndex.load(tmp_path / name) for name in ("corrected", "index"))
    asked = {"queries": queries, "k": 3, "per_modality_k": {"image": 0}}
    by_image, by_text = (corrected.search(**asked, query_modality=kind).score for kind in ("image", "text"))
    assert (by_image > by_text + 5).all()  # 9 log 4, nearly, since cosines times 1 spread over all four
    np.testing.assert_array_equal(by_text, plain.search(**asked).score)


def test_excluded_ids_reach_the_fit(files, tmp_path):
    index = MixedIndex.load(files / "index")
    queries = np.random.default_rng(0).normal(size=(2, 24)).astype(np.float32)
    np.savez(
        tmp_path / "q.npz",
        embeddings=queries,
        ids=np.array(["texts.txt:3", "q"]),
        modality=np.array(["text", "text"]),
        exclude=np.array(["p0.png texts.txt:1", ""]),
    )
    fit_index(index, None, str(tmp_path / "q.npz"))
    assert [sorted(x) for x in index.fits["text"].exclude] == [["p0.png", "texts.txt:1", "texts.txt:3"], []]


@pytest.mark.slow
def test_text_queries_set_the_scale(files, tmp_path, capsys):
    (tmp_path / "asked.txt").write_text("red\nblue\ncat")
    main(["index", *index_options(files), f"--queries={tmp_path / 'asked.txt'}", f"--out={tmp_path / 'index'}"])
    assert "scale of 3 text queries, 5 of its own image documents (few)" in capsys.readouterr().out
    assert MixedIndex.load(tmp_path / "index").stats.count[0].tolist() == [3, 3]


MISTAKES = {
    "no query": (["search", "--index={index}"], "nothing to search for; give --text"),
    "no index": (["search", "--index={pictures}", "--text=a"], "holds no index.json"),
    "unknown prior": (["search", "--index={index}", "--text=a", "--prior=audio=1"], "prior: got the modality 'audio'"),
    "bad prior": (["search", "--index={index}", "--text=a", "--prior=image"], "expected MODALITY=NUMBER such as image"),
    "k": (["search", "--index={index}", "--text=a", "--k=12"], "k: got 12, expected a whole number from 1 to 11"),
    "empty text": (["search", "--index={index}", "--text= "], "not blank"),
    "no picture": (["search", "--index={index}", "--image={texts.txt}"], "texts.txt cannot be read"),
    "both": (["search", "--index={index}", "--text=a", "--queries=q.npz"], "--queries: these are embeddings; leave"),
    "nothing": (["index", "--out={new}"], "--model: needed to embed"),
    "both sources": (
        ["index", "--documents=b.npz", "--texts={texts.txt}", "--out={new}"],
        "--documents: these are embeddings",
    ),
    "no documents": (["index", "--documents={texts.txt}", "--out={new}"], "texts.txt cannot be read as npz"),
    "not an index": (
        ["index", "--model={clip}", "--texts={texts.txt}", "--out={pictures}"],
        "exists and is not an index",
    ),
    "texts without model": (
        ["index", "--documents={npz}", "--queries={texts.txt}", "--out={new}"],
        "texts need --model",
    ),
    "other model": (["index", "--documents={npz}", "--model={clip}", "--out={new}"], "embeddings of model elsewhere"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named(mistake, files, refuse):
    command, message = MISTAKES[mistake]
    documents = {
        "embeddings": np.eye(4, dtype=np.float32),
        "ids": np.array(list("abcd")),
        "modality": np.array(["text"] * 4),
    }
    np.savez(files / "documents.npz", **documents, model_id=np.array("elsewhere"))
    command = [re.sub(r"\{(.*)\}", lambda m: str(files / m[1].replace("npz", "documents.npz")), x) for x in command]
    assert message in " ".join(refuse(*command).split())
    assert not (files / "new").exists()


def test_another_model_than_the_indexs_is_refused(files, tmp_path, refuse):
    shutil.copytree(files / "clip", tmp_path / "other")
    config = (tmp_path / "other" / "config.json").read_text()
    (tmp_path / "other" / "config.json").write_text(
        config.replace('"num_attention_heads": 4', '"num_attention_heads": 2')
    )
    message = refuse("search", f"--index={files / 'index'}", "--text=a", f"--model={tmp_path / 'other'}")
    assert "the index is of" in message
    assert vacsr_jax.load(files / "clip").fingerprint() == vacsr_jax.load(str(files / "clip")).fingerprint()
