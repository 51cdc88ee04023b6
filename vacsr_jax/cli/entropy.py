"""`vacsr entropy fit | bias | apply`: helps images find general captions, with embeddings of any model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from vacsr_jax.cli.verbs import Verbs

FIT_EXAMPLE = """example:
  vacsr entropy fit --images=train.npz --scale=100 --size=500 --out=reference.npz
  vacsr entropy fit --images=train.npz --validation=val.npz --choose_weight --out=reference.npz

Files are npz with embeddings [n, d] of any dual encoder, and ids [n] and modality [n] as strings. Only items of the
modality "image" become reference images. Take about 500 training images, or other images that nobody will search with.
The scale is the factor by which the model multiplies a cosine, exp(logit_scale): 100 for CLIP. If you do not know it, a
validation file gives it: one npz of images and texts, with answers [n], the ids of a text's images separated by spaces
("" for an image). With --choose_weight, the same file also gives the weight w of s + w H, from its labels; otherwise w
is 1."""

BIAS_EXAMPLE = """example:
  vacsr entropy bias --reference_images=reference.npz --texts=texts.npz --out=biases.npz
  vacsr entropy bias --reference_images=reference.npz --texts=database.npz --append_dimension --out=vectors.npz

Writes the file's ids and modality with entropy [n], in nats, and bias [n] = w entropy / scale. Add the bias to the
cosine of the text with an image. Items that are not texts have 0. --append_dimension also writes embeddings [n, d + 1],
the unit vectors with the bias as the last number, for a store of inner products. In such a store a query by image is
[image, 1], and a query by text is [text, 0]."""

APPLY_EXAMPLE = """example:
  vacsr entropy apply --reference_images=reference.npz --queries=images.npz --documents=texts.npz --out=results.json

