"""Our SigLIP against Hugging Face's torch SiglipModel: stored values, and a live model where torch is installed."""

import shutil
from pathlib import Path

import jax
import numpy as np
import PIL
import pytest
from PIL import Image

import vacsr_jax
from vacsr_jax.data.preprocess import preprocess
from vacsr_jax.data.tokenizer import load_tokenizer
from vacsr_jax.towers.base import normalize_pixels
from vacsr_jax.towers.clip import CLIP
from vacsr_jax.towers.positions import at_image_size
from vacsr_jax.towers.siglip import load_hf_siglip, save_hf_siglip

pytestmark = pytest.mark.usefixtures("compile_fast")
GOLDEN = Path(__file__).parent / "golden" / "hf_siglip"
# As in make_hf_siglip_golden.py, which needs torch to be imported.
TEXTS = [
    "A photo of a cat.",
    "two dogs, left of a RED square!",
    "ein Foto von Katze und Hund",
    "猫 写真 犬",
    "кошка фото собака",
    "ΓΑΤΑ φωτογραφια",
    "naïve café — 12 cats",
    "!?",
    "unseen 🙂 words " * 9,
]


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "golden.npz")


def run_ours(config, params, pixels, ids):
    """The outputs under the names of the golden values."""
    model, images = CLIP(config), pixels.transpose(0, 2, 3, 1)
    both = lambda m, i, t: (m.image_features(i), m.text_features(t))  # noqa: E731
    image, text = jax.jit(lambda p, i, t: model.apply({"params": p}, i, t, method=both))(
        params, images, ids.astype(np.int32)
    )
    v, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image.embedding, text.embedding))
    logits = np.exp(params["logit_scale"]) * v @ t.T + params["logit_bias"]
    tokens = {"image_tokens": image.tokens, "text_tokens": text.tokens, "logits": logits}
    return tokens | {"image_embedding": image.embedding, "text_embedding": text.embedding}


def assert_close(ours, theirs):
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)


