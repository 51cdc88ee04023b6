"""What a pair costs: scores, uncertainties and training steps as shares of the machine's matrix-product peak.

`python -m experiments.benchmarks.pair_scoring --out=pair_scoring.json` measures everything in one run, prints a table,
and writes the numbers and a roofline plot (the same name, .png). Times are the best of many short rounds in which the
contenders take turns, so that other users of the machine disturb all of them alike. A run takes about four minutes;
large training steps for which there is no time left are not run.
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.benchmarks import baselines
from experiments.benchmarks.timing import best_seconds, copy_gigabytes_per_second, machine, seconds
from vacsr_jax.atomic_files import to_json, write_text
from vacsr_jax.ops.precision import product_dtype
from vacsr_jax.ops.vectors import unit
from vacsr_jax.pair.adapter import scale_embedding
from vacsr_jax.pair.tokens import Claims, Places, TokensScorer
from vacsr_jax.pair.vacsr import VariationalAdapter
from vacsr_jax.pair.vacsr_objective import vacsr_objective
from vacsr_jax.report.tables import format_table
from vacsr_jax.scoring import pairs as pair_scoring

D, K = 1024, 2
IMAGES, TEXTS = 64, 256
TYPES = {"f32": jnp.float32, "bf16": jnp.bfloat16}
LOSS = {"kl": 5e-4, "recon": 1.0, "positive": 1.0, "negative": 1.0}
LOSS |= {"hard_negatives": 1, "hard": "similarity", "reduction": "row"}
TRAIN_TILE = 512
TOKENS = 512, 512, 32  # images, texts and dimension of token matching on scenes
TOKEN_PLACES = {"cells": 5, "pairs": 17}  # of an image
TOKEN_LENGTH = 20
SECONDS = 270  # of the whole run; on a slow or busy machine the largest training steps are left out


def adapter_of(d: int) -> tuple[VariationalAdapter, dict[str, jax.Array]]:
    shape = {"dim": d, "width": d, "components": K, "decoder_width": 0, "embeddings": "unit"}
    adapter = VariationalAdapter(**shape, sigmoid=True, temperature=1.0, hard=False, initial_logit=-4.8)
    return adapter, adapter.init(jax.random.key(0), method="scorer")["params"]


def embeddings(n: int, d: int, seed: int) -> np.ndarray:
    return np.asarray(scale_embedding(jax.random.normal(jax.random.key(seed), (n, d)), "unit"))


def peaks(rounds: int, sizes: tuple[int, ...] = (1024, 2048)) -> dict[str, float]:
    """GFLOP/s of the fastest square matrix product in each precision, with float32 results."""
    dot = jax.jit(functools.partial(jax.lax.dot, preferred_element_type=jnp.float32))
    contenders = {}
    for name, dtype in TYPES.items():
        for n in sizes:
            x = jax.random.normal(jax.random.key(n), (n, n)).astype(dtype)
            contenders[name, n] = functools.partial(dot, x, x)
    found = best_seconds(contenders, rounds)
    return {name: max(2 * n**3 / found[name, n] / 1e9 for n in sizes) for name in TYPES}


def inference(rounds: int) -> dict[str, Any]:
    """Pairs a second of every form at d = 1024, and the peak in the same rounds."""
    adapter, params = adapter_of(D)
    images, texts = embeddings(IMAGES, D, 1), embeddings(TEXTS, D, 2)
    whole = adapter.apply({"params": params}, method="scorer")
    alone, contenders = whole.for_ranking(), {}
    for name, dtype in TYPES.items():
        half = alone.in_precision(dtype), whole.in_precision(dtype)
        contenders[f"scores_{name}"] = functools.partial(pair_scoring.score_all, half[0], images, texts)
        contenders[f"scores_with_uncertainty_{name}"] = functools.partial(
            pair_scoring.score_all, half[1], images, texts
        )
    contenders["top_10_bf16"] = functools.partial(
        pair_scoring.top_k, alone.in_precision(jnp.bfloat16), images, texts, 10
    )
    found = {}
    for _ in range(2):  # the peak and the scores in turn, in groups
        for name, value in peaks(rounds).items():
            found[f"peak_{name}"] = max(found.get(f"peak_{name}", 0), value)
        for name, fastest in best_seconds(contenders, rounds).items():
            found[name] = max(found.get(name, 0), IMAGES * TEXTS / fastest)
    slow = {}
    naive = jax.jit(functools.partial(baselines.scores, k=K))
    slow["straightforward_f32"] = functools.partial(naive, params, jnp.asarray(images), jnp.asarray(texts[:64]))
    for name, dtype in (("torch_f32", "float32"), ("torch_bf16", "bfloat16")):
        slow[name] = baselines.torch_scorer(params, images, texts[:128], K, dtype)
    present = {name: call for name, call in slow.items() if call is not None}
    times = best_seconds(present, max(4, rounds))
    pairs = {name: IMAGES * (64 if name == "straightforward_f32" else 128) for name in slow}
    found |= {name: pairs[name] / times[name] if name in times else None for name in slow}
    check(contenders, present)
    return found


def check(contenders: dict, slow: dict) -> None:
    """Raises where two forms disagree: a fast wrong answer is no result."""
    reference = np.asarray(contenders["scores_f32"]().logit)
    for name, call in contenders.items():
        if name.startswith("scores"):
            assert np.abs(call().logit - reference).max() < 0.01, name
    for name, call in slow.items():
        out = np.asarray(call()[0] if name == "straightforward_f32" else call())
        assert np.abs(out - reference[:, : out.shape[1]]).max() < (0.1 if name == "torch_bf16" else 0.01), name


def training_step(batch: int, dtype: Any, straightforward: bool = False):
    """A compiled gradient in the adapter's parameters and both sides' embeddings, ready to be called."""
    adapter, params = adapter_of(D)
    images, texts = jnp.asarray(embeddings(batch, D, 1)), jnp.asarray(embeddings(batch, D, 2))
    positives, valid, key = jnp.eye(batch, dtype=bool), jnp.ones((batch, batch), bool), jax.random.key(3)
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))

    def loss(params, images, texts):
        if straightforward:
            return baselines.loss(adapter, params, images, texts, positives, valid, key, **LOSS)
        run = functools.partial(vacsr_objective, adapter, mesh=mesh, tile_pairs=TRAIN_TILE, dtype=dtype, **LOSS)
        return run(params, images, texts, positives, valid, key)[0]

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(params, images, texts).compile()
    return functools.partial(compiled, params, images, texts), compiled.memory_analysis().temp_size_in_bytes


def training(batch: int, rounds: int) -> dict[str, Any]:
    """Seconds and bytes of a step in every form."""
    found, steps = {}, {}
    for name, arguments in (("", ("f32",)), ("_bf16", ("bf16",)), ("_straightforward", ("f32", True))):
        steps[name], found[f"train_step_b{batch}{name}_temp_bytes"] = training_step(
            batch, TYPES[arguments[0]], *arguments[1:]
        )
    return found | {f"train_step_b{batch}{name}_s": value for name, value in best_seconds(steps, rounds).items()}


def large_steps(batches: tuple[int, ...], pair_seconds: float, left: float) -> dict[str, Any]:
    """Seconds and bytes of a step of large batches, one call each, in the precision that is fast on this machine.

    A step takes `pair_seconds` for each pair of its batch. One that would take more than the `left` seconds is not run:
    its time is None.
    """
    name = fast_precision()
    found = {}
    for batch in batches:
        begun = time.perf_counter()
        step, found[f"train_step_b{batch}{name}_temp_bytes"] = training_step(batch, product_dtype(jnp.bfloat16))
        found[f"train_step_b{batch}{name}_s"] = seconds(step) if pair_seconds * batch**2 <= left else None
        found[f"train_step_b{batch}_temp_bytes"] = training_step(batch, jnp.float32)[1]
        left -= time.perf_counter() - begun
    return found


def fast_precision() -> str:
    return "_bf16" if product_dtype(jnp.bfloat16) == jnp.bfloat16 else ""


def tokens_scorer(images: int, texts: int, dim: int, places: int, length: int):
    """A scorer of token matching with drawn items: unit vectors, weights and biases."""
    keys = jax.random.split(jax.random.key(0), 4)
    vectors = unit(jax.random.normal(keys[0], (images, places, dim)))
    claims = unit(jax.random.normal(keys[1], (texts, length, dim)))
    weights, biases = jax.random.uniform(keys[2], (texts, length)), -3 + jax.random.normal(keys[3], (texts, length))
    items = Places(vectors, jnp.ones((images, places))), Claims(claims, weights, biases)
    return TokensScorer(jnp.float32(10), jnp.array([1.0, 0.0])), *jax.device_get(items)


def tokens(rounds: int) -> dict[str, float]:
    """Pairs a second of token matching at the size of scenes, alone and with ordered pairs, and its products' FLOP/s.

    A pair takes `places` x `length` products of `dim` numbers, then as many exponentials: what bounds it are these.
    """
    contenders, work = {}, {}
    for name, places in TOKEN_PLACES.items():
        scorer, *items = tokens_scorer(*TOKENS, places, TOKEN_LENGTH)
        for precision, dtype in TYPES.items():
            form = f"{name}, {precision}"
            contenders[form] = functools.partial(pair_scoring.score_all, scorer.in_precision(dtype), *items)
            work[form] = 2 * places * TOKEN_LENGTH * TOKENS[2]
    times, pairs = best_seconds(contenders, rounds), TOKENS[0] * TOKENS[1]
    rates = {f"tokens, {form}: pairs/s": pairs / times[form] for form in contenders}
    return rates | {f"tokens, {form}: GFLOP/s of its products": pairs * work[form] / times[form] / 1e9 for form in work}


def growth(rounds: int) -> dict[str, float]:
    """Pairs a second of scores in half precision as the grid and the dimension grow."""
    shapes = [(64, 64, D), (256, 64, D), (64, 256, D), (256, 256, D), (256, 256, 128), (256, 256, 512), (64, 64, 2048)]
    contenders, pairs = {}, {}
    for n, m, d in shapes:
        adapter, params = adapter_of(d)
        scorer = adapter.apply({"params": params}, method="scorer").for_ranking().in_precision(jnp.bfloat16)
        name = f"{n} x {m}, d = {d}"
        contenders[name] = functools.partial(pair_scoring.score_all, scorer, embeddings(n, d, 1), embeddings(m, d, 2))
        pairs[name] = n * m
    return {name: pairs[name] / time for name, time in best_seconds(contenders, rounds).items()}


def report(rounds: int, batches: tuple[int, ...]) -> dict[str, Any]:
    begun = time.perf_counter()
    found = inference(rounds)
    flops = 2 * D * D
    result = {
        "machine": machine(),
        "gemm_peak_gflops": found["peak_bf16"],
        "gemm_peak_f32_gflops": found["peak_f32"],
        "copy_gb_per_s": copy_gigabytes_per_second(),
    }
    for name in ("scores", "scores_with_uncertainty"):
        result |= {f"{name}_{t}_pairs_per_s": found[f"{name}_{t}"] for t in TYPES}
    result["top_10_bf16_pairs_per_s"] = found["top_10_bf16"]
    result |= {f"scores_{t}_share_of_peak": found[f"scores_{t}"] * flops / found[f"peak_{t}"] / 1e9 for t in TYPES}
    result["uncertainty_share_of_scores"] = found["scores_with_uncertainty_bf16"] / found["scores_bf16"]
    for name in ("straightforward_f32", "torch_f32", "torch_bf16"):
        result[f"{name}_pairs_per_s"] = found[name]
        result[f"scores_bf16_over_{name}"] = found[name] and found["scores_bf16"] / found[name]
    result |= training(batches[0], max(2, rounds // 4))
    first = f"train_step_b{batches[0]}"
    result |= {
        f"{first}{t}_over_straightforward": result[f"{first}{t}_s"] / result[f"{first}_straightforward_s"]
        for t in ("", "_bf16")
    }
    result["growth_pairs_per_s"] = growth(rounds)
    result |= tokens(rounds)
    pair_seconds = result[f"{first}{fast_precision()}_s"] / batches[0] ** 2
    result |= large_steps(batches[1:], pair_seconds, SECONDS - (time.perf_counter() - begun))
    return result


def plot_roofline(result: dict[str, Any], path: Path) -> None:
    """GFLOP/s over floating-point operations per byte of memory traffic, under what the machine can do."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    intensity = np.logspace(-1, 5, 200)
    for name, peak in (("bf16", result["gemm_peak_gflops"]), ("f32", result["gemm_peak_f32_gflops"])):
        axes.loglog(intensity, np.minimum(peak, intensity * result["copy_gb_per_s"]), label=f"{name} roof")
    # A tile that stays in the cache moves its result and a share of its inputs; the straightforward form writes and
    # reads the similarity vector, the hidden layer, 2 K heads and their mixtures.
    tile = 512
    ours = {t: 4 + size * D * D / tile + 8 * D / tile**0.5 for t, size in (("bf16", 2), ("f32", 4))}
    points = {f"scores {t}": (result[f"scores_{t}_pairs_per_s"], 2 * D * D, ours[t]) for t in TYPES}
    uncertain = ours["bf16"] + 2 * K * D * D / tile
    points["scores and uncertainty bf16"] = (
        result["scores_with_uncertainty_bf16_pairs_per_s"],
        2 * (1 + K) * D * D,
        uncertain,
    )
    naive = 2 * 4 * D * (2 + 2 * K + 2)
    points["straightforward f32"] = (result["straightforward_f32_pairs_per_s"], 2 * (1 + 2 * K) * D * D, naive)
    for name, (rate, flops, moved) in points.items():
        axes.loglog(flops / moved, rate * flops / 1e9, "o", label=name)
    axes.set_xlabel("FLOP per byte of memory traffic")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(result["machine"], fontsize=8)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def shown(value: Any) -> str:
    if value is None:
        return "not run"
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3f}"


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.pair_scoring", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--out", default="pair_scoring.json", help="JSON file of the numbers; the plot stands beside it"
    )
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each measurement; more on a busy machine")
    parser.add_argument("--batches", default="128,512,1024", help="training batches; the first in every form")
    options = parser.parse_args(arguments)
    result = report(options.rounds, tuple(int(b) for b in options.batches.split(",")))
    write_text(Path(options.out), to_json(result))
    plot_roofline(result, Path(options.out).with_suffix(".png"))
    growing = result.pop("growth_pairs_per_s")
    print(result["machine"])
    rows = [[name, shown(value)] for name, value in result.items() if name != "machine"]
    rows += [[f"scores bf16, {name}: pairs/s", shown(value)] for name, value in growing.items()]
    print(format_table(rows, ["d = 1024, K = 2", "value"]))
    return result


if __name__ == "__main__":
    main()
