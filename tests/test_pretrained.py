"""`load` names the difference when it refuses a model, and takes a Hugging Face CLIP like any other."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

import vacsr_jax
from tests.small_models import STEP, untrained
from vacsr_jax.config_files import load_config
from vacsr_jax.image_text import describe
from vacsr_jax.main import main
from vacsr_jax.pair import METHODS
from vacsr_jax.towers import weights
from vacsr_jax.towers.base import TextConfig, VisionConfig
from vacsr_jax.towers.clip import CLIPConfig
from vacsr_jax.towers.clip_weights import load_hf_clip, save_hf_clip
from vacsr_jax.training import loop
from vacsr_jax.training.checkpoint import Checkpoints, Selection
from vacsr_jax.training.checksums import write_checksums
from vacsr_jax.training.state import init_state

SCENES = str(Path(__file__).parents[1] / "configs" / "scenes.py")
RECIPE = str(Path(__file__).parents[1] / "configs" / "pcmepp_recipe.py")
GOLDEN_CLIP = Path(__file__).parent / "parity" / "golden" / "hf_clip"
pytestmark = pytest.mark.usefixtures("compile_fast", "one_device")


@pytest.fixture(scope="module")
def saved():
    return untrained()


@pytest.fixture(scope="module")
def original_export(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    saved.save(folder)
    return folder


@pytest.fixture(scope="module")
def original_workdir(saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("workdir")
    checkpoints = Checkpoints(folder)
    state = init_state(jax.device_put(saved.params), optax.sgd(0.1)).replace(step=jax.numpy.int32(STEP))
    checkpoints.save(state, {"config": saved.config, "model": describe(saved.model)}, Selection("validation/rsum", 1.0))
    checkpoints.close()
    saved.tokenizer.save(folder / "tokenizer")
    return folder


@pytest.fixture
def export(original_export, tmp_path):
    return Path(shutil.copytree(original_export, tmp_path / "export"))


@pytest.fixture
def workdir(original_workdir, tmp_path):
    return Path(shutil.copytree(original_workdir, tmp_path / "workdir"))


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


@pytest.mark.parametrize("kind", ["export", "workdir"])
def test_what_was_saved_is_loaded(kind, saved, request):
    loaded = vacsr_jax.load(request.getfixturevalue(kind))
    assert same(loaded.params, saved.params)
    assert (loaded.model, loaded.config, loaded.step) == (saved.model, saved.config, STEP)
    np.testing.assert_array_equal(loaded.tokenizer(["a red circle"]), saved.tokenizer(["a red circle"]))


# Descriptions of other models or versions.

CHANGES = {
    "older format": (lambda d: d.update(format=0), "got format 0, this version reads 2; load it with the version"),
    "newer format": (lambda d: d.update(format=3), "got format 3, this version reads 2"),
    "no format": (lambda d: d.pop("format"), "expected one named format"),
    "unknown field": (lambda d: d.update(extra=1), r"got fields .*'extra'"),
    "unknown dtype": (lambda d: d.update(dtype="float33"), "float33"),
    "unknown pair model": (
        lambda d: d["pair"].update(type="Flow"),
        "got pair model 'Flow', expected one of CosineModel, GaussianDistance, ConjunctionModel, ",
    ),
    "pair model of no type": (lambda d: d["pair"].pop("type"), "got pair model None"),
    "no pair model": (lambda d: d.update(pair=None), "got pair model None"),
    "missing pair field": (lambda d: d["pair"].pop("components"), "components is missing or unknown"),
    "unknown pair field": (lambda d: d["pair"].update(flow=1), "flow is missing or unknown"),
    "missing tower field": (lambda d: d["clip"]["text"].pop("width"), "CLIP config, text: missing width"),
    "misspelt tower field": (
        lambda d: d["clip"]["vision"].update(patch_sise=1),
        "unknown key 'patch_sise'; did you mean 'patch_size'",
    ),
    "a width of no number": (
        lambda d: d["pair"].update(width="64"),
        "VariationalAdapter.width: got '64', expected a whole",
    ),
    "a width below one": (
        lambda d: d["clip"]["text"].update(width=0),
        "TextConfig.width: got 0, expected a whole number",
    ),
    "an image of half a pixel": (lambda d: d["clip"]["vision"].update(image_size=0.5), "image_size: got 0.5, expected"),
    "a billion layers": (lambda d: d["clip"]["text"].update(layers=10**9), "layers: got 1000000000, expected .* 256"),
    "infinite scale": (lambda d: d["pair"].update(temperature=float("inf")), "temperature: got inf, expected a finite"),
    "two pixel means": (
        lambda d: d["clip"]["vision"].update(pixel_mean=[0, 1]),
        "pixel_mean: got .*three finite numbers",
    ),
    "a tower of no object": (lambda d: d["clip"].update(vision=3), "vision and text: expected an object for each"),
    "wider adapter": (
        lambda d: d["pair"].update(width=65),
        r"pair/trunk_kernel: saved \(64, 64\), expected \(64, 65\)",
    ),
    "more layers": (
        lambda d: d["clip"]["text"].update(layers=2),
        r"towers/text/transformer/block_1/mlp_in/kernel: saved nothing, expected \(64, 256\)",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_export_of_another_kind_is_refused_with_the_difference(change, export):
    edit, message = CHANGES[change]
    values = json.loads((export / "config.json").read_text())
    edit(values["vacsr_jax"])
    (export / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        vacsr_jax.load(export)


@pytest.mark.parametrize("change", ["older format", "unknown pair model", "wider adapter"])
def test_a_checkpoint_of_another_kind_is_refused_with_step_and_difference(change, workdir):
    edit, message = CHANGES[change]
    file = workdir / "checkpoints" / str(STEP) / "run" / "metadata"
    values = json.loads(file.read_text())
    edit(values["model"])
    file.write_text(json.dumps(values))
    write_checksums(workdir / "checkpoints" / str(STEP))  # another version would have written matching checksums
    with pytest.raises(ValueError, match=rf"(?s)workdir.*: step {STEP} cannot be loaded: .*{message}"):
        vacsr_jax.load(workdir)


@pytest.mark.parametrize("text", ["", "{", '{"vacsr_jax": ', "[1]", "null", "\ufffd"])
def test_a_description_that_is_no_json_object_is_named(text, export):
    (export / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"export.config\.json(:| is) (not JSON|got )"):
        vacsr_jax.load(export)


# Damaged weights and tokenizers.


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


TENSOR = "pair/decoder_kernel"
TENSOR_EDITS = {
    "missing": (lambda t: t.pop(TENSOR), f"{TENSOR}: saved nothing, expected (64, 1)"),
    "misshapen": (lambda t: t.update({TENSOR: t[TENSOR][:63]}), f"{TENSOR}: saved (63, 1), expected (64, 1)"),
    "transposed": (lambda t: t.update({TENSOR: t[TENSOR].T.copy()}), f"{TENSOR}: saved (1, 64), expected (64, 1)"),
    "left over": (lambda t: t.update(extra=np.zeros(2, np.float32)), "extra: saved (2,), expected nothing"),
    "renamed": (lambda t: t.update(renamed=t.pop(TENSOR)), "renamed: saved (64, 1), expected nothing"),
}


@pytest.mark.parametrize("edit", TENSOR_EDITS)
def test_weights_that_do_not_fit_are_listed(edit, export):
    change, message = TENSOR_EDITS[edit]
    edit_tensors(export, change)
    with pytest.raises(ValueError, match="the parameters do not fit the model it describes") as error:
        vacsr_jax.load(export)
    lines = str(error.value).split("\n")[1:]
    assert f"  {message}" in lines
    assert len(lines) == (2 if edit == "renamed" else 1)


@pytest.mark.parametrize("left", [0, 5, 1000, -8])
def test_truncated_weights_are_named(left, export):
    data = (export / "model.safetensors").read_bytes()
    (export / "model.safetensors").write_bytes(data[:left])
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read .*; export it again"):
        vacsr_jax.load(export)


def test_missing_weights_are_named(export):
    (export / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors cannot be read"):
        vacsr_jax.load(export)


@pytest.mark.parametrize("kind", ["export", "workdir"])
@pytest.mark.parametrize("file", ["tokenizer.json", "vacsr_tokenizer.json"])
def test_a_damaged_tokenizer_is_named(kind, file, request):
    folder = request.getfixturevalue(kind)
    (folder / "tokenizer" / file).write_text("{")
    with pytest.raises(ValueError, match="tokenizer: the tokenizer cannot be read"):
        vacsr_jax.load(folder)


@pytest.mark.parametrize(
    ("name", "value"), [("end_id", {}), ("end_id", 10**6), ("pad_id", -1), ("context_length", 1e9), ("start_id", True)]
)
def test_a_tokenizer_of_other_ids_is_named(name, value, export):
    file = export / "tokenizer" / "vacsr_tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(ValueError, match=f"tokenizer: the tokenizer cannot be read: {name}: got .*, expected"):
        vacsr_jax.load(export)


def test_a_tokenizer_that_pads_for_itself_does_not(export):
    file = export / "tokenizer" / "tokenizer.json"
    padding = {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>"}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding": padding}))
    assert vacsr_jax.load(export).tokenizer(["a red circle"]).shape == (1, 8)


@pytest.mark.parametrize("item", ["run/metadata", "params/_METADATA", "params"])
def test_a_damaged_checkpoint_is_named(item, workdir):
    damaged = workdir / "checkpoints" / str(STEP) / item
    if damaged.is_dir():
        shutil.rmtree(damaged)
    else:
        damaged.write_bytes(damaged.read_bytes()[:9])
    name = re.escape(item)
    refused = pytest.raises(ValueError, match=f"every checkpoint is damaged .{name}.* (was changed or cut|is missing)")
    with pytest.warns(UserWarning, match=f"step {STEP} is damaged .{name}.* and is skipped"), refused:
        vacsr_jax.load(workdir)


# Missing models.


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no checkpoints/ \(a training run\) and no config\.json"):
        vacsr_jax.load(tmp_path)


@pytest.mark.parametrize("name", ["nobody/nothing-of-this-name", "no_such_folder/in/here", "/no_such_folder"])
def test_a_name_of_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"'{name}' is neither a folder nor a repository that could be fetched"):
        vacsr_jax.load(name)


def test_an_unknown_checkpoint_is_refused(original_workdir):
    with pytest.raises(ValueError, match="got 'newest', expected best or last"):
        vacsr_jax.load(original_workdir, checkpoint="newest")


# Hugging Face's CLIP.


def save_clip_tokenizer(folder):
    """CLIP's byte alphabet and no merges: ids 0 to 511, start 512, end 513."""
    from transformers import CLIPTokenizer

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    alphabet = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[]).save_pretrained(folder)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPConfig(
        vision=VisionConfig(image_size=32, patch_size=16, width=16, layers=1, heads=2, mlp_width=16),
        text=TextConfig(
            vocab_size=514,
            context_length=24,
            width=16,
            layers=1,
            heads=2,
            mlp_width=16,
            start_id=512,
            end_id=513,
            pad_id=513,
        ),
        embedding_dim=12,
    )
    rng = np.random.default_rng(0)
    shapes = weights.leaf_shapes(config)
    flat = {name: np.asarray(rng.normal(0, 0.2, shape), np.float32) for name, shape in shapes.items()}
    save_hf_clip(folder, config, unflatten_dict(flat, sep="/"))
    save_clip_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def images():
    return list(np.random.default_rng(1).integers(0, 256, (3, 40, 50, 3), np.uint8))


