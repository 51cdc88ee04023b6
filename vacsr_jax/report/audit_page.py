"""The page of an audit: the worst labels and the likeliest missing matches with pictures, and buttons to mark them.

One file, without network. The items are kept as data and drawn a page at a time. Marks stay in the browser until they
are saved as the CSV that `vacsr audit --marks` takes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vacsr_jax.atomic_files import write_text
from vacsr_jax.data.source import picture
from vacsr_jax.report import plots
from vacsr_jax.report.html import document

LISTED = 200  # of each list
SIDE = 160  # pixels of a picture
AT_ONCE = 20  # items of a page


@dataclass(frozen=True)
class Label:
    """A label: its image and caption as indices, the caption's text, p_wrong, and images it would rather belong to."""

    image: int
    caption: int
    text: str
    p_wrong: float
    better: tuple[int, ...]


@dataclass(frozen=True)
class Match:
    """An unlabelled pair: its image and caption as indices, the caption's text, and p_match."""

    image: int
    caption: int
    text: str
    p_match: float


@dataclass(frozen=True)
class AuditPage:
    """Everything the page shows.

    Attributes:
      labels, matches: the first of each list.
      pictures: of the images that are shown: uint8 [h, w, 3], or None where an image is only an embedding.
      names: of the same images, to print below them.
      wrong_histogram, match_histogram: counts in equal bins from 0 to 1.
      thresholds: of p_wrong and of p_match; None where nothing is cleaned.
      summary: the content of summary.json.
    """

    labels: Sequence[Label]
    matches: Sequence[Match]
    pictures: Mapping[int, np.ndarray | None]
    names: Mapping[int, str]
    wrong_histogram: np.ndarray
    match_histogram: np.ndarray
    thresholds: tuple[float | None, float | None]
    summary: Mapping[str, Any]
    command: str


def picture_of(source: Any, index: int) -> np.ndarray | None:
    """An image of a source as a small picture; None where it is only an embedding, or cannot be read."""
    if hasattr(source, "shown"):
        return None
    try:
        found = picture(source, index)
    except ValueError:
        return None
    small = found if isinstance(found, Image.Image) else Image.fromarray(found)
    small = small.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return np.asarray(small)


def write_audit_page(path: Path, page: AuditPage) -> None:
    """Writes the page, whole or not at all."""
    write_text(path, render(page))


def render(page: AuditPage) -> str:
    """The page as an HTML document."""
    numbers = page.summary
    title = f"Audit of {numbers['images']:,} images and {numbers['labels']:,} labels"
    head = (
        '<nav role="tablist"><button role="tab" data-tab="suspect_labels">Suspect labels</button>'
        '<button role="tab" data-tab="missing_matches">Missing matches</button>'
        '<button role="tab" data-tab="trust">How far to trust this</button></nav>'
    )
    bar = '<p class="bar"><span id="marked">No marks yet.</span> <button id="save" disabled>Save marks</button></p>'
    lists = "".join(
        f'<section id="{name}" hidden><p class="note">{note}</p><ol class="items"></ol>'
        '<p class="pages"><button class="back">Back</button> <span class="where"></span> '
        '<button class="on">Next</button></p></section>'
        for name, note in (("suspect_labels", _SUSPECT), ("missing_matches", _MISSING))
    )
    pictures = {i: None if x is None else plots.image_address(x) for i, x in page.pictures.items()}
    data = {
        "suspect_labels": [[x.image, x.caption, x.text, x.p_wrong, list(x.better)] for x in page.labels],
        "missing_matches": [[x.image, x.caption, x.text, x.p_match, []] for x in page.matches],
        "pictures": pictures,
        "names": dict(page.names),
        "of": numbers.get("data_sha256", "")[:16],
        "at_once": AT_ONCE,
    }
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    script = f'<script type="application/json" id="data">{text}</script><script>{_SCRIPT}</script>'
    return document(title, head, f"{bar}{lists}{_trust(page)}{script}", _STYLE)


