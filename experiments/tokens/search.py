"""Search with token matching: how many candidates a first stage needs, and what an item takes: bytes, and precision.

    python -m experiments.tokens.search --out=tokens_search.json

Every caption of the test split asks for images, and every image for captions. The full ranking is by the match score of
all pairs. A first stage proposes k candidates, which the match score then orders, so all that counts is whether the
full ranking's top 10 are among them. First stages:

pooled     the cosine of one vector for each item, `TokensModel.direction`, as any store ranks
fitted     an inner product of two small vectors whose linear maps are fitted to the match scores of training pairs
MaxSim     sum_l w_l max_p <t_l, p>, several vectors an item; Qdrant and LanceDB have it
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import numpy as np

from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.propensity import match_part
from vacsr_jax.pair.tokens import Claims, Places
from vacsr_jax.pretrained import Pretrained, load
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.scoring.model import prepare_scorer
from vacsr_jax.scoring.pairs import score_all

TOP = 10
ASKED = 100  # captions that ask the databases
KEPT = 0.99
KS = (10, 20, 50, 100, 200)
FITTED_ON = 1000  # training images, and as many captions
RANK, RIDGE, LEAST = 32, 1.0, -30.0  # of the fitted stage; scores below LEAST count as LEAST
RECALLS = tuple(f"kept at {k}" for k in KS)
NEEDED = f"k for {KEPT:.0%}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m experiments.tokens.search", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="scenes", help="a model of token matching under the propensity model")
    parser.add_argument("--config", default="scenes", help="config of its data")
    parser.add_argument("--images", type=int, help="of the test split; by default all")
    parser.add_argument("--out", default="tokens_search.json", help="JSON of the numbers")
    options, overrides = parser.parse_known_args(arguments)
    model, config = load(options.model), load_config(options.config, overrides)
    few = load_config(options.config, [*overrides, f"--config.data.train_size={FITTED_ON}"])
    images, texts = items_of(model, config, "test", options.images)
    full = match_scores(model, images, texts)
    stages = first_stages(model, images, texts, items_of(model, few, "train", FITTED_ON))
    result = {
        "images": len(full),
        "captions": full.shape[1],
        "stages": {
            name: {way: recalls(*pair) for way, pair in ways(score, full).items()} for name, score in stages.items()
        },
        "storage": storage(model, images, texts, full),
        "engines": engines(match_part(images), match_part(texts[:ASKED])),
    }
    write_text(Path(options.out), to_json(result))
    print(f"{result['images']} images, {result['captions']} captions\n")
    rows = [[name, way, *found.values()] for name, both in result["stages"].items() for way, found in both.items()]
    print(format_table(rows, ["first stage", "", *RECALLS, NEEDED], markdown=True), "\n")
    rows = [[name, *found.values()] for name, found in result["storage"].items()]
    print(format_table(rows, ["", *next(iter(result["storage"].values()))], markdown=True))
    rows = [[name, *found.values()] for name, found in result["engines"].items()]
    print(f"\n{format_table(rows, ['MaxSim in', f'as numpy, the best {TOP} of {ASKED}', 'ms a query'], markdown=True)}")
    return result


def items_of(model: Pretrained, config: Any, split: str, at_most: int | None) -> tuple[Any, Any]:
    """The images of a split and as many of its captions as they have, as items."""
    source = open_split(config, split)
    texts, image_index = caption_pairs(source)
    n = min(at_most or len(source), len(source))
    mine = [text for text, image in zip(texts, image_index, strict=True) if image < n]
    if at_most == FITTED_ON:
        mine = mine[:FITTED_ON]
    images = jax.tree.map(lambda x: x[:n], embed_images(model.model, model.params, source))
    return images, embed_texts(model.model, model.params, model.tokenizer(mine))


def match_scores(model: Pretrained, images: Any, texts: Any) -> np.ndarray:
    """The match scores of all pairs, float32 [images, captions]."""
    return score_all(prepare_scorer(model.model, model.params).for_ranking(), images, texts).by_match()


def first_stages(model: Pretrained, images: Any, texts: Any, fitted_on: tuple[Any, Any]) -> dict[str, np.ndarray]:
    """name -> the scores of a first stage, [images, captions]."""
    pooled = [np.asarray(unit(model.model.pair.direction(items))) for items in (images, texts)]
    left, right = fit_stage(*map(features, fitted_on), match_scores(model, *fitted_on))
    return {
        "pooled": pooled[0] @ pooled[1].T,
        "fitted": (features(images) @ left) @ (features(texts) @ right).T,
        "MaxSim": max_sim(match_part(images), match_part(texts)),
        "MaxSim, w_l = 1": max_sim(match_part(images), unweighted(match_part(texts))),
    }


def features(items: Any) -> np.ndarray:
    """What the fitted stage sees of an item, float64 [n, f]: sums over its vectors, and 1."""
    match = match_part(items)
    if isinstance(match, Places):
        columns = [match.vectors[:, 0], (match.vectors * match.weights[..., None])[:, 1:].sum(axis=1), items.propensity]
    else:
        sums = [(match.weights * x).sum(axis=1) for x in (match.biases, np.ones_like(match.biases))]
        columns = [(match.vectors * match.weights[..., None]).sum(axis=1), np.stack(sums, axis=1)]
    return np.concatenate([*columns, np.ones((len(columns[0]), 1))], axis=1).astype(np.float64)


def fit_stage(x: np.ndarray, y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps L [f, r] and R [g, r] that minimize |S - X L (Y R)^T|^2, with a ridge: reduced-rank regression.

    Without the limit on the rank the solution is B = (X^T X + a)^-1 X^T S Y (Y^T Y + a)^-1. With it, the best B of rank
    r cuts the singular values in the coordinates in which the squared error is |B - B'|^2 (Eckart and Young).
    """
    gram_x, gram_y = (z.T @ z + RIDGE * np.eye(z.shape[1]) for z in (x, y))
    root_x, root_y = np.linalg.cholesky(gram_x), np.linalg.cholesky(gram_y)
    whole = np.linalg.solve(gram_x, x.T @ np.maximum(scores, LEAST) @ y) @ np.linalg.inv(gram_y)
    u, s, v = np.linalg.svd(root_x.T @ whole @ root_y, full_matrices=False)
    return np.linalg.solve(root_x.T, u[:, :RANK] * s[:RANK]), np.linalg.solve(root_y.T, v[:RANK].T)


