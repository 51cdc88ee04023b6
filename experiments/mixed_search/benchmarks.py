"""MMQA, WebQA and MixBench from their official files: questions, answers and documents.

Bring the images and texts, and embed them with the questions. `label_queries` adds the answers to embedded questions,
and `vacsr standardize compare` evaluates the result.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

IMAGE, TEXT, BOTH = "image", "text", "image+text"
MMQA_TYPES = ("TextQ", "ImageQ", "ImageListQ")  # their answers are of one modality, text or image


class Document(NamedTuple):
    """A document: its modality, its text ("" if it has none or it is not known), and the file or id of its picture."""

    modality: str
    text: str = ""
    image: str = ""


class Benchmark(NamedTuple):
    """Questions by id, the ids of the documents that answer each, and the documents to search, by id."""

    questions: dict[str, str]
    answers: dict[str, tuple[str, ...]]
    documents: dict[str, Document]


def read_mmqa(questions: Path, texts: Path | None = None, images: Path | None = None) -> Benchmark:
    """MultiModalQA (Talmor et al. 2021): the questions that one modality answers, over the documents they list.

    The files are those of allenai/multimodalqa, jsonl or jsonl.gz: MMQA_dev (or train), MMQA_texts, MMQA_images. The
    questions are of the types TextQ, ImageQ and ImageListQ; other types combine modalities or ask tables. The documents
    are the union of what these questions list.
    """
    found = Benchmark({}, {}, {})
    for line in read_json_lines(questions, ("qid", "question", "metadata", "supporting_context")):
        if line["metadata"]["type"] not in MMQA_TYPES:
            continue
        parts = {(x["doc_id"], x["doc_part"]) for x in line["supporting_context"]}
        for kind, listed in ((TEXT, "text_doc_ids"), (IMAGE, "image_doc_ids")):
            own = {identity for identity, part in parts if part == kind}
            found.documents.update({x: Document(kind) for x in (*line["metadata"].get(listed, ()), *sorted(own))})
        found.questions[line["qid"]] = line["question"]
        found.answers[line["qid"]] = tuple(sorted(identity for identity, _ in parts))
    for path, kind in ((texts, TEXT), (images, IMAGE)):
        for line in read_json_lines(path, ("id",)) if path else ():
            if found.documents.get(line["id"], Document("")).modality == kind:
                found.documents[line["id"]] = Document(
                    kind, line.get("text", line.get("title", "")), line.get("path", "")
                )
    return checked(found, questions)


def read_webqa(path: Path, split: str = "val") -> Benchmark:
    """WebQA (Chang et al. 2022) from WebQA_train_val.json: the questions of a split over the facts they list.

    Facts are positive and negative. A picture's id is its `image_id`, which is the key of its line in imgs.tsv, and its
    text is the caption.
    """
    records = json.loads(Path(path).read_text(encoding="utf-8"))
    found = Benchmark({}, {}, {})
    for guid, record in records.items():
        if record["split"] != split:
            continue
        gold = []
        for kind, key in ((IMAGE, "image_id"), (TEXT, "snippet_id")):
            prefix = "img" if kind == IMAGE else "txt"
            for fact in (*record.get(f"{prefix}_posFacts", ()), *record.get(f"{prefix}_negFacts", ())):
                identity = str(fact[key])
                text = fact.get("caption" if kind == IMAGE else "fact", "")
                found.documents[identity] = Document(kind, text, identity if kind == IMAGE else "")
            gold += [str(fact[key]) for fact in record.get(f"{prefix}_posFacts", ())]
        found.questions[guid], found.answers[guid] = record["Q"], tuple(gold)
    return checked(found, path)


def read_webqa_qrels(qrels: Path, questions: Path) -> Benchmark:
    """The retrieval split of WebQA that UniVL-DR uses (Liu et al. 2023): relevant documents, without texts or pictures.

    A line of `qrels` is question, document, 1. `questions` is a table of guid, modality_of_gold, qcate and question.
    Both are separated by tabs. The id of a picture is a number; that of a text is not.
    """
    found = Benchmark({}, {}, {})
    for number, line in enumerate(read_lines(qrels), 1):
        cells = line.split("\t")
        if len(cells) != 3:
            raise ValueError(f"{qrels}: line {number} has {len(cells)} cells, expected question, document, relevance")
        guid, document, relevance = cells
        if int(relevance) > 0:
            found.answers[guid] = (*found.answers.get(guid, ()), document)
            found.documents[document] = Document(IMAGE if document.isdigit() else TEXT)
    for line in read_lines(questions)[1:]:
        guid, _, _, question = line.split("\t")
        if guid in found.answers:
            found.questions[guid] = question
    return checked(found, qrels)


def make_mixbench(
    queries: Iterable[Mapping[str, Any]], corpus: Iterable[Mapping[str, Any]], qrels: Iterable[Mapping[str, Any]]
) -> Benchmark:
    """A subset of MixBench (GR-CLIP, 2507.19054) from the rows of its splits query, mixed_corpus and qrel.

    The columns are query_id, corpus_id, text, image and score, as `datasets.load_dataset` gives them. A document with a
    text and a picture has a modality of its own, "image+text". Its `image` is kept as a name only if it is a string.
    """
    found = Benchmark({}, {}, {})
    for row in corpus:
        text, image = row.get("text") or "", row.get("image")
        has_image = image is not None and image != ""
        kind = BOTH if text and has_image else IMAGE if has_image else TEXT
        found.documents[str(row["corpus_id"])] = Document(kind, text, image if isinstance(image, str) else "")
    for row in qrels:
        if int(row["score"]) > 0:
            guid = str(row["query_id"])
            found.answers[guid] = (*found.answers.get(guid, ()), str(row["corpus_id"]))
    for row in queries:
        if str(row["query_id"]) in found.answers:
            found.questions[str(row["query_id"])] = row.get("text") or ""
    return checked(found, "MixBench")


def checked(found: Benchmark, where: Path | str) -> Benchmark:
    """The benchmark; raises ValueError if a question lacks an answer, or an answer its document."""
    if not found.questions or set(found.questions) != set(found.answers):
        odd = sorted(set(found.questions) ^ set(found.answers))
        raise ValueError(f"{where}: {len(found.questions)} questions, {len(odd)} without text or answer: {odd[:3]}")
    empty = [guid for guid, ids in found.answers.items() if not ids]
    missing = {x for ids in found.answers.values() for x in ids if x not in found.documents}
    if empty or missing:
        raise ValueError(f"{where}: no answer for {empty[:3]}; answers without a document {sorted(missing)[:3]}")
    return found


def label_queries(benchmark: Benchmark, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of embedded questions (`embeddings`, `ids`, `modality`) with their `answers`, to write as npz.

    Raises:
      ValueError: if an id is not a question of the benchmark.
    """
    unknown = [x for x in arrays["ids"].tolist() if x not in benchmark.answers]
    if unknown:
        raise ValueError(f"{len(unknown)} embedded questions are not of the benchmark, the first {unknown[:3]}")
    answers = [" ".join(benchmark.answers[x]) for x in arrays["ids"].tolist()]
    return {**arrays, "answers": np.array(answers)}


def read_lines(path: Path) -> list[str]:
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_json_lines(path: Path, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a jsonl or jsonl.gz; raises ValueError, naming file and line, if one lacks a field."""
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}: line {number} is not JSON ({error})") from error
            missing = [name for name in wanted if name not in values]
            if missing:
                raise ValueError(f"{path}: line {number} has no {', '.join(missing)}")
            yield values
