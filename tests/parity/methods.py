"""Every method on a model as small as can be: its loss, its gradients and its scores, for golden values."""

from __future__ import annotations

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from configs import scenes
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import build_model, init_params
from vacsr_jax.scoring.embed import embed_texts
from vacsr_jax.scoring.model import score_pairs
from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.training.state import init_state
from vacsr_jax.training.step import make_step

WORDS = ["a red circle", "a blue square left of a star", "two green rings", "a small star", "a red square"]
BATCH = 8
GPO = {"model.pooling": "gpo", "model.embedding_dim": 12}
OUTSIDE = "experiments.extending.late_interaction:MyMethod"  # a method that is not in the package
# Name: config fields. `tiles` and `eight` say how the same numbers are computed.
CASES = {
    "infonce": {"method": "infonce"},
    "cross_entropy": {"method": "cross_entropy"},
    "sigmoid": {"method": "sigmoid"},
    "sigmoid, fixed scale": {"method": "sigmoid", "cosine.scale": 7.0, "cosine.learn_scale": False},
    "triplet": {"method": "triplet", "triplet.all_negatives_steps": 1},
    "pcmepp": {"method": "pcmepp"},
    "pcmepp, GPO": {"method": "pcmepp", **GPO},
    "conjunction": {"method": "conjunction"},
    "tokens": {"method": "tokens"},
    "deterministic": {"method": "deterministic"},
    "deterministic, GPO": {"method": "deterministic", **GPO},
    "vacsr": {"method": "vacsr"},
    "vacsr, raw": {"method": "vacsr", "adapter.embeddings": "raw", "adapter.width": 20},
    "vacsr, loss": {"method": "vacsr", "loss.hard": "loss", "loss.hard_negatives": 2, "adapter.sigmoid": False},
    "vacsr, hidden decoder": {"method": "vacsr", "adapter.decoder_width": 8},
    "propensity": {"method": "propensity"},
    "propensity, logit": {"method": "propensity", "propensity.plateau": False, "propensity.noise_floor": False},
    "propensity, text only": {"method": "propensity", "propensity.image": False},
    "propensity, conjunction": {"method": "propensity", "propensity.match": "conjunction"},
    "propensity, tokens": {"method": "propensity", "propensity.match": "tokens", "tokens.places": "pairs"},
    "propensity, deterministic": {"method": "propensity", "propensity.match": "deterministic"},
    "propensity, vacsr": {"method": "propensity", "propensity.match": "vacsr"},
    "vacsr, tiles": {"method": "vacsr", "train.tile_pairs": 16},
    "propensity, vacsr, tiles": {"method": "propensity", "propensity.match": "vacsr", "train.tile_pairs": 16},
    "outside": {"method": OUTSIDE},
    "propensity, outside": {"method": "propensity", "propensity.match": OUTSIDE},
    "deterministic, mixed": {"method": "deterministic", "augment.mix": 0.5, "augment.label_smoothing": 0.1},
}


def tokenizer():
    return train_tokenizer(WORDS, vocab_size=290, context_length=8)


def config_of(name: str):
    config = scenes.get_config()
    config.update_from_flattened_dict({"train.batch_size": BATCH} | CASES[name])
    return config


def model_of(name: str):
    config, tokens = config_of(name), tokenizer()
    sizes = {"width": 16, "layers": 1, "heads": 2, "mlp_width": 32, "activation": "gelu", "pool": "mean"}
    vision = VisionConfig(image_size=16, patch_size=8, patch_normalization=True, **sizes)
    ids = {field: getattr(tokens, field) for field in ("vocab_size", "start_id", "end_id", "pad_id")}
    text = TextConfig(context_length=8, causal=False, **ids, **sizes)
    return config, build_model(config, CLIPConfig(vision, text, embedding_dim=12))


def batch():
    rng = np.random.default_rng(0)
    tokens = tokenizer()([WORDS[i % len(WORDS)] for i in range(BATCH)])
    return {
        "images": rng.integers(0, 255, (BATCH, 16, 16, 3)).astype(np.uint8),
        "tokens": tokens,
        "group": np.array([0, 1, 2, 3, 4, 5, 0, 7], np.int32),
    }


def params_of(name: str):
    """Fresh parameters, moved so that nothing stands at zero."""
    config, model = model_of(name)
    params = jax.device_get(init_params(model, config.seed))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: (x + 0.05 * rng.normal(size=np.shape(x))).astype(np.float32), params)


def hash_of(tree) -> str:
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten_dict(tree, sep="/").items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def compute(name: str, devices: int = 1) -> dict:
    """One step's terms, the gradient (its hash, and the norm of each leaf), and the scores of all pairs."""
    config, model = model_of(name)
    params = params_of(name)
    optimizer = optax.trace(decay=0.0)  # keeps the gradient as it is
    state = dataclasses.replace(init_state(jax.tree.map(jnp.asarray, params), optimizer), step=jnp.int32(1))
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    state, terms = make_step(config, model, optimizer, mesh, state)(state, batch())
    gradient = jax.device_get(state.opt_state.trace)
    norms = {k: float(np.linalg.norm(v)) for k, v in flatten_dict(gradient, sep="/").items()}
    return {
        "terms": {k: float(v) for k, v in sorted(terms.items())},
        "gradient": hash_of(gradient),
        "norms": norms,
        "parameters": hash_of(params),
        "scores": scores_of(model, params),
    }


def scores_of(model, params) -> dict:
    from vacsr_jax.data.source import ArraySource
    from vacsr_jax.scoring.embed import embed_images

    pixels = batch()["images"]
    source = ArraySource(pixels, [()] * len(pixels), [str(i) for i in range(len(pixels))])
    images = embed_images(model, params, source)
    scores = score_pairs(model, params, images, embed_texts(model, params, tokenizer()(WORDS)))
    values = {
        "logit": scores.logit,
        "uncertainty": scores.uncertainty,
        "label": scores.by_label(),
        "match": scores.by_match(),
    }
    return {k: None if v is None else np.asarray(v, np.float64).tolist() for k, v in values.items()}
