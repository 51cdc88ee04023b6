"""Pair scores in one GPU kernel, which never writes similarity vectors or hidden units to device memory (Pallas).

A program computes r x c pairs. It forms their similarity vectors block by block in registers, multiplies them into one
block of hidden units at a time, and adds that block to each pair's logit before it starts the next. Only embeddings,
weights and results pass through device memory. With log-variances, the hidden layer of the program's pairs stays in
registers, in the precision of the products, and is multiplied by the second matrix there.

`pair.adapter.AdapterScorer.score_vectors` is the reference: the same computation in plain JAX.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

D_BLOCK, H_BLOCK = 64, 128  # sizes of a block of the contraction, and of the units that are reduced at once
PAIRS, PAIRS_WITH_VARIANCE = (
    (8, 16),
    (8, 8),
)  # rows and columns of a program, fewer with log-variances: the hidden layer must fit too


def fits(d: int, h: int) -> bool:
    """Whether the kernel's blocks divide an adapter of dimension d and width h."""
    return d % D_BLOCK == 0 and h % H_BLOCK == 0


@functools.partial(jax.jit, static_argnames=("components", "interpret"))
def fused_scores(
    images: Float[Array, "n d"],
    texts: Float[Array, "m d"],
    trunk_kernel: Float[Array, "d h"],
    trunk_bias: Float[Array, " h"],
    readout: Float[Array, " h"],
    log_var_kernel: Float[Array, "h kd"] | None = None,
    log_var_bias: Float[Array, " kd"] | None = None,
    *,
    components: int = 0,
    interpret: bool = False,
) -> tuple[Float[Array, "n m"], Float[Array, "n m"] | None]:
    """gelu(s W + b) . readout of every pair, and with `log_var_kernel` also mean_d sigma, else None.

    sigma_d^2 = sum_k exp(log-variance_kd), and `log_var_bias` includes log alpha_k. `components` is k. Products are in
    the type of `trunk_kernel`, sums in float32. `interpret` runs the kernel as plain JAX, on any backend.

    Raises:
      ValueError: for sizes that are not multiples of the blocks; see `fits`.
    """
    d, h = trunk_kernel.shape
    if not fits(d, h):
        raise ValueError(f"d, h: got {d}, {h}; expected multiples of {D_BLOCK} and {H_BLOCK}")
    n, m = len(images), len(texts)
    rows, columns = PAIRS if log_var_kernel is None else PAIRS_WITH_VARIANCE
    images = jnp.pad(images, [(0, -n % rows), (0, 0)])
    texts = jnp.pad(texts, [(0, -m % columns), (0, 0)])
    whole = [x for x in (trunk_kernel, trunk_bias, readout, log_var_kernel, log_var_bias) if x is not None]
    grid = (len(images) // rows, len(texts) // columns)
    result = jax.ShapeDtypeStruct((len(images), len(texts)), jnp.float32)
    block = pl.BlockSpec((rows, columns), lambda i, j: (i, j))
    outputs = 1 if log_var_kernel is None else 2
    out = pl.pallas_call(
        functools.partial(_kernel, components=components),
        grid=grid,
        in_specs=[
            pl.BlockSpec((rows, d), lambda i, j: (i, 0)),
            pl.BlockSpec((columns, d), lambda i, j: (j, 0)),
            *[pl.BlockSpec(x.shape, lambda i, j, ndim=x.ndim: (0,) * ndim) for x in whole],
        ],
        out_specs=[block] * outputs,
        out_shape=[result] * outputs,
        interpret=interpret,
        **({} if interpret else _triton()),
    )(images, texts, *whole)
    cut = [x[:n, :m] for x in out]
    return cut[0], cut[1] if outputs == 2 else None


def _triton() -> dict:
    from jax.experimental.pallas import triton  # not in every build of jax

    return {"compiler_params": triton.CompilerParams(num_warps=8, num_stages=2)}


def _kernel(image_ref, text_ref, trunk_ref, bias_ref, readout_ref, *refs, components: int):
    (rows, d), columns, h = image_ref.shape, text_ref.shape[0], trunk_ref.shape[1]
    dtype = trunk_ref.dtype
    logit = jnp.zeros(rows * columns, jnp.float32)
    hidden = []
    for start in range(0, h, H_BLOCK):
        units = pl.ds(start, H_BLOCK)

        def add_block(i, sums, units=units):
            part = pl.ds(i * D_BLOCK, D_BLOCK)
            similarity = image_ref[:, part][:, None, :] * text_ref[:, part][None, :, :]
            return sums + _dot(similarity.reshape(rows * columns, D_BLOCK).astype(dtype), trunk_ref[part, units])

        sums = jax.lax.fori_loop(0, d // D_BLOCK, add_block, jnp.zeros((rows * columns, H_BLOCK), jnp.float32))
        active = jax.nn.gelu(sums + bias_ref[units][None, :])
        logit += jnp.sum(active * readout_ref[units][None, :], axis=1)
        if components:
            hidden.append(active.astype(dtype))
    if components:
        log_var_ref, log_var_bias_ref, logit_out, deviation_out = refs
        deviation_out[...] = _mean_deviation(hidden, log_var_ref, log_var_bias_ref, components).reshape(rows, columns)
    else:
        (logit_out,) = refs
    logit_out[...] = logit.reshape(rows, columns)


def _mean_deviation(hidden: list[Array], kernel_ref, bias_ref, components: int) -> Array:
    d = bias_ref.shape[0] // components

    def add_block(i, total):
        variance = jnp.zeros((hidden[0].shape[0], D_BLOCK), jnp.float32)
        for k in range(components):
            part = pl.ds(k * d + i * D_BLOCK, D_BLOCK)
            log_var = sum(_dot(block, kernel_ref[pl.ds(j * H_BLOCK, H_BLOCK), part]) for j, block in enumerate(hidden))
            variance += jnp.exp(log_var + bias_ref[part][None, :])
        return total + jnp.sum(jnp.sqrt(variance), axis=1)

    return jax.lax.fori_loop(0, d // D_BLOCK, add_block, jnp.zeros(hidden[0].shape[0], jnp.float32)) / d


def _dot(a: Array, b: Array) -> Array:
    return jax.lax.dot(a, b, precision=_precision(a), preferred_element_type=jnp.float32)


def _precision(x: Array):
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
