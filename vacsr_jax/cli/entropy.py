"""`vacsr entropy fit | bias | apply`: general captions get their due when images ask; embeddings of any model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FIT_EXAMPLE = """example:
  vacsr entropy fit --images=train.npz --scale=100 --size=500 --out=bank.npz
  vacsr entropy fit --images=train.npz --validation=val.npz --choose_weight --out=bank.npz

npz: embeddings [n, d] of any dual encoder, ids [n] and modality [n] of strings; items of another modality than "image"
are left out of the bank. Take training images, or others that nobody will search with: 500 do. The scale is what the
model multiplies a cosine by, exp(logit_scale): 100 for CLIP. Where it is not known, a validation file gives it: images
and texts in one npz, with answers [n], the ids of a text's images separated by spaces ("" for an image). It also
chooses the weight w of s + w H, by labels; 1 otherwise."""

BIAS_EXAMPLE = """example:
  vacsr entropy bias --bank=bank.npz --texts=texts.npz --out=biases.npz
  vacsr entropy bias --bank=bank.npz --texts=database.npz --fold --out=folded.npz

Writes the file's ids and modality with entropy [n], nats, and bias [n] = w entropy / scale: add it to a text's cosine
with an image. Items that are no texts have 0. --fold also writes embeddings [n, d + 1], the unit vectors with the bias
as last number, for a store of inner products: a query by image is [image, 1] there, a query by text [text, 0]."""

APPLY_EXAMPLE = """example:
  vacsr entropy apply --bank=bank.npz --queries=images.npz --candidates=texts.npz --k=10 --out=results.json

