"""Augmentations on the host: random crops of images, and caption tokens masked, replaced or dropped."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from vacsr_jax.data.decoding import to_rgb
from vacsr_jax.data.preprocess import preprocess, resize_and_crop, resized_shape

IMAGES = ("none", "clip", "pcmepp", "area")


@dataclass(frozen=True)
class Augmentation:
    """The random changes to each training image and caption. Every draw comes from the generator that is passed in.

    Attributes:
      images: how images are cropped.
        "none": as in evaluation.
        "clip": a random square, after the shorter side is resized (Radford et al. 2021).
        "pcmepp": a random 60 to 100 % of each side, squashed to a square, mirrored half of the time (Chun 2024).
        "area": a random 8 to 100 % of the area, bicubic, mirrored half of the time (Szegedy et al. 2015, as in few-shot
        training).
      image_size: pixels per side of the result.
      resize, interpolation, resize_size: the arguments of `preprocess`, used by "none".
      token_rate: probability that a token between start and end changes. Of those, half become `mask_id`, a tenth
        become a random ordinary id, and the rest are dropped (Chen et al. 2021).
      mask_id: id that stands for a masked token.
      ordinary_ids: the ordinary ids are range(*ordinary_ids).
      end_id, pad_id: ids of the tokenizer's special tokens.
      has_start: whether a row begins with a start token.

    Raises:
      ValueError: for an unknown choice, or a rate outside [0, 1].
    """

    images: str
    image_size: int
    resize: str
    token_rate: float
    mask_id: int
    ordinary_ids: tuple[int, int]
    end_id: int
    pad_id: int
    interpolation: str = ""
    resize_size: int = 0
    has_start: bool = True

    def __post_init__(self):
        if self.images not in IMAGES:
            raise ValueError(f"augment.images: got {self.images!r}, expected one of {', '.join(IMAGES)}")
        if not 0 <= self.token_rate <= 1:
            raise ValueError(f"augment.tokens: got {self.token_rate}, expected a probability between 0 and 1")

    def image(self, image: Image.Image | np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Crops an image, given as a PIL image or uint8 [h, w, 3], to uint8 [s, s, 3]."""
        size = self.image_size
        if self.images == "none":
            options = {"interpolation": self.interpolation, "resize": self.resize}
            return preprocess(image, image_size=size, resize_size=self.resize_size, **options)
        rgb = to_rgb(image)
        if self.images == "clip":
            shape = resized_shape(rgb.size, size)
            left, top = (int(rng.integers(side - size + 1)) for side in shape)
            return resize_and_crop(rgb, shape, (left, top), size)
        if self.images == "area":
            (width, height), interpolation = part_of_area(rgb.size, rng), Image.Resampling.BICUBIC
        else:
            ratio = rng.uniform(0.6, 1.0)
            (width, height), interpolation = (max(1, int(side * ratio)) for side in rgb.size), Image.Resampling.BILINEAR
        left, top = int(rng.integers(rgb.width - width + 1)), int(rng.integers(rgb.height - height + 1))
        part = rgb.crop((left, top, left + width, top + height)).resize((size, size), interpolation)
        pixels = np.asarray(part)
        return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels

    def tokens(self, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Changes a row of tokens: int32 [l] -> int32 [l]. Start and end stay; the row is padded at the end."""
        end, start = int(np.argmax(row == self.end_id)), int(self.has_start)
        inner = row[start:end]
        fate = rng.random(len(inner)) / max(self.token_rate, 1e-12)
        random_ids = rng.integers(*self.ordinary_ids, len(inner))
        changed = np.where(fate < 0.5, self.mask_id, np.where(fate < 0.6, random_ids, inner))
        changed = changed[(fate < 0.6) | (fate >= 1)]
        out = np.full_like(row, self.pad_id)
        out[:start], out[start : start + len(changed)], out[start + len(changed)] = row[:start], changed, row[end]
        return out


def part_of_area(size: tuple[int, int], rng: np.random.Generator, tries: int = 10) -> tuple[int, int]:
    """Draws the width and height of a part: 8 to 100 % of the area, width / height log-uniform in 3/4 to 4/3.

    If `tries` draws do not fit in the image, returns the largest part whose ratio is nearest to the image's.
    """
    full_width, full_height = size
    for _ in range(tries):
        area = full_width * full_height * rng.uniform(0.08, 1.0)
        ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < width <= full_width and 0 < height <= full_height:
            return width, height
    ratio = min(max(full_width / full_height, 3 / 4), 4 / 3)
    return max(1, min(full_width, round(full_height * ratio))), max(1, min(full_height, round(full_width / ratio)))


def ordinary_ids(vocab_size: int, special_ids: tuple[int, ...]) -> tuple[int, int]:
    """Returns the bounds of the longer range without special ids. CLIP has them last, our own tokenizer first."""
    low, high = min(special_ids), max(special_ids)
    return (0, low) if low > vocab_size - high - 1 else (high + 1, vocab_size)
