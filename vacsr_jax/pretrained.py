"""One call from a name or a path to a model that encodes, scores and samples."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from PIL import Image
from safetensors.numpy import save

from vacsr_jax.atomic_files import replace_whole, to_json, write_text
from vacsr_jax.compilation_cache import keep_compiled
from vacsr_jax.data.image_folder import decode_image
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.tokenizer import Tokenizer
from vacsr_jax.image_text import ImageTextModel, describe
from vacsr_jax.model_files import DESCRIPTION, WEIGHTS, Loaded, read_folder
from vacsr_jax.pair.base import Item, Items, Meaning
from vacsr_jax.scoring.embed import embed_image_parts, embed_texts, text_lengths
from vacsr_jax.scoring.model import prepare_scorer, probabilities, score_pairs
from vacsr_jax.scoring.pairs import TopK, top_k
from vacsr_jax.scoring.sampling import Samples, sample_similarity
from vacsr_jax.workdir import CHECKPOINTS, TOKENIZER

ImageLike = str | Path | Image.Image | np.ndarray


class Scores(NamedTuple):
    """Scores of every image-text pair, float32 [images, texts].

    Attributes:
      logit: larger is better.
      probability: that the pair is a match, sigmoid(logit); None for a model whose loss fixes no level (CLIP).
      uncertainty: mean latent standard deviation; None for a model without a latent.
      label_score: to rank by where the question is which text was written for an image (R@1 on labels).
      match_score: to rank by where the question is which texts are true of an image, labelled or not. Only the method
        propensity can tell the two questions apart; for other models both are the logit.
    """

    logit: np.ndarray
    probability: np.ndarray | None
    uncertainty: np.ndarray | None
    label_score: np.ndarray
    match_score: np.ndarray


@dataclass(frozen=True)
class Pretrained:
    """A trained model with all it needs. `config` and `step` are the run's resolved config and the checkpoint's
    step where they are known. `load` puts the parameters on the device: arrays of numpy are copied there by each call.
    """

    model: ImageTextModel
    params: Any
    tokenizer: Tokenizer
    config: dict[str, Any] | None = None
    step: int | None = None

    def preprocess(self, image: Image.Image | np.ndarray) -> np.ndarray:
        """The square of bytes that the image tower takes, as the model was trained; see `data.preprocess`."""
        return preprocess(image, **self.model.towers_config.vision.preprocessing)

    def encode_images(self, images: Sequence[ImageLike], *, draft: bool = False) -> Item:
        """The n images as items, ready to be scored: embeddings float32 [n, d], or `Items`, cut as items[:5].

        Images are files, PIL images or uint8 arrays [h, w, 3]. Threads decode files ahead of the device.

        Args:
          draft: decode large JPEGs at a reduced size (`decode_image`): faster, and embeddings differ a little.

        Raises:
          ValueError: if an image cannot be read, or there is none.
        """
        if isinstance(images, str | Path | Image.Image):
            images = [images]
        if len(images) == 0:
            raise ValueError("images: got none, expected at least one")
        [items] = self.encode_image_parts(images, len(images), draft=draft)
        return items

    def encode_image_parts(
        self,
        images: Sequence[ImageLike],
        part_size: int,
        *,
        draft: bool = False,
        skipped: dict[int, str] | None = None,
    ) -> Iterator[Item | None]:
        """The images as items, `part_size` images at a time and in constant memory; see `encode_images`.

        Args:
          skipped: if given, an image that cannot be read is left out of its part, and the message noted here under the
            image's index. A part of which nothing is left is None.
        """
        for image in images:
            if isinstance(image, Image.Image):
                image.load()  # here, because threads must not load one image at once
        return embed_image_parts(
            self.model, self.params, GivenImages(images, self, draft), part_size=part_size, skipped=skipped
        )

    def encode_texts(self, texts: Sequence[str]) -> Item:
        """The m texts as items, ready to be scored; see `encode_images`.

        Raises:
          ValueError: if a text is empty or no string, or there is none.
        """
        return embed_texts(self.model, self.params, self.tokenizer([texts] if isinstance(texts, str) else texts))

    def score(self, images: Sequence[ImageLike] | Item, texts: Sequence[str] | Item) -> Scores:
        """Scores of all pairs of images and texts; each side as it is, or as the `encode_` methods gave it."""
        images, texts = self._encoded(images, texts)
        scores = score_pairs(self.model, self.params, images, texts)
        probability = probabilities(self.model, scores)
        return Scores(scores.logit, probability, scores.uncertainty, scores.by_label(), scores.by_match())

    def warm(self, batch_sizes: Sequence[int] = (1,)) -> None:
        """Compiles (or fetches) all that calls with these numbers of images or texts need, so that none of them waits.

        For servers. Other sizes are padded to the next power of two, so 1, 2, 4, ... cover all up to the largest.
        """
        side = self.model.towers_config.vision.image_size
        blank = np.zeros((side, side, 3), np.uint8)
        for size in batch_sizes:
            images = self.encode_images([blank] * size)
            for length in text_lengths(self.model.towers_config.text):
                tokens = np.full((size, length), self.tokenizer.end_id, np.int32)
                self.score(images, embed_texts(self.model, self.params, tokens, shorten=False))

    @property
    def noise_rate(self) -> float | None:
        """The share of training labels that the model found to be wrong; None for a model that does not estimate it."""
        rate = self.model.pair.noise_rate(self.params["pair"])
        return None if rate is None else float(rate)

    @property
    def meaning(self) -> Meaning:
        """What logit, probability and uncertainty of this model mean, in one sentence each."""
        return self.model.pair.meaning

    def top_k(self, images: Sequence[ImageLike] | Item, texts: Sequence[str] | Item, k: int) -> TopK:
        """The k best texts of every image by match score, best first, without scores of all pairs in memory."""
        return top_k(prepare_scorer(self.model, self.params), *self._encoded(images, texts), k)

    def sample_similarity(self, key: jax.Array, images, texts, n: int, level: float = 0.9) -> Samples:
        """n draws of every pair's match probability, their mean and credible interval; see `sampling`."""
        return sample_similarity(self.model, self.params, key, *self._encoded(images, texts), n, level)

    def cosine_vectors(self, items: Item) -> np.ndarray:
        """The vectors [n, d] of items whose cosines compare them: what a vector store holds.

        Raises:
          ValueError: if an item of this model has no such vector.
        """
        return np.asarray(self.model.pair.direction(items))

    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell models apart: a hash of the description and of every parameter."""
        digest = hashlib.sha256(json.dumps(describe(self.model), sort_keys=True).encode())
        for name, leaf in sorted(flatten_dict(self.params, sep="/").items()):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(array.view(np.uint8).data)
        return digest.hexdigest()[:12]

    def save(self, folder: str | Path) -> None:
        """Writes safetensors and JSON that `load` reads, without Orbax."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(folder / TOKENIZER)
        flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(self.params, sep="/").items()}
        replace_whole(folder / WEIGHTS, lambda path: path.write_bytes(save(flat)))
        write_text(
            folder / DESCRIPTION, to_json({"vacsr_jax": describe(self.model), "config": self.config, "step": self.step})
        )

    def _encoded(self, images, texts) -> tuple[Item, Item]:
        images = images if _is_encoded(images) else self.encode_images(images)
        return images, texts if _is_encoded(texts) else self.encode_texts(texts)


