"""`vacsr index`: an index of pictures and texts, or of embeddings, for a search that is fair to both."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vacsr_jax.atomic_files import parse_json
from vacsr_jax.cli.embed import Inputs, find_inputs, kept_parts, read_lines
from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.data.embeddings import Embeddings, read_embeddings, read_parts
from vacsr_jax.report.tables import format_table

if TYPE_CHECKING:
    from vacsr_jax.pretrained import Pretrained
    from vacsr_jax.search.index import MixedIndex

EXAMPLE = """example:
  vacsr index --model=openai/clip-vit-base-patch32 --images=my_pictures --texts=captions.txt --out=my_index
  vacsr index --model=runs/scenes --images=my_pictures --texts=captions.txt --queries=asked.txt --out=my_index
  vacsr index --add --images=more_pictures --out=my_index
  vacsr index --documents=embeddings.npz --queries=queries.npz --out=my_index
  vacsr index --documents=embeddings.npz --reference_images=entropy.npz --out=my_index
  vacsr index --documents=embeddings.npz --store=lance:my_vectors --metadata=fields.jsonl --out=my_index
  vacsr index --store=milvus:http://localhost:19530#theirs --queries=queries.npz --out=my_index

Texts and queries are files with one text a line. Documents are what `vacsr embed` writes, a folder or an npz, which may
be of any model: embeddings [n, d], ids [n] and modality [n] of strings. Queries may be such a folder or npz too. An npz
of queries may have exclude [n]: ids, separated by spaces, that are not candidates of a query.

The queries set the scale of every modality. They need no labels; give 200 or more that resemble those to come. For a
modality without queries, up to 2000 of the index's own documents stand in, none of which finds itself.

--store puts vectors, contents and metadata into LanceDB (lance:FOLDER, lance:s3://...), Milvus (milvus:FILE.db or a
URL) or Qdrant (qdrant:URL, or a folder), each with #NAME for another collection than "documents"; --out then holds the
statistics. Keys are read from QDRANT_API_KEY and MILVUS_TOKEN. Without documents, --store indexes those of a collection
that exists, with a keyword id and modality, by --queries.

--metadata is a file of JSON objects, one a line: id, and plain values for `vacsr search --where`.

--add embeds only what the index does not have yet, with the model that the index names, and gives pictures that were
moved their new place. Without --add an index that is there is replaced, once the new one is whole.

