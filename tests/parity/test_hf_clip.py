"""Our CLIP against Hugging Face's torch CLIPModel: stored values everywhere, a live model where torch is installed."""

from pathlib import Path

import jax
import numpy as np
import pytest

from vacsr_jax.towers.clip import CLIP
from vacsr_jax.towers.clip_weights import load_hf_clip, save_hf_clip

GOLDEN = Path(__file__).parent / "golden" / "hf_clip"


def run_ours(folder, pixels, ids):
    config, params = load_hf_clip(folder)
    model = CLIP(config)
    images = pixels.transpose(0, 2, 3, 1)
    both = lambda m, i, t: (m.image_features(i), m.text_features(t))  # noqa: E731
    image, text = jax.jit(lambda p, i, t: model.apply({"params": p}, i, t, method=both))(
        params, images, ids.astype(np.int32)
    )
    names = ("tokens", "pooled", "embedding")
    ours = {f"image_{name}": x for name, x in zip(names, image, strict=True)}
    return ours | {f"text_{name}": x for name, x in zip(names, text, strict=True)}


def assert_close(ours, theirs):
    for name, value in ours.items():
        np.testing.assert_allclose(value, theirs[name], rtol=0, atol=1e-5, err_msg=name)


def test_golden_values_of_torch():
    golden = np.load(GOLDEN / "golden.npz")
    ours = run_ours(GOLDEN, golden["pixels"], golden["ids"])
    assert_close(ours, golden)
    # The values are large enough for 1e-5 to mean something.
    assert all(np.std(golden[name]) > 0.3 for name in ours)


def test_golden_file_comes_back_byte_by_byte(tmp_path):
    config, params = load_hf_clip(GOLDEN)
    save_hf_clip(tmp_path, config, params, like=GOLDEN)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        {},
        {"hidden_act": "gelu"},
        # OpenAI's configs: eos_token_id 2 makes Hugging Face pool at the largest id.
        {
            "eos_token_id": 2,
            "bos_token_id": 0,
            "vocab_size": 49408,
            "hidden_size": 8,
            "num_attention_heads": 2,
        },
    ],
    ids=["plain", "gelu", "legacy_eos"],
)
def test_live_model(tmp_path, text):
    pytest.importorskip("torch", reason="torch is not installed; the golden values stand in for it")
    import make_hf_clip_golden as hf

    model = hf.build_model(seed=1, **text)
    model.save_pretrained(tmp_path)
    inputs = hf.make_inputs(model.config, seed=1)
    assert_close(run_ours(tmp_path, inputs["pixels"], inputs["ids"]), hf.run_model(model, inputs))


def test_live_torch_reads_our_export(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed; the golden values stand in for it")
    import make_hf_clip_golden as hf
    from transformers import CLIPModel

    golden = np.load(GOLDEN / "golden.npz")
    save_hf_clip(tmp_path, *load_hf_clip(GOLDEN))
    model, report = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    theirs = hf.run_model(model.eval(), {"pixels": golden["pixels"], "ids": golden["ids"]})
    assert_close(theirs, golden)
