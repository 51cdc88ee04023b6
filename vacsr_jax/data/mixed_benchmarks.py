"""MMQA, WebQA and MixBench from their official files: questions, what answers them, and what they search.

Images and texts are the user's to supply and to embed; `label_queries` adds the answers to embedded questions, and
`vacsr standardize compare` judges the result.
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
    """Something to find: its modality, its text ("" if there is none or it is not known), its picture's file or id."""

    modality: str
    text: str = ""
    image: str = ""


class Benchmark(NamedTuple):
    """Questions [q] by id, the ids of the documents that answer each, and the documents that are searched, by id."""

    questions: dict[str, str]
    answers: dict[str, tuple[str, ...]]
    documents: dict[str, Document]


def read_mmqa(questions: Path, texts: Path | None = None, images: Path | None = None) -> Benchmark:
    """MultiModalQA (Talmor et al. 2021): the questions that one modality answers, over the documents they list.

    Files of allenai/multimodalqa, jsonl or jsonl.gz: MMQA_dev (or train), MMQA_texts, MMQA_images. Of the types TextQ,
    ImageQ and ImageListQ; others combine modalities or ask tables. The pool is the union of what these questions list.
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
    """WebQA (Chang et al. 2022) from WebQA_train_val.json: a split's questions over the facts they list, good and bad.

    A picture's id is its `image_id`, which is its line's key in imgs.tsv; its text is the caption.
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

    `qrels` has lines of question, document, 1; `questions` is a table guid, modality_of_gold, qcate, question; both
    have tabs between. A picture's id is a number, a text's is not.
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

    Columns query_id, corpus_id, text, image, score; as `datasets.load_dataset` gives them. A document with both a text
    and a picture is of a modality of its own, "image+text". Its `image` is kept as a name only if it is a string.
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
    """The benchmark; ValueError if a question lacks an answer or an answer its document."""
    if not found.questions or set(found.questions) != set(found.answers):
        odd = sorted(set(found.questions) ^ set(found.answers))
        raise ValueError(f"{where}: {len(found.questions)} questions, {len(odd)} without text or answer: {odd[:3]}")
    empty = [guid for guid, ids in found.answers.items() if not ids]
    missing = {x for ids in found.answers.values() for x in ids if x not in found.documents}
    if empty or missing:
        raise ValueError(f"{where}: no answer for {empty[:3]}; answers without a document {sorted(missing)[:3]}")
    return found


def label_queries(benchmark: Benchmark, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Embedded questions (`embeddings`, `ids`, `modality`; ids are the benchmark's) with their `answers`, for npz.

    Raises:
      ValueError: if an id is no question of the benchmark's.
    """
    unknown = [x for x in arrays["ids"].tolist() if x not in benchmark.answers]
    if unknown:
        raise ValueError(f"{len(unknown)} embedded questions are not the benchmark's, the first {unknown[:3]}")
    answers = [" ".join(benchmark.answers[x]) for x in arrays["ids"].tolist()]
    return {**arrays, "answers": np.array(answers)}


def read_lines(path: Path) -> list[str]:
    return Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_json_lines(path: Path, wanted: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The objects of a jsonl or jsonl.gz; ValueError, naming file and line, for one that lacks a field."""
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