def test_the_best_texts_are_those_of_all_scores(saved):
    rng = np.random.default_rng(0)
    v, t = (rng.normal(size=(n, saved.model.pair.dim)).astype(np.float32) for n in (3, 7))
    scores, best = saved.score(v, t), saved.top_k(v, t, 2)
    np.testing.assert_array_equal(best.index, np.argsort(-scores.logit, axis=1)[:, :2])
    np.testing.assert_allclose(best.uncertainty, np.take_along_axis(scores.uncertainty, best.index, 1), rtol=1e-5)


def test_a_clip_scores_by_scaled_cosine_without_probability_or_uncertainty(clip_folder, images):
    model, texts = vacsr_jax.load(clip_folder), ["a red circle", "a square"]
    scores = model.score(images, texts)
    assert scores.probability is None
    assert scores.uncertainty is None
    v, t = model.encode_images(images), model.encode_texts(texts)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([v, t]), axis=1), 1, rtol=1e-5)
    scale = np.exp(load_hf_clip(clip_folder)[1]["logit_scale"])
    np.testing.assert_allclose(scores.logit, scale * v @ t.T, rtol=1e-4, atol=1e-5)


def test_a_clip_can_be_exported_and_loaded_again(clip_folder, images, tmp_path):
    model = vacsr_jax.load(clip_folder)
    model.save(tmp_path)
    again = vacsr_jax.load(tmp_path)
    assert (again.config, again.step) == (None, None)
    np.testing.assert_array_equal(again.score(images, ["a dog"]).logit, model.score(images, ["a dog"]).logit)


