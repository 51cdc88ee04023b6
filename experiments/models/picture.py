"""Draws the README's picture: an explained match, and one question to an index of pictures and texts, asked twice.

python -m experiments.models.picture
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from matplotlib.figure import Figure

import vacsr_jax
from vacsr_jax.data.scenes import COLOURS, SHAPES, Fact, NounPhrase, make_scenes, relevance
from vacsr_jax.report.explanation import draw_token, enlarged
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.standardize import statistics

INK, SOFT, TRUE = "#1d2430", "#5b6472", "#0b6e5f"
TEXT = "a red square and a blue circle"
QUESTION, OBJECT = "a green cross", ("green", "cross")
SCENES, SHOWN = 600, 8  # half of the documents are pictures, and half are captions of other scenes


def draw() -> Figure:
    figure = Figure(figsize=(10, 5.6), layout="constrained", facecolor="white")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.7))
    scenes = make_scenes("test", SCENES, seed=3, facts_per_caption=(0.25, 0.40, 0.35))
    draw_explanation(above, scenes)
    draw_search(below, scenes)
    return figure


def draw_explanation(part, scenes) -> None:
    """The picture that the model finds for the text, and where each word found its place."""
    model = vacsr_jax.load("scenes")
    best = int(model.score(list(scenes.images), [TEXT]).match_score.argmax())
    explained = model.explain(scenes.images[best], TEXT)
    tokens = [i for i, token in enumerate(explained.tokens) if token not in ("(start)", "(end)", "a")]
    panels = part.subplots(1, SHOWN)
    for panel in panels:
        panel.axis("off")
    picture = enlarged(explained.picture)
    panels[0].imshow(picture)
    panels[0].set_xlim(-0.5, len(picture) - 0.5)
    panels[0].set_ylim(1.3 * len(picture), -0.5)
    for panel, token in zip(panels[1:], tokens, strict=False):
        draw_token(panel, explained, token, picture, INK)
    title(
        part,
        f"“{TEXT}” is true of this picture with probability {explained.match_probability:.2f}. What each word found:",
    )


def draw_search(part, scenes) -> None:
    """The best documents for the question by raw cosine, and after standardization."""
    model, half = vacsr_jax.load("scenes-claims"), SCENES // 2
    captions = [own[1] for own in scenes.captions]
    documents = [*scenes.images[:half], *captions[half:]]
    index = MixedIndex()
    ids = [str(i) for i in range(SCENES)]
    index.add(model.cosine_vectors(model.encode_images(documents[:half])), ids[:half], "image")
    index.add(model.cosine_vectors(model.encode_texts(documents[half:])), ids[half:], "text")
    query = model.cosine_vectors(model.encode_texts([QUESTION]))
    index.use(statistics.empty(("image", "text"), (half, half)))  # mean 0, standard deviation 1: the raw cosine
    raw = index.search(query, k=SHOWN).ids[0]
    index.fit(model.cosine_vectors(model.encode_texts([own[2] for own in scenes.captions])))
    fair = index.search(query, k=SHOWN).ids[0]
    phrase = NounPhrase(None, list(COLOURS).index(OBJECT[0]), SHAPES.index(OBJECT[1]))
    true = relevance([(Fact("exists", first=phrase),)], scenes.layout)[:, 0] == 1
    panels = part.subplots(2, SHOWN)
    for row, found, label in zip(panels, (raw, fair), ("raw cosine", "one fair scale"), strict=True):
        for panel, name in zip(row, found, strict=True):
            draw_document(panel, documents[int(name)], is_true=bool(true[int(name)]))
        row[0].set_ylabel(label, color=SOFT, fontsize=9)
    title(part, f"“{QUESTION}”, asked of 300 pictures and 300 texts in one index. Green frame: the answer is right.")


def draw_document(panel, document, is_true: bool) -> None:
    """`is_true`: the question is true of the scene that the document shows or describes."""
    panel.set(xticks=[], yticks=[])
    for side in panel.spines.values():
        side.set(color=TRUE if is_true else "#d5dae1", linewidth=3 if is_true else 1)
    if isinstance(document, str):
        panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        panel.text(0.5, 0.5, textwrap.fill(document, 17), ha="center", va="center", fontsize=7, color=INK)
    else:
        panel.imshow(enlarged(document))


def title(part, text: str) -> None:
    part.suptitle(text, fontsize=10, color=INK, x=0.01, ha="left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default=str(Path(__file__).with_name("picture.png")), help="the file to write")
    draw().savefig(parser.parse_args().out, dpi=100)
