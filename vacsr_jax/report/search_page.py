"""The results of a search as HTML: pictures and texts in one list with their numbers, and a self-contained page."""

from __future__ import annotations

import zlib
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

    Attributes:
      fault: why a picture that the index names cannot be shown.
      link: the address of the whole picture.
      thumbnail: the address of a picture that the page does not hold itself.
    """

    id: str
    modality: str
    content: np.ndarray | str | None
    score: float
    z: float | None
    probability: float | None = None
    uncertainty: float | None = None
    fault: str = ""
    link: str = ""
    thumbnail: str = ""


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
    head = f'<div class="query">{show(answer.query, "query")}<span class="note">{counted(answer.found)}</span></div>'
    return f'<article class="search">{head}{found_list(answer.found)}</article>'


def counted(found: Sequence[Found]) -> str:
    """How many results there are of each modality."""
    return escape(", ".join(f"{n} {name}" for name, n in Counter(x.modality for x in found).most_common()))


def found_list(found: Sequence[Found], actions: Callable[[Found], str] = lambda _: "", words: bool = False) -> str:
    """The results as a list, best first.

    Args:
      actions: HTML that ends a result, such as buttons.
      words: say what z means, in place of the numbers z and cos; where there is no z, cos is given.
    """
    columns = {name: get for name, get in _COLUMNS.items() if any(get(x) is not None for x in found)}
    if words and "z" in columns:
        columns = {name: get for name, get in columns.items() if name in ("p", "u")}
    items = "".join(_found(i, x, columns, actions(x), words) for i, x in enumerate(found, 1))
    return f'<ol class="found n{len(columns)}">{items}</ol>'


_COLUMNS = {"z": lambda x: x.z, "cos": lambda x: x.score, "p": lambda x: x.probability, "u": lambda x: x.uncertainty}
_KINDS = {"image": 0, "text": 1}  # a modality -> its colour, the same on every page
NOUNS = {"image": "picture"}  # what a reader calls a modality


def kind_of(modality: str) -> int:
    """The number of a modality's colour, 0 to 3."""
    return _KINDS.get(modality, 2 + zlib.crc32(modality.encode()) % 2)


def closeness(z: float, modality: str) -> str:
    """A standardized score in plain words.

    >>> closeness(2.8, "text")
    'far closer than the best text usually is'
    >>> closeness(0.1, "image")
    'as close as the best picture usually is'
    """
    noun = NOUNS.get(modality, modality)
    steps = ((2, "far closer than"), (0.5, "closer than"), (-0.5, "as close as"), (-2, "less close than"))
    how = next((words for least, words in steps if z >= least), "far less close than")
    return f"{how} the best {noun} usually is"


def _found(rank: int, x: Found, columns: dict[str, Callable[[Found], float | None]], actions: str, words: bool) -> str:
    facts = "".join(_number(name, get(x)) for name, get in columns.items())
    said = f'<span class="words">{escape(closeness(x.z, x.modality))}</span>' if words and x.z is not None else ""
    badge = escape(NOUNS.get(x.modality, x.modality) if words else x.modality)
    return (
        f'<li class="k{kind_of(x.modality)}"><b class="rank">{rank}</b>'
        f'<div class="what">{_content(x)}<code>{escape(x.id)}</code></div>'
        f'<div class="facts"><b class="badge">{badge}</b>{said}{facts}</div>{actions}</li>'
    )


def _content(x: Found) -> str:
    """The picture, which links to the whole one where that is known, or the text."""
    if x.fault:
        return f'<em class="note">{escape(x.fault)}</em>'
    if x.thumbnail:
        address = escape(x.thumbnail)
        shown = f'<img src="{address}" alt="{escape(x.id)}" loading="lazy" decoding="async" width="160" height="160">'
    else:
        shown = show(x.content, "result") if x.content is not None else ""
    if not x.link or not shown:
        return shown
    return f'<a href="{escape(x.link)}" target="_blank" rel="noopener" title="the whole picture">{shown}</a>'


def _number(name: str, value: float | None) -> str:
    if value is None:
        return "<span></span>"
    return f"<span><i>{name}</i> {escape(format_cell(float(value), 3 if name == 'cos' else 2))}</span>"


TONES = ".k0{--tone:var(--c0)}.k1{--tone:var(--c1)}.k2{--tone:var(--c2)}.k3{--tone:var(--c3)}"

_STYLE = (
    f"""{TONES}"""
    + """
.search{display:block!important}
.search .query{display:flex;align-items:baseline;gap:16px;font-size:1.15rem;width:auto!important}
.found{gap:6px}
.found li{display:grid;grid-template-columns:2.2em minmax(0,1fr) auto;gap:12px;align-items:center;padding:6px 10px;
border-top:1px solid var(--grid);border-left:4px solid var(--tone)}
.rank{color:var(--soft);text-align:right;font-variant-numeric:tabular-nums}
.what{display:flex;align-items:center;gap:14px;min-width:0}
.what img{width:84px;height:84px;object-fit:contain;flex:none}.what a{flex:none}
.what q{flex:1 1 10em}
.what code{color:var(--soft);font-size:.8rem;overflow-wrap:anywhere}
.found .facts{margin:0;display:grid;justify-items:end;font-size:.86rem;--numbers:2}
.found .facts{grid-template-columns:5em repeat(var(--numbers),5em)}
.n3 .facts{--numbers:3}.n4 .facts{--numbers:4}
@media (max-width:700px){.found li{grid-template-columns:1.6em minmax(0,1fr)}.what{flex-wrap:wrap}
.found .facts{grid-column:2;display:flex;gap:0 12px}}
"""
)
