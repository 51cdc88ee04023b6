"""One engine for the page and the API: searches, scores and embeds, many requests at once on one device."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from vacsr_jax.pretrained import EmbeddingModel, Pretrained, Scores
from vacsr_jax.search.index import MixedIndex
from vacsr_jax.search.index.rerank import Reranked, rerank_hits
from vacsr_jax.search.index.stored import StoredIndex
from vacsr_jax.search.standardize.diagnosis import Diagnosis
from vacsr_jax.search.standardize.ranking import Hits
from vacsr_jax.search.stores.base import Known
from vacsr_jax.serve.answers import OTHER, json_answer, not_reranked, number, without_z
from vacsr_jax.serve.batching import Batcher
from vacsr_jax.serve.encoder import Encoder
from vacsr_jax.serve.requests import MOST_RERANKED, Content, Diagnose, Document, Embed, Score, Search, Squares

SECONDS = 30.0  # until an answer must be there
WAITING = 256  # requests
DRAWS = 1000  # from the posterior of a pair
INTERVAL = 0.9


class Scored(NamedTuple):
    """Scores of every pair [n, m]; `low` and `high` end the credible interval, `draws` is [draws, n, m]; else None."""

    scores: Scores
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    draws: np.ndarray | None = None


class Engine:
    """An index and its models behind a queue. Methods may be called from any thread.

    Args:
      index: what is searched.
      model: the one that embedded the index; it embeds the queries.
      rerank: a model that reorders the results of the other modality, and scores pairs; None: `model` scores.

    Raises:
      ValueError: if a model compares embeddings, since a server is asked with pictures and texts.
    """

    def __init__(self, index: MixedIndex, model: Pretrained, rerank: Pretrained | None = None):
        for name, one in (("--model", model), ("--rerank", rerank)):
            if isinstance(one, EmbeddingModel):
                raise ValueError(f"{name}: this model compares embeddings; give one that reads pictures and texts")
        self.index, self.rerank = index, rerank
        self.together = 64 if jax.default_backend() != "cpu" else 8
        self.embedder = Encoder(model, index.contents, self.together, "embed")
        self.scorer = Encoder(rerank, index.contents, self.together, "score") if rerank else self.embedder
        self.documents = {name: index.store.count(name) for name in index.store.modalities}
        self._models = {"model": model.fingerprint(), "rerank": rerank.fingerprint() if rerank else None}
        self._stored = isinstance(index, StoredIndex)
        self._kinds = {} if self._stored else {x: name for name in self.modalities for x in index.store.ids(name)}
        self._batcher = Batcher(self._answer, kind_of, together=self.together, waiting=WAITING)
        self._diagnosis: Diagnosis | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.documents)

    @property
    def explains(self) -> bool:
        """Whether the model that scores can say which word found which place."""
        return self.scorer.model.model.pair.explains

    def submit(self, request: Any) -> Future:
        """The future answer to one of the classes of `requests`; a `Document` asks for what is `Known` of it."""
        return self._batcher.submit(request, SECONDS)

    def ask(self, request: Any) -> Any:
        """The answer; waits for it. See `Batcher.ask` for what it raises."""
        return self._batcher.ask(request, SECONDS)

    def prepare(self, picture: Image.Image) -> Squares:
        """A picture as both models take it."""
        embed = self.embedder.model.preprocess(picture)
        return Squares(embed, embed if self.scorer is self.embedder else self.scorer.model.preprocess(picture))

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "documents": self.documents, **self._models, "waiting": self._batcher.waiting}

    def warm(self) -> None:
        """Compiles what ordinary requests need, so that none of them waits for it; embeds and searches once."""
        sizes = [1 << i for i in range(self.together.bit_length())]
        self.embedder.model.warm(sizes)
        if self.scorer is not self.embedder:
            self.scorer.model.warm(sizes)
        for size in sizes:
            try:
                self._answer([Search("warm", min(24, len(self.index)), rerank=False)] * size)
            except ValueError as error:  # such as an index whose queries must be pictures
                warnings.warn(f"a text finds nothing in this index: {error}", stacklevel=2)
                break

    def close(self) -> None:
        """Answers what was asked before, then stops."""
        self._batcher.close()

    def _answer(self, requests: Sequence[Any]) -> Sequence[Any]:
        """Answers requests of one kind, on the thread that has the device."""
        if isinstance(requests[0], Search):
            return self._search(requests)
        if isinstance(requests[0], Score):
            return [self._score(request) for request in requests]
        if isinstance(requests[0], Embed):
            return self._embed(requests)
        if isinstance(requests[0], Document):
            return [self._known(request.id) for request in requests]
        if isinstance(requests[0], Diagnose):
            return [self._diagnose()] * len(requests)
        return [self.scorer.model.explain(self.scorer.content(x.image, "image"), x.text) for x in requests]

    def _search(self, requests: Sequence[Search]) -> list[Any]:
        """Searches that share everything but the query, and k to the next power of two; see `kind_of`."""
        first = requests[0]
        modality = self._modality(first.query)
        items = self.embedder.encode([request.query for request in requests], modality)
        vectors = self.embedder.model.cosine_vectors(items)
        more = isinstance(first.query, Document)  # which finds itself
        limits = self._limits(first.modalities)
        where = json.loads(first.where) if first.where else None
        documents = self.index.counts(where) if where else self.documents
        most = sum(min(n, limits.get(name, n)) for name, n in documents.items())
        k = max(request.k for request in requests) + more
        if most == 0:
            raise ValueError("where: no document is like that" if where else "modalities: got none that has documents")
        k = min(k, most)
        options: dict[str, Any] = {"query_modality": modality, "prior": dict(first.prior), "where": where}
        hits = self.index.search(vectors, k, per_modality_k=limits or None, **options)
        return [self._ranked(x, Hits(*(column[i] for column in hits)), modality, most) for i, x in enumerate(requests)]

    def _ranked(self, request: Search, hits: Hits, modality: str, most: int) -> dict[str, Any] | Exception:
        """One answer, or what is wrong with the request."""
        if isinstance(request.query, Document):
            hits = Hits(*(column[hits.ids != request.query.id] for column in hits))
        elif request.k > most and not request.where:
            return ValueError(f"k: got {request.k}, expected a whole number from 1 to {most}")
        hits = Hits(*(column[: request.k] for column in hits))
        if self.rerank is not None and request.rerank:
            if request.k > MOST_RERANKED:
                return ValueError(f"k: got {request.k}, expected {MOST_RERANKED} at most with rerank; or rerank false")
            ranked = self._reranked(hits, request.query, modality)
        else:
            ranked = not_reranked(hits)
        if self.index.ranks_by_cosine(modality):
            ranked = without_z(ranked)
        query = self._known(request.query.id).content if isinstance(request.query, Document) else request.query
        return json_answer(query if isinstance(query, str) else None, modality, ranked, self.index.contents)

    def _reranked(self, hits: Hits, query: Content, modality: str) -> Reranked:
        """Reorders the hits of the other modality; those whose content cannot be read keep no number, and come last."""
        other = OTHER[modality]
        asked = self.scorer.encode([query], modality)

        def score(ids: list[str]) -> Scores:
            items, readable = self.scorer.documents(ids, other)
            pair = (items, asked) if modality == "text" else (asked, items)
            found = self.scorer.score(*pair) if items is not None else None
            columns = {}
            for name in Scores._fields:
                column = getattr(found, name) if found is not None else None
                full = np.full(len(ids), np.nan, np.float32)
                if column is not None:
                    full[readable] = np.ravel(column)
                columns[name] = full
            return Scores(**columns)

        return rerank_hits(hits, score, other)

    def _score(self, request: Score) -> Scored | Exception:
        try:
            images = self.scorer.encode(request.images, "image")
            texts = self.scorer.encode(request.texts, "text")
        except ValueError as error:
            return error
        found = Scored(self.scorer.score(images, texts))
        if (request.interval is None and not request.draws) or not self.scorer.model.model.pair.has_latent:
            return found
        samples = self.scorer.sample(images, texts, DRAWS, request.interval or INTERVAL)
        return found._replace(low=samples.low, high=samples.high, draws=samples.draws if request.draws else None)

    def _diagnose(self) -> Diagnosis | None:
        """`MixedIndex.diagnose`, once; None where the index has one modality, or no queries of its own."""
        if self._diagnosis is None and self.index.fits and len(self.modalities) > 1:
            asked = "text" if "text" in self.index.fits else next(iter(self.index.fits))
            self._diagnosis = self.index.diagnose(query_modality=asked)
        return self._diagnosis

    def _embed(self, requests: Sequence[Embed]) -> list[dict[str, Any]]:
        """Vectors of all texts and all pictures of the requests, each in as few calls as there can be."""
        found: dict[str, list[list[float]]] = {}
        for kind, name in (("text", "texts"), ("image", "images")):
            given = [x for request in requests for x in getattr(request, name)]
            if given:
                vectors = self.embedder.model.cosine_vectors(self.embedder.encode(given, kind))
                found[name] = vectors.tolist()
        answers = []
        for request in requests:
            taken: dict[str, Any] = {"model": self._models["model"]}
            for name in found:
                count = len(getattr(request, name))
                if count:
                    taken[name], found[name] = found[name][:count], found[name][count:]
            answers.append(taken)
        return answers

    def _modality(self, query: Content) -> str:
        if isinstance(query, Document):
            return self._known(query.id).modality
        return "text" if isinstance(query, str) else "image"

    def _known(self, document: str) -> Known:
        """A document's modality and content.

        Raises:
          ValueError: if the index does not have it.
        """
        if self._stored:
            known = self.index.known([document]).get(document)
        else:
            kind = self._kinds.get(document)
            known = None if kind is None else Known(kind, self.index.contents.get(document))
        if known is None:
            raise ValueError(f"the index has no document {document!r:.200}")
        return known

    def _limits(self, modalities: Sequence[str] | None) -> Mapping[str, int]:
        """`per_modality_k` that leaves only the modalities asked for."""
        if modalities is None:
            return {}
        unknown = [name for name in modalities if name not in self.modalities]
        if unknown:
            raise ValueError(f"modalities: got {unknown[0]!r:.60}, expected some of {', '.join(self.modalities)}")
        return {name: 0 for name in self.modalities if name not in modalities}


def kind_of(request: Any) -> Hashable:
    """Requests of one kind are answered in one call: searches alike but for the query, and embeddings."""
    if not isinstance(request, Search):
        return type(request).__name__
    query = request.query.id if isinstance(request.query, Document) else type(request.query).__name__
    return query, request.k.bit_length(), request.prior, request.modalities, request.where, request.rerank


def json_scores(scored: Scored) -> dict[str, Any]:
    """Scores as plain values: a matrix [images][texts] of each kind, or null where the model does not give it."""
    columns = {**scored.scores._asdict(), "low": scored.low, "high": scored.high}
    return {
        name: None if x is None else [[number(value) for value in row] for row in np.asarray(x)]
        for name, x in columns.items()
    }
