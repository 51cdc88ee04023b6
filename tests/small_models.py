"""Small models and plain formulas that the tests of several folders use."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import scenes
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.pair.vacsr import VariationalAdapter
from vacsr_jax.pretrained import Pretrained
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.checkpoint import config_to_dict

STEP = 3  # the step that `untrained` says it is from


@functools.cache
def untrained() -> Pretrained:
    """A VACSR model of the tiny preset with random parameters, whose tokenizer knows the words of two captions."""
    config = scenes.get_config()
    tokenizer = train_tokenizer(["a red circle", "a blue square"] * 2, vocab_size=300, context_length=8)
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    model = build_model(config, adapt_towers(PRESETS["tiny"], image_size=0, context_length=8, **ids))
    params = random_like(abstract_params(model), np.random.default_rng(0), scale=0.1)
    return Pretrained(model, params, tokenizer, config_to_dict(config), STEP)


def variational_adapter(dim: int, width: int, **fields) -> VariationalAdapter:
    """VACSR's adapter with the published choices, except for the given fields."""
    choices = {"components": 2, "decoder_width": 0, "embeddings": "unit", "sigmoid": True}
    choices |= {"temperature": 1.0, "hard": False, "initial_logit": -2.0}
    return VariationalAdapter(dim=dim, width=width, **choices | fields)


def random_like(shapes, rng: np.random.Generator, scale: float):
    """Numpy parameters of these shapes, normal with this standard deviation; a model's own take seconds to compile."""
    return jax.tree.map(lambda x: (scale * rng.normal(size=x.shape)).astype(np.float32), shapes)


def random_params(adapter: VariationalAdapter, rng: np.random.Generator, scale: float = 0.7) -> dict:
    """Parameters of the adapter, as jax arrays."""
    shapes = jax.eval_shape(lambda key: adapter.init(key, method="scorer"), jax.random.key(0))["params"]
    return jax.tree.map(jnp.asarray, random_like(shapes, rng, scale))


def gelu(x: np.ndarray) -> np.ndarray:
    """The tanh form of the gelu, in x's own precision."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def check_gradient(function, x, *, step: float = 1e-6, rtol: float = 1e-6, directions: int = 1) -> None:
    """Compares a scalar function's gradient at a float64 pytree with central differences, along random directions."""
    function, gradient = jax.jit(function), jax.jit(jax.grad(function))(x)
    for seed in range(directions):
        rng = np.random.default_rng(seed)
        direction = jax.tree.map(lambda leaf, rng=rng: rng.normal(size=leaf.shape), x)
        ahead, behind = (jax.tree.map(lambda a, b, h=h: a + h * b, x, direction) for h in (step, -step))
        finite = (function(ahead) - function(behind)) / (2 * step)
        along = sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, direction)))
        np.testing.assert_allclose(along, finite, rtol=rtol)
