"""Embeddings in batches: what is computed for a small call, and that padding changes nothing."""

import types

import jax
import numpy as np
import pytest

from vacsr_jax.scoring import embed


@pytest.mark.parametrize(
    ("rows", "shapes"),
    [(1, [1]), (2, [2]), (3, [4]), (5, [8]), (200, [256]), (256, [256]), (257, [256, 1]), (300, [256, 64])],
)
def test_batch_is_padded_to_the_next_power_of_two_only(monkeypatch, rows, shapes):
    # A call of one item must cost one item: padded to 256, a query through a real CLIP took minutes.
    seen = []

    def encode(params, batch, model, method):
        seen.append(len(batch))
        return jax.numpy.asarray(batch, np.float32)

    monkeypatch.setattr(embed, "_encode", encode)
    tokens = np.arange(3 * rows, dtype=np.int32).reshape(rows, 3)
    found = embed.embed_texts(types.SimpleNamespace(), {}, tokens)
    assert seen == shapes
    np.testing.assert_array_equal(found, tokens)