Ranks texts for images by cosine + bias. Writes a list of {"query": id, "results": [{"id", "cosine", "score"}, ...]},
best first. If the queries have answers [n], ids of texts separated by spaces, prints recall before and after. Images
for a text need no correction: the order stays as it is."""


def register(verbs) -> None:
    group = verbs.group("entropy", "Captions ranked for an image, freed of how specific they are; no training.")
    fit = group.add("fit", run_fit, "Keep a bank of images, with scale and weight.", FIT_EXAMPLE)
    fit.add_argument("--images", metavar="NPZ", help="embeddings of the bank's images", required=True)
    fit.add_argument("--scale", type=float, help="what the model multiplies a cosine by; 100 for CLIP")
    fit.add_argument("--weight", type=float, default=1.0, help="w of s + w H (default: 1)")
    fit.add_argument(
        "--validation", metavar="NPZ", help="images and texts with answers: fits the scale if none is given"
    )
    fit.add_argument("--choose_weight", action="store_true", help="choose the weight on the validation pairs")
    fit.add_argument("--size", type=int, default=0, help="so many of the images, drawn at random (default: all)")
    fit.add_argument("--model_id", default="", help="what made the embeddings; kept with the bank")
    fit.add_argument("--out", help="npz file for the bank", required=True)

    bias = group.add("bias", run_bias, "A number for each text, that any vector store can hold.", BIAS_EXAMPLE)
    bias.add_argument("--bank", metavar="NPZ", help="file that fit wrote", required=True)
    bias.add_argument("--texts", metavar="NPZ", help="embeddings of texts, or of texts and images", required=True)
    bias.add_argument("--fold", action="store_true", help="also write embeddings with the bias as one more dimension")
    bias.add_argument("--out", help="npz file for the biases", required=True)

    apply = group.add("apply", run_apply, "Rank texts for images with the correction.", APPLY_EXAMPLE)
    apply.add_argument("--bank", metavar="NPZ", help="file that fit wrote", required=True)
    apply.add_argument("--queries", metavar="NPZ", help="embeddings of images", required=True)
    apply.add_argument("--candidates", metavar="NPZ", help="embeddings of texts", required=True)
    apply.add_argument("--k", type=int, default=10, help="results of each query (default: 10)")
    apply.add_argument("--out", help="JSON file for the results", required=True)


def run_fit(options: argparse.Namespace, overrides: list[str]) -> None:
    import dataclasses

    import numpy as np

    from vacsr_jax.evaluation.text_entropy import choose_weight, fit_scale
    from vacsr_jax.search import text_entropy

    images = of_modality(options.images, "image")
    if options.size:
        if not 0 < options.size <= len(images):
            raise ValueError(f"--size: got {options.size}, expected 1 to {len(images)}, the images of {options.images}")
        images = rows(images, np.sort(np.random.default_rng(0).permutation(len(images))[: options.size]))
    if options.scale is None and not options.validation:
        raise ValueError("--scale: needed, 100 for CLIP; where it is not known, give --validation=FILE to fit it")
    if options.choose_weight and not options.validation:
        raise ValueError("--choose_weight: needs --validation=FILE")
    scale, pairs = options.scale, validation_pairs(options.validation) if options.validation else None
    if scale is None:
        scale = fit_scale(pairs[0].vectors @ pairs[1].vectors.T, pairs[2])
        print(f"scale {scale:.2f}, the likeliest for {int(pairs[2].sum())} validation pairs")
    bank = text_entropy.make_bank(
        images.vectors, scale, weight=options.weight, ids=images.ids, model_id=options.model_id
    )
    if options.choose_weight:
        unweighted = dataclasses.replace(bank, weight=1.0).bias(pairs[1].vectors)
        weight = choose_weight(pairs[0].vectors @ pairs[1].vectors.T, unweighted, pairs[2])
        print(f"weight {weight:g}, of the validation pairs' R@1 + R@5 + R@10")
        bank = dataclasses.replace(bank, weight=weight)
    text_entropy.save(bank, options.out)
    print(f"{options.out}: {len(images)} images, scale {bank.scale:g}, weight {bank.weight:g}")


def run_bias(options: argparse.Namespace, overrides: list[str]) -> None:
    import numpy as np

    from vacsr_jax.data.embeddings import read_embeddings, write_embeddings
    from vacsr_jax.search import text_entropy

    bank, items = text_entropy.load(options.bank), noted(read_embeddings(options.texts))
    texts = items.modality == "text"
    if not texts.any():
        raise ValueError(f"{options.texts}: no item of modality 'text', only {', '.join(sorted(set(items.modality)))}")
    entropy = np.zeros(len(items), np.float32)
    entropy[texts] = bank.entropy(items.vectors[texts])
    arrays = {"ids": items.ids, "modality": items.modality, "entropy": entropy}
    arrays["bias"] = np.float32(bank.weight / bank.scale) * entropy
    if options.fold:
        arrays["embeddings"] = text_entropy.fold(items.vectors, arrays["bias"])
    write_embeddings(options.out, **arrays)
    low, middle, high = np.percentile(np.exp(entropy[texts]), [10, 50, 90])
    print(
        f"{options.out}: {texts.sum()} texts fit {low:.1f}, {middle:.1f}, {high:.1f} of {len(bank.images)} images "
        "(10th, 50th, 90th percentile)"
    )


def run_apply(options: argparse.Namespace, overrides: list[str]) -> None:
    import numpy as np

    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.data.embeddings import check_same_space
    from vacsr_jax.search import text_entropy
    from vacsr_jax.search.checks import check_k

    bank = text_entropy.load(options.bank)
    images, texts = of_modality(options.queries, "image"), of_modality(options.candidates, "text")
    check_same_space(images, texts)
    check_k(options.k, len(texts), "texts")
    bias = bank.bias(texts.vectors)
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
    """R@1, R@5, R@10 of the images that have an answer, before and after."""
    from vacsr_jax.metrics.retrieval import RSUM_KS, recall_at_k
    from vacsr_jax.report.tables import format_table

    positives = labelled(images, texts)
    asked = positives.any(axis=1)
    scores, ks = images.vectors[asked] @ texts.vectors.T, [k for k in RSUM_KS if k <= len(texts)]
    found = {"cosine": scores, "corrected": scores + bias}
    rows = [[name, *recall_at_k(s, positives[asked], ks).values()] for name, s in found.items()]
    return format_table(rows, [f"{asked.sum()} queries", *(f"R@{k}" for k in ks)])


# Reading what was given.


def of_modality(path: str, modality: str):
    """The items of a file that are of one modality; ValueError if there is none."""
    import numpy as np

    from vacsr_jax.data.embeddings import read_embeddings

    items = noted(read_embeddings(path))
    mine = np.flatnonzero(items.modality == modality)
    if not len(mine):
        raise ValueError(f"{path}: no item of modality {modality!r}, only {', '.join(sorted(set(items.modality)))}")
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
    """Images, texts, and which belong together [images, texts], of a file whose texts have answers."""
    images, texts = of_modality(path, "image"), of_modality(path, "text")
    if texts.answers is None or not any(texts.answers):
        raise ValueError(f"{path}: its texts have no answers; give the ids of a text's images, in the same file")
    return images, texts, labelled(texts, images).T


def labelled(queries, candidates):
    """Which candidates answer each query: bool [queries, candidates]; ValueError for an answer that is none of them."""
    import numpy as np

    from vacsr_jax.data.embeddings import rows_of

    answers = rows_of(queries.answers, candidates, "answers")
    positives = np.zeros((len(queries), len(candidates) + 1), bool)  # -1 is none
    np.put_along_axis(positives, answers, True, axis=1)
    return positives[:, :-1]


def noted(items):
    for line in items.notes:
        print(f"note: {line}", file=sys.stderr)
    return items