def _is_encoded(x) -> bool:
    return isinstance(x, Items) or (isinstance(x, np.ndarray) and x.ndim == 2 and x.dtype == np.float32)


@dataclass(frozen=True)
class GivenImages:
    """A `Source` of images as users give them, preprocessed for a model."""

    images: Sequence[ImageLike]
    model: Pretrained
    draft: bool
    captions: Sequence[Sequence[str]] = ()
    labels: None = None
    class_names: Sequence[str] = ()

    @property
    def ids(self) -> list[str]:
        return [str(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        image = self.images[index]
        if not isinstance(image, str | Path):
            return self.model.preprocess(image)
        pixels = read_image(image, draft=self.model.model.towers_config.vision.image_size if self.draft else 0)
        try:
            return self.model.preprocess(pixels)
        except ValueError as error:
            raise ValueError(f"{image}: {error}") from error


def read_image(path: str | Path, *, draft: int = 0) -> np.ndarray:
    try:
        return decode_image(path, draft=draft)
    except Exception as error:  # Pillow raises half a dozen types for broken files
        raise ValueError(f"{path} cannot be read ({error}); replace or remove it") from error


def load(path_or_hub_name: str | Path, *, checkpoint: str = "best", image_size: int = 0) -> Pretrained:
    """A model from a training workdir, an exported folder, or pretrained towers (folder or hub name).

    Pretrained towers are a CLIP or a SigLIP in Hugging Face's files, or a vision transformer in OpenCLIP's.

    Args:
      path_or_hub_name: where it is. A hub repository may hold an export or pretrained towers.
      checkpoint: best or last, of a workdir.
      image_size: pixels per side that the image tower takes; the position embeddings are resampled
        (`towers.positions`). 0: as the model was trained.

    Raises:
      ValueError: if there is nothing to load, or what is there does not fit this version; the message names the
        difference.
    """
    keep_compiled()
    loaded = _load(path_or_hub_name, checkpoint).at_image_size(image_size)
    return Pretrained(*loaded._replace(params=jax.device_put(loaded.params)))


def _load(path_or_hub_name: str | Path, checkpoint: str) -> Loaded:
    if (Path(path_or_hub_name) / CHECKPOINTS).is_dir():
        from vacsr_jax.training.saved_model import read_workdir  # late: an export needs no Orbax

        return read_workdir(Path(path_or_hub_name), checkpoint)
    return read_folder(path_or_hub_name)


def load_workdir(workdir: Path, checkpoint: str) -> Pretrained:
    """The model of a training workdir; see `load`."""
    from vacsr_jax.training.saved_model import read_workdir  # late: an export needs no Orbax

    return Pretrained(*read_workdir(workdir, checkpoint))
