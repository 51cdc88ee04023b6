"""`vacsr index | search`: pictures and texts in one ranking."""

from __future__ import annotations

import argparse
from pathlib import Path

INDEX_EXAMPLE = """example:
  vacsr index --model=openai/clip-vit-base-patch32 --images=my_pictures --texts=captions.txt --out=my_index
  vacsr index --model=runs/scenes --images=my_pictures --texts=captions.txt --queries=asked.txt --out=my_index
  vacsr index --bank=embeddings.npz --queries=queries.npz --out=my_index
  vacsr index --bank=embeddings.npz --image_bank=entropy.npz --out=my_index

Texts and queries: one a line. A bank is an npz as `vacsr embed` writes it, of any model: embeddings [n, d], ids [n] and
modality [n] of strings; queries as npz likewise, and optionally exclude [n]: ids separated by spaces that are no
candidates of a query. The queries set the scale of every modality and need no labels; 200 or more, like those to come.
Without them the index's own documents serve, up to 2000 of each modality, none of which finds itself. An image bank of
`vacsr entropy fit` lets general texts be found for images (vacsr_jax/search/text_entropy.py)."""

SEARCH_EXAMPLE = """example:
  vacsr search --index=my_index --text="a cat on a sofa" --html=found.html
  vacsr search --index=my_index --image=cat.png --k=20 --prior=image=0.5
  vacsr search --index=my_index --text="a red square" --rerank=runs/scenes
  vacsr search --index=my_index --queries=queries.npz

z ranks: how far a similarity lies above a typical best match of its modality, in standard deviations. A prior is added
to it: image=0.5 shows more pictures. --rerank orders the results of the other modality by a trained model, which sees
the pictures and texts themselves, and gives its uncertainty."""


def register(verbs) -> None:
    index = verbs.add("index", run_index, "Index pictures and texts for a search that is fair to both.", INDEX_EXAMPLE)
    index.add_argument("--model", help="a workdir, an exported folder, or a Hugging Face CLIP")
    index.add_argument("--images", help="folder of pictures, searched with its subfolders")
    index.add_argument("--texts", help="text file, one text a line")
    index.add_argument("--bank", metavar="NPZ", help="embeddings of any model, instead of pictures and texts")
    index.add_argument("--queries", metavar="FILE", help="queries that set the scale: text file or npz")
    index.add_argument("--image_bank", metavar="NPZ", help="file of `vacsr entropy fit`, of the same model")
    index.add_argument("--out", help="folder of the index", required=True)

    search = verbs.add("search", run_search, "Search an index with texts or pictures.", SEARCH_EXAMPLE)
    search.add_argument("--index", help="folder that `vacsr index` wrote", required=True)
    search.add_argument("--text", action="append", default=[], help="a query; may be given more than once")
    search.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture as query")
    search.add_argument("--queries", metavar="NPZ", help="embeddings of queries, instead")
    search.add_argument("--k", type=int, help="how many results (default: 10)")
    search.add_argument("--prior", action="append", default=[], type=modality_number, metavar="MODALITY=NUMBER")
    search.add_argument("--model", help="what embeds the query (default: what embedded the index)")
    search.add_argument("--rerank", metavar="MODEL", help="a model that re-ranks, such as a trained workdir")
    search.add_argument("--html", metavar="FILE", help="page to write, with the pictures")


def modality_number(argument: str) -> tuple[str, float]:
    name, separator, number = argument.rpartition("=")
    try:
        if not separator or not name:
            raise ValueError
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {argument!r}, expected MODALITY=NUMBER such as image=0.5") from None


def run_index(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import search_commands

    search_commands.build_index(
        options.model,
        options.images,
        options.texts,
        options.bank,
        options.queries,
        Path(options.out),
        options.image_bank,
    )


def run_search(options: argparse.Namespace, overrides: list[str]) -> None:
    from vacsr_jax import search_commands

    search_commands.search_index(
        options.index,
        options.text,
        options.image,
        options.queries,
        options.k,
        dict(options.prior),
        options.model,
        options.rerank,
        options.html,
    )