def test_a_clip_without_its_tokenizer_is_refused():
    with pytest.raises(ValueError, match=r"hf_clip.*knows no words; its files .* are missing"):
        vacsr_jax.load(GOLDEN_CLIP)


def test_a_clip_with_the_tokenizer_of_another_is_refused(tmp_path):
    shutil.copytree(GOLDEN_CLIP, tmp_path, dirs_exist_ok=True)
    save_clip_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="the tokenizer does not belong to this tower"):
        vacsr_jax.load(tmp_path)


@pytest.mark.slow
def test_a_clip_can_be_trained_from(clip_folder, images, tmp_path):
    fields = [f"model.pretrained={clip_folder}", "train.steps=2", "optim.warmup_steps=1", "train.batch_size=8"]
    fields += ["data.train_size=20", "data.validation_size=10"]
    run, _ = loop.train(load_config(SCENES, [f"--config.{field}" for field in fields]), tmp_path)
    towers = load_hf_clip(clip_folder)[1]
    assert same(run.params["towers"], towers)
    trained = vacsr_jax.load(tmp_path)
    moved = {k for k, v in flatten_dict(trained.params["towers"]).items() if (v != flatten_dict(towers)[k]).any()}
    assert ("vision", "patch_embedding", "kernel") in moved
    assert ("text", "token_embedding") in moved
    scores = trained.score(images, ["a red circle"])
    assert scores.uncertainty.shape == scores.probability.shape == (3, 1)


