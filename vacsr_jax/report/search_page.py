"""What a search found, as one self-contained page: pictures and texts in one list, with their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from vacsr_jax.files import write_text
from vacsr_jax.report.html import document, show
from vacsr_jax.report.tables import format_cell


@dataclass(frozen=True)
class Found:
    """One result: a picture (uint8 [h, w, 3]), a text, or None where the index does not know what it is."""

    id: str
    modality: str
    content: np.ndarray | str | None
    score: float
    z: float
    probability: float | None = None
    uncertainty: float | None = None


@dataclass(frozen=True)
class Answer:
    """A query, a text or a picture, and its results, best first."""

    query: np.ndarray | str
    found: Sequence[Found]


def write_search_page(path: Path, answers: Sequence[Answer], subtitle: str) -> None:
    """Writes the page, all at once. `subtitle` says which index was searched, and how."""
    note = (
        "One list of all modalities. z: how many standard deviations the similarity lies above that of a typical best "
        "match of the same modality; it ranks, and compares between modalities. cos: the raw cosine, which does not."
    )
    if any(x.uncertainty is not None for answer in answers for x in answer.found):
        note += (
            " p: probability of a match, u: uncertainty, of the model that ordered the results of the other modality."
        )
    body = "".join(map(_answer, answers))
    write_text(
        path, document("Search", f"<p>{escape(subtitle)}</p>", f'<p class="note">{escape(note)}</p>{body}', _STYLE)
    )


def _answer(answer: Answer) -> str:
    shares = Counter(x.modality for x in answer.found)
    counts = ", ".join(f"{n} {name}" for name, n in shares.most_common())
    kinds = {name: min(i, 3) for i, name in enumerate(sorted(shares))}
    items = "".join(_found(i, x, kinds[x.modality]) for i, x in enumerate(answer.found, 1))
    head = f'<div class="query">{show(answer.query, "query")}<span class="note">{escape(counts)}</span></div>'
    return f'<article class="search">{head}<ol class="found">{items}</ol></article>'


def _found(rank: int, x: Found, kind: int) -> str:
    numbers = [("z", x.z), ("cos", x.score), ("p", x.probability), ("u", x.uncertainty)]
    facts = "".join(
        f"<span><i>{name}</i> {escape(format_cell(float(value), 3 if name == 'cos' else 2))}</span>"
        for name, value in numbers
        if value is not None
    )
    content = show(x.content, "result") if x.content is not None else ""
    return (
        f'<li class="k{kind}"><b class="rank">{rank}</b><div class="what">{content}<code>{escape(x.id)}</code></div>'
        f'<div class="facts"><b class="badge">{escape(x.modality)}</b>{facts}</div></li>'
    )


_STYLE = """
.search{display:block!important}
.search .query{display:flex;align-items:baseline;gap:16px;font-size:1.15rem;width:auto!important}
.found{gap:6px}
.found li{display:grid;grid-template-columns:2.2em 1fr auto;gap:12px;align-items:center;padding:6px 10px;
border-top:1px solid var(--grid);border-left:4px solid var(--tone)}
.rank{color:var(--soft);text-align:right;font-variant-numeric:tabular-nums}
.what{display:flex;align-items:center;gap:14px;min-width:0}
.what img{width:84px;height:84px;object-fit:contain;flex:none}
.what q{flex:1}
.what code{color:var(--soft);font-size:.8rem;overflow-wrap:anywhere}
.found .facts{margin:0;display:grid;grid-template-columns:5em repeat(2,5.4em);justify-items:end;font-size:.86rem}
.found .facts:has(span:nth-of-type(4)){grid-template-columns:5em repeat(4,5em)}
.found .facts:has(span:nth-of-type(3)){grid-template-columns:5em repeat(4,5em)}
.k0{--tone:var(--c0)}.k1{--tone:var(--c1)}.k2{--tone:var(--c2)}.k3{--tone:var(--c3)}
@media (max-width:600px){.found li{grid-template-columns:1.6em 1fr}.found .facts{grid-column:2;justify-items:start}}
"""
