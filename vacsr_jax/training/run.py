"""A run, set up: data, tokenizer, model, state. The order is decided here, once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.loader import Pairs
from vacsr_jax.data.noise import Noise, make_noise, read_noise
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.source import ArraySource, Source, caption_pairs, to_array_source
from vacsr_jax.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from vacsr_jax.models.clip import check_tokens
from vacsr_jax.models.clip_config import CLIP_CONFIGS, CLIPConfig
from vacsr_jax.models.clip_weights import load_hf_clip
from vacsr_jax.models.image_text import ImageTextModel, adapt_towers, build_model
from vacsr_jax.training.state import init_params

CONFIG = "run_config.json"  # the resolved config, in a workdir
TOKENIZER = "tokenizer"  # its folder in a workdir
NOISE = "noise.npy"  # the index of noisy correspondence in a workdir, if there is noise
MEMORY_LIMIT = 2**30  # bytes of images kept decoded


@dataclass(frozen=True)
class Run:
    """Everything about a run that training does not change; `params` are those of step 0."""

    config: ConfigDict
    model: ImageTextModel
    params: Any
    tokenizer: Tokenizer
    pairs: Pairs
    validation: Source
    noise: Noise | None


def set_up(config: ConfigDict, workdir: Path) -> Run:
    """Opens the data, makes or loads tokenizer and towers, and initializes parameters from the seed.

    Raises:
      ValueError: for anything in the config that does not fit (its field is named), or unreadable data.
    """
    # 1. the data; 2. the tokenizer, kept in the workdir; 3. the towers' shape and weights; 4. all parameters.
    train, validation = open_split(config, "train"), open_split(config, "validation")
    texts, image_index = caption_pairs(train)
    if config.model.pretrained:
        clip, towers = load_hf_clip(config.model.pretrained)
        tokenizer = load_tokenizer(config.model.pretrained, context_length=clip.text.context_length)
    else:
        clip, towers = preset(config), None
        tokenizer = saved_or_trained_tokenizer(config, workdir, texts, clip)
        ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
        clip = adapt_towers(clip, image_size=config.model.image_size, context_length=tokenizer.context_length, **ids)
    model = build_model(config, clip)
    params = init_params(model, config.seed)
    if towers is not None:
        params = {**params, "towers": towers}
        if "log_scale" in params["pair"]:  # the cosine baselines start at CLIP's own temperature
            params["pair"] = {**params["pair"], "log_scale": towers["logit_scale"]}
    params = jax.device_get(params)

    resize = functools.partial(preprocess, image_size=clip.vision.image_size)
    tokens = tokenizer(texts)
    check_tokens(tokens, clip.text)
    noise = noise_of(config, image_index)
    (train, resize_train), (validation, _) = (fit_in_memory(source, resize, clip) for source in (train, validation))
    pairs = Pairs(train, tokens, image_index if noise is None else noise.index, resize_train)
    return Run(config, model, params, tokenizer, pairs, validation, noise)


def noise_of(config: ConfigDict, image_of: np.ndarray) -> Noise | None:
    """The noise of the training captions that the config asks for; None: they stay as they are."""
    data = config.data
    if data.noise_file:
        if data.noise:
            raise ValueError(f"data.noise is {data.noise} and data.noise_file {data.noise_file!r}; give one of them")
        return read_noise(data.noise_file, image_of)
    noise = make_noise(image_of, data.noise, protocol=data.noise_protocol, seed=config.seed)
    return noise if data.noise else None


def preset(config: ConfigDict) -> CLIPConfig:
    if config.model.clip not in CLIP_CONFIGS:
        raise ValueError(f"model.clip: got {config.model.clip!r}, expected one of {', '.join(CLIP_CONFIGS)}")
    return CLIP_CONFIGS[config.model.clip]


def saved_or_trained_tokenizer(config: ConfigDict, workdir: Path, texts: list[str], clip: CLIPConfig) -> Tokenizer:
    """The tokenizer of the run that the workdir holds, or one trained on the training captions."""
    if (workdir / CONFIG).exists():
        return load_tokenizer(workdir / TOKENIZER)
    length = config.model.context_length or clip.text.context_length
    return train_tokenizer(texts, vocab_size=config.model.vocab_size, context_length=length)


def fit_in_memory(source: Source, resize: Callable, clip: CLIPConfig) -> tuple[Source, Callable | None]:
    """The source with all images resized once, if they take less than MEMORY_LIMIT; else as it is, and `resize`."""
    if isinstance(source, ArraySource) and source.images.shape[1] == clip.vision.image_size:
        return source, None
    if len(source) * clip.vision.image_size**2 * 3 > MEMORY_LIMIT:
        return source, resize
    return to_array_source(source, resize), None
