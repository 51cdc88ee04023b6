"""The pieces of the page as HTML: results, one document with its numbers, captions compared, the bias of the index."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np

from vacsr_jax.report import plots
from vacsr_jax.report.explanation import explanation_svg
from vacsr_jax.report.search_page import NOUNS, Found, found_list, kind_of
from vacsr_jax.search.standardize.diagnosis import Diagnosis
from vacsr_jax.search.stores.base import Known
from vacsr_jax.serve.engine import INTERVAL, Engine, Scored
from vacsr_jax.serve.requests import Document, Explain, Score, Squares

EXPLAINED = 6  # captions whose words are shown
DRAWING = threading.Lock()  # Matplotlib's settings are of the whole process


def wrapped(html: str) -> str:
    return f'<div class="vacsr">{html}</div>'


def note(sentence: str) -> str:
    return wrapped(f'<p class="note">{escape(sentence)}</p>')


def plural(modality: str) -> str:
    return f"{NOUNS.get(modality, modality)}s"


def fault(error: Exception) -> str:
    return wrapped(f'<p class="fault" role="alert">{escape(str(error))}</p>')


def welcome(counts: Mapping[str, int]) -> str:
    held = " and ".join(f"{n:,} {plural(name)}" for name, n in counts.items())
    return wrapped(
        f'<p role="status">Here are {held}. Type what you are looking for, or drop a picture. Pictures and texts are '
        "ranked together, the best first.</p>"
    )


def summary(query: tuple[str, str], hits: Sequence[Mapping[str, Any]]) -> str:
    kind, which = query
    what = {"text": f"“{escape(which)}”", "picture": "your picture", "like": f"<code>{escape(which)}</code>"}[kind]
    modalities = [x["modality"] for x in hits]
    counts = " and ".join(
        f"{modalities.count(x)} {plural(x) if modalities.count(x) != 1 else NOUNS.get(x, x)}"
        for x in dict.fromkeys(sorted(modalities))
    )
    asked = "like" if kind == "like" else "for"
    numbers = ""
    if any(x["probability"] is not None for x in hits):
        numbers += " <b>p</b>: how probably it matches, from 0 to 1."
    if any(x["uncertainty"] is not None for x in hits):
        numbers += " <b>u</b>: how unsure the model is; compare it between results."
    return wrapped(
        f'<p role="status">{counts} {asked} {what}, the best first.</p><p class="note">A result is compared with the '
        f"best results of its own kind that questions usually have, so that both kinds share one list.{numbers}</p>"
    )


def results(answer: Mapping[str, Any]) -> str:
    """The grid of an answer of the engine."""
    return wrapped(found_list([as_found(x) for x in answer["hits"]], buttons, words=True))


def as_found(hit: Mapping[str, Any]) -> Found:
    picture = hit["modality"] == "image" and hit["content"] is not None
    return Found(
        id=hit["id"],
        modality=hit["modality"],
        content=None if picture else hit["content"],
        score=hit["cosine"],
        z=hit["z"],
        probability=hit["probability"],
        uncertainty=hit["uncertainty"],
        link=address("picture", hit["id"]) if picture else "",
        thumbnail=address("thumbnail", hit["id"]) if picture else "",
    )


def address(what: str, document: str) -> str:
    return f"{what}?id={quote(document, safe='')}"


def buttons(x: Found) -> str:
    name = escape((x.content if isinstance(x.content, str) else x.id)[:80])
    return (
        f'<div class="actions"><button type="button" data-act="like" data-id="{escape(x.id)}" '
        f'aria-label="More like {name}">More like this</button>'
        f'<button type="button" data-act="open" data-id="{escape(x.id)}" '
        f'aria-label="Details of {name}">Details</button>'
        "</div>"
    )


def detail(engine: Engine, content: Any, query: tuple[str, str] | None, document: str) -> str:
    """A document, and how the model that scores compares it with the query (None: nothing was asked)."""
    modality, held = engine.ask(Document(document))
    if modality == "image" and held is not None:
        shown = f'<a href="{address("picture", document)}" target="_blank" rel="noopener" title="the whole picture">'
        shown += f'<img class="whole" src="{address("picture", document)}" alt="{escape(document)}"></a>'
    else:
        shown = f"<blockquote>{escape(held or document)}</blockquote>"
    parts = [
        f"<h2>{escape(NOUNS.get(modality, modality).capitalize())}</h2>{shown}<p><code>{escape(document)}</code></p>"
    ]
    pair = as_pair(engine, content, document, Known(modality, held))
    if query is None:
        return wrapped("".join(parts))
    if pair is None:
        parts.append(f"<p class='note'>{unscored(engine, modality, held)}</p>")
        return wrapped("".join(parts))
    scored = engine.ask(Score((pair[0],), (pair[1],), INTERVAL, draws=True))
    parts.append(f"<h3>Does it match?</h3>{numbers(engine, scored)}")
    if scored.draws is not None:
        with DRAWING:
            drawn = plots.histogram_svg({"draws": scored.draws[:, 0, 0]}, "match probability", 50, (0, 1))
        parts.append(
            f"<figure>{drawn}<figcaption>Every draw is one opinion that the model holds possible. Narrow: it is sure. "
            "Wide: it is not.</figcaption></figure>"
        )
    if engine.explains and isinstance(pair[1], str):
        parts.append(explained(engine, pair[0], pair[1]))
    return wrapped("".join(parts))


def as_pair(engine: Engine, content: Any, document: str, known: Known) -> tuple[Any, Any] | None:
    """The picture and the text to compare, or None for two pictures, two texts, or a document without content."""
    if content is None or known.content is None:
        return None
    if isinstance(content, Document):
        asked, text = engine.ask(content)
        content = text if asked == "text" else content
    else:
        asked = "text" if isinstance(content, str) else "image"
    if {asked, known.modality} != {"image", "text"} or content is None:
        return None
    return (content, known.content) if asked == "image" else (Document(document), content)


def unscored(engine: Engine, modality: str, held: str | None) -> str:
    if held is None:
        return "The index holds no content of this document, so it cannot be compared more closely."
    return (
        f"A match is between a picture and a text. This is a {NOUNS.get(modality, modality)}, as what you asked with."
    )


def numbers(engine: Engine, scored: Scored) -> str:
    """The numbers of one pair, in sentences."""
    scores = scored.scores
    if scores.probability is None:
        return f"<p>Score {scores.match_score[0, 0]:.2f}. This model ranks, but gives no probability.</p>"
    lines = f"The model holds a match for <b>{percent(scores.probability[0, 0])}</b> probable."
    if scored.low is not None and scored.high is not None:
        low, high = percent(scored.low[0, 0]), percent(scored.high[0, 0])
        lines += f" With {INTERVAL:.0%} probability the number lies between {low} and {high}."
    if scores.uncertainty is not None:
        lines += f" Uncertainty {scores.uncertainty[0, 0]:.2f}: compare it with other results."
    return f"<p>{lines}</p>"


def percent(p: float) -> str:
    return f"{100 * p:.1f} %" if 0.001 <= p <= 0.999 else f"{100 * p:.3f} %"


def explained(engine: Engine, image: Any, caption: str) -> str:
    drawn = engine.ask(Explain(image, caption))
    with DRAWING:
        svg = explanation_svg(drawn)
    return (
        f"<figure>{svg}<figcaption>Which word found which place in the picture: the lit part is where it was found, a "
        "frame means the picture as a whole. The bar is what the word multiplies the probability by."
        "</figcaption></figure>"
    )


def comparison(engine: Engine, image: Squares, captions: Sequence[str]) -> str:
    """Captions ranked by how well they match a picture."""
    scored: Scored = engine.ask(Score((image,), tuple(captions), INTERVAL))
    scores = scored.scores
    order = np.argsort(-scores.match_score[0], kind="stable")
    rows = []
    for rank, j in enumerate(order, 1):
        cells = [f"<td>{rank}</td><th scope='row'>{escape(captions[j])}</th>"]
        if scores.probability is None:
            cells.append(f"<td>{scores.match_score[0, j]:.2f}</td>")
        else:
            p = float(scores.probability[0, j])
            cells.append(f'<td><span class="bar" style="--p:{p:.4f}"></span>{percent(p)}</td>')
        if scored.low is not None and scored.high is not None:
            cells.append(f"<td>{percent(scored.low[0, j])} to {percent(scored.high[0, j])}</td>")
        if scores.uncertainty is not None:
            cells.append(f"<td>{scores.uncertainty[0, j]:.2f}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    columns = ["", "caption", "score" if scores.probability is None else "probability of a match"]
    columns += [f"{INTERVAL:.0%} interval"] * (scored.low is not None)
    columns += ["uncertainty"] * (scores.uncertainty is not None)
    head = "".join(f'<th scope="col">{x}</th>' for x in columns)
    meaning = engine.scorer.model.meaning
    means = {"Probability": meaning.probability, "Uncertainty": meaning.uncertainty}
    means |= {"Score": meaning.logit} if meaning.probability is None else {}
    notes = [f"{name}: {x}." for name, x in means.items() if x]
    notes += [f"Interval: where the probability lies with {INTERVAL:.0%} probability."] * (scored.low is not None)
    table = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    html = f'<div class="scroll"><table class="captions">{table}</table></div>'
    html += f'<p class="note">{escape(" ".join(notes))}</p>'
    if engine.explains:
        html += "".join(explained(engine, image, captions[j]) for j in order[:EXPLAINED])
    return wrapped(html)


def diagnosis(found: Diagnosis | None) -> str:
    """The bias of the index as a picture, and in words."""
    if found is None:
        return wrapped(
            "<p>This index has one kind of documents, or no queries of its own: there is nothing to show.</p>"
        )
    buffer = io.BytesIO()
    with DRAWING:
        found.figure().savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    shares = "".join(
        f'<li class="k{kind_of(name)}"><b class="badge">{escape(plural(name))}</b> make up '
        f"{found.documents[name] / sum(found.documents.values()):.0%} of the index. By raw similarity they would take "
        f"{found.share_raw[name]:.0%} of the best {found.k}; here they take {found.share[name]:.0%}.</li>"
        for name in found.documents
    )
    return wrapped(
        "<p>Is this index fair to every kind of document? Raw similarity often prefers one kind, whatever is asked. "
        f"Measured with {found.queries:,} queries:</p><ul>{shares}</ul>"
        f'<div class="scroll"><img class="diagnosis" src="data:image/png;base64,{data}" alt="Left, the shares of each '
        "kind among the best results before and after standardization, as the list says. Right, how similar the best "
        'result of each kind is."></div><p class="note">Right: how similar the best result of each kind usually is. '
        "The further the hills lie apart, the less fair a ranking by raw similarity would be.</p>"
    )
