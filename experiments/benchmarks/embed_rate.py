"""Images a second from JPEG files to embeddings, beside decoding alone and encoding alone, and what --draft gives.

    python -m experiments.benchmarks.embed_rate --pictures=FOLDER --towers=ViT-B/32 --out=embed_rate.json

FOLDER holds JPEGs, used in turn until there are --images of them. Random weights (seed 0) unless --model names a model.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import jax
import numpy as np

from experiments.benchmarks.timing import machine
from vacsr_jax.data.given import GivenImages, read_picture
from vacsr_jax.data.picture_files import find_pictures
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.read_ahead import cores, image_batches
from vacsr_jax.data.source import ArraySource
from vacsr_jax.data.tokenizer import train_tokenizer
from vacsr_jax.image_text import ImageTextModel, init_params
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.pretrained import Pretrained, load
from vacsr_jax.scoring.embed import BATCH_SIZE, embed_images
from vacsr_jax.towers.base import adapt_towers
from vacsr_jax.towers.presets import PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--towers", choices=sorted(PRESETS), default="ViT-B/32")
    parser.add_argument("--layers", type=int, help="blocks of the image tower (default: all), for a faster device")
    parser.add_argument("--model", help="a model to load, instead of random weights")
    parser.add_argument("--images", type=int, default=4 * BATCH_SIZE)
    parser.add_argument("--rounds", type=int, default=1, help="the best of as many, in turns")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = load(options.model) if options.model else untrained(options.towers, options.layers)
    names = [f"{options.pictures}/{name}" for name in find_pictures(options.pictures).files]
    files = list(itertools.islice(itertools.cycle(names), options.images))
    result = {
        "machine": machine(),
        "towers": options.model or options.towers,
        "layers": options.layers,
        "images": len(files),
    }
    result |= rates(model, files, options.rounds) | draft_distance(model, names)
    text = json.dumps(result, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def untrained(towers: str, layers: int | None) -> Pretrained:
    tokenizer = train_tokenizer(["a red circle", "a blue square"], vocab_size=300, context_length=8)
    ids = {name: getattr(tokenizer, name) for name in ("vocab_size", "start_id", "end_id", "pad_id")}
    config = adapt_towers(PRESETS[towers], image_size=0, context_length=8, **ids)
    if layers:
        config = dataclasses.replace(config, vision=dataclasses.replace(config.vision, layers=layers))
    model = ImageTextModel(config, CosineModel(None))
    return Pretrained(model, jax.device_get(init_params(model, 0)), tokenizer)


def rates(model: Pretrained, files: list[str], rounds: int) -> dict[str, float]:
    """Images a second: decoding in threads and in processes, encoding pixels in memory, and both as `vacsr embed`."""
    size = model.model.towers_config.vision.image_size
    squares = np.concatenate(list(decoded(model, files[:BATCH_SIZE], draft=False)))
    pixels = np.resize(squares, (len(files), *squares.shape[1:]))
    source = ArraySource(pixels, [()] * len(files), [str(i) for i in range(len(files))])
    embed_images(model.model, model.params, source)  # compiles
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        list(pool.map(square, files[:16], [size] * 16))  # starts the processes
        contenders: dict[str, Callable[[], object]] = {
            "decode": lambda: drain(decoded(model, files, draft=False)),
            "decode_in_processes": lambda: drain(pool.map(square, files, [size] * len(files), chunksize=16)),
            "decode_draft": lambda: drain(decoded(model, files, draft=True)),
            "encode": lambda: embed_images(model.model, model.params, source),
            "embed": lambda: drain(model.encode_image_parts(files, len(files))),
            "embed_draft": lambda: drain(model.encode_image_parts(files, len(files), draft=True)),
        }
        seconds = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, call in contenders.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    found = {f"{name}_images_per_s": len(files) / min(times) for name, times in seconds.items()}
    decode, encode, embed = (found[f"{name}_images_per_s"] for name in ("decode", "encode", "embed"))
    # On a CPU both share the cores: then no order of work is faster than one after the other on all of them.
    shared = 1 / (1 / decode + 1 / encode)
    return found | {"embed_over_slower": embed / min(decode, encode), "one_after_the_other_images_per_s": shared}


def decoded(model: Pretrained, files: list[str], *, draft: bool):
    batches = [range(i, min(i + BATCH_SIZE, len(files))) for i in range(0, len(files), BATCH_SIZE)]
    size = model.model.towers_config.vision.image_size if draft else 0
    return image_batches(GivenImages(files, model.preprocess, size), batches, ahead=2 * BATCH_SIZE)


def square(file: str, size: int) -> np.ndarray:
    return preprocess(read_picture(file), image_size=size)


def drain(values) -> None:
    for _ in values:
        pass


def draft_distance(model: Pretrained, files: list[str]) -> dict[str, float]:
    """What reduced-size decoding changes: a square's pixels (levels of 255), and embeddings (1 - cosine)."""
    squares = (np.concatenate(list(decoded(model, files, draft=draft))).astype(np.float32) for draft in (False, True))
    pixels = np.abs(next(squares) - next(squares))
    whole, draft = (
        model.cosine_vectors(model.encode_images(files, draft=draft)).astype(np.float64) for draft in (False, True)
    )
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (whole, draft)]
    distance = 1 - np.einsum("nd,nd->n", *unit)
    between = 1 - (unit[0] @ unit[0].T)[~np.eye(len(files), dtype=bool)]
    nearest = np.argmax(unit[1] @ unit[0].T, axis=1) == np.arange(len(files))
    return {
        "draft_pixel_difference_mean": float(pixels.mean()),
        "draft_cosine_distance_median": float(np.median(distance)),
        "draft_cosine_distance_most": float(distance.max()),
        "cosine_distance_of_two_pictures_median": float(np.median(between)),
        "share_nearest_to_its_own_whole": float(nearest.mean()),
    }


if __name__ == "__main__":
    main()
