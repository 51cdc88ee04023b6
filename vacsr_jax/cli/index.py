"""`vacsr index`: an index of pictures and texts, or of embeddings, for a search that is fair to both."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vacsr_jax.cli.embed import Inputs, find_inputs, kept_parts, read_lines
from vacsr_jax.cli.verbs import Verbs
from vacsr_jax.data.embeddings import Embeddings, excluded_rows, read_embeddings, read_parts
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

Texts and queries are files with one text a line. Documents are what `vacsr embed` writes, a folder or an npz, which may
be of any model: embeddings [n, d], ids [n] and modality [n] of strings. Queries may be such a folder or npz too. An npz
of queries may have exclude [n]: ids, separated by spaces, that are not candidates of a query.

The queries set the scale of every modality. They need no labels; give 200 or more that resemble those to come. For a
modality without queries, up to 2000 of the index's own documents stand in, none of which finds itself.

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
    if not options.documents and not options.model and not options.add:
        raise ValueError("--model: needed to embed --images and --texts; or give --documents=FILE.npz")
    from vacsr_jax.pretrained import load
    from vacsr_jax.search import text_entropy
    from vacsr_jax.search.index import MixedIndex

    out = Path(options.out)
    index = MixedIndex.load(out) if options.add else None
    name = options.model or (index.about.get("model") if index is not None and not options.documents else None)
    if name is None and not options.documents:
        raise ValueError(
            "--model: the index does not name the model that embedded it; give it, or --documents=FILE.npz"
        )
    model = load(name) if name else None
    model_id = model.fingerprint() if model else ""
    if index is None:
        images = text_entropy.load(options.reference_images) if options.reference_images else None
        index = MixedIndex(model_id, reference_images=images)
    elif model_id and index.model_id and model_id != index.model_id:
        raise ValueError(f"{out}: index of model {index.model_id}, --model is {model_id}; give that model")
    with contextlib.ExitStack() as stack:
        if model is None or options.documents:
            index = index_embeddings(Path(options.documents), model_id, index, projecting(model))
        else:
            inputs = find_inputs(options.images, options.texts)
            inputs = new_inputs(inputs, index) if options.add else inputs
            if inputs.pictures or inputs.texts:
                job = inputs.job(model_id)
                for part in stack.enter_context(kept_parts(out, model, inputs, job, options.on_error)):
                    if part.ids:
                        index.add(part.vectors, part.ids, part.modality, part.contents)
        if not len(index):
            raise ValueError(f"--images: no picture of {options.images} could be read")
        if model and name:
            index.about["model"] = str(Path(name).resolve()) if Path(name).exists() else name
            index.about["projected"] = hasattr(model, "projected")
        queries = fit_index(index, model, options.queries)
        index.save(out)
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
    known = index.store.all_ids

    def is_new(name: str, content: str, picture: bool) -> bool:
        if name not in known:
            return True
        has = index.contents.get(name)
        if has != content:
            if has is None or not picture or Path(has).exists():
                raise ValueError(
                    f"--add: the index has another document with the id {name!r} ({has or 'an embedding'}); rename the "
                    "file, or index the folder above it"
                )
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
) -> MixedIndex:
    """Adds the embeddings in an npz or a folder to an index; a folder is read part by part.

    Args:
      project: see `projecting`.

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
            index.add(documents.vectors[rows], documents.ids[rows].tolist(), documents.modality[rows].tolist())
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
    own = [name for name in index.store.modalities if name not in index.fits and len(index) > 1]
    for name in own:
        n = fit_with_own(index, name)
        used.append(f"{n} of its own {name} documents" + (" (few)" if n < FEW_QUERIES else ""))
    index.about[OWN] = own
    return used


def excluded_ids(queries: Embeddings, index: MixedIndex) -> list[list[str]]:
    """For each query, the ids that it excludes, and its own where it is a document of the index."""
    ids = [x for name in index.store.modalities for x in index.store.ids(name)]
    kinds = [name for name in index.store.modalities for _ in index.store.ids(name)]
    documents = Embeddings(np.zeros((len(ids), queries.vectors.shape[1]), np.float32), np.array(ids), np.array(kinds))
    return [[ids[row] for row in rows if row >= 0] for rows in excluded_rows(queries, documents)]


def fit_with_own(index: MixedIndex, modality: str) -> int:
    """Fits an index with documents of its own, each of which does not find itself; returns their number."""
    ids = index.store.ids(modality)
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(len(ids), OWN_QUERIES)).astype(int))
    vectors, start = [], 0
    for block in index.store.vectors(modality):  # one at a time: all of them in float32 may not fit into memory
        vectors.append(block[chosen[(chosen >= start) & (chosen < start + len(block))] - start])
        start += len(block)
    index.fit(np.concatenate(vectors), modality, [[ids[i]] for i in chosen])
    return len(chosen)
