"""The memory of a training step: all of the towers against low-rank adapters on them (optim.lora).

    python -m experiments.benchmarks.lora_memory --towers=ViT-B/32 --batch_size=32

The step is compiled, not run: the numbers are those of XLA's own account of its buffers. "kept" is what stays between
steps (parameters and moments), "working" what a step needs besides (activations and gradients).
"""

from __future__ import annotations

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from configs import scenes
from vacsr_jax.image_text import build_model, param_shapes
from vacsr_jax.optim.factory import make_optimizer
from vacsr_jax.optim.lora import add_lora
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.state import init_state
from vacsr_jax.training.step import make_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--towers", choices=sorted(PRESETS), default="ViT-B/32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--ranks", default="0,8", help="0: all parameters learn")
    options = parser.parse_args()
    print(f"{options.towers}, batches of {options.batch_size}, {jax.devices()[0].device_kind}")
    for rank in map(int, options.ranks.split(",")):
        kept, working, learning = measure(options.towers, options.batch_size, rank)
        name = f"lora={rank}" if rank else "all parameters"
        print(f"{name:15} {learning / 1e6:8.2f} M learn  kept {kept / 1e6:7.0f} MB  working {working / 1e6:7.0f} MB")


def measure(towers: str, batch_size: int, rank: int) -> tuple[int, int, int]:
    """Bytes of the state and of what a step needs besides, and the number of parameters that learn."""
    config = scenes.get_config()
    config.update_from_flattened_dict({"method": "sigmoid", "train.batch_size": batch_size, "optim.lora": rank})
    model = build_model(config, PRESETS[towers])
    shapes = param_shapes(model)
    if rank:
        zeros = jax.tree.map(lambda x: np.broadcast_to(np.float32(0), x.shape), shapes)  # takes no memory
        added = add_lora(zeros, config.optim, 0)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), added)
    optimizer = make_optimizer(config, shapes)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), shapes)
    step = make_step(config, model, optimizer, Mesh(np.array(jax.devices()[:1]), ("data",)), state)
    side, length = model.towers_config.vision.image_size, model.towers_config.text.context_length
    batch = {
        "images": jax.ShapeDtypeStruct((batch_size, side, side, 3), jnp.uint8),
        "tokens": jax.ShapeDtypeStruct((batch_size, length), jnp.int32),
        "group": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    account = step.lower(state, batch).compile().memory_analysis()
    learning = sum(x.size for x in jax.tree.leaves(state.opt_state) if x.ndim) // 2
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)), account.temp_size_in_bytes, learning


if __name__ == "__main__":
    main()
