"""What a run starts from: pretrained towers, a workdir, an export; and a finished run that is extended."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import vacsr_jax
from configs import scenes
from tests.small_models import random_like
from vacsr_jax.config_files import load_config
from vacsr_jax.image_text import abstract_params, build_model
from vacsr_jax.optim.factory import learning_rate
from vacsr_jax.training import loop
from vacsr_jax.training.run import set_up
from vacsr_jax.training.start import as_cosine, read_start, warm_start

SIGLIP = Path(__file__).parents[1] / "parity" / "golden" / "hf_siglip"
GOLDEN = SIGLIP.parent / "format2"
SIZES = {"data.train_size": 40, "data.validation_size": 10, "train.batch_size": 8, "checkpoint.every": 2}
SIZES |= {"train.steps": 4, "optim.warmup_steps": 1}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]


def config_of(method="sigmoid", **fields):
    config = scenes.get_config()
    config.method = method
    with config.unlocked():
        config.update_from_flattened_dict(SIZES | {name.replace("__", "."): value for name, value in fields.items()})
    return config


def same(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(jax.tree.map(np.array_equal, a, b))


def started(config):
    """The model and the parameters that a run of this config starts from; only the pair model's are initialized."""
    start = read_start(config)
    model = build_model(as_cosine(config, start), start.model.towers_config)
    params = random_like(abstract_params(model), np.random.default_rng(0), scale=0.1)
    params["pair"] = jax.device_get(model.pair.init(jax.random.key(0), method="scorer")["params"])
    return start, model, warm_start(config, model, params, start)


@pytest.fixture(scope="module")
def towers():
    """A SigLIP, and the embeddings of five images and three texts that it gives."""
    loaded = vacsr_jax.load(SIGLIP)
    images = list(np.random.default_rng(0).integers(0, 256, (5, 38, 38, 3), np.uint8))
    texts = ["a cat", "two dogs", "猫"]
    return loaded.encode_images(images), loaded.encode_texts(texts), loaded.score(images, texts).logit


@pytest.mark.parametrize("method", ["vacsr", "deterministic", "sigmoid", "conjunction", "propensity"])
def test_methods_start_as_the_logit_of_a_siglip(method, towers):
    extra = {"conjunction__claims": 1} if method == "conjunction" else {}
    _, model, params = started(config_of(method, model__pretrained=str(SIGLIP), **extra))
    items = [model.pair.from_unit(jax.numpy.asarray(x)) for x in towers[:2]]
    scorer = model.pair.apply({"params": jax.tree.map(jax.numpy.asarray, params["pair"])}, method="scorer")
    found = scorer.score_tile(*items).logit
    np.testing.assert_allclose(found, towers[2], rtol=0, atol=2e-5)
    assert np.ptp(towers[2]) > 0.5


@pytest.mark.parametrize("kind", ["workdir", "export"])
def test_towers_or_all_of_a_model_are_taken_over(kind, tmp_path):
    source = GOLDEN / "workdir"
    trained = vacsr_jax.load(source)
    method = trained.config["method"]
    if kind == "export":
        source = tmp_path / "export"
        trained.save(source)
    other = "sigmoid" if method == "vacsr" else "vacsr"
    saved = jax.device_get(trained.params)
    assert same(started(config_of(other, model__pretrained=str(source)))[2]["towers"], saved["towers"])
    everything = config_of(method, model__pretrained=str(source), model__parts="all")
    start, _, params = started(everything)
    assert same(jax.device_get(params), saved)
    np.testing.assert_array_equal(start.tokenizer(["a red circle"]), trained.tokenizer(["a red circle"]))
    message = f"got all, but .* holds a {type(trained.model.pair).__name__} and this run trains a "
    with pytest.raises(ValueError, match=message):
        started(config_of(other, model__pretrained=str(source), model__parts="all"))


def test_unknown_parts_and_models_on_embeddings_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model\.parts: got 'heads', expected one of towers, all"):
        set_up(config_of(model__parts="heads"), tmp_path)


def test_a_finished_run_is_extended_with_a_schedule_of_its_own(tmp_path):
    workdir = tmp_path / "run"
    loop.train(config_of(), workdir)
    with pytest.raises(ValueError, match=r"train\.steps: saved 4, given 6\. .*set train\.extended_from and optim\.ext"):
        loop.train(config_of(train__steps=6), workdir)
    with pytest.raises(ValueError, match=r"train\.extended_from: got 3, but .* is at step 4 of 4; finish that run"):
        loop.train(config_of(train__steps=6, train__extended_from=3, optim__extension_lr=1e-3), workdir)
    with pytest.raises(ValueError, match="an extension needs more steps, and a rate above 0"):
        loop.train(config_of(train__steps=6, train__extended_from=4), workdir)
    longer = config_of(train__steps=7, train__extended_from=4, optim__extension_lr=1e-3)
    before = vacsr_jax.load(workdir, checkpoint="last").params
    _, state = loop.train(longer, workdir)
    assert int(state.step) == 7
    moved = flatten_dict(jax.tree.map(lambda a, b: np.abs(a - b).max(), before, jax.device_get(state.params)))
    assert max(moved.values()) > 1e-4  # the old schedule had ended at a rate of 0
    assert json.loads((workdir / "run_config.json").read_text())["train"]["steps"] == 7
    _, again = loop.train(longer, workdir)  # nothing is left to train
    assert same(jax.device_get(again.params), jax.device_get(state.params))


def test_a_run_of_an_older_version_is_continued(tmp_path):
    config = config_of()
    loop.train(config, tmp_path)
    saved = json.loads((tmp_path / "run_config.json").read_text())
    del saved["train"]["extended_from"], saved["optim"]["extension_lr"]  # fields that came after the run
    (tmp_path / "run_config.json").write_text(json.dumps(saved))
    _, state = loop.train(config, tmp_path)
    assert int(state.step) == 4
    with pytest.raises(ValueError, match=r"another config: optim\.extension_lr: saved 0\.0, given 0\.5"):
        loop.train(config_of(optim__extension_lr=0.5), tmp_path)


def test_there_must_be_a_run_to_extend(tmp_path):
    longer = config_of(train__steps=7, train__extended_from=4, optim__extension_lr=1e-3)
    with pytest.raises(ValueError, match=r"train\.extended_from: .* holds no run to extend"):
        loop.train(longer, tmp_path)


def test_the_rates_of_an_extension():
    config = config_of(train__steps=30, train__extended_from=10, optim__extension_lr=0.5, optim__warmup_steps=4)
    rates = np.array([learning_rate(config)(step) for step in range(10, 31)])
    np.testing.assert_allclose(rates[:5], [0, 0.125, 0.25, 0.375, 0.5], atol=1e-6)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(17) / 16))
    np.testing.assert_allclose(rates[4:], expected, atol=1e-6)


def test_the_config_file_takes_the_fields():
    config = load_config("configs/scenes.py", ["--config.model.parts=all", "--config.train.extended_from=3"])
    assert (config.model.parts, config.train.extended_from) == ("all", 3)
