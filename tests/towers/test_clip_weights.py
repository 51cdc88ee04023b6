"""Weight files are complete or refused, byte-equal after a round trip, and written whole or not at all."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

from vacsr_jax.towers import clip_weights, weights
from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_weights import load_hf_clip, save_hf_clip
from vacsr_jax.towers.presets import PRESETS

CONFIG = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=12, layers=1, heads=2, mlp_width=20),
    text=TextConfig(
        vocab_size=50, context_length=7, width=8, layers=2, heads=2, mlp_width=12, start_id=48, end_id=49, pad_id=0
    ),
    embedding_dim=6,
)
Q_PROJ = "text_model.encoder.layers.1.self_attn.q_proj.weight"


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    shapes = weights.leaf_shapes(CONFIG)
    flat = {leaf: np.asarray(rng.normal(size=shape), np.float32) for leaf, shape in shapes.items()}
    return unflatten_dict(flat, sep="/")


@pytest.fixture
def folder(tmp_path, params):
    save_hf_clip(tmp_path / "hf", CONFIG, params)
    return tmp_path / "hf"


def edit_json(path, **changes):
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(values.get(key), dict):
            values[key] |= value
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def edit_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", {"format": "pt"})


def test_what_was_saved_is_loaded(folder, params):
    config, loaded = load_hf_clip(folder)
    assert config == CONFIG
    assert same(loaded, params)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_round_trip_keeps_every_byte(folder, tmp_path, dtype):
    def change(tensors):
        stored = {name: x.astype(dtype) for name, x in tensors.items()}
        stored["text_model.embeddings.position_ids"] = np.arange(7)[None]
        stored["vision_model.embeddings.position_ids"] = np.arange(5)[None]
        return stored

    edit_tensors(folder, change)
    (folder / "vocab.json").write_text('{"a": 0}')
    config, loaded = load_hf_clip(folder)
    assert all(x.dtype == np.float32 for x in jax.tree.leaves(loaded))
    save_hf_clip(tmp_path / "again", config, loaded, like=folder)
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in (tmp_path / "again").iterdir()} == names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_sharded_files(folder, params):
    tensors = load_file(folder / "model.safetensors")
    shards = [dict(list(tensors.items())[i::2]) for i in range(2)]
    weight_map = {}
    for i, shard in enumerate(shards):
        save_file(shard, folder / f"model-{i}.safetensors")
        weight_map |= dict.fromkeys(shard, f"model-{i}.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(load_hf_clip(folder)[1], params)
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no model-1\.safetensors"):
        load_hf_clip(folder)


def test_every_misfit_is_listed(folder):
    def change(tensors):
        tensors["text_model.extra"] = np.zeros(3, np.float32)
        tensors["text_model.embeddings.position_ids"] = np.arange(7)[::-1].copy()[None]
        tensors["logit_scale"] = np.zeros((2,), np.float32)
        tensors["text_projection.weight"] = tensors["text_projection.weight"].astype(np.int32)
        del tensors[Q_PROJ]

    edit_tensors(folder, change)
    with pytest.raises(ValueError, match="do not fit the config") as caught:
        load_hf_clip(folder)
    message = str(caught.value)
    assert "unused tensor: text_model.extra" in message
    assert "unused tensor: text_model.embeddings.position_ids" in message
    assert f"unfilled leaf: text/transformer/block_1/attention/query/kernel (no tensor {Q_PROJ})" in message
    assert "mismatch: logit_scale is float32 [2], expected float []" in message
    assert "mismatch: text_projection.weight is int32 [6, 8], expected float [6, 8]" in message
    assert len(message.splitlines()) == 6


def test_a_config_of_another_size_is_noticed(folder):
    edit_json(folder / "config.json", vision_config={"patch_size": 4})
    with pytest.raises(
        ValueError, match=r"patch_embedding.weight is float32 \[12, 3, 8, 8\], expected float \[12, 3, 4, 4\]"
    ):
        load_hf_clip(folder)


def test_config_fields_come_from_the_file(folder):
    edit_json(
        folder / "config.json",
        vision_config={"num_attention_heads": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-6},
        text_config={"num_attention_heads": 4, "layer_norm_eps": 1e-6},
    )
    edit_json(folder / "preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    config, _ = load_hf_clip(folder)
    assert (config.vision.heads, config.text.heads) == (3, 4)
    assert (config.vision.activation, config.text.activation) == ("gelu", "quick_gelu")
    assert config.layer_norm_eps == 1e-6
    assert config.vision.pixel_mean == (0.1, 0.2, 0.3)
    assert config.vision.pixel_std == (0.5, 0.6, 0.7)
    # transformers 5 keeps the same values inside processor_config.json
    values = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    assert load_hf_clip(folder)[0] == config


def test_openai_configs(folder):
    """Old files: eos_token_id 2, and `text_config_dict` over a stale `text_config`."""
    raw = json.loads((folder / "config.json").read_text())
    text = raw["text_config"] | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    edit_json(folder / "config.json", text_config=text)
    with pytest.raises(ValueError, match="eos_token_id: got 2 with a vocabulary of 50"):
        load_hf_clip(folder)
    edit_json(folder / "config.json", text_config_dict=text | {"vocab_size": 49408})
    edit_tensors(
        folder, lambda t: t | {"text_model.embeddings.token_embedding.weight": np.ones((49408, 8), np.float32)}
    )
    config, _ = load_hf_clip(folder)
    assert (config.text.start_id, config.text.end_id, config.text.pad_id) == (49406, 49407, 49407)


def test_silent_configs_mean_hugging_face_defaults(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    config = clip_weights.read_hf_config(tmp_path)
    assert config == dataclasses.replace(
        PRESETS["ViT-B/32"], text=dataclasses.replace(PRESETS["ViT-B/32"].text, pad_id=1)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "siglip"}, "model_type is 'siglip', expected 'clip'"),
        ({"vision_config": {"num_channels": 4}}, "num_channels is 4"),
        ({"vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps differ"),
        ({"vision_config": {"hidden_act": "relu"}}, "activation: got 'relu'"),
    ],
)
def test_configs_that_are_refused(folder, changes, message):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_hf_clip(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "[" * 100_000, "config.json is not JSON that can be read"),
        ("config.json", "[1]", "config.json: got list, expected a JSON object"),
        (
            "config.json",
            '{"model_type": "clip", "text_config": 3}',
            "text_config and vision_config: expected an object for each",
        ),
        ("preprocessor_config.json", "null", "preprocessor_config.json: got NoneType, expected a JSON object"),
        (
            "preprocessor_config.json",
            '{"image_mean": [0, 1]}',
            r"pixel_mean: got \(0, 1\), expected three finite numbers",
        ),
        ("model.safetensors", "\4\0\0\0\0\0\0\0null", "model.safetensors cannot be read as safetensors"),
        ("model.safetensors.index.json", "null", "index.json: got NoneType, expected a JSON object"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"a": "x.bin"}}',
            "got 'x.bin', expected names of safetensors",
        ),
        ("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}', "files in the same folder"),
        ("model.safetensors.index.json", '{"weight_map": {}}', "got nothing, expected names of safetensors"),
    ],
)
def test_hostile_files_are_named(file, content, message, folder):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        load_hf_clip(folder)


def test_incomplete_folders(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"no model\.safetensors; pytorch_model\.bin is not supported: convert it"):
        load_hf_clip(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"no config\.json"):
        load_hf_clip(folder)


def test_hub_names_go_through_a_snapshot(folder, monkeypatch):
    asked = {}

    def snapshot(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert load_hf_clip("someone/some-clip", revision="refs/pr/1")[0] == CONFIG
    assert asked == {
        "name": "someone/some-clip",
        "revision": "refs/pr/1",
        "patterns": ["*.json", "*.safetensors", "*.txt", "*.model"],
    }

    def unreachable(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"'no/such' is neither a folder nor a repository .* no route to host"):
        load_hf_clip("no/such")


@pytest.mark.parametrize(
    ("tower", "changes", "message"),
    [
        ("vision", {"pool": "mean"}, "vision.pool must be 'cls'"),
        ("vision", {"patch_normalization": True}, "patch_normalization must be off"),
        ("text", {"pool": "mean"}, "text.pool must be 'end'"),
        ("text", {"causal": False}, "text.causal must be on"),
        ("text", {"end_id": 2}, "end_id must not be 2"),
    ],
)
def test_what_hugging_face_cannot_express(tmp_path, params, tower, changes, message):
    config = dataclasses.replace(CONFIG, **{tower: dataclasses.replace(getattr(CONFIG, tower), **changes)})
    with pytest.raises(ValueError, match=message):
        save_hf_clip(tmp_path / "new", config, params)
    assert not (tmp_path / "new").exists()


def test_save_checks_params_and_like(folder, tmp_path, params):
    with pytest.raises(ValueError, match="do not fit the config: logit_scale"):
        save_hf_clip(tmp_path, CONFIG, {k: v for k, v in params.items() if k != "logit_scale"})
    with pytest.raises(ValueError, match="do not fit the config: extra"):
        save_hf_clip(tmp_path, CONFIG, {**params, "extra": np.zeros(1)})
    other = dataclasses.replace(CONFIG, layer_norm_eps=1e-6)
    with pytest.raises(ValueError, match="has a different config"):
        save_hf_clip(tmp_path, other, params, like=folder)


def test_an_interrupted_write_leaves_the_old_file(folder, params, monkeypatch):
    before = (folder / "model.safetensors").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_hf_clip(folder, CONFIG, jax.tree.map(lambda x: x + 1, params))
    assert (folder / "model.safetensors").read_bytes() == before
    assert not list(folder.glob(".*"))