def make_pictures():
    """Pictures of every shape and mode, as in make_hf_siglip_golden.py."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, shape, np.uint8) for shape in ((50, 70, 3), (90, 40, 3), (38, 38, 3), (7, 9, 3))]
    pictures = [Image.fromarray(x) for x in noise]
    return [*pictures, pictures[0].convert("L"), pictures[1].convert("P"), Image.fromarray(noise[0]).convert("CMYK")]


def same_in_pillow():
    """Indices of the pictures that every Pillow resizes as the one that made the golden values (13.0).

    Of a tall picture, older ones resize the rows first, which rounds differently.
    """
    new = int(PIL.__version__.split(".")[0]) >= 13
    return np.array([i for i, picture in enumerate(make_pictures()) if new or picture.width >= picture.height])


def test_golden_values_of_torch(golden):
    config, params = load_hf_siglip(GOLDEN)
    ours = run_ours(config, params, golden["pixels"], golden["ids"])
    assert_close(ours, golden)
    # The values are large enough for 1e-5 to mean something.
    assert all(np.std(golden[name]) > 0.3 for name in ours)


@pytest.mark.slow
def test_another_resolution_resamples_the_positions(golden):
    config, params = at_image_size(*load_hf_siglip(GOLDEN), 62)
    assert config.vision.patches == 25
    found = run_ours(config, params, golden["larger_pixels"], golden["ids"])["image_embedding"]
    np.testing.assert_allclose(found, golden["larger_embedding"], rtol=0, atol=1e-5)
    assert vacsr_jax.load(GOLDEN, image_size=62).model.towers_config.vision == config.vision


def test_golden_file_comes_back_byte_by_byte(tmp_path):
    config, params = load_hf_siglip(GOLDEN)
    save_hf_siglip(tmp_path, config, params, like=GOLDEN)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {path.name for path in GOLDEN.iterdir() if path.is_file()} - {"golden.npz"}
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes(), name
    again = tmp_path / "again"
    save_hf_siglip(again, config, params)
    assert (again / "model.safetensors").stat().st_size > 200_000
    found = load_hf_siglip(again)
    assert found[0] == config
    assert jax.tree.all(jax.tree.map(np.array_equal, found[1], params))


def test_pixels_are_those_of_the_processor(golden):
    vision = load_hf_siglip(GOLDEN)[0].vision
    ours = np.stack([preprocess(x.convert("RGB"), **vision.preprocessing) for x in make_pictures()])
    theirs = golden["pictures"].transpose(0, 2, 3, 1)
    same = same_in_pillow()
    np.testing.assert_allclose(normalize_pixels(ours, vision)[same], theirs[same], rtol=0, atol=1e-6)


def test_ids_are_those_of_sentencepiece(golden):
    np.testing.assert_array_equal(load_tokenizer(GOLDEN, 12, kind="siglip")(TEXTS), golden["text_ids"])


@pytest.mark.slow
def test_a_loaded_siglip_gives_the_probability_of_a_match(golden):
    model = vacsr_jax.load(GOLDEN)
    scores = model.score([x.convert("RGB") for x in make_pictures()], TEXTS)
    same = same_in_pillow()
    stored = golden["scores"][same]
    np.testing.assert_allclose(scores.logit[same], stored, rtol=0, atol=3e-5)
    np.testing.assert_allclose(scores.probability[same], 1 / (1 + np.exp(-stored)), rtol=0, atol=1e-5)
    assert scores.uncertainty is None
    assert (model.model.towers_config.text.start_id, model.tokenizer.pad_id, model.tokenizer.end_id) == (None, 1, 1)


@pytest.mark.slow
def test_the_second_generations_tokenizer_adds_its_end_and_lowers_the_case():
    from transformers import AutoTokenizer

    folder = GOLDEN / "second"
    theirs = AutoTokenizer.from_pretrained(folder)
    texts = [text for text in TEXTS if text != "!?"]
    options = {"padding": "max_length", "truncation": True, "max_length": 11, "add_special_tokens": False}
    plain = np.array(theirs(texts, **options).input_ids)
    ours = load_tokenizer(folder, 12, kind="siglip")
    assert (ours.start_id, ours.end_id, ours.pad_id) == (None, 1, 0)
    expected = [[*row[: (row != 0).sum()], 1, *row[(row != 0).sum() :]] for row in plain]
    np.testing.assert_array_equal(ours(texts), expected)
    np.testing.assert_array_equal(ours(["A Red DOG"]), ours(["a red dog"]))


def test_live_model(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; the golden values stand in for it")
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    import make_hf_siglip_golden as hf

    model = hf.build_model(seed=1, vocab_size=120, image_size=48, patch_size=16)
    hf.save_first(tmp_path, model, 48)
    inputs = hf.make_inputs(model, seed=1)
    config, params = load_hf_siglip(tmp_path)
    assert_close(run_ours(config, params, inputs["pixels"], inputs["ids"]), hf.run_model(model, inputs))


def test_live_sentencepiece(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; the golden values stand in for it")
    spm = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    import make_hf_siglip_golden as hf

    from vacsr_jax.data.sentencepiece import read_sentencepiece

    file = hf.train_pieces(tmp_path, rule="nmt_nfkc")
    theirs, ours = spm.SentencePieceProcessor(model_file=str(file)), read_sentencepiece(file)
    texts = [*TEXTS, "hello  world", "ﬁ ½ ①", "  lead and trail ", "a\tb\nc", "x" * 50, "１２３", "photoofcat"]
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text), text


def test_live_torch_reads_our_export(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; the golden values stand in for it")
    import make_hf_siglip_golden as hf
    from transformers import SiglipModel

    golden = np.load(GOLDEN / "golden.npz")
    save_hf_siglip(tmp_path, *load_hf_siglip(GOLDEN))
    model, report = SiglipModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_close(hf.run_model(model.eval(), {"pixels": golden["pixels"], "ids": golden["ids"]}), golden)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no pieces"),
        (b"\x0a\x05\x0a\x03abc\x12\x02\x18\x02", r"model_type is 2, expected 1 \(unigram\)"),
        (b"\x0a\x05\x0a\x03abc\x12\x03\xc0\x02\x07", "unk_id is 7, expected an id below 1"),
        (b"\x0a\x90", "index out of range"),
        (b"\x0a\x20abc", "it ends within a field"),
        (b"\x0f", "unknown wire type 7"),
    ],
)
def test_pieces_that_cannot_be_read_are_named(data, message, tmp_path):
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    (tmp_path / "spiece.model").write_bytes(data)
    with pytest.raises(ValueError, match=rf"spiece\.model.*{message}"):
        load_tokenizer(tmp_path, 12, kind="siglip")