def _trust(page: AuditPage) -> str:
    numbers = page.summary
    share, expected = numbers["wrong_labels"]["share"], numbers["missing_matches"]["expected"]
    lines = [
        f"Wrong labels: {share['estimate']:.1%} (95 % interval {share['low']:.1%} to {share['high']:.1%}).",
        f"Missing matches: about {expected['estimate']:,.0f} ({expected['low']:,.0f} to {expected['high']:,.0f}).",
        "The intervals know the spread of the labels. They do not know that a model may be wrong in the same way "
        "everywhere: mark twenty items of each list or more, and give the marks to the command again.",
    ]
    if numbers["marks"]:
        lines.append(f"Both probabilities are recalibrated by {numbers['marks']} marks.")
    if "folds" in numbers:
        lines.append(f"Trained in {numbers['folds']} folds: no pair was judged by a model that was trained on it.")
    lines += [f"Caution: {caution}." for caution in numbers["cautions"]]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    drop, add = page.thresholds
    drawn = "".join(
        f"<figure>{plots.counts_svg(counts, name, threshold)}<figcaption>{caption}</figcaption></figure>"
        for counts, name, threshold, caption in (
            (page.wrong_histogram, "p_wrong", drop, "All labels."),
            (page.match_histogram, "p_match", add, "All unlabelled pairs. The scale is logarithmic."),
        )
    )
    return (
        f'<section id="trust" hidden><ul class="plain">{items}</ul><div class="grid">{drawn}</div>'
        f"<pre><code>{escape(page.command)}</code></pre></section>"
    )


