"""One whole training step."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from vacsr_jax.image_text import ImageTextModel
from vacsr_jax.ops.mixing import keep_tokens, mix_images
from vacsr_jax.ops.precision import product_dtype
from vacsr_jax.optim import groups, lora
from vacsr_jax.pair import find_method
from vacsr_jax.pair.base import Batch, Item
from vacsr_jax.towers.base import normalize_pixels
from vacsr_jax.training.sharding import state_sharding
from vacsr_jax.training.state import TrainState, running_average

POSITIVES = ("image", "diagonal")
Step = Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]


def make_step(
    config: ConfigDict,
    model: ImageTextModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    state: TrainState,
    class_tokens: np.ndarray | None = None,
) -> Step:
    """Returns `step(state, batch) -> (state, terms)`, compiled once for the mesh; it reuses the old state's memory.

    `class_tokens` int32 [c l] are the texts of every batch, if the texts are classes.

    Raises:
      ValueError: if the batch does not divide over the devices, or for an unknown choice.
    """
    if config.train.batch_size % mesh.size:
        raise ValueError(f"train.batch_size: got {config.train.batch_size}, expected a multiple of {mesh.size} devices")
    if config.data.positives not in POSITIVES:
        raise ValueError(f"data.positives: got {config.data.positives!r}, expected one of {', '.join(POSITIVES)}")
    if config.augment.image_tokens and model.pooling != "gpo":
        raise ValueError(f"augment.image_tokens: got {config.augment.image_tokens}, which needs model.pooling=gpo")
    if class_tokens is not None and not find_method(config.method).with_classes:
        raise ValueError(
            f"method: {config.method} compares each image's own caption with others and cannot take classes; "
            "use another method"
        )
    shardings = state_sharding(state, mesh, shard_params=config.train.shard_params)
    step = functools.partial(train_step, config=config, model=model, optimizer=optimizer, mesh=mesh)
    if class_tokens is not None:
        step = functools.partial(step, class_tokens=class_tokens)
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
    class_tokens: np.ndarray | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Returns the next state, and the loss with its terms and the gradient's norm.

    `batch` holds `images` uint8 [b s s 3], `tokens` int32 [b l] and `group` int32 [b]. Rows of the same group are
    positives of each other (`data.positives`), and so is a text with the groups in its row of `also` [b k], if there
    is one. With `class_tokens` [c l] it holds `images` and `label` int32 [b], and
    the pairs are those of its images with all classes.
    """
    # Methods without random draws do not get the seed, so their compiled programs are the same for every seed.
    draws = model.pair.has_latent or config.augment.mix or config.augment.image_tokens
    key = jax.random.fold_in(jax.random.key(config.seed), state.step) if draws else None
    images, keep, labels = augment(batch["images"], positive_pairs(batch, config, class_tokens), key, config, model)
    method = find_method(config.method)
    optim, learns = config.optim, groups.labels(state.params, config.optim)
    released = state.step >= optim.image_frozen_steps

    def loss_of(params):
        params = groups.hold_frozen(params, learns, released)
        with lora.applied(params, optim):
            image_items, text_items = embed(
                params, images, keep, batch, config=config, model=model, mesh=mesh, class_tokens=class_tokens
            )
        pairs = Batch(
            images=image_items,
            texts=text_items,
            labels=labels,
            valid=jnp.ones(labels.shape, bool),
            key=key,
            step=state.step,
            mesh=mesh,
            tile_pairs=config.train.tile_pairs,
            dtype=product_dtype(model.dtype),
        )
        loss, terms = method.loss_of_batch(model.pair, params["pair"], pairs, config)
        # After the image tower is released, the loss grows from zero to its full size.
        ramp = jnp.clip((state.step - optim.image_frozen_steps + 1) / max(optim.ramp_steps, 1), 0, 1)
        return loss * jnp.where(released, ramp, 1), terms

    gradients, terms = jax.grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # Parameters that never learn are passed on as they are, so that no zeros of their size are made.
    moved = optax.apply_updates(state.params, updates)
    params = jax.tree.map(lambda p, new, kind: p if kind == groups.FROZEN else new, state.params, moved, learns)
    terms["gradient_norm"] = optax.tree.norm(gradients)
    average = running_average(state.average, params, state.step + 1, optim)
    return TrainState(state.step + 1, params, opt_state, average), terms


def augment(images, positives, key, config: ConfigDict, model: ImageTextModel):
    """Returns the images (mixed if configured), which image tokens GPO sees, and how much each pair is a match."""
    labels, keep, smoothing = positives, None, config.augment.label_smoothing
    if smoothing:
        labels = jnp.where(labels, 1 - smoothing, smoothing)
    if config.augment.mix:
        pixels = normalize_pixels(images, model.towers_config.vision)
        images, share = mix_images(jax.random.fold_in(key, 1), pixels, config.augment.mix)
        labels = share[:, None] * labels + (1 - share[:, None]) * labels[::-1]
    if config.augment.image_tokens:
        shape = (len(images), model.towers_config.vision.tokens)
        keep = keep_tokens(jax.random.fold_in(key, 2), shape, config.augment.image_tokens)
    return images, keep, labels


def positive_pairs(batch: dict[str, jax.Array], config: ConfigDict, class_tokens: np.ndarray | None) -> jax.Array:
    """bool [b, b] or [b, c]: whether a text was written for an image, or names its class."""
    if class_tokens is not None:
        return batch["label"][:, None] == jnp.arange(len(class_tokens))
    group = batch["group"]
    same = group[:, None] == group[None, :]
    if "also" in batch:  # the images that a text is known to be true of, besides the one that it was drawn with
        same |= jnp.any(group[:, None, None] == batch["also"][None, :, :], axis=-1)
    return same if config.data.positives == "image" else jnp.eye(len(group), dtype=bool)


def embed(params, images, keep, batch, *, config: ConfigDict, model: ImageTextModel, mesh: Mesh, class_tokens):
    """Returns the items of the images, and those of the batch's texts or of all classes."""
    if class_tokens is None:
        return model.apply({"params": params}, images, batch["tokens"], keep)
    items = model.apply({"params": params}, images, keep, method="encode_image")
    return items, embed_classes(params, class_tokens, model=model, mesh=mesh, chunk=config.train.text_chunk)


def embed_classes(params, tokens: np.ndarray, *, model: ImageTextModel, mesh: Mesh, chunk: int) -> Item:
    """Returns the items of all classes' texts [c l], computed about `chunk` at a time, a chunk split over the devices.

    The backward pass computes each chunk again, so only one chunk's activations are in memory.
    """

    def encode(tokens):
        return model.apply({"params": params}, tokens, method="encode_text")

    if len(tokens) <= chunk:
        return encode(tokens)
    chunk = -(-chunk // mesh.size) * mesh.size
    padded = np.concatenate([tokens, np.repeat(tokens[:1], -len(tokens) % chunk, axis=0)])
    rows = NamedSharding(mesh, P("data"))
    encode_chunk = jax.checkpoint(lambda tokens: encode(jax.lax.with_sharding_constraint(tokens, rows)))
    chunks = jax.lax.map(encode_chunk, padded.reshape(-1, chunk, tokens.shape[1]))
    return jax.tree.map(lambda x: x.reshape(len(padded), *x.shape[2:])[: len(tokens)], chunks)
