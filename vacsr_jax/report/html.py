"""Writes one self-contained HTML page about a run: numbers, retrieved pictures, curves. No network, no scripts."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from vacsr_jax.atomic_files import write_text
from vacsr_jax.metrics.calibration import Reliability
from vacsr_jax.metrics.uncertainty import UncertaintyBins
from vacsr_jax.report import plots
from vacsr_jax.report.tables import Cell, format_cell

WIDE = 5  # a table with more columns than this becomes a list on a phone
# status -> (sign, CSS class). The last two are for data without a known truth.
STATUSES = {
    "labelled match": ("✓", "yes"),
    "unlabelled match": ("◆", "found"),
    "not a match": ("✕", "no"),
    "labelled": ("✓", "yes"),
    "unlabelled": ("○", "plain"),
}


@dataclass(frozen=True)
class Table:
    """A titled table; see `tables.format_cell` for its cells.

    `note` says how to read it, and `meanings` maps names that stand in it to a sentence each.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A retrieved item, a picture (uint8 [h, w, 3] or [h, w]) or a text, with the model's numbers for the pair."""

    content: np.ndarray | str
    logit: float
    status: str
    probability: float | None = None
    uncertainty: float | None = None


@dataclass(frozen=True)
class Retrieval:
    """A query (a text or a picture) and its candidates, best first; `note` says what they do not show."""

    query: np.ndarray | str
    candidates: Sequence[Candidate]
    note: str = ""


@dataclass(frozen=True)
class Explained:
    """A pair whose match probability is explained; the drawing is an <svg>."""

    status: str
    text: str
    svg: str


@dataclass(frozen=True)
class Report:
    """Everything the page shows. For an empty field the page says that it is missing.

    `truth_known` is False for data that only have labels. Statuses are then "labelled" and "unlabelled", as are the
    names of the histograms. The dicts map a name to a curve, `curves` to (steps, values). `uncertainty` maps a metric
    (R@1, mAP@R) to a dict from name to bins.
    """

    title: str
    subtitle: str = ""
    tables: Sequence[Table] = ()
    text_to_image: Sequence[Retrieval] = ()
    image_to_text: Sequence[Retrieval] = ()
    histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    uncertainty_histograms: Mapping[str, np.ndarray] = field(default_factory=dict)
    uncertainty: Mapping[str, Mapping[str, UncertaintyBins]] = field(default_factory=dict)
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    explanations: Sequence[Explained] = ()
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    truth_known: bool = True


def write_report(path: str | os.PathLike, report: Report) -> None:
    """Writes the report as one HTML file, atomically.

    Raises ValueError for an unknown status or a picture that is not uint8 [h, w, 3] or [h, w].
    """
    write_text(Path(path), render(report))


def render(report: Report) -> str:
    """Returns the report as an HTML document; see `write_report`."""
    sections = [
        ("Metrics", _tables(report)),
        ("Text to image", _retrievals(report, report.text_to_image)),
        ("Image to text", _retrievals(report, report.image_to_text)),
        ("Words and places", _explanations(report)),
        ("Scores", _scores(report)),
        ("Uncertainty", _uncertainty(report)),
        ("Calibration", _calibration(report)),
        ("Training", _training(report)),
        ("How it was made", _origin(report)),
    ]
    anchors = [name.lower().replace(" ", "-") for name, _ in sections]
    links = [f'<a href="#{a}">{name}</a>' for a, (name, _) in zip(anchors, sections, strict=True)]
    body = [
        f'<section id="{a}"><h2>{name}</h2>{content}</section>'
        for a, (name, content) in zip(anchors, sections, strict=True)
    ]
    return document(report.title, f"<p>{escape(report.subtitle)}</p><nav>{''.join(links)}</nav>", "\n".join(body))


