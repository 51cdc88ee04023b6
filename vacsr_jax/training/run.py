"""Sets up a run: data, tokenizer, model and parameters, in an order that is decided only here."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from vacsr_jax.data.augment import Augmentation, ordinary_ids
from vacsr_jax.data.classification.protocol import find_template, prompts
from vacsr_jax.data.classification.source import ClassSource
from vacsr_jax.data.corrections import corrected
from vacsr_jax.data.datasets import absolute_paths, open_split, open_validation
from vacsr_jax.data.embedding_pairs import EmbeddingSource
from vacsr_jax.data.loader import LabelledImages, Pairs, TrainingItems
from vacsr_jax.data.noise import Noise, make_noise, read_noise
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.source import ArraySource, Source, caption_pairs, to_array_source
from vacsr_jax.data.tokenizer import Tokenizer, load_tokenizer, report_cut, train_tokenizer
from vacsr_jax.image_text import ImageTextModel, build_model, init_params
from vacsr_jax.towers import check_tokens
from vacsr_jax.towers.base import (
    IMAGENET_PIXEL_MEAN,
    IMAGENET_PIXEL_STD,
    TowersConfig,
    VisionConfig,
    adapt_towers,
    longest_text,
)
from vacsr_jax.towers.embeddings import EmbeddingsConfig, EmbeddingSide
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training.checks import fit_warmup
from vacsr_jax.training.cosine_start import start_at_cosine
from vacsr_jax.training.start import as_cosine, read_start, warm_start
from vacsr_jax.training.warm_start import adapter_params
from vacsr_jax.workdir import CONFIG, TOKENIZER

# Fields that name files or folders; data.path may name several, separated by commas.
PATHS = (
    ("data", "path"),
    ("data", "tfds"),
    ("data", "ground_truth"),
    ("data", "noise_file"),
    ("data", "extra_positives"),
    ("data", "dropped_labels"),
    ("model", "pretrained"),
)
MEMORY_LIMIT = 2**30  # bytes of decoded images that are kept in memory


@dataclass(frozen=True)
class Run:
    """Everything about a run that training does not change; `params` are those of step 0.

    In `config`, `train.epochs` has been converted to `train.steps`, the warm-up fits into them, and the paths of the
    data are absolute, so that the run can be evaluated from any folder. `cut` is the number of training texts that are
    longer than the context.
    """

    config: ConfigDict
    model: ImageTextModel
    params: Any
    tokenizer: Tokenizer | None  # None: images and texts are embeddings
    pairs: TrainingItems
    validation: Source | None
    noise: Noise | None
    class_tokens: np.ndarray | None = None  # int32 [c, l], one text per class, if the texts are classes
    cut: int = 0


def set_up(config: ConfigDict, workdir: Path) -> Run:
    """Opens the data, makes or loads tokenizer and towers, and initializes parameters from the seed.

    Raises:
      ValueError: if a field of the config does not fit (the message names it), or data cannot be read.
    """
    # 1. the data; 2. the tokenizer, kept in the workdir; 3. the towers' shape and weights; 4. all parameters.
    train, validation = open_split(config, "train"), open_validation(config)
    if isinstance(train, EmbeddingSource):
        return set_up_on_embeddings(config, train, validation)
    texts, image_index = (class_texts(train, config), None) if isinstance(train, ClassSource) else caption_pairs(train)
    start = read_start(config)
    if start is not None and start.tokenizer is not None:
        shape, tokenizer = start.model.towers_config, start.tokenizer
    else:
        shape = preset(config)
        tokenizer = saved_or_trained_tokenizer(config, workdir, texts, shape)
        ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
        shape = adapt_towers(shape, image_size=config.model.image_size, context_length=tokenizer.context_length, **ids)
    shape = dataclasses.replace(shape, vision=choose_preprocess(config, shape.vision))
    built = config if start is None else as_cosine(config, start)
    model = build_model(built, shape, texts=len(texts) if image_index is None else 0)
    params = init_params(model, config.seed)
    if start is not None:
        params = warm_start(config, model, params, start)
    if config.model.adapter:
        params = {**params, "pair": adapter_params(Path(config.model.adapter), model)}
    params = jax.device_get(params)

    resize = functools.partial(preprocess, **shape.vision.preprocessing)
    augmentation = make_augmentation(config, shape, tokenizer)
    tokens = tokenizer(texts)
    check_tokens(tokens, shape.text)
    cut = report_cut(tokenizer, texts, "training captions" if image_index is not None else "class prompts")
    noise = noise_of(config, image_index)
    resize_train: Callable | None = resize
    if config.augment.images == "none":  # otherwise each step takes a new crop of the full image
        train, resize_train = fit_in_memory(train, resize, shape)
    if validation is not None:
        validation, _ = fit_in_memory(validation, resize, shape)
    pairs: TrainingItems
    class_tokens = None
    if image_index is None:
        pairs = LabelledImages(train, resize_train, augmentation)
        class_tokens = tokens[:, : longest_text(tokens, shape.text)]  # pads change nothing but cost as much as words
    else:
        shown = image_index if noise is None else noise.index
        pairs = corrected(config, Pairs(train, tokens, shown, resize_train, augmentation))
    config = fit_warmup(with_steps(with_absolute_paths(config), len(pairs)))
    return Run(config, model, params, tokenizer, pairs, validation, noise, class_tokens, cut)


def set_up_on_embeddings(config: ConfigDict, train: EmbeddingSource, validation: Source | None) -> Run:
    """`set_up` without towers: the model is the projections and the pair model, which starts as a cosine if it can."""
    augment = config.augment
    if augment.images != "none" or augment.tokens or augment.mix or augment.image_tokens:
        raise ValueError("augment: embeddings have no pixels and tokens to change; leave all but label_smoothing off")
    if config.model.pretrained:
        raise ValueError("model.pretrained: embeddings come without towers; leave it empty")
    shape = embedding_towers(config, train)
    model = build_model(config, shape)
    texts, image_index = train.text_inputs()
    noise = noise_of(config, image_index)
    pairs = corrected(config, Pairs(train, texts, image_index if noise is None else noise.index))
    params = start_at_cosine(config, model, init_params(model, config.seed), pairs)
    config = fit_warmup(with_steps(with_absolute_paths(config), len(pairs)))
    return Run(config, model, jax.device_get(params), None, pairs, validation, noise)


def embedding_towers(config: ConfigDict, source: EmbeddingSource) -> EmbeddingsConfig:
    """The sides of a model on a file's embeddings, and the dimension in which they are compared.

    The dimension is that of a side without a linear projection; if both have one, the smaller of the two.
    """
    model, pairs = config.model, source.pairs
    image, text = sides = [
        EmbeddingSide(vectors.shape[1], projection, model_id)
        for vectors, projection, model_id in (
            (pairs.images, model.image_projection, pairs.image_model),
            (pairs.texts, model.text_projection, pairs.text_model),
        )
    ]
    kept = [side.dim for side in sides if side.projection != "linear"]
    if len(set(kept)) > 1:
        raise ValueError(
            f"{pairs.path}: image embeddings have {kept[0]} numbers and text embeddings {kept[1]}; to compare them, "
            "set --config.model.text_projection=linear (or image_projection)"
        )
    dim = model.embedding_dim or min(kept or [side.dim for side in sides])
    return EmbeddingsConfig(vision=image, text=text, embedding_dim=dim)


def noise_of(config: ConfigDict, image_of: np.ndarray | None) -> Noise | None:
    """The noise that the config asks for in training captions with these images; None: captions stay as they are."""
    data = config.data
    if image_of is None:
        if data.noise or data.noise_file:
            raise ValueError(f"data.noise: it permutes captions, but {data.dataset} has only classes; leave it at 0")
        if data.extra_positives or data.dropped_labels:
            raise ValueError(
                f"data.extra_positives, data.dropped_labels: they name captions, but {data.dataset} has only classes"
            )
        return None
    if data.noise_file:
        if data.noise:
            raise ValueError(f"data.noise is {data.noise} and data.noise_file {data.noise_file!r}; give one of them")
        try:
            return read_noise(data.noise_file, image_of)
        except (OSError, ValueError) as error:
            raise ValueError(f"data.noise_file: {error}") from error
    noise = make_noise(image_of, data.noise, protocol=data.noise_protocol, seed=config.seed)
    return noise if data.noise else None


def class_texts(source: ClassSource, config: ConfigDict) -> list[str]:
    """The prompt of each class in training."""
    return prompts(source.class_names, find_template(source.benchmark, config.data.template))


def with_steps(config: ConfigDict, items: int) -> ConfigDict:
    """Sets `train.steps` to `train.epochs` passes over the training items; a pass has only whole batches."""
    if not config.train.epochs:
        return config
    config = config.copy_and_resolve_references()
    config.train.steps = config.train.epochs * max(items // config.train.batch_size, 1)
    return config.lock()


def with_absolute_paths(config: ConfigDict) -> ConfigDict:
    """Makes the paths in the config absolute where they exist; a name of the hub stays as it is."""
    config = config.copy_and_resolve_references()
    for group, field in PATHS:
        config[group][field] = absolute_paths(config[group][field])
    return config.lock()


def choose_preprocess(config: ConfigDict, vision: VisionConfig) -> VisionConfig:
    """The image tower's config with the preprocessing that the run's config names; it is saved with the model."""
    if config.model.preprocess == "clip":
        return vision
    if config.model.preprocess == "pcmepp":
        vision = dataclasses.replace(vision, resize="squash", interpolation="", resize_size=0)
        return dataclasses.replace(vision, pixel_mean=IMAGENET_PIXEL_MEAN, pixel_std=IMAGENET_PIXEL_STD)
    raise ValueError(f"model.preprocess: got {config.model.preprocess!r}, expected clip or pcmepp")


def make_augmentation(config: ConfigDict, shape: TowersConfig, tokenizer: Tokenizer) -> Augmentation | None:
    """The random changes that the host makes to images and texts in each step; None if there are none."""
    augment, text = config.augment, shape.text
    if augment.images == "none" and not augment.tokens:
        return None
    mask_id = tokenizer.backend.token_to_id("M")  # as PCME++: a single letter that lower-cased captions never contain
    if mask_id is None and augment.tokens:
        raise ValueError("augment.tokens: the tokenizer has no letter M to replace a hidden token with; leave it 0")
    specials = tuple(i for i in (text.start_id, text.end_id, text.pad_id) if i is not None)
    return Augmentation(
        images=augment.images,
        token_rate=augment.tokens,
        mask_id=mask_id or 0,
        ordinary_ids=ordinary_ids(text.vocab_size, specials),
        end_id=text.end_id,
        pad_id=text.pad_id,
        has_start=text.start_id is not None,
        **shape.vision.preprocessing,
    )


def preset(config: ConfigDict) -> TowersConfig:
    if config.model.towers not in PRESETS:
        raise ValueError(f"model.towers: got {config.model.towers!r}, expected one of {', '.join(PRESETS)}")
    return PRESETS[config.model.towers]


def saved_or_trained_tokenizer(config: ConfigDict, workdir: Path, texts: list[str], shape: TowersConfig) -> Tokenizer:
    """The tokenizer of the run in the workdir, or one trained on the training captions."""
    if (workdir / CONFIG).exists():
        return load_tokenizer(workdir / TOKENIZER)
    length = config.model.context_length or shape.text.context_length
    return train_tokenizer(texts, vocab_size=config.model.vocab_size, context_length=length)


def fit_in_memory(source: Source, resize: Callable, shape: TowersConfig) -> tuple[Source, Callable | None]:
    """The source with all images resized once, if they take less than MEMORY_LIMIT; else the source and `resize`."""
    if isinstance(source, ArraySource) and source.images.shape[1] == shape.vision.image_size:
        return source, None
    if len(source) * shape.vision.image_size**2 * 3 > MEMORY_LIMIT:
        return source, resize
    return to_array_source(source, resize), None
