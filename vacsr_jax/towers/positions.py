"""Resamples an image tower's position embeddings to another resolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from vacsr_jax.towers.base import TowersConfig

SHARPNESS = -0.75  # of the cubic convolution kernel (Keys 1981); the choice of torch and OpenCV


def at_image_size(
    config: TowersConfig, params: Mapping[str, Any], image_size: int
) -> tuple[TowersConfig, dict[str, Any]]:
    """Config and params for images of another size: bicubic resampling of the grid of position embeddings.

    The result equals that of transformers' `interpolate_pos_encoding` (torch's bicubic, without antialiasing). A class
    token keeps its position. With `resize_size`, the part that is cropped away keeps its share.

    Raises:
      ValueError: if the towers have no learned positions by patch, or the size does not fit the patches.
    """
    old = config.vision
    if image_size in (0, old.image_size):
        return config, dict(params)
    resize_size = round(old.resize_size * image_size / old.image_size)
    vision = dataclasses.replace(old, image_size=image_size, resize_size=resize_size)
    table = params["vision"].get("position_embedding") if isinstance(params.get("vision"), Mapping) else None
    if table is None or len(table) != old.tokens:
        raise ValueError(f"image_size: got {image_size}, but these towers have no position embeddings to resample")
    others = old.tokens - old.patches
    grids = [int(side.patches**0.5) for side in (old, vision)]
    grid = np.asarray(table, np.float64)[others:].reshape(grids[0], grids[0], -1)
    by = cubic_weights(*grids)
    resampled = np.einsum("ai,bj,ijw->abw", by, by, grid).reshape(grids[1] ** 2, -1)
    table = np.concatenate([np.asarray(table)[:others], resampled.astype(np.float32)])
    params = {**params, "vision": {**params["vision"], "position_embedding": table}}
    return dataclasses.replace(config, vision=vision), params


def cubic_weights(length: int, new_length: int) -> np.ndarray:
    """[new_length, length] the weight of each old sample in each new one; samples are at the centres of their cells.

    Beyond the ends, the first and last sample are repeated.
    """
    places = (np.arange(new_length) + 0.5) * length / new_length - 0.5
    first = np.floor(places).astype(int)
    weights = np.zeros((new_length, length))
    for tap in range(-1, 3):
        distance = np.abs(places - (first + tap))
        near = ((SHARPNESS + 2) * distance - (SHARPNESS + 3)) * distance**2 + 1
        far = ((SHARPNESS * distance - 5 * SHARPNESS) * distance + 8 * SHARPNESS) * distance - 4 * SHARPNESS
        kernel = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
        np.add.at(weights, (np.arange(new_length), np.clip(first + tap, 0, length - 1)), kernel)
    return weights