def max_sim(images: Places, texts: Claims) -> np.ndarray:
    """sum_l w_l max_p <t_l, p>, [images, captions]."""
    flat = np.ascontiguousarray(texts.vectors.reshape(-1, texts.vectors.shape[-1]).T)
    best = [
        np.where(weights[:, None] > 0, places @ flat, -np.inf).max(axis=0)
        for places, weights in zip(images.vectors, images.weights, strict=True)
    ]
    return np.einsum("nml,ml->nm", np.array(best).reshape(len(best), *texts.weights.shape), texts.weights)


def unweighted(texts: Claims) -> Claims:
    """Claims that count alike, as in a store whose vectors have unit length."""
    return texts.replace(weights=(texts.weights > 0).astype(np.float32))


def engines(images: Places, texts: Claims) -> dict[str, dict[str, float]]:
    """MaxSim in databases that keep several vectors an item: agreement with numpy, and milliseconds a query."""
    best = np.argsort(-max_sim(images, texts), axis=0, kind="stable")[:TOP].T
    found = {}
    with TemporaryDirectory() as folder:
        for name, ask in (("Qdrant, local mode", in_qdrant(images)), ("LanceDB", in_lance(images, folder))):
            begun = time.perf_counter()
            numbers = [ask(weighted_claims(texts, i), TOP) for i in range(len(best))]
            taken = 1e3 * (time.perf_counter() - begun) / len(best)
            shared = [len(set(a) & set(b)) / TOP for a, b in zip(numbers, best.tolist(), strict=True)]
            found[name] = {"agreement": float(np.mean(shared)), "ms": taken}
    return found


def weighted_claims(texts: Claims, i: int) -> np.ndarray:
    """The vectors w_l t_l [l, d] of a caption's claims, as a query of inner products."""
    return (texts.weights[i][:, None] * texts.vectors[i])[texts.weights[i] > 0]


def places_of(images: Places, i: int) -> list[list[float]]:
    return images.vectors[i][images.weights[i] > 0].tolist()


