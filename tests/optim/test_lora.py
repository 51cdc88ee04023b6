"""Low-rank adapters: what learns, what a checkpoint and an export hold, and peft's files in and out."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file

import vacsr_jax
from configs import scenes
from tests.small_models import random_like
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.main import main
from vacsr_jax.optim.groups import FROZEN, labels
from vacsr_jax.optim.lora import LORA, add_lora, applied, merged
from vacsr_jax.towers.presets import PRESETS
from vacsr_jax.training import loop

SIGLIP = Path(__file__).parents[1] / "parity" / "golden" / "hf_siglip"
TEXTS = ["a red circle", "two dogs"]
pytestmark = pytest.mark.usefixtures("compile_fast", "one_device")


def config_of(**fields):
    config = scenes.get_config()
    sizes = {"data.train_size": 40, "data.validation_size": 10, "train.batch_size": 8, "checkpoint.every": 2}
    sizes |= {"train.steps": 2, "optim.warmup_steps": 1, "optim.lora": 2, "method": "sigmoid", "optim.lr": 0.1}
    with config.unlocked():
        config.update_from_flattened_dict(sizes | {name.replace("__", "."): value for name, value in fields.items()})
    return config


@pytest.fixture(scope="module")
def tiny():
    """A model, its parameters with adapters that are not zero, and the config."""
    config = config_of(optim__lora_on=("attention/query", "mlp_*"))
    model = build_model(config, PRESETS["tiny"])
    rng = np.random.default_rng(0)
    params = add_lora(random_like(abstract_params(model), rng, 0.1), config.optim, 0)
    params[LORA] = random_like(params[LORA], rng, 0.2)
    return model, params, config


def test_adapters_do_what_the_merged_weights_do(tiny):
    model, params, config = tiny
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    tokens = np.full((2, 20), 5, np.int32)

    def with_adapters(params):
        with applied(params, config.optim):
            return model.apply({"params": params}, images, tokens)

    run = jax.jit(lambda params: model.apply({"params": params}, images, tokens))
    adapted, plain, without = jax.jit(with_adapters)(params), run(merged(params, config.optim)), run(params)
    for a, b, c in zip(adapted, plain, without, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
        assert np.abs(a - c).max() > 1e-2
    kernel = "towers/text/transformer/block_0/mlp_in"
    flat = flatten_dict(params, sep="/")
    expected = flat[f"{kernel}/kernel"] + 8 * flat[f"{LORA}/{kernel}/a"] @ flat[f"{LORA}/{kernel}/b"]  # 16 / 2
    np.testing.assert_allclose(
        flatten_dict(merged(params, config.optim), sep="/")[f"{kernel}/kernel"], expected, atol=1e-5
    )


def test_only_adapters_and_the_pair_model_learn(tiny):
    _, params, config = tiny
    kinds = flatten_dict(labels(params, config.optim), sep="/")
    assert {name for name, kind in kinds.items() if kind != FROZEN} == {
        name for name in kinds if not name.startswith("towers/")
    }
    added = flatten_dict(params[LORA], sep="/")
    assert {name.rpartition("/")[0].partition("block_")[2][2:] for name in added} == {
        "attention/query",
        "mlp_in",
        "mlp_out",
    }


def test_a_layer_that_does_not_exist_is_named(tiny):
    with pytest.raises(
        ValueError, match=r"optim\.lora_on: 'attention/qkv' matches no layer, expected some of attention"
    ):
        add_lora(tiny[1], config_of(optim__lora_on=("attention/qkv",)).optim, 0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compile_fast, one_device):
    """A run on a SigLIP with adapters of rank 2."""
    workdir = tmp_path_factory.mktemp("lora") / "run"
    loop.train(config_of(model__pretrained=str(SIGLIP)), workdir)
    return workdir


@pytest.mark.slow
def test_a_run_resumes_loads_merged_and_goes_through_peft(trained, tmp_path):
    base, model = vacsr_jax.load(SIGLIP), vacsr_jax.load(trained, checkpoint="last")
    moved = {
        name
        for name, leaf in flatten_dict(jax.device_get(base.params["towers"]), sep="/").items()
        if (leaf != flatten_dict(jax.device_get(model.params["towers"]), sep="/")[name]).any()
    }
    assert {name.split("/", 3)[-1] for name in moved} == {"attention/query/kernel", "attention/value/kernel"}
    assert LORA not in model.params
    _, state = loop.train(config_of(model__pretrained=str(SIGLIP)), trained)  # nothing is left to train
    assert LORA in state.params
    main(["export", f"--model={trained}", f"--out={tmp_path / 'peft'}", "--format=peft", "--checkpoint=last"])
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert len(tensors) == 2 * 2 * 4  # A and B, two layers, four blocks
    again = vacsr_jax.load(tmp_path / "peft")
    for a, b in zip(jax.tree.leaves(again.params["towers"]), jax.tree.leaves(model.params["towers"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_peft_cannot_be_is_refused(trained, tmp_path, refuse):
    folder = tmp_path / "peft"
    main(["export", f"--model={trained}", f"--out={folder}", "--format=peft"])
    settings = json.loads((folder / "adapter_config.json").read_text())
    for change, message in (
        ({"use_dora": True}, "got use_dora, expected LORA without variants"),
        ({"peft_type": "IA3"}, "got peft_type 'IA3'"),
        ({"r": 3}, "lora_A and lora_B do not fit a layer of"),
        ({"r": "two"}, "r and lora_alpha: got 'two'"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path: got None, expected a folder or a hub name"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ValueError, match=message):
            vacsr_jax.load(folder)


def test_a_run_without_adapters_has_nothing_for_peft(tmp_path, refuse):
    golden = SIGLIP.parent / "format2" / "workdir"
    message = refuse("export", f"--model={golden}", f"--out={tmp_path / 'none'}", "--format=peft")
    assert "it was trained without adapters (optim.lora), so there is nothing for peft" in message


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
def test_live_peft_reads_our_adapters(trained, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import AutoModel

    main(["export", f"--model={trained}", f"--out={tmp_path / 'peft'}", "--format=peft", "--checkpoint=last"])
    merged_model = peft.PeftModel.from_pretrained(
        AutoModel.from_pretrained(SIGLIP), tmp_path / "peft"
    ).merge_and_unload()
    tensors = merged_model.state_dict()
    ours = flatten_dict(jax.device_get(vacsr_jax.load(trained, checkpoint="last").params["towers"]), sep="/")
    for block in range(2):
        theirs = tensors[f"vision_model.encoder.layers.{block}.self_attn.q_proj.weight"].numpy().T
        np.testing.assert_allclose(ours[f"vision/transformer/block_{block}/attention/query/kernel"], theirs, atol=1e-6)
    assert torch is not None
    shutil.rmtree(tmp_path / "peft")
