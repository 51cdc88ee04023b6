"""The results of a search as one self-contained page: pictures and texts in one list, with their numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from vacsr_jax.atomic_files import write_text
from vacsr_jax.report.html import document, show
from vacsr_jax.report.tables import format_cell


@dataclass(frozen=True)
class Found:
    """One result: a picture (uint8 [h, w, 3]), a text, or None if the index does not have its content.

    `fault` says why a picture that the index names cannot be shown.
    """

    id: str
    modality: str
    content: np.ndarray | str | None
    score: float
    z: float | None
    probability: float | None = None
    uncertainty: float | None = None
    fault: str = ""


@dataclass(frozen=True)
class Answer:
    """A query, which is a text or a picture, and its results, best first."""

    query: np.ndarray | str
    found: Sequence[Found]


def write_search_page(path: Path, answers: Sequence[Answer], subtitle: str) -> None:
    """Writes the page, whole or not at all. `subtitle` says which index was searched, and how."""
    note = (
        "One list of all modalities. z: the number of standard deviations by which the similarity exceeds a typical "
        "best match of the same modality. It ranks, with the prior if there is one. cos: the raw cosine, which "
        "compares within one modality only."
    )
    if any(x.uncertainty is not None for answer in answers for x in answer.found):
        note += (
            " p: probability of a match, u: uncertainty; both from a second model, which reordered the results of the "
            "other modality within the places that z gave them."
        )
    body = "".join(map(_answer, answers))
    write_text(
        path, document("Search", f"<p>{escape(subtitle)}</p>", f'<p class="note">{escape(note)}</p>{body}', _STYLE)
    )


def _answer(answer: Answer) -> str:
    shares = Counter(x.modality for x in answer.found)
    counts = ", ".join(f"{n} {name}" for name, n in shares.most_common())
    kinds = {name: min(i, 3) for i, name in enumerate(sorted(shares))}
    columns = {name: get for name, get in _COLUMNS.items() if any(get(x) is not None for x in answer.found)}
    items = "".join(_found(i, x, kinds[x.modality], columns) for i, x in enumerate(answer.found, 1))
    head = f'<div class="query">{show(answer.query, "query")}<span class="note">{escape(counts)}</span></div>'
    return f'<article class="search">{head}<ol class="found n{len(columns)}">{items}</ol></article>'


_COLUMNS = {"z": lambda x: x.z, "cos": lambda x: x.score, "p": lambda x: x.probability, "u": lambda x: x.uncertainty}


def _found(rank: int, x: Found, kind: int, columns: dict[str, Callable[[Found], float | None]]) -> str:
    facts = "".join(_number(name, get(x)) for name, get in columns.items())
    content = show(x.content, "result") if x.content is not None else ""
    if x.fault:
        content = f'<em class="note">{escape(x.fault)}</em>'
    return (
        f'<li class="k{kind}"><b class="rank">{rank}</b><div class="what">{content}<code>{escape(x.id)}</code></div>'
        f'<div class="facts"><b class="badge">{escape(x.modality)}</b>{facts}</div></li>'
    )


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "<span></span>"
    return f"<span><i>{name}</i> {escape(format_cell(float(value), 3 if name == 'cos' else 2))}</span>"


_STYLE = """
.search{display:block!important}
.search .query{display:flex;align-items:baseline;gap:16px;font-size:1.15rem;width:auto!important}
.found{gap:6px}
.found li{display:grid;grid-template-columns:2.2em minmax(0,1fr) auto;gap:12px;align-items:center;padding:6px 10px;
border-top:1px solid var(--grid);border-left:4px solid var(--tone)}
.rank{color:var(--soft);text-align:right;font-variant-numeric:tabular-nums}
.what{display:flex;align-items:center;gap:14px;min-width:0}
.what img{width:84px;height:84px;object-fit:contain;flex:none}
.what q{flex:1 1 10em}
.what code{color:var(--soft);font-size:.8rem;overflow-wrap:anywhere}
.found .facts{margin:0;display:grid;justify-items:end;font-size:.86rem;--numbers:2}
.found .facts{grid-template-columns:5em repeat(var(--numbers),5em)}
.n3 .facts{--numbers:3}.n4 .facts{--numbers:4}
.k0{--tone:var(--c0)}.k1{--tone:var(--c1)}.k2{--tone:var(--c2)}.k3{--tone:var(--c3)}
@media (max-width:700px){.found li{grid-template-columns:1.6em minmax(0,1fr)}.what{flex-wrap:wrap}
.found .facts{grid-column:2;display:flex;gap:0 12px}}
"""
