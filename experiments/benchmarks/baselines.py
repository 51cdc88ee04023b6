"""What the fast forms are measured against: the straightforward form in JAX, and a plain PyTorch module.

Both do literally what the paper writes: every pair's similarity vector and hidden layer stand in memory, all 2 K heads
are evaluated, and a training step draws K d normals for every pair.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vacsr_jax.losses.vacsr import vacsr
from vacsr_jax.ops import gaussian_mixture as mixture
from vacsr_jax.ops.pairwise import PairTerms
from vacsr_jax.pair.vacsr import VariationalAdapter

CHUNK = 128  # images and texts of one chunk of the PyTorch module, the paper's


def posterior(params, images, texts, k: int):
    """Component means and log-variances of every pair, [n m k d], from the materialized similarity vectors."""
    hidden = nn.gelu((images[:, None] * texts[None]) @ params["trunk_kernel"] + params["trunk_bias"])
    shape = (*hidden.shape[:2], k, -1)
    mean = (hidden @ params["mean_kernel"] + params["mean_bias"]).reshape(shape)
    return mean, (hidden @ params["log_var_kernel"] + params["log_var_bias"]).reshape(shape)


def scores(params, images, texts, k: int) -> tuple[jax.Array, jax.Array]:
    """Logit m(mu_bar) and uncertainty of every pair."""
    mean, log_var = posterior(params, images, texts, k)
    alpha = jax.nn.softmax(params["mixture_logits"])
    logit = (jnp.einsum("nmkd,k->nmd", mean, alpha) @ params["decoder_kernel"] + params["decoder_bias"])[..., 0]
    return logit, jnp.mean(jnp.sqrt(jnp.einsum("nmkd,k->nmd", jnp.exp(log_var), alpha)), axis=-1)


def loss(adapter: VariationalAdapter, params, images, texts, positives, valid, key, **weights) -> jax.Array:
    """The VACSR objective with z drawn for every pair."""
    gumbel_key, key = jax.random.split(key)
    k = adapter.components
    mean, log_var = posterior(params, images, texts, k)
    gumbel = jax.random.gumbel(gumbel_key, (*mean.shape[:2], k))
    drawn = mixture.component_weights(params["mixture_logits"], gumbel, temperature=1.0, hard=False)
    alpha = jnp.broadcast_to(jax.nn.softmax(params["mixture_logits"]), drawn.shape)
    variance = jnp.exp(log_var)
    z = mixture.mix(drawn, mean + jnp.sqrt(variance) * jax.random.normal(key, mean.shape))

    def decode(z):
        return (z @ params["decoder_kernel"] + params["decoder_bias"])[..., 0]

    kl = mixture.kl_upper_bound(params["mixture_logits"], mean, log_var)
    logit = decode(z)
    variance_loss = adapter.variance_loss(logit, mixture.mix(drawn, variance))
    return vacsr(PairTerms(decode(mixture.mix(alpha, mean)), logit, kl, variance_loss), positives, valid, **weights)[0]


def torch_scorer(params, images: np.ndarray, texts: np.ndarray, k: int, dtype: str) -> Callable[[], np.ndarray] | None:
    """A PyTorch module that scores all pairs in chunks of 128 x 128, ready to be called; None without torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    d, h = params["trunk_kernel"].shape

    class Adapter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = torch.nn.Linear(d, h)
            self.mean = torch.nn.ModuleList(torch.nn.Linear(h, d) for _ in range(k))
            self.log_var = torch.nn.ModuleList(torch.nn.Linear(h, d) for _ in range(k))
            self.mixture_logits = torch.nn.Parameter(torch.zeros(k))
            self.decoder = torch.nn.Linear(d, 1)

        def forward(self, images, texts):
            hidden = torch.nn.functional.gelu(self.trunk(images[:, None] * texts[None]), approximate="tanh")
            alpha = torch.softmax(self.mixture_logits, 0)
            mean = sum(a * head(hidden) for a, head in zip(alpha, self.mean, strict=True))
            variance = sum(a * head(hidden).exp() for a, head in zip(alpha, self.log_var, strict=True))
            return self.decoder(mean)[..., 0], variance.sqrt().mean(-1)

    module = Adapter()

    def fill(linear, kernel, bias):
        linear.weight.copy_(torch.from_numpy(np.array(kernel).T))
        linear.bias.copy_(torch.from_numpy(np.array(bias)))

    with torch.no_grad():
        fill(module.trunk, params["trunk_kernel"], params["trunk_bias"])
        fill(module.decoder, params["decoder_kernel"], params["decoder_bias"])
        module.mixture_logits.copy_(torch.from_numpy(np.array(params["mixture_logits"])))
        for name, heads in (("mean", module.mean), ("log_var", module.log_var)):
            kernels = np.split(np.array(params[f"{name}_kernel"]), k, axis=1)
            for head, kernel, bias in zip(heads, kernels, np.split(np.array(params[f"{name}_bias"]), k), strict=True):
                fill(head, kernel, bias)
    module = module.to(getattr(torch, dtype)).eval()
    images, texts = (torch.from_numpy(np.array(x)).to(getattr(torch, dtype)) for x in (images, texts))

    @torch.no_grad()
    def run():
        rows = [
            torch.cat([module(v, t)[0] for t in texts.split(CHUNK)], dim=1).float().numpy() for v in images.split(CHUNK)
        ]
        return np.concatenate(rows)

    return run
