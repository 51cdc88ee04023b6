"""What `vacsr index` and `vacsr search` do, once their arguments are understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.commands import PICTURES, embed_files, read_lines
from vacsr_jax.data.embeddings import Embeddings, excluded_rows, read_embeddings
from vacsr_jax.pretrained import Pretrained, load, read_image
from vacsr_jax.report.search_page import Answer, Found, write_search_page
from vacsr_jax.report.tables import format_table
from vacsr_jax.search import text_entropy
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.index.rerank import Reranked, rerank_hits
from vacsr_jax.search.standardize.ranking import Hits
from vacsr_jax.search.standardize.statistics import FEW_QUERIES

OWN_QUERIES = 2000  # of its own documents an index is fitted with, where no queries are given
CHUNK = 65_536  # documents added at once
K = 10
OTHER = {"text": "image", "image": "text"}  # what a pair model scores a query's modality with


def build_index(
    model: str | None,
    images: str | None,
    texts: str | None,
    bank: str | None,
    queries: str | None,
    out: Path,
    image_bank: str | None = None,
) -> None:
    """An index of a folder's pictures and a file's texts, or of an npz; fitted, saved, and its bias printed."""
    loaded = load(model) if model else None
    kept = text_entropy.load(image_bank) if image_bank else None
    if bank:
        if images or texts:
            raise ValueError("--bank: has embeddings already; leave --images and --texts out")
        index = index_of_npz(Path(bank), loaded.fingerprint() if loaded else None, kept)
    else:
        if loaded is None:
            raise ValueError("--model: needed to embed --images and --texts; or give --bank=FILE.npz")
        index = MixedIndex(loaded.fingerprint(), reference_images=kept)
        index.add(*embed_files(loaded, images, texts))
    if model:
        index.about["model"] = str(Path(model).resolve()) if Path(model).exists() else model
    fitted = fit(index, loaded, queries)
    index.save(out)
    asked = "text" if "text" in index.fits else next(iter(index.fits))
    rows, columns = index.diagnose(query_modality=asked).rows()
    print(f"{asked} queries:\n{format_table(rows, columns)}")
    print(f"\n{out}: {len(index)} documents; scale of {', '.join(fitted)}")


def index_of_npz(
    path: Path, model_id: str | None, reference_images: text_entropy.ReferenceImages | None = None
) -> MixedIndex:
    """An index of a file as `vacsr embed` writes it.

    Raises:
      ValueError: if the file says it is of another model.
    """
    bank = read_embeddings(path)
    named = bank.model_id
    if model_id and named and model_id != named:
        raise ValueError(f"{path}: embeddings of model {named}, --model is {model_id}; embed again, or give that model")
    index = MixedIndex(model_id or named, reference_images=reference_images)
    for start in range(0, len(bank), CHUNK):
        part = slice(start, start + CHUNK)
        index.add(bank.vectors[part], bank.ids[part].tolist(), bank.modality[part].tolist())
    return index


def fit(index: MixedIndex, model: Pretrained | None, queries: str | None) -> list[str]:
    """Fits an index with queries of a file; for modalities that has none of, with its own documents. Says which."""
    said = []
    if queries and Path(queries).suffix == ".npz":
        asked = read_embeddings(queries)
        exclude = excluded_ids(asked, index)
        for name in dict.fromkeys(asked.modality.tolist()):
            mine = np.flatnonzero(asked.modality == name)
            index.fit(asked.vectors[mine], name, [exclude[i] for i in mine])
            said.append(f"{len(mine)} {name} queries")
    elif queries:
        if model is None:
            raise ValueError("--queries: texts need --model to embed them; or give an npz")
        lines = read_lines(Path(queries))
        index.fit(model.cosine_vectors(model.encode_texts(lines)))
        said.append(f"{len(lines)} text queries")
    for name in index.store.modalities:
        if name not in index.fits:
            n = fit_with_own(index, name)
            said.append(f"{n} of its own {name} documents" + (" (few)" if n < FEW_QUERIES else ""))
    return said


def excluded_ids(queries: Embeddings, index: MixedIndex) -> list[list[str]]:
    """What each query of a file excludes, and itself where it is a document."""
    ids = [x for name in index.store.modalities for x in index.store.ids(name)]
    kinds = [name for name in index.store.modalities for _ in index.store.ids(name)]
    documents = Embeddings(np.zeros((len(ids), queries.vectors.shape[1]), np.float32), np.array(ids), np.array(kinds))
    return [[ids[row] for row in rows if row >= 0] for rows in excluded_rows(queries, documents)]


def fit_with_own(index: MixedIndex, modality: str) -> int:
    """Fits an index with documents of its own, each of which does not find itself; returns their number."""
    ids = index.store.ids(modality)
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), OWN_QUERIES)).astype(int))
    vectors = np.concatenate(list(index.store.vectors(modality)))[chosen]
    index.fit(vectors, modality, [[ids[i]] for i in chosen])
    return len(chosen)


def search_index(
    folder: str,
    texts: Sequence[str],
    images: Sequence[str],
    queries: str | None,
    k: int | None,
    prior: Mapping[str, float],
    model: str | None,
    second_stage: str | None,
    html: str | None,
) -> None:
    """Searches a saved index: a table for each query, and a page."""
    given = [name for name, x in (("--text", texts), ("--image", images), ("--queries", queries)) if x]
    if not given:
        raise ValueError("nothing to search for; give --text, --image or --queries=FILE.npz")
    if queries and (len(given) > 1 or second_stage):
        raise ValueError("--queries: embeddings only; leave --text, --image and --rerank out")
    index = MixedIndex.load(folder)
    asked = npz_queries(Path(queries)) if queries else embedded_queries(index, texts, images, model)
    pair_model = load(second_stage) if second_stage else None
    k = k if k is not None else min(K, len(index))
    answers = []
    for content, vector, modality in asked:
        hits = index.search(vector[None], k, query_modality=modality, prior=prior)
        one = Hits(*(column[0] for column in hits))
        ranked = second_look(one, index, pair_model, content, modality) if pair_model else without_second(one)
        print_hits(content, ranked, index.contents)
        answers.append(answer(content, modality, ranked, index.contents) if html else None)
    if html:
        stage = f", other modality re-ranked by {second_stage}" if second_stage else ""
        shift = f", prior {', '.join(f'{name} {x:+g}' for name, x in prior.items())}" if prior else ""
        write_search_page(Path(html), answers, f"{len(index)} documents of {folder}{shift}{stage}")
        print(f"{html} shows the results")


Query = tuple[str, np.ndarray, str]  # its text, its picture's file, or its id; vector; modality


def npz_queries(path: Path) -> list[Query]:
    found = read_embeddings(path)
    return list(zip(found.ids.tolist(), found.vectors, found.modality.tolist(), strict=True))


def embedded_queries(index: MixedIndex, texts: Sequence[str], images: Sequence[str], model: str | None) -> list[Query]:
    """The queries in the embedding of the index's own model.

    Raises:
      ValueError: if that model is not known or not there, or another one is given.
    """
    name = model or index.about.get("model")
    if name is None:
        raise ValueError("--model: the index does not know what embedded it; give the model, or --queries=FILE.npz")
    loaded = load(name)
    if index.model_id and loaded.fingerprint() != index.model_id:
        raise ValueError(
            f"{name} is model {loaded.fingerprint()}, the index is of {index.model_id}; build it again: `vacsr index`"
        )
    vectors = [loaded.encode_texts(list(texts))] if texts else []
    vectors += [loaded.encode_images(list(images))] if images else []
    kinds = ["text"] * len(texts) + ["image"] * len(images)
    return list(zip([*texts, *images], loaded.cosine_vectors(np.concatenate(vectors)), kinds, strict=True))


def second_look(hits: Hits, index: MixedIndex, model: Pretrained, query: str, modality: str) -> Reranked:
    """The hits of the other modality in the order of a pair model, which sees pictures and texts themselves."""

    def score(ids: list[str]) -> Any:
        unknown = [x for x in ids if x not in index.contents]
        if unknown:
            raise ValueError(
                f"--rerank: the index does not know the picture or text of {unknown[0]!r}; build it of files"
            )
        found = [index.contents[x] for x in ids]
        return model.score(found, [query]) if modality == "text" else model.score([query], found)

    return rerank_hits(hits, score, OTHER[modality])


def without_second(hits: Hits) -> Reranked:
    return rerank_hits(hits, lambda _: None, "")


def print_hits(query: str, ranked: Reranked, contents: Mapping[str, str]) -> None:
    """A table of the results; columns without a number are left out."""
    hits = ranked.hits
    columns = {"z": hits.z, "cos": hits.score, "p": ranked.probability, "uncertainty": ranked.uncertainty}
    columns = {name: x for name, x in columns.items() if not np.isnan(x).all()}
    rows = []
    for i, (x, modality) in enumerate(zip(hits.ids, hits.modality, strict=True)):
        shown = contents.get(x, x) if modality == "text" else x
        numbers = [None if np.isnan(column[i]) else float(column[i]) for column in columns.values()]
        rows.append([f"{i + 1:>3}  {shown if len(shown) <= 60 else shown[:59] + '…'}", modality, *numbers])
    print(f"{query}\n{format_table(rows, ['', 'modality', *columns])}\n")


def answer(query: str, modality: str, ranked: Reranked, contents: Mapping[str, str]) -> Answer:
    """A query's results for the page, with their pictures."""
    number = lambda x: None if np.isnan(x) else float(x)  # noqa: E731
    found = [
        Found(x, kind, content_of(contents.get(x), kind), float(score), float(z), number(p), number(u))
        for x, kind, score, z, p, u in zip(*ranked.hits, ranked.probability, ranked.uncertainty, strict=True)
    ]
    picture = modality == "image" and Path(query).is_file()
    return Answer(read_image(query) if picture else query, found)


def content_of(content: str | None, modality: str) -> np.ndarray | str | None:
    """A picture's pixels, or a text; None for what the index does not know, or a picture that has moved.

    An index may be anyone's: what it names is opened only as `vacsr index` writes it, by the whole path of a picture.
    """
    if content is None or modality != "image":
        return content
    path = Path(content)
    named = path.is_absolute() and path.suffix.lower() in PICTURES
    return read_image(content) if named and path.is_file() else None
