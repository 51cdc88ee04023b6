"""The page: a search over pictures and texts, and a picture compared with captions. It asks the same engine."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from vacsr_jax.serve import show
from vacsr_jax.serve.batching import BusyError
from vacsr_jax.serve.engine import Engine
from vacsr_jax.serve.requests import MOST_RERANKED, MOST_RESULTS, Diagnose, Document, Search, decoded, text
from vacsr_jax.serve.style import GRID_SCRIPT

RESULTS = 24
STEPS = 20  # back
LINES = 64  # captions to compare
SESSIONS = 500  # whose state is kept
UPLOADS_KEPT = 3600  # seconds

Query = tuple[str, str]  # "text", "picture" (the file of an upload) or "like" (an id), and which


def drop_zone(label: str, height: int) -> gr.Image:
    """Where a picture is dropped. It arrives as a file, to be decoded by this library, since Gradio takes any format.

    A subclass would make Gradio write a file beside this one.
    """
    zone = gr.Image(label=label, sources=["upload", "clipboard"], height=height, buttons=[], elem_classes="drop")

    def as_file(payload: Any) -> str | None:
        if payload is None or payload.path is None:
            return None
        folder, path = (os.path.realpath(x) for x in (zone.GRADIO_CACHE, payload.path))
        if not path.startswith(folder + os.sep):
            raise gr.Error("The picture was not uploaded here.", print_exception=False)
        return path

    setattr(zone, "preprocess", as_file)  # noqa: B010
    return zone


def build_page(engine: Engine) -> gr.Blocks:
    """The page of an engine, to be mounted on the application."""
    with gr.Blocks(
        title="Search pictures and texts", analytics_enabled=False, delete_cache=(600, UPLOADS_KEPT)
    ) as blocks:
        gr.Markdown("# Search pictures and texts")
        with gr.Tab("Search"):
            search_tab(engine, blocks)
        with gr.Tab("Compare"):
            compare_tab(engine)
        if len(engine.modalities) > 1:
            with gr.Tab("Fairness") as tab:
                fairness = gr.HTML(show.wrapped("<p>Computing…</p>"))
            tab.select(lambda: asked(engine, Diagnose(), show.diagnosis), None, fairness, api_visibility="private")
    blocks.has_launched = True  # Gradio refuses files that were not uploaded only then; `Guard` does before it
    blocks.state_session_capacity = SESSIONS
    blocks.queue(api_open=False, max_size=128, default_concurrency_limit=16)
    return blocks


def search_tab(engine: Engine, blocks: gr.Blocks) -> None:
    counts = engine.documents
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            words = gr.Textbox(
                label="What are you looking for?",
                info="Describe it in a few words, then press Enter.",
                placeholder="a red heart",
                max_length=500,
            )
            ask = gr.Button("Search", variant="primary")
            picture = drop_zone("Or drop a picture", 150)
            gr.HTML(show.note("What resembles the picture is shown. The server forgets it after an hour."))
            most = min(MOST_RESULTS, len(engine.index))
            with gr.Accordion("Adjust the results", open=True) as options:
                k = gr.Slider(
                    1, most, min(RESULTS, most), step=1, label="How many results", info="The best come first."
                )
                priors = [prior_slider(name) for name in engine.modalities] if len(counts) > 1 else []
                kinds = gr.CheckboxGroup(
                    [(show.plural(name), name) for name in engine.modalities],
                    value=list(engine.modalities),
                    label="Show",
                    info="Untick what you do not want to see.",
                    visible=len(counts) > 1,
                )
                rerank = gr.Checkbox(
                    value=engine.rerank is not None,
                    label="Let the second model sort",
                    info="It looks at each result more closely and says how probably it matches: slower, for up to "
                    f"{MOST_RERANKED} results.",
                    visible=engine.rerank is not None,
                )
        with gr.Column(scale=3, min_width=320):
            back = gr.Button("← Back to the search before", visible=False, size="sm", elem_id="before")
            status = gr.HTML(show.welcome(counts))
            grid = gr.HTML(show.wrapped(""), js_on_load=GRID_SCRIPT, elem_id="grid")
    with gr.Column(visible=False, elem_id="detail") as detail:
        with gr.Row():
            close = gr.Button("← Back to the results", elem_id="close", size="sm")
            like = gr.Button("More like this", size="sm")
        opened = gr.HTML("", elem_id="opened")
    now: Any = gr.State(None)  # the query that is shown
    trail: Any = gr.State([])  # those before it
    chosen: Any = gr.State(None)  # the document that is open
    settings: list[Any] = [k, kinds, rerank, *priors]
    shown = [now, trail, status, grid, back, detail]

    def answer(
        query: Query | None, before: list[Query], k: float, kinds: list[str], rerank: bool, *priors: float
    ) -> list:
        html, grid = found(engine, query, int(k), kinds, rerank, dict(zip(engine.modalities, priors, strict=False)))
        return [query, before, html, grid, gr.update(visible=bool(before)), gr.update(visible=False)]

    def new(query: Query, now: Query | None, trail: list[Query], *settings: Any) -> list:
        before = [*trail, now][-STEPS:] if now is not None and now != query else trail
        return answer(query, before, *settings)

    def by_words(typed: str, now: Query | None, trail: list[Query], *settings: Any) -> list:
        return new(("text", typed), now, trail, *settings)

    def by_picture(path: str | None, now: Query | None, trail: list[Query], *settings: Any) -> list:
        return new(("picture", path), now, trail, *settings) if path else answer(now, trail, *settings)

    def by_document(event: gr.EventData, now: Query | None, trail: list[Query], *settings: Any) -> list:
        return new(("like", str(event.id)), now, trail, *settings)

    def by_opened(chosen: str, now: Query | None, trail: list[Query], *settings: Any) -> list:
        return new(("like", chosen), now, trail, *settings)

    def step_back(trail: list[Query], *settings: Any) -> list:
        return answer(trail[-1] if trail else None, trail[:-1], *settings)

    def from_address(request: gr.Request, now: Query | None, trail: list[Query], *settings: Any) -> list:
        typed = request.query_params.get("text", "")
        if not typed:
            return [gr.skip()] * (1 + len(shown))
        return [typed, *new(("text", typed), now, trail, *settings)]

    def open_document(event: gr.EventData, now: Query | None) -> list:
        return [str(event.id), opened_document(engine, now, str(event.id)), gr.update(visible=True)]

    quick: dict[str, Any] = {"api_visibility": "private", "trigger_mode": "always_last", "show_progress_on": [grid]}
    where = [now, trail, *settings]
    gr.on([words.submit, ask.click], by_words, [words, *where], shown, **quick)
    picture.upload(by_picture, [picture, *where], shown, **quick)
    for control in settings:
        control.input(answer, where, shown, **quick)
    grid.like(by_document, where, shown, **quick)
    grid.open(open_document, [now], [chosen, opened, detail], **quick).then(None, js=FOCUS_DETAIL)
    close.click(lambda: gr.update(visible=False), None, detail, **quick).then(None, js=FOCUS_GRID)
    like.click(by_opened, [chosen, *where], shown, **quick)
    back.click(step_back, [trail, *settings], shown, **quick)
    wide = gr.Number(visible=False)
    blocks.load(lambda width: gr.update(open=width > 700), wide, options, js="() => window.innerWidth", **quick)
    blocks.load(from_address, where, [words, *shown], **quick)


FOCUS_DETAIL = "() => setTimeout(() => document.querySelector('#close')?.focus(), 100)"
FOCUS_GRID = "() => setTimeout(() => window.vacsrOpened?.isConnected && window.vacsrOpened.focus(), 100)"


def prior_slider(name: str) -> gr.Slider:
    noun = show.plural(name)
    return gr.Slider(
        -3,
        3,
        0,
        step=0.1,
        label=f"Favour {noun}",
        info="To the right they move up in the list, to the left down. At 0 nothing is favoured.",
    )


def compare_tab(engine: Engine) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gr.HTML(show.note("Which caption fits a picture best, and how sure is the model?"))
            picture = drop_zone("Drop a picture", 220)
            captions = gr.Textbox(
                label="Captions",
                info=f"One a line, up to {LINES}. Each is compared with the picture.",
                lines=5,
                placeholder="a red heart\na grinning face",
                max_length=20_000,
            )
            ask = gr.Button("Compare", variant="primary")
        with gr.Column(scale=2, min_width=320):
            result = gr.HTML(show.wrapped("<p>The captions will be ranked here, the best first.</p>"))

    def compare(path: str | None, typed: str) -> str:
        try:
            lines = list(dict.fromkeys(x.strip() for x in typed.splitlines() if x.strip()))
            if not path or not lines:
                raise ValueError("Drop a picture and type at least one caption.")
            if len(lines) > LINES:
                raise ValueError(f"Got {len(lines)} captions, expected {LINES} at most.")
            return show.comparison(engine, uploaded(engine, path), [text("captions", x) for x in lines])
        except (ValueError, BusyError) as error:
            return show.fault(error)

    ask.click(compare, [picture, captions], result, api_visibility="private", trigger_mode="always_last")


def uploaded(engine: Engine, path: str) -> Any:
    """The picture of an upload, as the models take it."""
    try:
        blob = Path(path).read_bytes()
    except OSError:
        raise ValueError("The picture is no longer here; drop it again.") from None
    return decoded("picture", blob, engine.prepare)


def asked(engine: Engine, request: Any, shown: Any) -> str:
    """The engine's answer as HTML; a mistake as one sentence."""
    try:
        return shown(engine.ask(request))
    except (ValueError, BusyError) as error:
        return show.fault(error)


