"""Targets that read models: an export, a workdir, and a Hugging Face CLIP, each as small as possible."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.fuzz.targets import Target


def write_export(folder: Path) -> None:
    from tests.small_models import untrained

    untrained().save(folder)


def write_workdir(folder: Path) -> None:
    import jax
    import optax

    from tests.small_models import STEP, untrained
    from vacsr_jax.atomic_files import to_json, write_text
    from vacsr_jax.image_text import describe
    from vacsr_jax.training.checkpoint import Checkpoints, Selection
    from vacsr_jax.training.run import CONFIG
    from vacsr_jax.training.state import init_state

    model = untrained()
    checkpoints = Checkpoints(folder)
    state = init_state(jax.device_put(model.params), optax.sgd(0.1)).replace(step=jax.numpy.int32(STEP))
    checkpoints.save(state, {"config": model.config, "model": describe(model.model)}, Selection("validation/rsum", 1.0))
    checkpoints.close()
    model.tokenizer.save(folder / "tokenizer")
    write_text(folder / CONFIG, to_json(model.config))


def write_clip(folder: Path) -> None:
    """Writes Hugging Face's files of a CLIP with one block per tower, in two safetensors files with an index."""
    from flax.traverse_util import unflatten_dict
    from safetensors.numpy import load_file, save_file
    from transformers import CLIPTokenizer

    from vacsr_jax.towers import clip_weights, weights
    from vacsr_jax.towers.base import TextConfig, VisionConfig
    from vacsr_jax.towers.clip import CLIPConfig

    letters = [c + end for c in "abcdefghij" for end in ("", "</w>")]
    words = [*letters, "<|pad|>", "<|startoftext|>", "<|endoftext|>"]
    sizes = {"layers": 1, "heads": 2, "mlp_width": 12}
    vision = VisionConfig(image_size=16, patch_size=8, width=8, **sizes)
    ids = {"pad_id": len(letters), "start_id": len(letters) + 1, "end_id": len(letters) + 2}
    config = CLIPConfig(vision, TextConfig(len(words), 7, 8, **sizes, **ids), embedding_dim=6)
    draw = np.random.default_rng(0)
    flat = {x: draw.normal(size=shape).astype(np.float32) for x, shape in weights.leaf_shapes(config).items()}
    clip_weights.save_hf_clip(folder, config, unflatten_dict(flat, sep="/"))
    vocabulary = {word: i for i, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="<|pad|>").save_pretrained(folder)
    tensors = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    parts = {f"model-{i}.safetensors": dict(tensors[i::2]) for i in range(2)}
    for name, part in parts.items():
        save_file(part, folder / name, {"format": "pt"})
    places = {key: name for name, part in parts.items() for key in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def read_model(folder: Path) -> None:
    import vacsr_jax

    vacsr_jax.load(folder).tokenizer(["a bad cafe"])


MODEL_TARGETS = (
    Target("Hugging Face CLIP", write_clip, read_model),
    Target("export", write_export, read_model),
    Target("workdir", write_workdir, read_model),
)
