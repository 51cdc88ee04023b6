"""The everyday benchmark on small shapes: its peers compute what the library does, and its numbers have their names."""

import json

import numpy as np
import pytest

from experiments.benchmarks import everyday, torch_peers
from vacsr_jax import load
from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.presets import PRESETS

ASKED_FOR = {
    "encode_one_text_s",
    "encode_one_image_s",
    "torch_encode_one_text_s",
    "torch_encode_one_image_s",
    "encode_256_images_per_s",
    "torch_encode_256_images_per_s",
    "load_export_s",
    "embed_images_per_s",
    "decode_images_per_s",
    "loader_images_per_s",
    "torch_loader_images_per_s",
    "search_one_query_1m_s",
    "faiss_flat_one_query_1m_s",
    "search_command_second_run_s",
}
NEEDED = {name for _, *names, _, _ in everyday.GOALS for name in names if name}
IDS = {"start_id": 1, "end_id": 2, "pad_id": 2}
SMALL = CLIPConfig(
    vision=VisionConfig(image_size=16, patch_size=8, width=16, layers=2, heads=2, mlp_width=32),
    text=TextConfig(vocab_size=400, context_length=12, width=16, layers=2, heads=2, mlp_width=32, **IDS),
    embedding_dim=8,
)
SIZES = everyday.SIZES | {"preset": "small", "pictures": 3, "batch": 4, "documents": 64, "dim": 8}
SIZES |= {"adapter_dim": 16, "pairs": [4, 6], "rounds": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("everyday")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "small", SMALL)
        everyday.prepare(folder, SIZES)
    return folder


@pytest.mark.slow
def test_every_number_has_its_name(folder, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(everyday, "LOADED", 4)
    monkeypatch.setattr(everyday, "WORKERS", 0)  # worker processes are the loader's own tests' business
    parts = everyday.PARTS | {"prepare": (lambda *_: {}, False)}
    monkeypatch.setattr(everyday, "in_own_process", lambda name, _, sizes: parts[name][0](folder, sizes))
    monkeypatch.setattr(everyday, "start", lambda *_: {"load_export_s": 1.2, "import_jax_flax_tokenizers_s": 1.0})
    monkeypatch.setattr(everyday, "search_command", lambda _: {"search_command_second_run_s": 4.5})
    out = tmp_path / "everyday.json"
    everyday.main([f"--out={out}", f"--sizes={json.dumps(SIZES)}"])
    numbers = json.loads(out.read_text())
    assert set(numbers) >= ASKED_FOR | NEEDED
    assert all(x is None or x > 0 for name, x in numbers.items() if name != "machine")
    assert all(numbers[name] is not None for name in ASKED_FOR if not name.startswith(("torch_", "faiss_")))
    printed = capsys.readouterr().out
    assert "met" in printed
    assert "missed" in printed


@pytest.mark.slow
def test_the_export_of_the_benchmark_loads(folder):
    for name in ("model", "tiny"):
        assert np.isfinite(load(folder / name).encode_texts([everyday.QUERY])).all()


def test_pytorchs_towers_compute_the_same(folder):
    pytest.importorskip("torch")
    model = load(folder / "model")
    encode_images, encode_texts = torch_peers.clip(model.params["towers"], model.model.towers_config)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    tokens = model.tokenizer([everyday.QUERY, "a cat"])
    for ours, theirs in (
        (model.encode_images(list(images)), encode_images(images)),
        (model.encode_texts([everyday.QUERY, "a cat"]), encode_texts(tokens)),
    ):
        np.testing.assert_allclose(everyday.cosine(ours, theirs), 1, atol=1e-5)


def test_torchvisions_loader_makes_the_same_batches(folder):
    pytest.importorskip("torchvision")
    for kind in ("clip", "pcmepp"):
        batch = next(torch_peers.loader(everyday.photographs(folder), kind, 24, 4))
        assert tuple(batch.shape) == (4, 3, 24, 24)
