"""Our towers against OpenCLIP's in three styles: stored values, and live models where torch and open_clip are."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from test_hf_siglip import TEXTS, make_pictures, same_in_pillow

import vacsr_jax
from vacsr_jax.towers import load_towers
from vacsr_jax.towers.base import normalize_pixels
from vacsr_jax.towers.clip import CLIP
from vacsr_jax.towers.open_clip import TIMM_SIZES, load_open_clip, save_open_clip

pytestmark = pytest.mark.usefixtures("compile_fast")
GOLDEN = Path(__file__).parent / "golden" / "open_clip"
STYLES = ("clip", "siglip", "clipa")


@pytest.fixture(autouse=True)
def _tiny_size(monkeypatch):
    monkeypatch.setitem(TIMM_SIZES, "tiny", (32, 2, 4, 56))


def embed_ours(config, params, pictures, ids):
    model = CLIP(config)
    images = np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
    both = lambda m, i, t: (m.encode_image(i, normalize=False), m.encode_text(t, normalize=False))  # noqa: E731
    return jax.jit(lambda p, i, t: model.apply({"params": p}, i, t, method=both))(params, images, ids.astype(np.int32))


def edit_config(folder, part, **values):
    file = folder / "open_clip_config.json"
    raw = json.loads(file.read_text())
    target = raw if part is None else raw[part] if part in raw else raw["model_cfg"][part]
    target |= values
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize("style", [pytest.param(style, marks=pytest.mark.slow) for style in STYLES])
def test_golden_values_of_torch(style):
    """From pictures and texts to logits: resizing, normalization, ids, both towers, scale and bias."""
    golden = np.load(GOLDEN / style / "golden.npz")
    model = vacsr_jax.load(GOLDEN / style)
    config, params = model.model.towers_config, model.params["towers"]
    pictures = [x.convert("RGB") for x in make_pictures()]
    pixels = normalize_pixels(np.stack([model.preprocess(x) for x in pictures]), config.vision)
    same = same_in_pillow()
    np.testing.assert_allclose(pixels[same], golden["pictures"].transpose(0, 2, 3, 1)[same], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.tokenizer(TEXTS), golden["ids"])
    image, text = embed_ours(config, params, golden["pictures"], golden["ids"])
    np.testing.assert_allclose(image, golden["image_embedding"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(text, golden["text_embedding"], rtol=0, atol=1e-5)
    assert min(np.std(image), np.std(text)) > 0.3
    scores = model.score(pictures, TEXTS)
    np.testing.assert_allclose(scores.logit[same], golden["logits"][same], rtol=0, atol=3e-5)
    assert (scores.probability is not None) == (style == "siglip")


@pytest.mark.parametrize("style", STYLES)
def test_golden_files_come_back_byte_by_byte(style, tmp_path):
    config, params = load_open_clip(GOLDEN / style)
    save_open_clip(tmp_path, config, params, like=GOLDEN / style)
    names = {path.name for path in GOLDEN.joinpath(style).iterdir()} - {"golden.npz"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for name in names:
        assert (tmp_path / name).read_bytes() == (GOLDEN / style / name).read_bytes(), name


WORKS = "expected a vision transformer with the standard text tower"
REFUSED = {
    "CoCa": ("model_cfg", {"multimodal_cfg": {}}, f"it is a CoCa .multimodal_cfg., which is not supported; {WORKS}"),
    "ResNet": ("vision_cfg", {"layers": [3, 4, 6, 3]}, f"its image tower is a ResNet .*; {WORKS}"),
    "ConvNeXt": ("vision_cfg", {"timm_model_name": "convnext_base"}, f"is the ConvNeXt convnext_base .*; {WORKS}"),
    "timm": ("vision_cfg", {"timm_model_name": "eva02_base"}, f"is the timm model eva02_base .*; {WORKS}"),
    "gap": ("vision_cfg", {"timm_model_name": "vit_base_patch16_siglip_gap_224"}, f"timm model vit_base.*; {WORKS}"),
    "RoBERTa": (
        "text_cfg",
        {"hf_model_name": "roberta-base"},
        f"text tower is Hugging Face's roberta-base .*; {WORKS}",
    ),
    "class token": ("text_cfg", {"embed_cls": True}, r"text_cfg\.embed_cls: got True, expected False"),
    "layer scale": ("vision_cfg", {"ls_init_value": 1e-5}, r"vision_cfg\.ls_init_value: got 1e-05, expected None"),
    "first token": ("text_cfg", {"pool_type": "first"}, r"text_cfg\.pool_type: got 'first', expected 'argmax'"),
    "two epsilons": ("text_cfg", {"norm_kwargs": {"eps": 1e-6}}, "norm_kwargs: the towers' epsilons differ"),
    "a norm": ("text_cfg", {"norm_kwargs": {"bias": False}}, "text_cfg.norm_kwargs: got .* expected nothing but eps"),
    "activation": ("text_cfg", {"act_kwargs": {"inplace": True}}, "text_cfg.act_kwargs: got .*approximate"),
    "padding": ("preprocess_cfg", {"resize_mode": "longest"}, "resize_mode: got 'longest', .*others pad the image"),
    "random filter": ("preprocess_cfg", {"interpolation": "random"}, "interpolation: got 'random', expected bicubic"),
    "another size": ("preprocess_cfg", {"size": [32, 32]}, r"preprocess_cfg.size: got \[32, 32\], expected 24"),
    "unknown field": ("preprocess_cfg", {"gamma": 2}, "preprocess_cfg: unknown field 'gamma'"),
    "no width": ("vision_cfg", {"width": "wide"}, "vision_cfg.width: got 'wide', expected a positive number"),
    "another width": ("text_cfg", {"width": 28}, r"ln_final\.weight is float32 \[24\], expected float \[28\]"),
    "no towers": (None, {"model_cfg": 3}, "expected an object model_cfg with vision_cfg and text_cfg"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_outside_is_named(what, tmp_path):
    part, values, message = REFUSED[what]
    shutil.copytree(GOLDEN / "clip", tmp_path, dirs_exist_ok=True)
    edit_config(tmp_path, part, **values)
    with pytest.raises(ValueError, match=message) as error:
        load_towers(tmp_path)
    assert what in ("another width", "a norm") or "\n" not in str(error.value)


def test_a_pickled_checkpoint_is_refused_with_what_to_do(tmp_path):
    shutil.copytree(GOLDEN / "clip", tmp_path, dirs_exist_ok=True)
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "open_clip_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"open_clip_pytorch_model\.bin is not supported: convert it"):
        load_towers(tmp_path)


def test_unknown_options_of_a_tokenizer_are_named(tmp_path):
    shutil.copytree(GOLDEN / "clip", tmp_path, dirs_exist_ok=True)
    edit_config(tmp_path, "text_cfg", tokenizer_kwargs={"language": "fr"})
    with pytest.raises(ValueError, match=r"text_cfg\.language: it is not known here"):
        vacsr_jax.load(tmp_path)


def test_a_folder_without_a_tokenizer_says_where_one_would_come_from(tmp_path):
    shutil.copytree(GOLDEN / "clip", tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="'local' is neither a folder nor a repository that could be fetched"):
        vacsr_jax.load(tmp_path)


@pytest.mark.parametrize("style", STYLES)
def test_live_model(style, tmp_path):
    pytest.importorskip("open_clip", reason="open_clip is not installed; the golden values stand in for it")
    pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    import make_open_clip_golden as theirs

    model = theirs.build_model(style, seed=1)
    theirs.save_folder(style, tmp_path, model)
    inputs = theirs.make_inputs(style, tmp_path)
    found = embed_ours(*load_open_clip(tmp_path), inputs["pictures"], inputs["ids"])
    expected = theirs.run_model(model, inputs)
    for ours, name in zip(found, ("image_embedding", "text_embedding"), strict=True):
        np.testing.assert_allclose(ours, expected[name], rtol=0, atol=1e-5)
