"""One training step, whole."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from vacsr_jax.losses import contrastive
from vacsr_jax.losses.vacsr import vacsr
from vacsr_jax.models.image_text import ImageTextModel
from vacsr_jax.ops.pairwise import map_pairs, shard_pairs
from vacsr_jax.optim import groups
from vacsr_jax.training.sharding import state_sharding
from vacsr_jax.training.state import TrainState
from vacsr_jax.training.vacsr_objective import vacsr_objective

POSITIVES = ("image", "diagonal")
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    config: ConfigDict,
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
) -> Step:
    """`step(state, batch) -> (state, terms)`, compiled once for the mesh; the old state's memory is reused.

    Raises:
      ValueError: if the batch does not divide over the devices, or for an unknown choice.
    """
    if config.train.batch_size % mesh.size:
        raise ValueError(f"train.batch_size: got {config.train.batch_size}, expected a multiple of {mesh.size} devices")
    if config.data.positives not in POSITIVES:
        raise ValueError(f"data.positives: got {config.data.positives!r}, expected one of {', '.join(POSITIVES)}")
    shardings = state_sharding(state, mesh, shard_params=config.train.shard_params)
    step = functools.partial(train_step, config=config, model=model, optimizer=optimizer, mesh=mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, NamedSharding(mesh, P("data"))),
        out_shardings=(shardings, NamedSharding(mesh, P())),
    )


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    config: ConfigDict,
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """The next state, and the loss with its terms and the gradient's norm.

    `batch` holds `images` uint8 [b s s 3], `tokens` int32 [b l] and `group` int32 [b]: rows of one group are positives
    of each other (`data.positives`).
    """
    key = jax.random.fold_in(jax.random.key(config.seed), state.step)
    group = batch["group"]
    same = group[:, None] == group[None, :]
    positives = same if config.data.positives == "image" else jnp.eye(len(group), dtype=bool)
    valid = jnp.ones_like(positives)
    optim = config.optim
    labels = groups.labels(state.params, optim)

    def loss_of(params):
        params = groups.hold_frozen(params, labels, state.step >= optim.image_frozen_steps)
        images, texts = model.apply({"params": params}, batch["images"], batch["tokens"])
        if config.method == "vacsr" and not config.adapter.decoder_width:
            return vacsr_objective(
                model.pair,
                params["pair"],
                images,
                texts,
                positives,
                valid,
                key,
                mesh=mesh,
                tile_pairs=config.train.tile_pairs,
                dtype=model.dtype,
                **config.loss,
            )
        logits = pair_terms(params["pair"], images, texts, key, config=config, model=model, mesh=mesh)
        if config.method == "vacsr":
            return vacsr(logits, positives, valid, **config.loss)
        loss = contrastive.infonce if config.method == "infonce" else contrastive.sigmoid
        return loss(logits, positives, valid)

    gradients, terms = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    terms["gradient_norm"] = optax.tree.norm(gradients)
    return TrainState(state.step + 1, params, opt_state), terms


def pair_terms(pair_params, images, texts, key, *, config: ConfigDict, model: ImageTextModel, mesh: Mesh):
    """The pair model on all b x b pairs: in tiles, each device its own images' rows; logits, or VACSR's `PairTerms`."""
    noise = ()
    if config.method == "vacsr":
        noise = model.pair.draw_noise(key, len(images), len(texts))

    def local_rows(params, rows, columns, noise):
        def tile(image_tile, text_tile, noise_tile):
            arguments = (image_tile, text_tile) if noise_tile == () else (image_tile, text_tile, noise_tile)
            return model.pair.apply({"params": params}, *arguments)

        return map_pairs(tile, rows, columns, noise, tile_pairs=config.train.tile_pairs)

    return shard_pairs(local_rows, mesh, pair_params, images, texts, noise)