def content_of(engine: Engine, query: Query) -> Any:
    kind, which = query
    if kind == "picture":
        return uploaded(engine, which)
    return Document(which) if kind == "like" else text("text", which)


def found(
    engine: Engine, query: Query | None, k: int, kinds: list[str], rerank: bool, prior: dict[str, float]
) -> tuple[str, str]:
    """One line about the results, and the results."""
    if query is None:
        return show.welcome(engine.documents), show.wrapped("")
    try:
        if not kinds:
            raise ValueError("Tick at least one kind of result.")
        most = sum(engine.documents.get(name, 0) for name in kinds)
        if rerank and engine.rerank is not None:
            most = min(most, MOST_RERANKED)
        offsets = tuple(sorted((name, float(x)) for name, x in prior.items() if x))
        only = None if set(kinds) >= set(engine.modalities) else tuple(sorted(kinds))
        request = Search(content_of(engine, query), min(k, most), offsets, only, rerank=rerank)
        answer = engine.ask(request)
    except (ValueError, BusyError) as error:
        return show.fault(error), show.wrapped("")
    return show.summary(query, answer["hits"]), show.results(answer)


def opened_document(engine: Engine, query: Query | None, document: str) -> str:
    """A document at full size, with what the model knows of it and the query."""
    try:
        content = content_of(engine, query) if query is not None else None
        return show.detail(engine, content, query, document)
    except (ValueError, BusyError) as error:
        return show.wrapped(f"<h2>{escape(document)}</h2>") + show.fault(error)
