"""Ideas about knowing pairs better that are not in the library: each a change of the training while one run lasts."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import jax.numpy as jnp
import numpy as np

from vacsr_jax.data.loader import Pairs
from vacsr_jax.training import step


@contextmanager
def column_penalty(weight: float) -> Iterator[None]:
    """Adds weight x the variance over texts of the mean match logit of their negatives: no text is high everywhere."""

    def penalty(params, images, texts, labels, model):
        a = model.pair.match.apply({"params": params["match"]}, images[:, :-1], texts[:, :-1])
        return jnp.var(jnp.sum(jnp.where(labels, 0, a), axis=0) / jnp.sum(~labels, axis=0))

    with _with_penalty(penalty, weight):
        yield


@contextmanager
def centred(weight: float) -> Iterator[None]:
    """Adds weight x the mean square of the batch's mean embeddings: a product of centred ones has no marginals."""

    def penalty(params, images, texts, labels, model):
        return sum(jnp.mean(side[:, :-1].mean(axis=0) ** 2) for side in (images, texts))

    with _with_penalty(penalty, weight):
        yield


@contextmanager
def captions_together(count: int) -> Iterator[None]:
    """Each image of a batch comes with `count` of its captions, all positives: its own, and those that follow it."""
    take, pairs, embed = Pairs.take, step.positive_pairs, step.embed

    def take_more(self, index, generators=()):
        image = self.image_index[index]
        own = [np.flatnonzero(self.image_index == i) for i in image]
        place = [int(np.searchsorted(rows, p)) for rows, p in zip(own, index, strict=True)]
        more = [rows[(at + np.arange(count)) % len(rows)] for rows, at in zip(own, place, strict=True)]
        return take(self, index, generators) | {"tokens": self.tokens[np.stack(more)]}

    def embed_more(params, images, keep, batch, **others):
        tokens = batch["tokens"]
        return embed(params, images, keep, batch | {"tokens": tokens.reshape(-1, tokens.shape[-1])}, **others)

    def all_positives(*arguments):
        return jnp.repeat(pairs(*arguments), count, axis=1)

    with (
        mock.patch.object(Pairs, "take", take_more),
        mock.patch.object(step, "embed", embed_more),
        mock.patch.object(step, "positive_pairs", all_positives),
    ):
        yield


@contextmanager
def _with_penalty(penalty, weight: float) -> Iterator[None]:
    plain = step.pair_loss

    def loss_of(params, images, texts, labels, key, at, config, model, mesh):
        loss, terms = plain(params, images, texts, labels, key, at, config, model, mesh)
        extra = weight * penalty(params, images, texts, labels, model)
        return loss + extra, terms | {"penalty": extra}

    with mock.patch.object(step, "pair_loss", loss_of):
        yield


ADAPTER, CLAIMS = {"propensity.match": "deterministic"}, {"propensity.match": "conjunction"}
IDEAS = {
    "cosine": ({}, nullcontext),
    **{f"{k} claims": (CLAIMS | {"conjunction.claims": k}, nullcontext) for k in (2, 4, 8, 16)},
    "adapter": (ADAPTER, nullcontext),
    "adapter, column penalty .03": (ADAPTER, functools.partial(column_penalty, 0.03)),
    "adapter, column penalty .3": (ADAPTER, functools.partial(column_penalty, 0.3)),
    "adapter, centred": (ADAPTER, functools.partial(centred, 1.0)),
    "VACSR": ({"propensity.match": "vacsr"}, nullcontext),
    "cosine, 2 captions together": ({}, functools.partial(captions_together, 2)),
    "4 claims, 2 captions together": (CLAIMS, functools.partial(captions_together, 2)),
}  # name: config fields of a propensity model, what is changed
