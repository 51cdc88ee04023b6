"""The squared error of a probability, with a gradient that does not vanish where the sigmoid is flat."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


def squared_error(logit: Float[Array, "*b"], label: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """1/2 (label - sigmoid(logit))^2, with -(label - sigmoid(logit)) as its gradient in `logit`.

    This is the straight-through sigmoid of Wei et al. 2026, eq. 14 and 15: the factor sigmoid' is left out, so a
    confident mistake still has a gradient. It equals the gradient of the binary cross-entropy. Elementwise, no
    reduction.
    """
    probability = jax.nn.sigmoid(logit)
    straight_through = logit + jax.lax.stop_gradient(probability - logit)
    return 0.5 * (label - straight_through) ** 2