Ranks texts for images by cosine + bias. Writes a list of {"query": id, "results": [{"id", "cosine", "score"}, ...]},
best first. If the queries have answers [n], ids of texts separated by spaces, it prints recall before and after. Images
ranked for a text need no correction, because the correction does not change their order."""


def register(verbs: Verbs) -> None:
    group = verbs.group(
        "entropy", "Rank captions for an image fairly, whether general or specific; nothing is trained."
    )
    fit = group.add("fit", run_fit, "Write reference images, with scale and weight.", FIT_EXAMPLE)
    fit.add_argument("--images", metavar="NPZ", help="embeddings of the reference images", required=True)
    fit.add_argument("--scale", type=float, help="the factor by which the model multiplies a cosine; 100 for CLIP")
    fit.add_argument("--weight", type=float, default=1.0, help="w of s + w H (default: 1)")
    fit.add_argument(
        "--validation", metavar="NPZ", help="images and texts with answers; gives the scale if --scale does not"
    )
    fit.add_argument("--choose_weight", action="store_true", help="choose the weight with the validation pairs")
    fit.add_argument("--size", type=int, default=0, help="number of images to draw at random (default: all)")
    fit.add_argument("--model_id", default="", help="the model that made the embeddings; kept in the file")
    fit.add_argument("--out", help="npz file for the reference images", required=True)

    bias = group.add("bias", run_bias, "Write one number per text, which any vector store can hold.", BIAS_EXAMPLE)
    apply = group.add("apply", run_apply, "Rank texts for images with the correction.", APPLY_EXAMPLE)
    for verb in (bias, apply):
        verb.add_argument("--reference_images", metavar="NPZ", help="file that fit wrote", required=True)

    bias.add_argument("--texts", metavar="NPZ", help="embeddings of texts, or of texts and images", required=True)
    bias.add_argument(
        "--append_dimension", action="store_true", help="also write embeddings with the bias as one more dimension"
    )
    bias.add_argument("--out", help="npz file for the biases", required=True)

    apply.add_argument("--queries", metavar="NPZ", help="embeddings of images", required=True)
    apply.add_argument("--documents", metavar="NPZ", help="embeddings of texts", required=True)
    apply.add_argument("--k", type=int, default=10, help="results for each query (default: 10)")
    apply.add_argument("--out", help="JSON file for the results", required=True)


def run_fit(options: argparse.Namespace, overrides: list[str]) -> None:
    import dataclasses

    import numpy as np

    from vacsr_jax.metrics.scale import fit_scale
    from vacsr_jax.search import text_entropy

    images = of_modality(options.images, "image")
    if options.size:
        if not 0 < options.size <= len(images):
            raise ValueError(
                f"--size: got {options.size}, expected 1 to {len(images)}, the number of images in {options.images}"
            )
        images = rows(images, np.sort(np.random.default_rng(0).permutation(len(images))[: options.size]))
    if options.scale is None and not options.validation:
        raise ValueError("--scale: missing; it is 100 for CLIP; if you do not know it, give --validation=FILE")
    if options.choose_weight and not options.validation:
        raise ValueError("--choose_weight: needs --validation=FILE; add it")
    # The checks above guarantee that the pairs are there if they are used.
    pairs: Any = validation_pairs(options.validation) if options.validation else None
    scale = options.scale
    if scale is None:
        scale = fit_scale(pairs[0].vectors @ pairs[1].vectors.T, pairs[2])
        print(f"scale {scale:.2f}, the likeliest for {int(pairs[2].sum())} validation pairs")
    reference = text_entropy.make_reference_images(
        images.vectors, scale, weight=options.weight, ids=images.ids, model_id=options.model_id
    )
    if options.choose_weight:
        unweighted = dataclasses.replace(reference, weight=1.0).bias(pairs[1].vectors)
        weight = text_entropy.choose_weight(pairs[0].vectors @ pairs[1].vectors.T, unweighted, pairs[2])
        print(f"weight {weight:g}, the best by R@1 + R@5 + R@10 of the validation pairs")
        reference = dataclasses.replace(reference, weight=weight)
    text_entropy.save(reference, options.out)
    print(f"{options.out}: {len(images)} images, scale {reference.scale:g}, weight {reference.weight:g}")


def run_bias(options: argparse.Namespace, overrides: list[str]) -> None:
    import numpy as np

    from vacsr_jax.data.embeddings import read_embeddings, write_embeddings
    from vacsr_jax.search import text_entropy

    reference, items = text_entropy.load(options.reference_images), noted(read_embeddings(options.texts))
    texts = items.modality == "text"
    if not texts.any():
        raise ValueError(
            f"{options.texts}: no item has the modality 'text', only {', '.join(sorted(set(items.modality)))}"
        )
    entropy = np.zeros(len(items), np.float32)
    entropy[texts] = reference.entropy(items.vectors[texts])
    arrays = {"ids": items.ids, "modality": items.modality, "entropy": entropy}
    arrays["bias"] = np.float32(reference.weight / reference.scale) * entropy
    if options.append_dimension:
        arrays["embeddings"] = text_entropy.append_dimension(items.vectors, arrays["bias"])
    write_embeddings(options.out, **arrays)
    low, middle, high = np.percentile(np.exp(entropy[texts]), [10, 50, 90])
    print(
        f"{options.out}: {texts.sum()} texts fit {low:.1f}, {middle:.1f}, {high:.1f} of {len(reference.images)} images "
        "(10th, 50th, 90th percentile)"
    )


def run_apply(options: argparse.Namespace, overrides: list[str]) -> None:
    import numpy as np

    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.embeddings import check_same_space
    from vacsr_jax.search import text_entropy
    from vacsr_jax.search.checks import check_k

    reference = text_entropy.load(options.reference_images)
    images, texts = of_modality(options.queries, "image"), of_modality(options.documents, "text")
    check_same_space(images, texts)
    check_k(options.k, len(texts), "texts")
    bias = reference.bias(texts.vectors)
    results = []
    for start in range(0, len(images), 256):
        cosines = images.vectors[start : start + 256] @ texts.vectors.T
        best = np.argsort(-(cosines + bias), axis=1, kind="stable")[:, : options.k]
        for query, line, found in zip(images.ids[start:], cosines, best, strict=False):
            listed = [
                {"id": str(texts.ids[j]), "cosine": float(line[j]), "score": float(line[j] + bias[j])} for j in found
            ]
            results.append({"query": str(query), "results": listed})
    write_text(Path(options.out), to_json(results))
    print(f"{options.out}: {len(images)} queries, {len(texts)} texts")
    if images.answers is not None:
        print(recall_table(images, texts, bias))


def recall_table(images, texts, bias) -> str:
    """R@1, R@5, R@10 of the images that have an answer, before and after the correction."""
    from vacsr_jax.metrics.retrieval import RSUM_KS, recall_at_k
    from vacsr_jax.report.tables import Cell, format_table

    positives = labelled(images, texts)
    asked = positives.any(axis=1)
    scores, ks = images.vectors[asked] @ texts.vectors.T, [k for k in RSUM_KS if k <= len(texts)]
    found = {"cosine": scores, "corrected": scores + bias}
    rows: list[list[Cell]] = [[name, *recall_at_k(s, positives[asked], ks).values()] for name, s in found.items()]
    return format_table(rows, [f"{asked.sum()} queries", *(f"R@{k}" for k in ks)])


# Reading the files.


def of_modality(path: str, modality: str):
    """Returns the items of one modality from a file; raises ValueError if there are none."""
    import numpy as np

    from vacsr_jax.data.embeddings import read_embeddings

    items = noted(read_embeddings(path))
    mine = np.flatnonzero(items.modality == modality)
    if not len(mine):
        raise ValueError(
            f"{path}: no item has the modality {modality!r}, only {', '.join(sorted(set(items.modality)))}"
        )
    return rows(items, mine)


def rows(items, chosen):
    import dataclasses

    lists = {
        name: tuple(x[i] for i in chosen) if x else x for name in ("answers", "exclude") for x in [getattr(items, name)]
    }
    return dataclasses.replace(
        items, vectors=items.vectors[chosen], ids=items.ids[chosen], modality=items.modality[chosen], **lists
    )


def validation_pairs(path: str):
    """Reads images, texts and their labelled pairs, bool [images, texts], from a file whose texts have answers."""
    images, texts = of_modality(path, "image"), of_modality(path, "text")
    if texts.answers is None or not any(texts.answers):
        raise ValueError(
            f"{path}: its texts have no answers; add answers [n], the ids of each text's images in the same file"
        )
    return images, texts, labelled(texts, images).T


def labelled(queries, documents):
    """Which documents answer each query: bool [queries, documents]; raises ValueError for an unknown answer."""
    import numpy as np

    from vacsr_jax.data.embeddings import rows_of

    answers = rows_of(queries.answers, documents, "answers")
    positives = np.zeros((len(queries), len(documents) + 1), bool)  # the last column takes -1, which means no answer
    np.put_along_axis(positives, answers, True, axis=1)
    return positives[:, :-1]


def noted(items):
    for line in items.notes:
        print(f"note: {line}", file=sys.stderr)
    return items
