"""`vacsr search`: ranks pictures and texts of an index together."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.data.embeddings import read_embeddings
from vacsr_jax.report.tables import format_table

if TYPE_CHECKING:
    from vacsr_jax.pretrained import EmbeddingModel, Pretrained
    from vacsr_jax.report.search_page import Answer
    from vacsr_jax.search.index import MixedIndex
    from vacsr_jax.search.index.rerank import Reranked
    from vacsr_jax.search.standardize.ranking import Hits

EXAMPLE = """example:
  vacsr search --index=my_index --text="a cat on a sofa" --html=found.html
  vacsr search --index=my_index --image=cat.png --k=20 --prior=image=0.5
  vacsr search --index=my_index --text="a red square" --rerank=runs/scenes
  vacsr search --index=my_index --queries=queries.npz
  vacsr search --index=my_index --queries=queries.npz --rerank=runs/adapter
  vacsr search --index=my_index --text="a cat on a sofa" --json
  vacsr search --index=my_index --text="a cat on a sofa" --where=source=web --where=year=2024 --where=year=2023

Results are ranked by z: how far a similarity lies above a typical best match of its modality, in standard deviations. A
prior is added to it: image=0.5 shows more pictures. --rerank orders the results of the other modality by a trained
model, which reads the pictures and texts themselves, and shows its uncertainty. With --candidates it orders more of
them than are shown. A model on embeddings
(configs/embeddings.py) reads the vectors of the index instead. --json prints one object a query, on a line: query,
modality, and hits, each with id, modality, z, cosine, probability, uncertainty and content (a picture's file, or the
text). A number that the index or model does not give is null."""

K = 10
SHOWN = 60  # letters of a text

Query = tuple[str, np.ndarray, str]  # its text, its picture's file, or its id; its vector; its modality


def register(verbs: Verbs) -> None:
    parser = verbs.add("search", run, "Search an index with texts or pictures.", EXAMPLE)
    parser.add_argument("--index", help="folder that `vacsr index` wrote", required=True)
    parser.add_argument("--text", action="append", default=[], help="a query; may be given more than once")
    parser.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture as query")
    parser.add_argument("--queries", metavar="NPZ", help="embeddings of queries, instead of texts and pictures")
    parser.add_argument("--k", type=int, help=f"how many results (default: {K})")
    parser.add_argument(
        "--prior",
        action="append",
        default=[],
        type=modality_number,
        metavar="MODALITY=NUMBER",
        help="added to the z of a modality; may be given more than once",
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="only documents with this metadata; the same key again adds another value, another key narrows",
    )
    parser.add_argument("--model", help="the model that embeds the query (default: the one that embedded the index)")
    parser.add_argument("--rerank", metavar="MODEL", help="a model that re-ranks, such as a trained workdir")
    parser.add_argument(
        "--candidates",
        type=int,
        metavar="N",
        help="how many results --rerank orders, of which --k are shown (default: k)",
    )
    parser.add_argument("--html", metavar="FILE", help="page to write, with the pictures")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables: one object a query")


def modality_number(argument: str) -> tuple[str, float]:
    name, separator, number = argument.rpartition("=")
    try:
        if not separator or not name:
            raise ValueError
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {argument!r}, expected MODALITY=NUMBER such as image=0.5") from None


def read_where(arguments: list[str]) -> dict[str, list] | None:
    """The filter that KEY=VALUE arguments mean. 2024 and true are a number and a bool, anything else is a text."""
    where: dict[str, list] = {}
    for argument in arguments:
        key, separator, text = argument.partition("=")
        if not separator or not key:
            raise ValueError(f"--where: got {argument!r}, expected KEY=VALUE such as source=web")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        where.setdefault(key, []).append(value if isinstance(value, str | int) else text)
    return where or None


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    if not (options.text or options.image or options.queries):
        raise ValueError("nothing to search for; give --text, --image or --queries=FILE.npz")
    if options.queries and (options.text or options.image):
        raise ValueError("--queries: these are embeddings; leave --text and --image out")
    from vacsr_jax.search.index import MixedIndex

    with contextlib.closing(MixedIndex.load(options.index)) as index:
        answer(index, options)


def answer(index: MixedIndex, options: argparse.Namespace) -> None:
    """Searches an index and shows what it finds."""
    from vacsr_jax.pretrained import EmbeddingModel, load
    from vacsr_jax.report.search_page import write_search_page
    from vacsr_jax.search.standardize.ranking import Hits
    from vacsr_jax.serve.answers import json_answer, not_reranked, without_z

    prior, where = dict(options.prior), read_where(options.where)
    queries = read_queries(Path(options.queries), index) if options.queries else embed_queries(index, options)
    pair_model = load(options.rerank) if options.rerank else None
    if pair_model and isinstance(pair_model, EmbeddingModel) != bool(options.queries):
        raise ValueError(
            f"--rerank: {options.rerank} compares embeddings; give --queries=FILE.npz"
            if options.text or options.image
            else f"--rerank: {options.rerank} reads pictures and texts, and --queries are embeddings; leave it out"
        )
    if options.candidates is not None and pair_model is None:
        raise ValueError("--candidates: these are what --rerank orders; give a model, or leave it out")
    n = sum(index.counts(where).values()) if where else len(index)
    if n == 0 and where:
        raise ValueError(f"--where: no document of {options.index} has {' and '.join(options.where)}")
    k = min(options.k if options.k is not None else K, n) if where or options.k is None else options.k
    candidates = max(k, min(options.candidates or k, n))
    answers = []
    for content, vector, modality in queries:
        hits = index.search(vector[None], candidates, query_modality=modality, prior=prior, where=where)
        one = Hits(*(column[0] for column in hits))
        if isinstance(pair_model, EmbeddingModel):
            ranked = reranked_vectors(one, index, pair_model, vector, modality)
        else:
            ranked = reranked(one, index, pair_model, content, modality) if pair_model else not_reranked(one)
        ranked = first_of(ranked, k)
        by_cosine = index.ranks_by_cosine(modality)
        if by_cosine:  # what the index gives as z is then the cosine
            ranked = without_z(ranked)
        if options.json:
            print(json.dumps(json_answer(content, modality, ranked, index.contents), ensure_ascii=False))
        else:
            print_hits(content, ranked, index.contents, " (ranked by cosine)" if by_cosine else "")
        if options.html:
            answers.append(page_answer(content, modality, ranked, index.contents))
    if options.html:
        report_missing(answers)
        stage = f", other modality re-ranked by {options.rerank}" if options.rerank else ""
        shift = f", prior {', '.join(f'{name} {x:+g}' for name, x in prior.items())}" if prior else ""
        write_search_page(Path(options.html), answers, f"{len(index)} documents of {options.index}{shift}{stage}")
        print(f"{options.html} shows the results", file=sys.stderr if options.json else sys.stdout)


def first_of(ranked: Reranked, k: int) -> Reranked:
    """The first k results."""
    hits, *numbers = ranked
    return type(ranked)(type(hits)(*(column[:k] for column in hits)), *(column[:k] for column in numbers))


def read_queries(path: Path, index: MixedIndex) -> list[Query]:
    """The queries of a file, projected by the model of the index if that projects embeddings."""
    found = read_embeddings(path)
    if index.about.get("projected"):
        from vacsr_jax.pretrained import EmbeddingModel, load

        model = load(str(index.about["model"]))
        if not isinstance(model, EmbeddingModel):
            raise ValueError(f"{index.about['model']} is no longer the model on embeddings that made the index")
        found = model.projected(found)
    return list(zip(found.ids.tolist(), found.vectors, found.modality.tolist(), strict=True))


def embed_queries(index: MixedIndex, options: argparse.Namespace) -> list[Query]:
    """Embeds the queries `options.text` and `options.image` with the model that embedded the index.

    Raises:
      ValueError: if that model is not known or cannot be loaded, or `options.model` is a different one.
    """
    from vacsr_jax.serve.answers import model_of

    model = model_of(index, options.model, ", or --queries=FILE.npz")
    vectors = [model.cosine_vectors(model.encode_texts(options.text))] if options.text else []
    vectors += [model.cosine_vectors(model.encode_images(options.image))] if options.image else []
    kinds = ["text"] * len(options.text) + ["image"] * len(options.image)
    contents = [*options.text, *options.image]
    return list(zip(contents, np.concatenate(vectors), kinds, strict=True))


def reranked(hits: Hits, index: MixedIndex, model: Pretrained, query: str, modality: str) -> Reranked:
    """Reorders the hits of the other modality by a pair model, which reads the pictures and texts themselves."""
    from vacsr_jax.search.index.rerank import rerank_hits
    from vacsr_jax.serve.answers import OTHER

    def score(ids: list[str]) -> Any:
        unknown = [x for x in ids if x not in index.contents]
        if unknown:
            raise ValueError(
                f"--rerank: the index does not hold the picture or text of {unknown[0]!r}; build it from files"
            )
        found = [index.contents[x] for x in ids]
        return model.score(found, [query]) if modality == "text" else model.score([query], found)

    return rerank_hits(hits, score, OTHER[modality])


def reranked_vectors(
    hits: Hits, index: MixedIndex, model: EmbeddingModel, query: np.ndarray, modality: str
) -> Reranked:
    """Reorders the hits of the other modality by a model on embeddings, which reads the vectors of the index."""
    from vacsr_jax.search.index.rerank import rerank_hits
    from vacsr_jax.serve.answers import OTHER

    def score(ids: list[str]) -> Any:
        found = index.vectors_of(ids, OTHER[modality])
        score = model.score_projected if index.about.get("projected") else model.score
        return score(found, query[None]) if modality == "text" else score(query[None], found)

    return rerank_hits(hits, score, OTHER[modality])


def print_hits(query: str, ranked: Reranked, contents: Mapping[str, str], note: str = "") -> None:
    """Prints a table of the results, without the columns that have no numbers; `note` stands beside the query."""
    from vacsr_jax.serve.answers import number

    hits = ranked.hits
    columns = {"z": hits.z, "cos": hits.score, "p": ranked.probability, "uncertainty": ranked.uncertainty}
    columns = {name: x for name, x in columns.items() if not np.isnan(x).all()}
    rows = []
    for i, (x, modality) in enumerate(zip(hits.ids, hits.modality, strict=True)):
        shown = contents.get(x, x) if modality == "text" else x
        shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
        rows.append([f"{i + 1:>3}  {shown}", modality, *(number(column[i]) for column in columns.values())])
    print(f"{query}{note}\n{format_table(rows, ['', 'modality', *columns])}\n")


def report_missing(answers: list[Answer]) -> None:
    """Warns of pictures that the page cannot show."""
    faults = [x.fault for answer in answers for x in answer.found if x.fault]
    if faults:
        warnings.warn(
            f"{len(faults)} pictures cannot be shown; the first: {faults[0]}. If they were moved, `vacsr index --add "
            "--images=FOLDER --out=INDEX` tells the index where they are",
            stacklevel=2,
        )


def page_answer(query: str, modality: str, ranked: Reranked, contents: Mapping[str, str]) -> Answer:
    """Builds a query's results for the page, with their pictures."""
    from vacsr_jax.data.given import read_picture
    from vacsr_jax.report.search_page import Answer, Found
    from vacsr_jax.serve.answers import number

    found = []
    for x, kind, score, z, p, u in zip(*ranked.hits, ranked.probability, ranked.uncertainty, strict=True):
        content, fault = content_of(contents.get(x), kind)
        link = Path(contents[x]).as_uri() if isinstance(content, np.ndarray) else ""
        found.append(Found(x, kind, content, float(score), number(z), number(p), number(u), fault, link))
    picture = modality == "image" and Path(query).is_file()
    return Answer(np.asarray(read_picture(query)) if picture else query, found)


def content_of(content: str | None, modality: str) -> tuple[np.ndarray | str | None, str]:
    """Returns a picture's pixels, or a text, or None if the index does not hold it; and why a picture is not shown."""
    from vacsr_jax.data.given import read_picture
    from vacsr_jax.serve.answers import picture_file

    if content is None or modality != "image":
        return content, ""
    path = picture_file(content)
    if path is None:
        return None, ""
    if not path.is_file():
        return None, f"{path} is not there"
    try:
        return np.asarray(read_picture(path)), ""
    except ValueError as error:
        return None, str(error)
