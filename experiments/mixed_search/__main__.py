"""The balanced comparison: a caption asks, its picture or another caption answers, and the share of pictures is swept.

`python -m experiments.mixed_search --model=runs/mixed/scenes-sigmoid` prints recall@20 of every method at every share,
for questions that a picture answers and for those that a text answers. `--temperatures --split=validation` prints the
temperatures of the inverted softmax instead, to choose one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import vacsr_jax
from experiments.mixed_search.corpus import IMAGE, TEXT, mixed_corpus
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.config_files import with_new_fields
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.embeddings import Embeddings
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.source import caption_pairs
from vacsr_jax.evaluation.mixed_search import match_by
from vacsr_jax.main import quiet
from vacsr_jax.metrics.retrieval import rank_positives
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring.embed import embed_images, embed_texts
from vacsr_jax.search.standardize import fusion
from vacsr_jax.search.standardize.compare import compare, summarize
from vacsr_jax.search.standardize.problem import RetrievalProblem, fit, make_problem, z_scores
from vacsr_jax.training.checkpoint import config_from_dict

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
TEMPERATURES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 8.0)
K = 20
LEADER = "inverted_softmax"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.mixed_search", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--model", required=True, help="a training workdir")
    parser.add_argument("--split", default="test", help="of its data (default: test)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of captions and pictures")
    parser.add_argument("--distractors", type=float, default=0.5, help="share of pictures that no question is about")
    parser.add_argument("--fit", metavar="SPLIT", help="fit on this split's captions instead of the questions")
    parser.add_argument(
        "--temperatures", action="store_true", help="compare temperatures of the inverted softmax instead of methods"
    )
    parser.add_argument("--out", help="JSON file")
    options = parser.parse_args()
    quiet()
    model = vacsr_jax.load(options.model)
    images, texts, image_index = embedded(model, options.split)
    strangers = embedded(model, options.fit)[1] if options.fit else None
    tables = {}
    for share in shares(options.distractors):
        for seed in range(options.seeds):
            corpus = mixed_corpus(image_index, share, seed, distractors=options.distractors)
            queries, documents = as_embeddings(images, texts, corpus)
            problem = make_problem(queries, documents)
            if options.temperatures:
                table = by_temperature(problem)
            else:
                other = None if strangers is None else make_problem(unlabelled(strangers), documents)
                match = match_by(model.model, model.params) if model.model.gives_probability else None
                table = compare(problem, [K], fit_on=other, match=match)
            tables.setdefault(share, []).append({name: of[f"recall@{K}"] for name, of in table.items()})
    if options.out:
        write_text(Path(options.out), to_json({str(share): found for share, found in tables.items()}))
    print(format_table(*rows(tables), markdown=True))


def shares(distractors: float) -> tuple[float, ...]:
    return SHARES if distractors else SHARES[1:-1]  # without distractors 0 and 1 leave one modality


def embedded(model: Pretrained, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit embeddings of a split's pictures and captions, and the picture of each caption.

    Scenes are 1,000, with captions that state three facts each, because one fact hardly tells a scene from others.
    """
    config = with_new_fields(config_from_dict(model.config))
    if config.data.name == "scenes":
        with config.unlocked():
            config.data.facts, config.data.validation_size, config.data.test_size = (0.0, 0.0, 1.0), 1000, 1000
    source = open_split(config, split)
    size = model.model.towers_config.vision.image_size
    captions, image_index = caption_pairs(source)
    images = embed_images(model.model, model.params, source, lambda image: preprocess(image, image_size=size))
    texts = embed_texts(model.model, model.params, model.tokenizer(captions))
    return np.asarray(unit(images)), np.asarray(unit(texts)), image_index


def as_embeddings(images: np.ndarray, texts: np.ndarray, corpus) -> tuple[Embeddings, Embeddings]:
    ids = np.array([f"{IMAGE}:{i}" for i in corpus.image] + [f"{TEXT}:{i}" for i in corpus.caption])
    modality = np.repeat([IMAGE, TEXT], [len(corpus.image), len(corpus.caption)])
    documents = Embeddings(np.concatenate([images[corpus.image], texts[corpus.caption]]), ids, modality)
    asked = np.array([f"query:{i}" for i in corpus.query])
    answers = tuple((str(x),) for x in ids[corpus.answer])
    return Embeddings(texts[corpus.query], asked, np.repeat(TEXT, len(asked)), answers), documents


def unlabelled(texts: np.ndarray) -> Embeddings:
    return Embeddings(texts, np.array([f"stranger:{i}" for i in range(len(texts))]), np.repeat(TEXT, len(texts)))


def by_temperature(problem: RetrievalProblem) -> dict:
    z = z_scores(problem, fit(problem))
    positives = np.arange(len(problem.documents)) == problem.answers
    groups = np.array(problem.modalities)[problem.modality[problem.answers[:, 0]]]
    table = {}
    for temperature in TEMPERATURES:
        scores = np.asarray(z - fusion.query_bias([z], temperature))
        ranks = [np.array([rank]) for rank in rank_positives(scores, positives).rank]
        table[f"temperature {temperature}"] = summarize(ranks, groups, [K])
    return table


def rows(tables: dict[float, list[dict]]) -> tuple[list[list], list[str]]:
    """A row for each method: recall of all questions (picture / text) at each share, their mean, and the LEADER's lead.

    The last two have standard errors over the draws; the lead is a paired difference.
    """
    names = max((of_share[0] for of_share in tables.values()), key=len)
    drawn = {name: over_shares(tables, name) for name in names}
    leads = LEADER in names
    columns = [f"recall@{K}", *(f"{share:.0%} pictures" for share in tables), "mean", *[f"{LEADER} minus it"] * leads]
    found = []
    for name in names:
        cells = [cell([table[name] for table in of_share if name in table]) for of_share in tables.values()]
        mean = None if drawn[name] is None else mean_and_error(drawn[name])
        lead = None if drawn[name] is None or not leads else mean_and_error(drawn[LEADER] - drawn[name])
        found.append([name, *cells, mean, *[lead] * leads])
    return found, columns


def over_shares(tables: dict[float, list[dict]], name: str) -> np.ndarray | None:
    """The mean over the shares of each draw; None for a method that is missing at a share."""
    if not all(name in table for of_share in tables.values() for table in of_share):
        return None
    return np.mean([[table[name]["all"] for table in of_share] for of_share in tables.values()], axis=0)


def cell(runs: list[dict]) -> str | None:
    if not runs:
        return None
    image, text = (np.mean([run[kind] for run in runs]) if kind in runs[0] else None for kind in (IMAGE, TEXT))
    sides = " / ".join("–" if x is None else f"{x:.3f}" for x in (image, text))
    return f"{np.mean([run['all'] for run in runs]):.3f} ({sides})"


def mean_and_error(values: np.ndarray):
    return float(values[0]) if len(values) == 1 else (values.mean(), values.std(ddof=1) / len(values) ** 0.5)


if __name__ == "__main__":
    main()
