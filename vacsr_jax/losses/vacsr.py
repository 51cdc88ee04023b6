"""The VACSR objective on the terms of a batch of pairs; Wei et al. 2026, eq. 13."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vacsr_jax.losses.contrastive import Terms, check_batch
from vacsr_jax.ops import straight_through
from vacsr_jax.ops.pairwise import PairTerms

HARD = ("similarity", "loss")
REDUCTIONS = ("row", "mean")


def vacsr(
    terms: PairTerms,
    positives: Bool[Array, "n m"],
    valid: Bool[Array, "n m"],
    *,
    kl: float,
    recon: float,
    positive: float,
    negative: float,
    hard_negatives: int,
    hard: str,
    reduction: str,
) -> tuple[Float[Array, ""], Terms]:
    """kl L_KL + recon L_recon + positive L_P + negative L_N.

    L_KL is the mean over valid pairs of the KL bound. L_recon is the straight-through squared error, summed over
    valid pairs and divided by the number of images ("row"), or their mean. L_P is the mean spread term over
    positive pairs, L_N over the `hard_negatives` hardest negatives of every image and of every text: those of
    largest score ("similarity"), or of largest spread term ("loss", the literal formula).

    Raises:
      ValueError: for a batch of one, or an unknown choice.
    """
    check_batch(*positives.shape)
    for name, got, choices in (("hard", hard, HARD), ("reduction", reduction, REDUCTIONS)):
        if got not in choices:
            raise ValueError(f"loss.{name}: got {got!r}, expected one of {', '.join(choices)}")
    error = straight_through.squared_error(terms.logit, positives.astype(terms.logit.dtype))
    error = jnp.sum(jnp.where(valid, error, 0))
    pairs = jnp.maximum(jnp.sum(valid), 1)
    parts = {
        "kl": jnp.sum(jnp.where(valid, terms.kl, 0)) / pairs,
        "recon": error / (jnp.maximum(jnp.sum(valid.any(axis=1)), 1) if reduction == "row" else pairs),
        "positive": masked_mean(terms.spread, positives & valid),
        "negative": hard_negative_mean(
            terms.spread,
            terms.score if hard == "similarity" else terms.spread,
            ~positives & valid,
            hard_negatives,
        ),
    }
    loss = kl * parts["kl"] + recon * parts["recon"] + positive * parts["positive"] + negative * parts["negative"]
    return loss, {"loss": loss, **parts}


def masked_mean(x: Float[Array, "n m"], mask: Bool[Array, "n m"]) -> Float[Array, ""]:
    """Mean of x where the mask holds; 0 where it never does."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


def hard_negative_mean(
    spread: Float[Array, "n m"], hardness: Float[Array, "n m"], negatives: Bool[Array, "n m"], count: int
) -> Float[Array, ""]:
    """Mean of `spread` over the `count` negatives of largest `hardness` of every row and of every column.

    Raises:
      ValueError: if count is not between 1 and the number of images and of texts.
    """
    if not 1 <= count <= min(hardness.shape):
        raise ValueError(f"loss.hard_negatives: got {count}, expected 1 to {min(hardness.shape)} (the batch size)")
    masked = jnp.where(negatives, jax.lax.stop_gradient(hardness), -jnp.inf)

    def hardest(values, of):
        top, index = jax.lax.top_k(of, count)
        return jnp.take_along_axis(values, index, axis=1), top > -jnp.inf

    (rows, in_rows), (columns, in_columns) = hardest(spread, masked), hardest(spread.T, masked.T)
    total = jnp.sum(jnp.where(in_rows, rows, 0)) + jnp.sum(jnp.where(in_columns, columns, 0))
    return total / jnp.maximum(jnp.sum(in_rows) + jnp.sum(in_columns), 1)
