"""The one-pass objective, as XLA compiles it: its memory, and what devices send each other."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from tests.pair.test_vacsr_objective import ADAPTER, CHOICES, KEY, LOSS, mesh
from vacsr_jax.pair.vacsr_objective import vacsr_objective

pytestmark = pytest.mark.slow


def compiled(devices, n, d, tile_pairs):
    adapter = ADAPTER.clone(dim=d, width=d)
    params = jax.eval_shape(lambda key: adapter.init(key, method="scorer"), KEY)["params"]
    rows = NamedSharding(mesh(devices), P("data"))
    x = jax.ShapeDtypeStruct((n, d), jnp.float32, sharding=rows)

    def loss(params, images, texts):
        pairs = jnp.eye(n, dtype=bool), jnp.ones((n, n), bool)
        run = functools.partial(vacsr_objective, adapter, mesh=mesh(devices), tile_pairs=tile_pairs, dtype=jnp.float32)
        return run(params, images, texts, *pairs, KEY, **LOSS, **CHOICES)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(params, x, x).compile()


def test_memory_is_the_tiles_not_the_batchs():
    # 256 x 256 pairs: one tensor of all hidden layers is 16.8 MB, the terms of all pairs 0.3 MB each.
    tiled, whole = (compiled(1, 256, 64, pairs).memory_analysis().temp_size_in_bytes for pairs in (512, 10**6))
    assert tiled < 8e6 < 60e6 < whole


def test_text_features_are_gathered_once_and_no_tile_communicates():
    text = compiled(8, 32, 48, 16).as_text()
    gathers = [line for line in text.splitlines() if " all-gather(" in line and "f32[32,48]" in line.split("=")[1]]
    in_rows = 1  # the texts, for the tiles; the hard negatives gather rows of both sides once more
    assert in_rows <= len(gathers) <= in_rows + 2, gathers
    collectives = [line for line in text.splitlines() if re.search(r" (all|reduce)-(gather|reduce|scatter)\(", line)]
    assert "while/body" in text
    assert not any("while/body" in line for line in collectives)