Reference images are a file of `vacsr entropy fit`; with them, a search by image finds general texts
(vacsr_jax/search/text_entropy.py)."""

OWN_QUERIES = 2000  # documents that stand in for the queries of a modality
OWN = "own_queries"  # in `MixedIndex.about`: the modalities whose queries are documents of the index
CHUNK = 65_536  # documents added at once


def register(verbs: Verbs) -> None:
    parser = verbs.add("index", run, "Index pictures and texts for a search that is fair to both.", EXAMPLE)
    parser.add_argument("--model", help="a workdir, an export, a name of `vacsr models`, or a CLIP, SigLIP or OpenCLIP")
    parser.add_argument("--images", help="folder of pictures, searched with its subfolders")
    parser.add_argument("--texts", help="text file, one text a line")
    parser.add_argument("--documents", metavar="FILE", help="embeddings of any model instead of --images and --texts")
    parser.add_argument("--queries", metavar="FILE", help="queries that set the scale: text file, npz or folder")
    parser.add_argument("--reference_images", metavar="NPZ", help="file of `vacsr entropy fit`, of the same model")
    parser.add_argument(
        "--store", metavar="ADDRESS", help="lance:PATH, milvus:URI or qdrant:URL instead of --out alone"
    )
    parser.add_argument("--metadata", metavar="JSONL", help="values of documents that a search can filter by")
    parser.add_argument("--out", help="folder of the index", required=True)
    parser.add_argument("--add", action="store_true", help="add to the index that --out already is, with its model")
    parser.add_argument(
        "--on_error", choices=("raise", "skip"), default="raise", help="skip leaves out pictures that cannot be read"
    )


def run(options: argparse.Namespace, overrides: list[str]) -> None:
    if options.documents and (options.images or options.texts):
        raise ValueError("--documents: these are embeddings already; leave --images and --texts out")
    if options.add and options.reference_images:
        raise ValueError("--reference_images: the index keeps those it was made with; leave them out with --add")
    if options.store and options.reference_images:
        raise ValueError("--reference_images: they need the index of this library; leave --store out")
    if options.store and options.add:
        raise ValueError("--store: the index names its store; leave it out with --add")
    given = bool(options.documents or options.images or options.texts)
    if not options.documents and not options.model and not options.add and (given or not options.store):
        raise ValueError("--model: needed to embed --images and --texts; or give --documents=FILE.npz")
    if options.store and not given and not options.queries:
        raise ValueError("--queries: needed to index documents that --store has already")
    from vacsr_jax.pretrained import load
    from vacsr_jax.search.index import MixedIndex

    out = Path(options.out)
    index = MixedIndex.load(out) if options.add else None
    name = options.model or (index.about.get("model") if index is not None and not options.documents else None)
    if name is None and not options.documents and given:
        raise ValueError(
            "--model: the index does not name the model that embedded it; give it, or --documents=FILE.npz"
        )
    model = load(name) if name else None
    model_id = model.fingerprint() if model else ""
    metadata = read_metadata(Path(options.metadata)) if options.metadata else {}
    if index is None:
        index = new_index(options, model_id, given)
    elif model_id and index.model_id and model_id != index.model_id:
        raise ValueError(f"{out}: index of model {index.model_id}, --model is {model_id}; give that model")
    with contextlib.closing(index), contextlib.ExitStack() as stack:
        if options.documents:
            index = index_embeddings(Path(options.documents), model_id, index, projecting(model), metadata)
        elif given and model is not None:
            inputs = find_inputs(options.images, options.texts)
            inputs = new_inputs(inputs, index) if options.add else inputs
            if inputs.pictures or inputs.texts:
                job = inputs.job(model_id)
                for part in stack.enter_context(kept_parts(out, model, inputs, job, options.on_error)):
                    if part.ids:
                        fields = [metadata.pop(x, None) for x in part.ids] if metadata else None
                        index.add(part.vectors, part.ids, part.modality, part.contents, fields)
        if not len(index):
            raise ValueError(f"--images: no picture of {options.images} could be read")
        if metadata:
            warnings.warn(
                f"--metadata: {len(metadata)} ids are no new documents, such as {next(iter(metadata))!r}", stacklevel=2
            )
        if model and name:
            index.about["model"] = str(Path(name).resolve()) if Path(name).exists() else name
            index.about["projected"] = hasattr(model, "projected")
        queries = fit_index(index, model, options.queries)
        index.save(out)
        report(index, out, queries)


def new_index(options: argparse.Namespace, model_id: str, given: bool) -> MixedIndex:
    """An empty index, or one of the documents that a store has already."""
    from vacsr_jax.search import text_entropy
    from vacsr_jax.search.index import MixedIndex

    if options.store:
        from vacsr_jax.search.index.stored import StoredIndex

        if given:
            return StoredIndex.begin(options.out, options.store, model_id)
        return StoredIndex.of_existing(options.store, model_id)
    images = text_entropy.load(options.reference_images) if options.reference_images else None
    return MixedIndex(model_id, reference_images=images)


def read_metadata(path: Path) -> dict[str, dict[str, Any]]:
    """id -> values, of a file with a JSON object a line; ValueError, with its line, for what is no such object."""
    from vacsr_jax.search.filters import check_metadata

    found: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            fields = parse_json(line)
            if not isinstance(fields, dict) or not isinstance(fields.get("id"), str):
                raise ValueError('expected an object with an "id"')
            name = fields.pop("id")
            [found[name]] = check_metadata([fields], 1)
        except ValueError as error:
            raise ValueError(f"--metadata: {path}, line {number}: {error}") from None
    return found


def report(index: MixedIndex, out: Path, queries: list[str]) -> None:
    if index.fits:
        asked = "text" if "text" in index.fits else next(iter(index.fits))
        rows, columns = index.diagnose(query_modality=asked).rows()
        print(f"{asked} queries:\n{format_table(rows, columns)}\n")
    print(f"{out}: {len(index)} documents; {'scale of ' + ', '.join(queries) if queries else 'ranked by cosine'}")


def new_inputs(inputs: Inputs, index: MixedIndex) -> Inputs:
    """Those inputs that the index does not have; prints how many it has. A picture that was moved gets its new place.

    Raises:
      ValueError: if another document of the index has the id of a picture or text.
    """
    names = [*inputs.pictures, *(inputs.text_id(i) for i in range(len(inputs.texts)))]
    known = {name: x.content for name, x in index.known(names).items()}
    in_memory = isinstance(index.contents, dict)

    def is_new(name: str, content: str, picture: bool) -> bool:
        if name not in known:
            return True
        has = known[name]
        if has != content:
            if has is None or not picture or Path(has).exists():
                raise ValueError(
                    f"--add: the index has another document with the id {name!r} ({has or 'an embedding'}); rename the "
                    "file, or index the folder above it"
                )
            if not in_memory:
                return True  # a database replaces the whole document
            index.contents[name] = content
        return False

    pictures = [x for x in inputs.pictures if is_new(x, os.path.realpath(inputs.picture_file(x)), picture=True)]
    rows = [i for i, text in enumerate(inputs.texts) if is_new(inputs.text_id(i), text, picture=False)]
    there = len(inputs.pictures) + len(inputs.texts) - len(pictures) - len(rows)
    if there:
        print(f"{there} documents are in the index already")
    return inputs._replace(
        pictures=pictures,
        texts=[inputs.texts[i] for i in rows],
        lines=[inputs.lines[i] for i in rows],
        hash=hashlib.sha256(f"{inputs.hash} without {there} of {len(index)}".encode()).hexdigest()[:16],
    )


def projecting(model: Pretrained | None) -> Callable[[Embeddings], Embeddings]:
    """What a model does to embeddings of a file: a model on embeddings projects them, any other leaves them."""
    return getattr(model, "projected", lambda given: given)


def index_embeddings(
    path: Path,
    model_id: str | None,
    index: MixedIndex,
    project: Callable[[Embeddings], Embeddings] = lambda given: given,
    metadata: dict[str, dict[str, Any]] | None = None,
) -> MixedIndex:
    """Adds the embeddings in an npz or a folder to an index; a folder is read part by part.

    Args:
      project: see `projecting`.
      metadata: by id; what is used is taken out.

    Raises:
      ValueError: if the file names another model than `model_id` or the index.
    """
    parts = (project(part) for part in read_parts(path))
    first = next(parts)
    named = first.model_id  # the same for all parts
    if model_id and named and model_id != named:
        raise ValueError(f"{path}: embeddings of model {named}, --model is {model_id}; embed again, or give that model")
    if named and index.model_id and named != index.model_id:
        raise ValueError(
            f"{path}: embeddings of model {named}, the index is of {index.model_id}; embed again with that"
        )
    if not index.model_id and not len(index):
        index = dataclasses.replace(index, model_id=model_id or named)
    for documents in itertools.chain([first], parts):
        for start in range(0, len(documents), CHUNK):
            rows = slice(start, start + CHUNK)
            ids = documents.ids[rows].tolist()
            fields = [metadata.pop(x, None) for x in ids] if metadata else None
            index.add(documents.vectors[rows], ids, documents.modality[rows].tolist(), metadata=fields)
    return index


def fit_index(index: MixedIndex, model: Pretrained | None, queries: str | None) -> list[str]:
    """Fits an index with the queries of a file: embeddings (npz) of any modality, or texts, which the model embeds.

    For a modality without queries, the index's own documents stand in. Returns a phrase for each set of queries, such
    as "300 text queries".
    """
    from vacsr_jax.search.standardize.statistics import FEW_QUERIES

    for name in index.about.pop(OWN, []):  # documents were added: the new ones stand in as well
        index.fits.pop(name, None)
    if queries and (Path(queries).suffix == ".npz" or Path(queries).is_dir()):
        asked = projecting(model)(read_embeddings(queries))
        exclude = excluded_ids(asked, index)
        for name in dict.fromkeys(asked.modality.tolist()):
            mine = np.flatnonzero(asked.modality == name)
            index.fit(asked.vectors[mine], name, [exclude[i] for i in mine])
    elif queries:
        if model is None:
            raise ValueError("--queries: texts need --model to embed them; or give an npz")
        index.fit(model.cosine_vectors(model.encode_texts(read_lines(Path(queries)))))
    used = [f"{len(fit.vectors)} {name} queries" for name, fit in index.fits.items()]
    # A lone document has no other one to find, and needs no scale.
    missing = [name for name in index.store.modalities if name not in index.fits and len(index) > 1]
    own = {name: n for name in missing if (n := fit_with_own(index, name))}
    used += [f"{n} of its own {name} documents" + (" (few)" if n < FEW_QUERIES else "") for name, n in own.items()]
    index.about[OWN] = list(own)
    return used


def excluded_ids(queries: Embeddings, index: MixedIndex) -> list[list[str]]:
    """For each query, the ids that it excludes, and its own where it is a document of the index.

    A query that is given as its own answer finds itself.
    """
    given = queries.exclude or [()] * len(queries)
    answers = queries.answers or [()] * len(queries)
    known = index.known([*queries.ids.tolist(), *(x for listed in given for x in listed)])
    lists = []
    for own, kind, listed, right in zip(queries.ids.tolist(), queries.modality.tolist(), given, answers, strict=True):
        is_own = own in known and known[own].modality == kind and own not in right and own not in listed
        lists.append([*(x for x in listed if x in known), *([own] if is_own else [])])
    return lists


def fit_with_own(index: MixedIndex, modality: str) -> int:
    """Fits an index with documents of its own, each of which does not find itself; returns their number."""
    ids, vectors = index.own_documents(modality, OWN_QUERIES)
    if not ids:
        return 0
    index.fit(vectors, modality, [[x] for x in ids])
    return len(ids)