def in_qdrant(images: Places) -> Callable[[np.ndarray, int], list[int]]:
    """A collection with the places of each image as one point; returns what finds the best k images."""
    from qdrant_client import QdrantClient, models

    client, several = (
        QdrantClient(":memory:"),
        models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
    )
    vectors = models.VectorParams(
        size=images.vectors.shape[-1], distance=models.Distance.DOT, multivector_config=several
    )
    client.create_collection("images", vectors_config=vectors)
    client.upsert("images", [models.PointStruct(id=i, vector=places_of(images, i)) for i in range(len(images))])
    return lambda query, k: [x.id for x in client.query_points("images", query=query.tolist(), limit=k).points]


def in_lance(images: Places, folder: str) -> Callable[[np.ndarray, int], list[int]]:
    """The same as a table with a column of lists of vectors."""
    import lancedb
    import pyarrow as pa

    several = pa.list_(pa.list_(pa.float32(), images.vectors.shape[-1]))
    columns = {
        "id": range(len(images)),
        "vector": pa.array([places_of(images, i) for i in range(len(images))], several),
    }
    table = lancedb.connect(folder).create_table("images", pa.table(columns))

    def ask(query: np.ndarray, k: int) -> list[int]:
        search = table.search(query, vector_column_name="vector").distance_type("dot")
        return search.limit(k).select(["id", "_distance"]).to_arrow()["id"].to_pylist()

    return ask


def ways(first: np.ndarray, full: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {"caption asks": (first.T, full.T), "image asks": (first, full)}


def recalls(first: np.ndarray, full: np.ndarray) -> dict[str, float | int]:
    """The share of every row's full top 10 that is among the first stage's best k; and the least k that keeps 99 %."""
    best = np.argsort(-full, axis=1, kind="stable")[:, :TOP]
    order = np.argsort(-first, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    ranks = np.sort(np.take_along_axis(rank, best, axis=1).ravel())
    kept = {name: float(np.mean(ranks < k)) for name, k in zip(RECALLS, KS, strict=True)}
    return {**kept, NEEDED: int(ranks[int(np.ceil(KEPT * len(ranks))) - 1]) + 1}


def storage(model: Pretrained, images: Any, texts: Any, full: np.ndarray) -> dict[str, dict[str, float]]:
    """Bytes of an item, and what its precision changes: the share of the top 10 that stays, and the largest error."""
    found = {}
    for name, number, extra in (("float32", 4, 0), ("float16", 2, 0), ("int8, a scale for each vector", 1, 2)):
        stored = [stored_as(items, name) for items in (images, texts)]
        scores = full if name == "float32" else match_scores(model, *stored)
        shared = [top_shared(a, b) for a, b in ((scores.T, full.T), (scores, full))]
        found[name] = {
            "bytes of an image": bytes_of(match_part(images), number, extra),
            "bytes of a caption": bytes_of(match_part(texts), number, extra),
            "top 10 of a caption": shared[0],
            "top 10 of an image": shared[1],
            "largest error of a score": float(np.abs(np.maximum(scores, LEAST) - np.maximum(full, LEAST)).max()),
        }
    return found


def stored_as(items: Any, name: str) -> Any:
    """The items as they come back from storage in a precision."""
    match = match_part(items)
    if name == "float32":
        return items
    if name == "float16":
        return jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), items)
    scale = (np.abs(match.vectors).max(axis=-1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    rounded = np.clip(np.rint(match.vectors / np.maximum(scale, 1e-8)), -127, 127) * scale
    others = jax.tree.map(lambda x: np.asarray(x).astype(np.float16).astype(np.float32), items)
    return others.replace(match=match_part(others).replace(vectors=rounded.astype(np.float32)))


def bytes_of(match: Places | Claims, number: int, extra: int) -> float:
    """Bytes of an item's vectors that are no padding, in the mean; with a weight and a bias in 16 bits at most."""
    used = float((match.weights > 0).sum(axis=1).mean())
    numbers = 2 if isinstance(match, Claims) else 0
    return used * (number * match.vectors.shape[-1] + extra + numbers * max(2, number)) + max(2, number)


def top_shared(scores: np.ndarray, full: np.ndarray) -> float:
    mine, theirs = (np.argsort(-x, axis=1, kind="stable")[:, :TOP] for x in (scores, full))
    return float(np.mean([len(set(a) & set(b)) / TOP for a, b in zip(mine, theirs, strict=True)]))


if __name__ == "__main__":
    main()
