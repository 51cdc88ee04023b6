"""MMQA, WebQA and MixBench: small files in the official formats, and WebQA's real tables where they are."""

import collections
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.mixed_search import benchmarks as B
from experiments.mixed_search.benchmarks import BOTH, IMAGE, TEXT, Document

WEBQA = Path(__file__).parents[2].parent / "shared/data/webqa"


def mmqa_question(qid, kind, gold, texts=(), images=()):
    context = [{"doc_id": identity, "doc_part": part} for identity, part in gold]
    metadata = {"type": kind, "text_doc_ids": list(texts), "image_doc_ids": list(images)}
    return {"qid": qid, "question": f"{qid}?", "answers": [], "metadata": metadata, "supporting_context": context}


def write_json_lines(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_mmqa_keeps_the_questions_of_one_modality_and_the_union_of_their_pools(tmp_path):
    questions = [
        mmqa_question("a", "TextQ", [("t2", "text"), ("t1", "text")], ["t1", "t2", "t3"], ["i1"]),
        mmqa_question("b", "ImageQ", [("i9", "image")], ["t4"], ["i1", "i2"]),  # its answer is not in its list
        mmqa_question("c", "Compose(TextQ,TableQ)", [("t7", "text")], ["t7"]),
        mmqa_question("d", "ImageListQ", [("i1", "image")]),
    ]
    texts = [{"title": "T", "url": "", "id": "t1", "text": "one"}, {"title": "T", "url": "", "id": "t7", "text": "no"}]
    found = B.read_mmqa(
        write_json_lines(tmp_path / "q.jsonl.gz", questions),
        write_json_lines(tmp_path / "t.jsonl", texts),
        write_json_lines(tmp_path / "i.jsonl.gz", [{"title": "Cat", "url": "", "id": "i1", "path": "i1.jpg"}]),
    )
    assert found.questions == {"a": "a?", "b": "b?", "d": "d?"}
    assert found.answers == {"a": ("t1", "t2"), "b": ("i9",), "d": ("i1",)}
    assert set(found.documents) == {"t1", "t2", "t3", "t4", "i1", "i2", "i9"}
    assert found.documents["t1"] == Document(TEXT, "one")
    assert found.documents["i1"] == Document(IMAGE, "Cat", "i1.jpg")
    assert found.documents["i9"] == Document(IMAGE)


def test_webqa_reads_a_split_with_good_and_bad_facts(tmp_path):
    image = {"image_id": 30000001, "caption": "a tower", "title": "", "url": "", "imgUrl": ""}
    text = {"fact": "it is tall", "url": "", "title": "", "snippet_id": "g2_0"}
    other = {"fact": "it is old", "url": "", "title": "", "snippet_id": "g1_4"}
    empty = {"img_negFacts": [], "txt_posFacts": [], "img_posFacts": [], "txt_negFacts": []}
    records = {
        "g1": {
            **empty,
            "Q": "color?",
            "Qcate": "color",
            "split": "val",
            "img_posFacts": [image],
            "txt_negFacts": [other],
        },
        "g2": {**empty, "Q": "tall?", "Qcate": "text", "split": "val", "txt_posFacts": [text]},
        "g3": {**empty, "Q": "no?", "Qcate": "text", "split": "train", "txt_posFacts": [text]},
    }
    (tmp_path / "w.json").write_text(json.dumps(records))
    found = B.read_webqa(tmp_path / "w.json")
    assert found.questions == {"g1": "color?", "g2": "tall?"}
    assert found.answers == {"g1": ("30000001",), "g2": ("g2_0",)}
    assert found.documents == {
        "30000001": Document(IMAGE, "a tower", "30000001"),
        "g1_4": Document(TEXT, "it is old"),
        "g2_0": Document(TEXT, "it is tall"),
    }


@pytest.mark.skipif(not WEBQA.is_dir(), reason="shared/data/webqa is not beside this checkout")
def test_webqas_real_tables_have_the_published_counts():
    found = B.read_webqa_qrels(WEBQA / "univldr_test_qrels.txt", WEBQA / "webqa_val_questions.tsv")
    assert len(found.questions) == 4966
    kinds = [{found.documents[x].modality for x in ids} for ids in found.answers.values()]
    assert collections.Counter(map(tuple, kinds)) == {(IMAGE,): 2511, (TEXT,): 2455}  # no question mixes them
    assert collections.Counter(map(len, found.answers.values())) == {1: 1399, 2: 3476, 3: 86, 4: 5}
    assert collections.Counter(d.modality for d in found.documents.values()) == {IMAGE: 3353, TEXT: 5002}
    stated = [line.split("\t")[:2] for line in B.read_lines(WEBQA / "webqa_val_questions.tsv")[1:]]
    names = {"img": IMAGE, "txt": TEXT}
    assert all(found.documents[found.answers[guid][0]].modality == names[kind] for guid, kind in stated)


def test_mixbench_tells_three_kinds_of_documents():
    queries = [{"query_id": 1, "text": "a dog"}, {"query_id": 2, "text": "nobody knows"}]
    corpus = [
        {"corpus_id": "x", "text": "a dog", "image": None},
        {"corpus_id": "y", "text": "", "image": "y.png"},
        {"corpus_id": "z", "text": "a cat", "image": object()},
    ]
    qrels = [
        {"query_id": 1, "corpus_id": "x", "score": 1},
        {"query_id": 1, "corpus_id": "z", "score": 2},
        {"query_id": 2, "corpus_id": "y", "score": 0},
    ]
    found = B.make_mixbench(queries, corpus, qrels)
    assert found.questions == {"1": "a dog"}
    assert found.answers == {"1": ("x", "z")}
    assert [d.modality for d in found.documents.values()] == [TEXT, IMAGE, BOTH]
    assert found.documents["y"].image == "y.png"


def test_labels_are_added_to_embedded_questions():
    found = B.Benchmark({"a": "?", "b": "?"}, {"a": ("x", "y"), "b": ("z",)}, {})
    arrays = {
        "embeddings": np.eye(2, dtype=np.float32),
        "ids": np.array(["b", "a"]),
        "modality": np.array(["text"] * 2),
    }
    labelled = B.label_queries(found, arrays)
    assert labelled["answers"].tolist() == ["z", "x y"]
    assert set(labelled) == {*arrays, "answers"}
    with pytest.raises(ValueError, match=r"1 embedded questions are not of the benchmark, the first \['c'\]"):
        B.label_queries(found, {**arrays, "ids": np.array(["b", "c"])})


def test_broken_files_are_named(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"qid": "a"}\n')
    with pytest.raises(ValueError, match=r"q\.jsonl: line 1 has no question, metadata"):
        B.read_mmqa(tmp_path / "q.jsonl")
    (tmp_path / "q.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"q\.jsonl: line 1 is not JSON"):
        B.read_mmqa(tmp_path / "q.jsonl")
    write_json_lines(tmp_path / "q.jsonl", [mmqa_question("a", "TextQ", [])])
    with pytest.raises(ValueError, match=r"no answer for \['a'\]"):
        B.read_mmqa(tmp_path / "q.jsonl")
    (tmp_path / "r.txt").write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"r\.txt: line 1 has 2 cells"):
        B.read_webqa_qrels(tmp_path / "r.txt", tmp_path / "r.txt")
    with pytest.raises(ValueError, match=r"1 questions, 1 without text or answer: \['2'\]|0 questions"):
        B.make_mixbench([], [{"corpus_id": "x", "text": "a"}], [{"query_id": 2, "corpus_id": "x", "score": 1}])
