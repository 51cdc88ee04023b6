"""Ideas about knowing pairs better that are not in the library: each a change of the training while one run lasts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import jax.numpy as jnp
import numpy as np

from vacsr_jax.data.loader import Pairs
from vacsr_jax.pair.base import Batch, Method
from vacsr_jax.pair.propensity import PROPENSITY, match_part
from vacsr_jax.training import step


def column_penalty(pair, params, batch: Batch):
    """The variance over texts of the mean match logit of their negatives: no text is high everywhere."""
    images, texts = match_part(batch.images), match_part(batch.texts)
    a = pair.match.apply({"params": params["match"]}, images, texts)
    return jnp.var(jnp.sum(jnp.where(batch.labels, 0, a), axis=0) / jnp.sum(~batch.labels, axis=0))


def centred_penalty(pair, params, batch: Batch):
    """The mean square of the batch's mean embeddings: a product of centred ones has no marginals."""
    return sum(jnp.mean(match_part(side).mean(axis=0) ** 2) for side in (batch.images, batch.texts))


def with_penalty(penalty, weight: float) -> Method:
    """The propensity method with `weight` times a penalty added to its loss."""

    def objective(pair, params, batch, config):
        loss, terms = PROPENSITY.objective(pair, params, batch, config)
        extra = weight * penalty(pair, params, batch)
        return loss + extra, terms | {"penalty": extra}

    return dataclasses.replace(PROPENSITY, objective=objective)


COLUMN_03, COLUMN_3 = with_penalty(column_penalty, 0.03), with_penalty(column_penalty, 0.3)
CENTRED = with_penalty(centred_penalty, 1.0)


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


ADAPTER, CONJUNCTION = {"propensity.match": "deterministic"}, {"propensity.match": "conjunction"}
IDEAS = {
    "cosine": ({}, nullcontext),
    **{f"{k} claims": (CONJUNCTION | {"conjunction.claims": k}, nullcontext) for k in (2, 4, 8, 16)},
    "adapter": (ADAPTER, nullcontext),
    "adapter, column penalty .03": (ADAPTER | {"method": f"{__name__}:COLUMN_03"}, nullcontext),
    "adapter, column penalty .3": (ADAPTER | {"method": f"{__name__}:COLUMN_3"}, nullcontext),
    "adapter, centred": (ADAPTER | {"method": f"{__name__}:CENTRED"}, nullcontext),
    "VACSR": ({"propensity.match": "vacsr"}, nullcontext),
    "cosine, 2 captions together": ({}, functools.partial(captions_together, 2)),
    "4 claims, 2 captions together": (CONJUNCTION, functools.partial(captions_together, 2)),
}  # name: config fields of a propensity model, what is changed
