"""The VACSR objective of a batch of any size: losses.vacsr of all pairs and its gradient, in one pass over tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vacsr_jax.losses.contrastive import binary_cross_entropy
from vacsr_jax.losses.vacsr import check_choices, hardest, masked_mean, vacsr
from vacsr_jax.ops import straight_through
from vacsr_jax.ops.pair_sums import sum_pairs
from vacsr_jax.ops.pairwise import PairTerms, shard_pairs, similarity_vectors
from vacsr_jax.pair.adapter import adapter_fields
from vacsr_jax.pair.base import Batch, Method, Params, all_pairs
from vacsr_jax.pair.vacsr import VariationalAdapter
from vacsr_jax.pair.vacsr_terms import summed_terms, term_parameters, variance_loss


def vacsr_objective(
    adapter: VariationalAdapter,
    params: dict[str, jax.Array],
    images: jax.Array,
    texts: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    key: jax.Array,
    *,
    mesh: Mesh,
    tile_pairs: int,
    dtype: Any,
    **loss: Any,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """`losses.vacsr.vacsr` of all n x m pairs of prepared embeddings, with one draw of each pair, and its terms.

    For a linear decoder, value and gradient equal that loss on the terms of `VariationalAdapter.__call__`. In every
    term but L_N the weight of each pair is known beforehand, so one pass over the tiles gives value and gradient
    (`sum_pairs`). The hard negatives are known only after that pass. They are few, so their variance losses are
    computed again, with their gradient. Products of pairs are in `dtype`, sums in float32.
    """
    check_choices(labels.shape, **loss)
    n, m = labels.shape
    labels = jnp.asarray(labels, images.dtype)
    prepared = term_parameters(adapter, params, dtype)
    noise = adapter.draw_noise(key, n, m)
    positives = labels >= 0.5
    pairs = jnp.maximum(jnp.sum(valid), 1)
    shares = {
        "kl": 1 / pairs,
        "recon": 1 / (jnp.maximum(jnp.sum(valid.any(axis=1)), 1) if loss["reduction"] == "row" else pairs),
        "positive": 1 / jnp.maximum(jnp.sum(positives & valid), 1),
    }

    def tile(params, image_tile, text_tile, per_pair):
        prepared, shares = params
        noise, labels, valid = per_pair
        terms = summed_terms(
            adapter, prepared, similarity_vectors(image_tile, text_tile), noise, valid.astype(image_tile.dtype)
        )
        error = straight_through.squared_error(terms.logit, labels)
        parts = {
            "kl": shares["kl"] * terms.kl_sum,
            "recon": shares["recon"] * jnp.sum(jnp.where(valid, error, 0)),
            "positive": shares["positive"] * sum_where(valid & (labels >= 0.5), lambda: variance_loss(adapter, terms)),
        }
        hardness = terms.score if loss["hard"] == "similarity" else variance_loss(adapter, terms)
        return sum(loss[name] * part for name, part in parts.items()), parts, hardness

    def local_rows(params, rows, texts, per_pair):
        total, terms, hardness = sum_pairs(tile, tile_pairs, params, rows, texts, per_pair)
        return jax.tree.map(lambda x: x[None], (total, terms)), hardness

    sums, hardness = shard_pairs(local_rows, mesh, (prepared, shares), images, texts, (noise, labels, valid))
    total, terms = jax.tree.map(jnp.sum, sums)

    i, j, in_use = hardest(hardness, ~positives & valid, loss["hard_negatives"])
    similarity = images[i] * texts[j]
    if len(similarity) % mesh.size == 0:
        similarity = jax.lax.with_sharding_constraint(similarity, NamedSharding(mesh, P("data")))
    hard = summed_terms(adapter, prepared, similarity, jax.tree.map(lambda x: x[i, j], noise), None)
    negative = masked_mean(variance_loss(adapter, hard), in_use)
    total = total + loss["negative"] * negative
    return total, {"loss": total, **terms, "negative": negative}


def sum_where(mask: jax.Array, values: Callable[[], jax.Array]) -> jax.Array:
    """The sum of `values()` where the mask holds. If it holds nowhere, as in most tiles, they are not computed."""
    dtype = jax.eval_shape(values).dtype
    return jax.lax.cond(jnp.any(mask), lambda: jnp.sum(jnp.where(mask, values(), 0)), lambda: jnp.zeros((), dtype))


def objective(pair: VariationalAdapter, params: Params, batch: Batch, config):
    """`vacsr_objective`; if the decoder has a hidden layer, the equal `losses.vacsr.vacsr` of all pairs."""
    if pair.decoder_width:
        return loss(all_pairs(pair, params, batch), batch, config)
    return vacsr_objective(
        pair,
        params,
        batch.images,
        batch.texts,
        batch.labels,
        batch.valid,
        batch.key,
        mesh=batch.mesh,
        tile_pairs=batch.tile_pairs,
        dtype=batch.dtype,
        **config.loss,
    )


def loss(terms: PairTerms, batch: Batch, config):
    return vacsr(terms, batch.labels, batch.valid, **config.loss)


def loss_above_floor(terms: PairTerms, floor: Callable, batch: Batch, config):
    """VACSR's loss, with the binary cross-entropy of the label logits as its reconstruction error."""
    terms = terms._replace(logit=floor(terms.logit))
    return vacsr(terms, batch.labels, batch.valid, error=binary_cross_entropy, **config.loss)


def build(config, dim: int, initial_logit: float) -> VariationalAdapter:
    adapter = config.adapter
    return VariationalAdapter(
        **adapter_fields(config, dim, initial_logit),
        components=adapter.components,
        decoder_width=adapter.decoder_width,
        sigmoid=adapter.sigmoid,
        temperature=1.0,  # of the Gumbel-softmax; no table varies it
        hard=adapter.hard_gumbel,
        residual=adapter.residual,
        bounded=adapter.bounded,
    )


VACSR = Method(
    "model: the adapter with a latent; reconstruction, KL and variance losses (Wei et al. 2026)",
    VariationalAdapter,
    build,
    loss,
    loss_above_floor,
    objective,
)
