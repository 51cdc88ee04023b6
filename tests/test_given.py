"""`encode_images`, `encode_texts` and `score` take what people have, or say in one line what to do."""

import dataclasses
import io
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from PIL import Image

from tests.small_models import untrained
from vacsr_jax.data.given import as_pictures, as_texts

pytestmark = pytest.mark.usefixtures("compile_fast")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 70, 110, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return untrained()


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_every_way_to_give_pictures_gives_the_same_embeddings(model, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    (tmp_path / "b.png").write_bytes(png(PIXELS[1]))
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    expected = model.encode_images(list(PIXELS))
    ways = {
        "array": PIXELS,
        "paths": files,
        "str": [str(x) for x in files],
        "array of str": np.array([str(x) for x in files]),
        "array of objects": np.array(files, object),
        "generator": (x for x in files),
        "tuple": tuple(files),
        "bytes": [png(x) for x in PIXELS],
        "PIL": [Image.fromarray(x) for x in PIXELS],
        "open files": [io.BytesIO(png(x)) for x in PIXELS],
        "mixed": [files[0], PIXELS[1]],
        "JAX": jnp.asarray(PIXELS),
        "dict values": {"a": files[0], "b": files[1]}.values(),
    }
    for way, given in ways.items():
        np.testing.assert_array_equal(model.encode_images(given), expected, err_msg=way)
    one = {
        "array": PIXELS[0],
        "path": files[0],
        "str": str(files[0]),
        "bytes": png(PIXELS[0]),
        "JAX": jnp.asarray(PIXELS[0]),
    }
    for way, given in one.items():
        found = model.encode_images(given)  # of another batch size: equal to float32's last digits
        np.testing.assert_allclose(found, expected[:1], rtol=1e-4, atol=1e-5, err_msg=f"one {way}")


def test_one_picture_is_one_picture():
    assert [x.shape for x in as_pictures(PIXELS[0])] == [(70, 110, 3)]
    assert [x.shape for x in as_pictures(PIXELS[0, :, :, 0])] == [(70, 110)]
    assert [x.shape for x in as_pictures(PIXELS[0, :, :, :1])] == [(70, 110, 1)]
    assert [x.shape for x in as_pictures(PIXELS)] == [(70, 110, 3)] * 2
    assert as_pictures("a.png") == ["a.png"]
    assert as_pictures(np.array("a.png")) == ["a.png"]
    assert as_pictures(Path("a.png")) == [Path("a.png")]


def test_a_file_and_the_picture_opened_from_it_are_the_same(model, tmp_path):
    """EXIF orientation and 16 bits, the two that were silently different."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS[0]).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    ramp = np.linspace(0, 65535, 70 * 110).reshape(70, 110).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    for name in ("turned.jpg", "grey.png"):
        by_path = model.encode_images(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            found = model.encode_images([opened, opened])
            np.testing.assert_allclose(found, np.repeat(by_path, 2, axis=0), rtol=1e-4, atol=1e-5)
            np.testing.assert_array_equal(model.preprocess(opened), model.preprocess(tmp_path / name))


WRONG_IMAGES = {
    "none": ([], "images: got none"),
    "empty array": (PIXELS[:0], "images: got none"),
    "dict": ({"image": PIXELS}, "images: got dict"),
    "None": (None, "images: got NoneType"),
    "number": (3, "images: got int"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2), r"images\[0\]: .*channels come last"),
    "one, channels first": (PIXELS[0].transpose(2, 0, 1), "channels come last"),
    "floats": (PIXELS / 255, r"images\[0\]: .*got float64 .*convert floats"),
    "grey pictures": (PIXELS[..., 0], r"images\[0\]: .*channels|images\[0\]: .*pass list\(x\)"),
    "batches": ([PIXELS], r"images\[0\]: .*several images"),
    "embeddings in a list": ([np.zeros(24, np.float32)], r"images\[0\]: .*pass one array \[n, d\]"),
    "one embedding": (np.zeros(24, np.float32), r"pass one array \[n, d\]"),
    "broken bytes": ([PIXELS[0], b"no picture"], r"images\[1\]: cannot identify image"),
    "address": (["https://example.org/cat.jpg"], "is an address, not a file; download it first"),
    "second is missing": ([PIXELS[0], "nowhere.png"], "nowhere.png cannot be read"),
}


@pytest.mark.parametrize("name", WRONG_IMAGES)
def test_what_is_no_picture_is_refused_in_one_line(name, model):
    given, message = WRONG_IMAGES[name]
    with pytest.raises(ValueError, match=message) as error:
        model.encode_images(given)
    assert "\n" not in str(error.value)


def test_a_broken_picture_that_is_open_is_named(model):
    cut = Image.open(io.BytesIO(png(PIXELS[0])[:5000]))
    with pytest.raises(ValueError, match=r"images\[1\]: image file is truncated"):
        model.encode_images([PIXELS[0], cut])


def test_every_way_to_give_texts_gives_the_same_embeddings(model):
    texts = ["a red circle", "a blue square"]
    expected = model.encode_texts(texts)
    ways = {
        "array": np.array(texts),
        "objects": np.array(texts, object),
        "tuple": tuple(texts),
        "generator": iter(texts),
    }
    ways |= {"scalars": [np.str_(x) for x in texts], "dict values": {"a": texts[0], "b": texts[1]}.values()}
    for way, given in ways.items():
        np.testing.assert_array_equal(model.encode_texts(given), expected, err_msg=way)
    for one in (texts[0], np.str_(texts[0]), np.array(texts[0])):
        np.testing.assert_allclose(model.encode_texts(one), expected[:1], rtol=1e-4, atol=1e-5)


WRONG_TEXTS = {
    "bytes": (b"a cat", "texts: got bytes, .*decode it"),
    "list of bytes": (["a", b"a cat"], r"texts\[1\]: got b'a cat', .*decode it"),
    "array of bytes": (np.array([b"a cat"]), r"texts\[0\]: got b'a cat'"),
    "not a number": (["a", float("nan")], r"texts\[1\]: got nan"),
    "None": (None, "texts: got NoneType"),
    "dict": ({"text": "a"}, "texts: got dict"),
    "nested": ([["a", "b"]], r"texts\[0\]: got \['a', 'b'\]"),
    "blank": ([" "], r"texts\[0\]: got ' '"),
    "half a character": (["a \ud83d"], r"texts\[0\]: got 'a \\ud83d'"),
}


@pytest.mark.parametrize("name", WRONG_TEXTS)
def test_what_is_no_text_is_refused_in_one_line(name, model):
    given, message = WRONG_TEXTS[name]
    with pytest.raises(ValueError, match=message):
        model.encode_texts(given)


def test_texts_that_are_cut_are_counted_once(model, caplog):
    model = dataclasses.replace(model, _cut=[])
    long = "a red circle left of a blue square above a green triangle"
    texts = [f"{long} one", f"{long} two", "a red circle"]
    assert (model.tokenizer.lengths(texts) > model.tokenizer.context_length).tolist() == [True, True, False]
    longest = model.tokenizer.lengths(texts).max()
    model.encode_texts(["a red circle"])
    assert not caplog.messages
    vectors = model.encode_texts(texts)
    (said,) = caplog.messages
    assert said == (
        f"2 of 3 texts are longer than the context of 8 tokens and are cut (the longest has {longest}); shorten them, "
        f"or train a model with model.context_length={longest}"
    )
    np.testing.assert_array_equal(vectors[0], vectors[1])  # which is why it is said
    model.encode_texts(texts)
    assert len(caplog.messages) == 1


def test_lengths_are_those_of_uncut_rows(model):
    longer = dataclasses.replace(model.tokenizer, context_length=99)
    texts = ["a red circle left of a blue square above a green triangle", "red"]
    rows = longer(texts)
    np.testing.assert_array_equal(model.tokenizer.lengths(texts), (rows == longer.end_id).argmax(axis=1) + 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16, "jax", "jax bfloat16"])
def test_embeddings_of_any_float_type_are_scored(dtype, model):
    v, t = (RNG.normal(size=(n, model.model.pair.dim)).astype(np.float32) for n in (3, 4))
    if isinstance(dtype, str):
        given = [jnp.asarray(x, jnp.bfloat16 if "b" in dtype else jnp.float32) for x in (v, t)]
    else:
        given = [x.astype(dtype) for x in (v, t)]
    expected = model.score(*(np.asarray(x, np.float32) for x in given))
    np.testing.assert_array_equal(model.score(*given).logit, expected.logit)
    np.testing.assert_array_equal(model.top_k(*given, 2).index, model.top_k(v, t, 2).index)


def test_embeddings_of_another_model_are_named(model):
    d = model.model.pair.dim
    v, wrong = np.zeros((3, d), np.float32), np.zeros((4, d + 1), np.float32)
    for given, name in (((v, wrong), "texts"), ((wrong, v), "images")):
        with pytest.raises(ValueError, match=rf"^{name}: got embeddings of {d + 1} numbers, but this model's have {d}"):
            model.score(*given)
    with pytest.raises(ValueError, match="embeddings of"):
        model.sample_similarity(None, wrong, v, 2)


def test_one_embedding_is_not_a_picture(model):
    with pytest.raises(ValueError, match=r"pass one array \[n, d\]"):
        model.score(np.zeros(24), ["a red circle"])


def test_texts_are_what_iterates():
    assert as_texts("a") == ["a"]
    assert as_texts(("a", "b")) == ("a", "b")
