"""Trains a few steps of a small config, for the tests of this folder."""

import jax
import numpy as np
from jax.sharding import Mesh

from configs import scenes
from vacsr_jax.data.loader import batch_at
from vacsr_jax.training.loop import start
from vacsr_jax.training.run import set_up
from vacsr_jax.training.sharding import shard_batch

STEPS = 3


def small_config(method="vacsr", **fields):
    config = scenes.get_config(f"method={method}")
    changes = {"data.train_size": 60, "data.validation_size": 10, "train.batch_size": 16, "train.steps": 10}
    changes |= {"optim.warmup_steps": 2, "train.tile_pairs": 40}
    config.update_from_flattened_dict(changes | fields)
    return config


def run_steps(workdir, devices, method="vacsr", **fields):
    """Returns the terms of each step, the parameters after the last, and how often the step was compiled."""
    config = small_config(method, **fields)
    run = set_up(config, workdir)
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    state, step = start(run, mesh)
    terms = []
    for number in range(STEPS):
        batch = batch_at(run.pairs, number, batch_size=config.train.batch_size, seed=config.seed)
        batch.pop("index")
        before = state
        state, new = step(state, shard_batch(batch, mesh))
        terms.append(jax.device_get(new))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "the old state's memory is not reused"
    return terms, jax.device_get(state.params), step._cache_size()