def test_a_clip_is_evaluated_zero_shot_on_the_data_of_a_config(clip_folder, tmp_path, capsys):
    out = tmp_path / "metrics.json"
    with pytest.raises(SystemExit):
        main(["evaluate", f"--model={clip_folder}"])
    assert "give --config=FILE with the data to evaluate on" in capsys.readouterr().err
    main(["evaluate", f"--model={clip_folder}", f"--config={SCENES}", "--config.data.test_size=12", f"--out={out}"])
    metrics = json.loads(out.read_text())
    assert (metrics["protocol"]["images"], metrics["protocol"]["preprocess"]) == (12, "clip")
    assert 0 <= metrics["i2t/R@1"] <= 1
    assert "ECE" not in metrics  # its logits are not probabilities


@pytest.mark.slow
def test_the_recipe_trains_a_clip_and_hands_out_the_average(clip_folder, images, tmp_path):
    fields = {"model.pretrained": clip_folder, "model.embedding_dim": 16, "data.name": "scenes", "train.steps": 3}
    fields |= {"data.train_size": 20, "data.validation_size": 10, "train.batch_size": 8, "checkpoint.every": 2}
    fields |= {"optim.average_from": 2, "optim.image_frozen_steps": 1}
    config = load_config(f"{RECIPE}:method=pcmepp,epoch=1", [f"--config.{k}={v}" for k, v in fields.items()])
    _, state = loop.train(config, tmp_path / "run")
    trained = vacsr_jax.load(tmp_path / "run", checkpoint="last")
    assert same(trained.params, jax.device_get(state.average))
    assert not same(trained.params, jax.device_get(state.params))
    assert trained.model.towers_config.vision.resize == "squash"
    assert trained.preprocess(images[0]).shape == (trained.model.towers_config.vision.image_size,) * 2 + (3,)
    _, resumed = loop.train(config, tmp_path / "run")  # nothing is left to train: the state is the saved one
    assert same(jax.device_get(resumed.params), jax.device_get(state.params))
    assert same(jax.device_get(resumed.average), jax.device_get(state.average))
    trained.save(tmp_path / "export")
    exported = vacsr_jax.load(tmp_path / "export").score(images, ["a red circle"])
    for ours, theirs in zip(exported, trained.score(images, ["a red circle"]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("clip", ["ViT-B/32", "ViT-B/16", "ViT-L/14"])
def test_the_recipe_has_every_method_and_size(method, clip):
    config = load_config(f"{RECIPE}:method={method},clip={clip},noise=0.2,epoch=4426", [])
    assert config.method == method
    assert config.model.pretrained.startswith("openai/clip-vit-")
    assert config.train.steps == 110_650
    assert (config.augment.mix > 0) == (method in ("pcmepp", "vacsr", "deterministic"))


def test_a_size_the_recipe_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="clip=ViT-H/14: expected one of ViT-B/32"):
        load_config(f"{RECIPE}:clip=ViT-H/14", [])