def document(title: str, header: str, main: str, style: str = "") -> str:
    """Returns a page in the common style, around the HTML of its header and main part; `style` is extra CSS."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{style}</style></head><body>\n"
        f"<header><h1>{escape(title)}</h1>{header}</header>\n<main>{main}</main></body></html>\n"
    )


def _absent(sentence: str) -> str:
    return f'<p class="absent">{escape(sentence)}</p>'


def _tables(report: Report) -> str:
    if not report.tables:
        return _absent("There are no metrics.")
    return f'<div class="tables">{"".join(map(_table, report.tables))}</div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in table.columns)
    lines = []
    for first, *rest in table.rows:
        named = zip(table.columns[1:], rest, strict=True)
        cells = "".join(f'<td data-name="{escape(str(c))}">{escape(format_cell(x))}</td>' for c, x in named)
        lines.append(f'<tr><th scope="row">{escape(format_cell(first))}</th>{cells}</tr>')
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    if table.meanings:
        terms = "".join(f"<dt>{escape(name)}</dt><dd>{escape(x)}</dd>" for name, x in table.meanings.items())
        note += f'<dl class="note">{terms}</dl>'
    wide = ' class="wide"' if len(table.columns) > WIDE else ""
    return (
        f'<div{wide}><h3>{escape(table.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{note}</div>"
    )


def _retrievals(report: Report, retrievals: Sequence[Retrieval]) -> str:
    if not retrievals:
        return _absent("There are no examples.")
    has_uncertainty = any(c.uncertainty is not None for r in retrievals for c in r.candidates)
    note = "Best first. p: predicted probability of a match, " + (
        "u: uncertainty of the pair, logit: the score that ranks."
        if has_uncertainty
        else "logit: the score that ranks; this model has no uncertainty."
    )
    note += " The queries stand at equal distances in the split: none was chosen for how well it does."
    if not report.truth_known:
        note += " Only the labels are known here: an unlabelled pair may be a true match."
    return f'<p class="note">{escape(note)}</p>' + "".join(map(_retrieval, retrievals))


def _retrieval(retrieval: Retrieval) -> str:
    query = show(retrieval.query, "query")
    pictures = any(not isinstance(c.content, str) for c in retrieval.candidates)
    items = "".join(map(_candidate, retrieval.candidates))
    kind = "pictures" if pictures else "texts"
    note = f'<p class="note">{escape(retrieval.note)}</p>' if retrieval.note else ""
    ranked = f'<div class="ranked"><ol class="{kind}">{items}</ol>{note}</div>'
    return f'<article><div class="query">{query}</div>{ranked}</article>'


def _candidate(candidate: Candidate) -> str:
    if candidate.status not in STATUSES:
        raise ValueError(f"status is {candidate.status!r}, expected one of {list(STATUSES)}")
    sign, kind = STATUSES[candidate.status]
    numbers = [("p", candidate.probability), ("u", candidate.uncertainty), ("logit", candidate.logit)]
    shown = "".join(
        f"<span><i>{name}</i> {escape(format_cell(float(value), 2))}</span>"
        for name, value in numbers
        if value is not None
    )
    badge = f'<b class="badge">{sign} {escape(candidate.status)}</b>'
    return f'<li class="{kind}">{show(candidate.content, "candidate")}<div class="facts">{badge}{shown}</div></li>'


def _explanations(report: Report) -> str:
    if not report.explanations:
        return _absent("This model compares an image and a text as wholes, so it cannot say which word found what.")
    note = (
        "For captions at equal distances in the split, half of them with a match in first place and half without, the "
        "image that ranks first. Each word looks for its place: the lit part "
        "of the picture is where it was found, a frame means the picture as a whole. The bar is what the word "
        "multiplies the match probability by. Words that hardly count are left out."
    )
    return f'<p class="note">{note}</p>' + "".join(map(_explained, report.explanations))


def _explained(explained: Explained) -> str:
    sign, kind = STATUSES[explained.status]
    badge = f'<p class="{kind}"><b class="badge">{sign} {escape(explained.status)}</b></p>'
    return f'<article class="explained">{badge}{_figure(explained.svg, explained.text)}</article>'


def show(content: np.ndarray | str, role: str) -> str:
    """Returns a picture (uint8 [h, w, 3] or [h, w]) or a text as HTML."""
    if isinstance(content, str):
        return f"<q>{escape(content)}</q>"
    address, pixel_art = plots.image_address(content)
    sharp = ' class="pixels"' if pixel_art else ""
    return f'<img src="{address}" alt="{role} picture"{sharp}>'


def _figure(svg: str, caption: str) -> str:
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(caption)}" ', 1)
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _scores(report: Report) -> str:
    if not report.histograms:
        return _absent("There are no scores.")
    caption = (
        "Each class is scaled to the same area. The less true matches overlap with true negatives, the better the "
        "ranking. Unlabelled matches should lie with the labelled ones."
        if report.truth_known
        else "Each class is scaled to the same area. The less the labelled pairs overlap with the others, the better. "
        "It is not known which unlabelled pairs are true matches."
    )
    return _figure(plots.histogram_svg(dict(report.histograms)), caption)


def _uncertainty(report: Report) -> str:
    if not report.uncertainty:
        return _absent("This model has no uncertainty, so there is no plot of retrieval against it.")
    caption = (
        "Queries in bins of equal size, from certain to uncertain. With a useful uncertainty the line falls. Compare "
        "it with minus the score of a baseline before crediting the uncertainty. R@1 is plotted against the "
        "uncertainty of a query's best pair, mAP@R against the mean over its ten best."
    )
    drawn = [_figure(plots.uncertainty_svg(dict(lines), name), caption) for name, lines in report.uncertainty.items()]
    if report.uncertainty_histograms:
        svg = plots.histogram_svg(dict(report.uncertainty_histograms), xlabel="uncertainty")
        drawn.append(_figure(svg, "Uncertainty of the pairs in each class, each scaled to the same area."))
    return "".join(drawn)


def _calibration(report: Report) -> str:
    if not report.reliability:
        return _absent("This model has no match probability, so there is no calibration.")
    caption = (
        "On the diagonal the predicted probability is correct. Below it the model is overconfident, above it "
        "underconfident. The bars count pairs, on a logarithmic scale."
    )
    return _figure(plots.reliability_svg(dict(report.reliability)), caption)


def _training(report: Report) -> str:
    if not report.curves:
        return _absent("There are no training curves.")
    drawn = [
        _figure(
            plots.curve_svg(name, *curve),
            f"{name} by training step; a thick line over a faint one is the running mean.",
        )
        for name, curve in report.curves.items()
    ]
    return f'<div class="grid">{"".join(drawn)}</div>'


def _origin(report: Report) -> str:
    config = json.dumps(dict(report.config), indent=2, default=str)
    command = f"<pre><code>{escape(report.command)}</code></pre>" if report.command else ""
    return f"{command}<details><summary>Configuration</summary><pre><code>{escape(config)}</code></pre></details>"


_STYLE = """
:root{color-scheme:light dark;--page:#fafaf8;--card:#fff;--ink:#1d2430;--soft:#5b6472;--grid:#dcdfe4;
--c0:#0b6e5f;--c1:#c2500a;--c2:#5b6b82;--c3:#7a3fb0;--yes:#0b6e5f;--found:#a84300;--no:#5b6472}
@media (prefers-color-scheme:dark){:root{--page:#14171c;--card:#1c2027;--ink:#e7eaf0;--soft:#a3acba;--grid:#363d48;
--c0:#4ccfb6;--c1:#ff9d57;--c2:#9fb0c8;--c3:#c79bf2;--yes:#4ccfb6;--found:#ff9d57;--no:#a3acba}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
header,main{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:36px}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 6px}
header p{margin:0 0 16px;color:var(--soft)}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;padding:10px 0;border-block:1px solid var(--grid)}
nav a{color:var(--c0);text-decoration:none}nav a:hover{text-decoration:underline}
section{padding:28px 0 8px}
h2{font-size:1.3rem;margin:0 0 10px}
h3{font-size:1rem;margin:18px 0 8px}
.note,.absent,figcaption{color:var(--soft);font-size:.9rem;margin:6px 0 12px;max-width:90ch}
.tables{display:flex;flex-wrap:wrap;gap:0 48px}.tables>div{min-width:0;max-width:100%}.tables .note{max-width:46ch}
.absent{font-style:italic}
.scroll{overflow-x:auto}
table{border-collapse:collapse;background:var(--card);font-variant-numeric:tabular-nums;font-size:.94rem}
th,td{padding:7px 16px;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap;font-weight:400}
thead th{color:var(--soft);font-size:.86rem;font-weight:600}
th:first-child{text-align:left}
article{background:var(--card);border:1px solid var(--grid);border-radius:10px;padding:14px 16px;margin:0 0 14px}
.query{font-weight:600;margin:0 0 10px}
q{overflow-wrap:anywhere}
.query img{width:112px}
img{display:block;max-width:100%;border-radius:4px;background:var(--grid)}
.pixels{image-rendering:pixelated}
.explained svg{width:100%;max-width:none}.explained p{margin:0 0 8px;font-size:.9rem}
ol{list-style:none;margin:0;padding:0;display:grid;gap:10px}
.pictures{grid-template-columns:repeat(auto-fill,minmax(136px,1fr))}
.pictures img{width:100%;aspect-ratio:1;object-fit:contain}
li{border:1px solid var(--grid);border-top:4px solid var(--tone);border-radius:6px;padding:8px}
.texts li{border:1px solid var(--grid);border-left:4px solid var(--tone)}
.facts{display:flex;flex-wrap:wrap;gap:0 10px;font-size:.8rem;margin-top:6px;font-variant-numeric:tabular-nums}
.facts i{color:var(--soft)}
.badge{color:var(--tone)}
.pictures .badge{flex-basis:100%}
.yes{--tone:var(--yes)}.found{--tone:var(--found)}.no{--tone:var(--no)}.plain{--tone:var(--soft)}
@media (min-width:700px){article:has(.texts){display:flex;gap:20px}article:has(.texts) .query{flex:none;width:112px}
.ranked{flex:1}.texts li{padding-block:4px}section>figure{display:flex;gap:28px;align-items:center}
section>figure svg{flex:none;width:580px;max-width:64%}
.texts li{display:flex;justify-content:space-between;align-items:baseline;gap:16px}
.texts .facts{flex:none;margin:0}.texts .facts span{min-width:4.2em}}
.texts{gap:6px}
figure{margin:0 0 12px}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(min(300px,100%),1fr))}
svg{display:block;width:100%;height:auto;stroke-linejoin:round;background:var(--card);border:1px solid var(--grid);
border-radius:10px;padding:10px}
svg text{font-family:inherit!important}
dl.note{display:grid;grid-template-columns:auto 1fr;gap:4px 12px}dt{font-weight:600}dd{margin:0}
@media (max-width:500px){header,main{padding-inline:14px}th,td{padding:6px 8px;font-size:.86rem}svg{padding:4px}
th:first-child{white-space:normal}.wide table,.wide tbody{display:block}.wide thead{display:none}
.wide tr{display:grid;grid-template-columns:repeat(3,1fr);border-bottom:1px solid var(--grid)}
.wide th:first-child{grid-column:1/-1;font-weight:600}.wide th,.wide td{border:0;text-align:left}
.wide td::before{content:attr(data-name);display:block;color:var(--soft);font-size:.75rem}
dl.note{grid-template-columns:1fr}dd{margin:0 0 6px}}
pre{overflow-x:auto;background:var(--card);border:1px solid var(--grid);border-radius:8px;padding:12px;font-size:.84rem}
summary{cursor:pointer;color:var(--c0)}
"""
