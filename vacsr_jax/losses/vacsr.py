"""The VACSR objective on the terms of a batch of pairs; Wei et al. 2026, eq. 13."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vacsr_jax.losses.contrastive import Labels, Terms, check_batch
from vacsr_jax.ops import straight_through
from vacsr_jax.ops.pairwise import PairTerms

HARD = ("similarity", "loss")
REDUCTIONS = ("row", "mean")


def vacsr(
    terms: PairTerms,
    labels: Labels,
    valid: Bool[Array, "n m"],
    *,
    kl: float,
    recon: float,
    positive: float,
    negative: float,
    hard_negatives: int,
    hard: str,
    reduction: str,
    error: Callable = straight_through.squared_error,
) -> tuple[Float[Array, ""], Terms]:
    """kl L_KL + recon L_recon + positive L_P + negative L_N.

    L_KL is the KL bound, mean over valid pairs. L_recon is the `error` of logits and labels (the paper's likelihood:
    the straight-through squared error), summed over valid pairs and divided by the number of images ("row"), or their
    mean ("mean"). L_P is the variance loss, mean over positive pairs. L_N is the variance loss, mean over the
    `hard_negatives` hardest negatives of every image and of every text, by largest score ("similarity") or by
    largest variance loss ("loss", the literal formula). Positives are the pairs whose label is 1/2 or more.

    Raises:
      ValueError: for a batch with fewer than two images or texts, or an unknown choice.
    """
    check_choices(labels.shape, hard=hard, reduction=reduction, hard_negatives=hard_negatives)
    labels = jnp.asarray(labels, terms.logit.dtype)
    positives = labels >= 0.5
    hardness = terms.score if hard == "similarity" else terms.variance_loss
    i, j, in_use = hardest(hardness, ~positives & valid, hard_negatives)
    total = jnp.sum(jnp.where(valid, error(terms.logit, labels), 0))
    pairs = jnp.maximum(jnp.sum(valid), 1)
    parts = {
        "kl": jnp.sum(jnp.where(valid, terms.kl, 0)) / pairs,
        "recon": total / (jnp.maximum(jnp.sum(valid.any(axis=1)), 1) if reduction == "row" else pairs),
        "positive": masked_mean(terms.variance_loss, positives & valid),
        "negative": masked_mean(terms.variance_loss[i, j], in_use),
    }
    loss = kl * parts["kl"] + recon * parts["recon"] + positive * parts["positive"] + negative * parts["negative"]
    return loss, {"loss": loss, **parts}


def check_choices(batch: tuple[int, ...], *, hard: str, reduction: str, hard_negatives: int, **weights: float) -> None:
    """Raises ValueError if `vacsr` cannot take these choices with a batch of n images and m texts."""
    check_batch(*batch)
    for name, got, choices in (("hard", hard, HARD), ("reduction", reduction, REDUCTIONS)):
        if got not in choices:
            raise ValueError(f"loss.{name}: got {got!r}, expected one of {', '.join(choices)}")
    if not 1 <= hard_negatives <= min(batch):
        raise ValueError(f"loss.hard_negatives: got {hard_negatives}, expected 1 to {min(batch)} (the batch size)")


def masked_mean(x: Float[Array, "*b"], mask: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean of x where the mask holds; 0 if it holds nowhere."""
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(jnp.sum(mask), 1)


def hardest(
    hardness: Float[Array, "n m"], negatives: Bool[Array, "n m"], count: int
) -> tuple[Int[Array, " p"], Int[Array, " p"], Bool[Array, " p"]]:
    """Picks the `count` hardest negatives of every row and of every column, p = count (n + m) pairs.

    Returns their rows, their columns, and whether each is a negative at all: a row or column may have too few.
    """
    n, m = hardness.shape
    masked = jnp.where(negatives, jax.lax.stop_gradient(hardness), -jnp.inf)
    (in_row, j), (in_column, i) = jax.lax.top_k(masked, count), jax.lax.top_k(masked.T, count)
    own_rows, own_columns = jnp.repeat(jnp.arange(n), count), jnp.repeat(jnp.arange(m), count)
    i, j = jnp.concatenate([own_rows, i.ravel()]), jnp.concatenate([j.ravel(), own_columns])
    return i, j, jnp.concatenate([in_row.ravel(), in_column.ravel()]) > -jnp.inf