_SUSPECT = (
    "The labels that are likeliest wrong. p is the probability that the caption was put at this image by mistake. "
    "Beside it stand the images that the caption would rather belong to. Right: the caption is true of its image."
)
_MISSING = (
    "Pairs without a label that are likeliest matches. p is the probability that the caption is true of the image. "
    "Right: the caption is true of the image."
)
_SCRIPT = """
const data = JSON.parse(document.getElementById('data').textContent);
const lists = ['suspect_labels', 'missing_matches'], at = {suspect_labels: 0, missing_matches: 0};
const kept = 'vacsr-audit-' + data.of, columns = 'list,image_index,caption_index,mark,data';
let marks = {};
try { marks = JSON.parse(localStorage.getItem(kept)) || {}; } catch (e) { /* the browser keeps nothing */ }
function make(tag, name, text) {
  const e = document.createElement(tag);
  if (name) e.className = name;
  if (text !== undefined) e.textContent = text;
  return e;
}
function picture(index, name) {
  const box = make('figure', name), found = data.pictures[index];
  if (found) {
    const img = make('img', found[1] ? 'pixels' : '');
    img.src = found[0]; img.loading = 'lazy'; img.alt = data.names[index];
    box.append(img);
  }
  box.append(make('figcaption', '', data.names[index]));
  return box;
}
function tell() {
  const n = Object.keys(marks).length;
  document.getElementById('marked').textContent = n ? n + (n === 1 ? ' mark.' : ' marks.') : 'No marks yet.';
  document.getElementById('save').disabled = !n;
  try { localStorage.setItem(kept, JSON.stringify(marks)); } catch (e) { /* nor then */ }
}
function item(list, entry) {
  const [image, caption, text, p, better] = entry, key = [list, image, caption].join(',');
  const li = make('li', 'item'), words = make('div', 'words'), buttons = make('div', 'buttons');
  words.append(make('q', '', text), make('p', 'p', 'p ' + p.toFixed(3)), buttons);
  for (const mark of ['right', 'wrong']) {
    const button = make('button', mark, mark === 'right' ? 'Right' : 'Wrong');
    button.setAttribute('aria-pressed', marks[key] === mark);
    button.onclick = () => {
      if (marks[key] === mark) delete marks[key]; else marks[key] = mark;
      for (const b of buttons.children) b.setAttribute('aria-pressed', marks[key] === b.className);
      tell();
    };
    buttons.append(button);
  }
  li.append(picture(image, 'own'), words);
  if (better.length) {
    const rather = make('div', 'rather');
    rather.append(make('p', 'note', 'rather'), ...better.map(i => picture(i, 'other')));
    li.append(rather);
  }
  return li;
}
function draw(list) {
  const section = document.getElementById(list), all = data[list], first = at[list];
  const last = Math.min(first + data.at_once, all.length);
  section.querySelector('.items').replaceChildren(...all.slice(first, last).map(entry => item(list, entry)));
  section.querySelector('.where').textContent = all.length ? `${first + 1} to ${last} of ${all.length}` : 'none';
  section.querySelector('.back').disabled = first === 0;
  section.querySelector('.on').disabled = last >= all.length;
}
function open_tab(name) {
  for (const tab of document.querySelectorAll('[role=tab]')) {
    const mine = tab.dataset.tab === name;
    tab.setAttribute('aria-selected', mine);
    document.getElementById(tab.dataset.tab).hidden = !mine;
  }
  if (lists.includes(name)) draw(name);
}
for (const tab of document.querySelectorAll('[role=tab]')) tab.onclick = () => open_tab(tab.dataset.tab);
for (const list of lists) for (const [name, way] of [['back', -1], ['on', 1]])
  document.getElementById(list).querySelector('.' + name).onclick = () => {
    at[list] += way * data.at_once; draw(list); scrollTo(0, 0);
  };
document.getElementById('save').onclick = () => {
  const rows = Object.entries(marks).map(([key, mark]) => [key, mark, data.of].join(','));
  const file = new Blob([[columns, ...rows].join('\\n') + '\\n'], {type: 'text/csv'});
  const link = make('a');
  link.href = URL.createObjectURL(file); link.download = 'marks.csv'; link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
tell();
open_tab('suspect_labels');
"""
_STYLE = """
button{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--grid);border-radius:8px;
padding:6px 14px;cursor:pointer;min-height:40px}
button:disabled{opacity:.45;cursor:default}
nav button[aria-selected=true]{border-color:var(--c0);color:var(--c0);font-weight:600}
main{padding-bottom:40px}section{padding-top:6px}
.bar{position:sticky;top:0;background:var(--page);z-index:1;padding:8px 0;margin:0!important;display:flex;gap:14px;
align-items:center;justify-content:space-between}
[hidden]{display:none!important}
.items{gap:12px}
.item{display:grid;grid-template-columns:160px minmax(0,1fr) auto;gap:10px 20px;border-top-width:1px;
background:var(--card);padding:12px}
.item figure{margin:0}
.item .own img{width:160px;height:160px;object-fit:contain}
.item .other:not(:has(img)){width:132px}
.item .other{width:88px}.item .other img{width:88px;height:88px;object-fit:contain}
.item figcaption{font-size:.76rem;overflow-wrap:anywhere;margin:2px 0 0}
.words .p{margin:6px 0;color:var(--soft);font-variant-numeric:tabular-nums}
.buttons{display:flex;gap:8px}
.buttons .right[aria-pressed=true]{background:var(--c0);color:var(--page);border-color:var(--c0)}
.buttons .wrong[aria-pressed=true]{background:var(--c1);color:var(--page);border-color:var(--c1)}
.rather{display:flex;gap:8px;flex-wrap:wrap;align-content:flex-start}.rather .note{flex-basis:100%;margin:0}
.pages{display:flex;gap:12px;align-items:center;justify-content:center}
.plain{padding-left:1.2em;list-style:disc}.plain li{border:0;padding:2px 0}
#trust .grid{grid-template-columns:repeat(auto-fill,minmax(min(420px,100%),1fr))}
#trust pre{white-space:pre-wrap;overflow-wrap:anywhere}
@media (max-width:700px){.item{grid-template-columns:96px minmax(0,1fr)}.item .own img{width:96px;height:96px}
.rather{grid-column:1/-1}nav button{flex:1 1 auto;padding:6px 8px}}
"""
