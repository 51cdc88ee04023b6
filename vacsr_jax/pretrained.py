"""One call from a name or a path to a model that encodes, scores and samples."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from safetensors.numpy import save

from vacsr_jax.atomic_files import replace_whole, to_json, write_text
from vacsr_jax.calibration.calibration import Calibration, read_calibration
from vacsr_jax.compilation_cache import keep_compiled
from vacsr_jax.data.decoding import FILES, Picture, as_array, decode_picture
from vacsr_jax.data.embeddings import Embeddings, unit_rows
from vacsr_jax.data.given import GivenImages, as_pictures, as_texts
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.source import Source
from vacsr_jax.data.tokenizer import Tokenizer, report_cut
from vacsr_jax.image_text import ImageTextModel, describe
from vacsr_jax.model_files import DESCRIPTION, WEIGHTS, Loaded, read_folder
from vacsr_jax.pair.base import Item, Items, Meaning
from vacsr_jax.pair.cosine import CosineModel
from vacsr_jax.scoring.embed import embed_image_parts, embed_texts, text_lengths
from vacsr_jax.scoring.given_vectors import SIDES, Prepared, encode_given, side_of, unwrapped, wants
from vacsr_jax.scoring.model import prepare_scorer, probabilities, score_pairs
from vacsr_jax.scoring.pairs import TopK, top_k
from vacsr_jax.scoring.sampling import Samples, sample_similarity
from vacsr_jax.towers.embeddings import EmbeddingsConfig, EmbeddingSide
from vacsr_jax.towers.hf import find_folder, read_object
from vacsr_jax.workdir import CHECKPOINTS, TOKENIZER

if TYPE_CHECKING:
    from vacsr_jax.evaluation.explanation import Explanation


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
    step where they are known. A `calibration` (`vacsr calibrate`) gives the probability of a match. `load` puts the
    parameters on the device: arrays of numpy are copied there by each call.
    """

    model: ImageTextModel
    params: Any
    tokenizer: Tokenizer
    config: dict[str, Any] | None = None
    step: int | None = None
    calibration: Calibration | None = None
    _cut: list[bool] = dataclasses.field(default_factory=list, repr=False, compare=False)  # not empty once it was said

    def preprocess(self, image: Picture) -> np.ndarray:
        """The square of bytes that the image tower takes, as the model was trained; see `data.preprocess`."""
        vision = self.model.towers_config.vision
        pixels: Any = decode_picture(image) if isinstance(image, FILES) else image
        return preprocess(pixels, **vision.preprocessing)

    def encode_images(self, images: Picture | Sequence[Picture], *, draft: bool = False) -> Item:
        """The n images as items, ready to be scored: embeddings float32 [n, d], or `Items`, cut as items[:5].

        An image is a path, the bytes of a file, a PIL image, or an array uint8 [h, w, 3] or [h, w]; all are decoded
        alike (`data.decoding`). Images are one of these, a sequence of them, or an array uint8 [n, h, w, 3]. Threads
        decode files ahead of the device.

        Args:
          draft: decode large JPEGs at a reduced size (`decode_image`): faster, and embeddings differ a little.

        Raises:
          ValueError: if an image cannot be read, or there is none.
        """
        images = as_pictures(images)
        [items] = self.encode_image_parts(images, len(images), draft=draft)
        return items

    def encode_image_parts(
        self,
        images: Sequence[Picture],
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
        source = GivenImages(images, self.preprocess, self.model.towers_config.vision.image_size if draft else 0)
        return embed_image_parts(self.model, self.params, source, part_size=part_size, skipped=skipped)

    def encode_source_parts(self, source: Source, part_size: int) -> Iterator[Item]:
        """The images of a source as items, `part_size` at a time; see `encode_images`."""
        parts = embed_image_parts(self.model, self.params, source, self.preprocess, part_size=part_size)
        return (items for items in parts if items is not None)

    def encode_texts(self, texts: str | Sequence[str] | np.ndarray) -> Item:
        """The m texts as items, ready to be scored; see `encode_images`.

        Texts longer than the context are cut, which is logged once.
        Texts may also be given as the token ids int32 [m, l] that `tokenizer` makes of them.

        Raises:
          ValueError: if a text is empty or no string, or there is none.
        """
        return self._encode_texts(texts, shorten=not self._has_item_per_token)

    def _encode_texts(self, texts: str | Sequence[str] | np.ndarray, *, shorten: bool = True) -> Item:
        if isinstance(texts, np.ndarray) and texts.dtype == np.int32:
            return embed_texts(self.model, self.params, texts, shorten=shorten)
        texts = as_texts(texts)
        tokens = self.tokenizer(texts)
        if not self._cut:  # said once, not with each call
            self._cut.extend([True] * bool(report_cut(self.tokenizer, texts, "texts")))
        return embed_texts(self.model, self.params, tokens, shorten=shorten)

    def score(self, images: Picture | Sequence[Picture] | Item, texts: str | Sequence[str] | Item) -> Scores:
        """Scores of all pairs of images and texts; each side as it is, or as the `encode_` methods gave it.

        Embeddings may be a matrix [n, d] of any float type, of numpy or of a library that numpy can read.

        Raises:
          ValueError: if embeddings are of another dimension than the model's, or as the `encode_` methods.
        """
        images, texts = self._encoded(images, texts)
        scores = score_pairs(self.model, self.params, images, texts)
        calibrated = self.calibration.probability if self.calibration is not None else None
        probability = calibrated(scores.logit) if calibrated else probabilities(self.model, scores)
        return Scores(scores.logit, probability, scores.uncertainty, scores.by_label(), scores.by_match())

    def explain(self, image: Picture, text: str) -> Explanation:
        """Which places the words of a text found in an image, and how that makes the probability of their match.

        Printed, it is a table; `report.explanation.save_explanation` draws it over the picture.

        Raises:
          ValueError: if the model compares an image and a text as wholes (only the method tokens does not).
        """
        from vacsr_jax.evaluation.explanation import explain  # late: loading needs no code that evaluates

        images, texts = self._encoded([image], [text])
        picture = GivenImages([image], self.preprocess, 0).image(0)
        return explain(self.model, self.params, self.tokenizer, images, texts, picture, text)

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
                score_pairs(
                    self.model, self.params, images, embed_texts(self.model, self.params, tokens, shorten=False)
                )

    @property
    def noise_rate(self) -> float | None:
        """The share of training labels that the model found to be wrong; None for a model that does not estimate it."""
        rate = self.model.pair.noise_rate(self.params["pair"])
        return None if rate is None else float(rate)

    @property
    def meaning(self) -> Meaning:
        """What logit, probability and uncertainty of this model mean, in one sentence each."""
        found = self.model.pair.meaning
        return found if self.calibration is None else found._replace(probability=self.calibration.meaning)

    def top_k(self, images: Picture | Sequence[Picture] | Item, texts: str | Sequence[str] | Item, k: int) -> TopK:
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

    def save(self, folder: str | Path, *, half: bool = False) -> None:
        """Writes safetensors and JSON that `load` reads, without Orbax.

        Args:
          half: store the parameters as float16, in half the space. `load` makes them float32 again, rounded to 11 bits.

        Raises:
          ValueError: if a parameter is too large for float16.
        """
        flat = {name: np.asarray(leaf) for name, leaf in flatten_dict(self.params, sep="/").items()}
        if half:
            flat = {name: _halved(name, array) for name, array in flat.items()}
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._save_tokenizer(folder)
        replace_whole(folder / WEIGHTS, lambda path: path.write_bytes(save(flat)))
        write_text(
            folder / DESCRIPTION, to_json({"vacsr_jax": describe(self.model), "config": self.config, "step": self.step})
        )
        if self.calibration is not None:
            self.calibration.save(folder)

    def _save_tokenizer(self, folder: Path) -> None:
        self.tokenizer.save(folder / TOKENIZER)

    def _encoded(self, images, texts) -> tuple[Item, Item]:
        images = self._fitting("images", images, 0) if _is_encoded(images) else self.encode_images(images)
        return images, self._fitting("texts", texts, 1) if _is_encoded(texts) else self._encode_texts(texts)

    def _fitting(self, name: str, given: Any, side: int) -> Item:
        """The items in float32; ValueError if the model gives items of other shapes, such as of another dimension."""
        if isinstance(given, Items):
            items: Item = given
        else:
            items = as_array(given).astype(np.float32, copy=False)
        got, wanted = (jax.tree.map(lambda x: tuple(x.shape[1:]), tree) for tree in (items, self._item_shapes[side]))
        if got != wanted:
            raise ValueError(
                f"{name}: got embeddings of {_numbers(items)}, but this model's have "
                f"{_numbers(self._item_shapes[side])}; embed them with this model"
            )
        return items

    @functools.cached_property
    def _item_shapes(self) -> tuple[Item, Item]:
        """Shapes and types of the items of one image and one text; nothing is computed."""
        return self._shapes_of(self.model.towers_config.text.context_length)

    @functools.cached_property
    def _has_item_per_token(self) -> bool:
        """Whether a text's item has a part for each token; it is then as long as the context, to fit other texts."""
        return self._shapes_of(text_lengths(self.model.towers_config.text)[0])[1] != self._item_shapes[1]

    def _shapes_of(self, length: int) -> tuple[Item, Item]:
        vision = self.model.towers_config.vision
        image = jax.ShapeDtypeStruct((1, vision.image_size, vision.image_size, 3), np.uint8)
        tokens = jax.ShapeDtypeStruct((1, length), np.int32)
        return jax.eval_shape(self.model.apply, {"params": self.params}, image, tokens)


@dataclass(frozen=True)
class EmbeddingModel(Pretrained):
    """A `Pretrained` whose images and texts are embeddings, float [n, d], of the models that it was trained on.

    `encode_images` and `encode_texts` turn them into items, ready to be scored. `score`, `top_k` and
    `sample_similarity` take embeddings or items. An embedding's length does not matter. There is no tokenizer.
    """

    tokenizer: None  # type: ignore[assignment]

    def encode_images(self, images: Any, *, draft: bool = False) -> Item:
        """The n image embeddings [n, d] as items.

        Raises:
          ValueError: for anything else; the message says which embeddings it wants.
        """
        return encode_given(self.model, self.params, "image", images)

    def encode_texts(self, texts: Any) -> Item:
        """The m text embeddings [m, d] as items; see `encode_images`."""
        return encode_given(self.model, self.params, "text", texts)

    def encode_image_parts(
        self,
        images: Sequence[Any],
        part_size: int,
        *,
        draft: bool = False,
        skipped: dict[int, str] | None = None,
    ) -> Iterator[Item | None]:
        """The items of `part_size` embeddings at a time."""
        return (self.encode_images(images[i : i + part_size]) for i in range(0, len(images), part_size))

    def preprocess(self, image: Any) -> np.ndarray:
        """Raises ValueError: embeddings need no preprocessing."""
        raise ValueError(wants(self.model, "image"))

    def warm(self, batch_sizes: Sequence[int] = (1,)) -> None:
        for size in batch_sizes:
            images, texts = self.model.towers_config.example_inputs(size)
            self.score(images, texts)

    def cosine_vectors(self, items: Item) -> np.ndarray:
        return super().cosine_vectors(unwrapped(items))

    def projected(self, given: Embeddings) -> Embeddings:
        """A file's embeddings of images and texts as `cosine_vectors`: what an index of this model holds.

        Raises:
          ValueError: if the file names another model than this one was trained on, or holds another modality.
        """
        vectors = np.empty((len(given), self.model.embedding_dim), np.float32)
        for kind in dict.fromkeys(given.modality.tolist()):
            if kind not in SIDES:
                raise ValueError(f"modality {kind!r}: this model compares images with texts")
            wanted = side_of(self.model, kind).model_id
            if given.model_id and wanted and given.model_id != wanted:
                raise ValueError(f"got embeddings of model {given.model_id}, {wants(self.model, kind)}")
            mine = given.modality == kind
            encode = self.encode_images if kind == "image" else self.encode_texts
            vectors[mine] = self.cosine_vectors(encode(given.vectors[mine]))
        return dataclasses.replace(given, vectors=unit_rows(vectors)[0], model_id=self.fingerprint())

    def score_projected(self, images: np.ndarray, texts: np.ndarray) -> Scores:
        """Scores of all pairs of `projected` vectors, as `match_by` scores them."""
        items = (Prepared(jax.device_get(self.model.pair.from_unit(jax.numpy.asarray(x)))) for x in (images, texts))
        return self.score(*items)

    def _save_tokenizer(self, folder: Path) -> None:
        pass

    def _encoded(self, images: Any, texts: Any) -> tuple[Item, Item]:
        images = images if isinstance(images, Prepared) else self.encode_images(images)
        texts = texts if isinstance(texts, Prepared) else self.encode_texts(texts)
        return unwrapped(images), unwrapped(texts)


def cosine_of_embeddings(image_dim: int, text_dim: int, image_model: str, text_model: str) -> EmbeddingModel:
    """The cosine of embeddings as a model without a probability, such as `vacsr calibrate` gives one.

    Raises:
      ValueError: if the dimensions differ.
    """
    if image_dim != text_dim:
        raise ValueError(
            f"image embeddings have {image_dim} numbers and text embeddings {text_dim}, so they have no cosine; train "
            "a model with configs/embeddings.py first"
        )
    image, text = (
        EmbeddingSide(dim, model_id=name) for dim, name in ((image_dim, image_model), (text_dim, text_model))
    )
    config = EmbeddingsConfig(vision=image, text=text, embedding_dim=image_dim)
    params = {"towers": {"logit_scale": np.float32(0)}, "pair": {"log_scale": np.float32(0)}}
    return EmbeddingModel(ImageTextModel(config, CosineModel(None, scale=1.0), dim=image_dim), params, None)


def _is_encoded(x) -> bool:
    if isinstance(x, Items):
        return True
    return getattr(x, "ndim", None) == 2 and hasattr(x, "__array__") and jnp.issubdtype(as_array(x).dtype, jnp.floating)


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    largest = np.abs(array).max(initial=0)
    if largest > np.finfo(np.float16).max:
        raise ValueError(f"{name}: got a parameter of {largest:g}, too large for float16; export it in float32")
    return array.astype(np.float16)


def _numbers(items: Item) -> str:
    return " and ".join(" x ".join(map(str, x.shape[1:])) for x in jax.tree.leaves(items)) + " numbers"


def load(path_or_hub_name: str | Path, *, checkpoint: str = "best", image_size: int = 0) -> Pretrained:
    """A model from a training workdir, an exported folder, or pretrained towers (folder or hub name).

    Pretrained towers are a CLIP or a SigLIP in Hugging Face's files, or a vision transformer in OpenCLIP's.

    Args:
      path_or_hub_name: where it is. A hub repository may hold an export or pretrained towers. `vacsr models` lists
        the names of models that come with the package, such as scenes; a folder of the same name goes first.
      checkpoint: best or last, of a workdir.
      image_size: pixels per side that the image tower takes; the position embeddings are resampled
        (`towers.positions`). 0: as the model was trained.

    Raises:
      ValueError: if there is nothing to load, or what is there does not fit this version; the message names the
        difference.
    """
    keep_compiled()
    loaded = _load(path_or_hub_name, checkpoint, image_size)
    return dataclasses.replace(loaded, params=jax.device_put(loaded.params))


def is_export(folder: Path) -> bool:
    """Whether a folder is what `Pretrained.save` writes."""
    return (folder / DESCRIPTION).is_file() and "vacsr_jax" in read_object(folder / DESCRIPTION)


def _load(path_or_hub_name: str | Path, checkpoint: str, image_size: int) -> Pretrained:
    if (Path(path_or_hub_name) / CHECKPOINTS).is_dir():
        return load_workdir(Path(path_or_hub_name), checkpoint, image_size)
    folder = find_folder(path_or_hub_name, None)
    return with_inputs(read_folder(folder).at_image_size(image_size), read_calibration(folder))


def load_workdir(workdir: Path, checkpoint: str, image_size: int = 0) -> Pretrained:
    """The model of a training workdir; see `load`."""
    from vacsr_jax.training.saved_model import read_workdir  # late: an export needs no Orbax

    loaded = read_workdir(workdir, checkpoint).at_image_size(image_size)
    calibration = read_calibration(workdir)
    if calibration is not None and calibration.step != loaded.step:
        warnings.warn(
            f"{workdir}: its calibration is of step {calibration.step}, not {loaded.step}; calibrate it again",
            stacklevel=2,
        )
        calibration = None
    return with_inputs(loaded, calibration)


def with_inputs(loaded: Loaded, calibration: Calibration | None) -> Pretrained:
    """A model with its tokenizer, or one on embeddings, which has none."""
    if loaded.model.towers_config.takes_vectors:
        return EmbeddingModel(*loaded, calibration)  # type: ignore[arg-type]
    return Pretrained(*loaded, calibration)  # type: ignore[arg-type]
