"""A propensity model on embeddings that needs no training, and pairs in which captions were exchanged."""

import jax.numpy as jnp
import numpy as np

from vacsr_jax.config_files import load_config
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.pretrained import EmbeddingModel
from vacsr_jax.towers.embeddings import EmbeddingsConfig, EmbeddingSide

N, D = 60, 16
WRONG = (3, 10, 17, 24, 31, 38)  # captions, each at the next one's image


def write_pairs(folder, n=N):
    """p.npz: two captions of each image, noisy copies of it; the first ones of WRONG are exchanged in a cycle."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(n, D)).astype(np.float32)
    image_of = np.repeat(np.arange(n), 2)
    texts = (images[image_of] + 0.3 * rng.normal(size=(2 * n, D))).astype(np.float32)
    wrong = [2 * i for i in WRONG if i < n]
    image_of[wrong] = np.roll(image_of[wrong], 1)
    path = folder / "p.npz"
    names = np.array([f"caption <{j}>" for j in range(2 * n)])
    ids = np.array([f"i{k}" for k in range(n)])
    np.savez(path, image_embeddings=images, text_embeddings=texts, image_of=image_of, texts=names, image_ids=ids)
    return path


def cosine_model(method="propensity"):
    """A cosine with a scale and a bias that suit these pairs, and propensities that are a random linear map's."""
    config = load_config("embeddings", [f"--config.method={method}", "--config.propensity.head_width=4"])
    side = EmbeddingSide(D)
    model = build_model(config, EmbeddingsConfig(vision=side, text=side, embedding_dim=D))
    rng = np.random.default_rng(1)
    import jax

    params = jax.tree.map(lambda x: (0.1 * rng.normal(size=x.shape)).astype(np.float32), abstract_params(model))
    where = params["pair"]["match"] if method == "propensity" else params["pair"]
    where |= {"log_scale": jnp.float32(np.log(12.0)), "bias": jnp.float32(-6.0)}
    return EmbeddingModel(model, params, None)
