"""The published scenes config, shrunk, through every verb; killed, resumed, and loaded again."""

import contextlib
import io
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image
from scipy.special import expit

import vacsr_jax
from vacsr_jax.config_files import load_config
from vacsr_jax.data.datasets import open_split
from vacsr_jax.data.loader import batch_at
from vacsr_jax.main import main
from vacsr_jax.training import loop
from vacsr_jax.training.checkpoint import Checkpoints
from vacsr_jax.training.metric_writer import read_metrics
from vacsr_jax.training.run import set_up

CONFIG = str(Path(__file__).parents[2] / "configs" / "scenes.py")
STEPS, EVERY = 12, 3
SHRUNK = [
    f"--config.{field}"
    for field in (
        f"train.steps={STEPS}",
        f"checkpoint.every={EVERY}",
        "train.log_every=1",
        "optim.warmup_steps=2",
        "model.vocab_size=300",
        "data.train_size=300",
        "data.validation_size=40",
        "data.test_size=40",
    )
]
TEXTS = ["a red circle", "a large blue square left of a cross", "two objects in all"]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]


def train(workdir, *more):
    """Runs `vacsr train` with the shrunk config; returns what it printed and its exit status (None: success)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(["train", f"--config={CONFIG}", f"--workdir={workdir}", *SHRUNK, *more])
        except SystemExit as ended:
            status = ended.code
    return out.getvalue(), err.getvalue(), status


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("straight")
    return workdir, *train(workdir)


@pytest.fixture(scope="module")
def workdir(finished):
    return finished[0]


@pytest.fixture(scope="module")
def model(workdir):
    return vacsr_jax.load(workdir)


@pytest.fixture(scope="module")
def images():
    return list(open_split(load_config(CONFIG, SHRUNK), "test").images[:4])


def evaluation(workdir):
    return json.loads((workdir / "evaluation.json").read_text())


# What a run leaves behind.


def test_a_run_ends_well_and_leaves_its_files(finished):
    workdir, out, err, status = finished
    assert status is None
    assert {path.name for path in workdir.iterdir()} == {
        ".lock",
        "checkpoints",
        "run_config.json",
        "evaluation.json",
        "metrics.jsonl",
        "report.html",
        "tokenizer",
    }
    assert re.search(r"^metric +untrained +trained$", out, re.M)
    assert f"vacsr_jax.load({str(workdir)!r})" in out
    assert f"step {STEPS}/{STEPS}" in err


def test_the_curves_hold_each_step_once(workdir):
    records = read_metrics(workdir / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    assert [r["step"] for r in records if "validation/rsum" in r] == list(range(EVERY, STEPS + 1, EVERY))


def test_the_best_and_the_last_two_are_kept(workdir, model):
    found = {r["step"]: r["validation/rsum"] for r in read_metrics(workdir / "metrics.jsonl") if "validation/rsum" in r}
    best = max(found.values())
    kept = {int(path.name) for path in (workdir / "checkpoints").iterdir()}
    assert found[model.step] == best
    assert kept == {model.step, STEPS - EVERY, STEPS}
    assert vacsr_jax.load(workdir, checkpoint="last").step == STEPS


def test_the_evaluation_stands_beside_the_untrained_model(workdir, model):
    found = evaluation(workdir)
    assert set(found) == {
        "step",
        "untrained",
        "trained",
        "distributions",
        "protocol",
        "noise",
        "cut training captions",
        "config",
    }
    assert (found["protocol"]["images"], found["protocol"]["captions"]) == (40, 200)
    assert found["step"] == model.step
    assert found["config"] == model.config
    assert found["untrained"].keys() == found["trained"].keys()
    assert found["trained"]["true/mAP@R"] > found["untrained"]["true/mAP@R"]


def test_the_report_is_self_contained_and_says_how_it_was_made(workdir):
    page = (workdir / "report.html").read_text(encoding="utf-8")
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(addresses) > 20
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"<script|<link|@import|url\((?!#|data:)", page)
    assert f"vacsr train --config={CONFIG}" in page


def test_evaluate_gives_the_numbers_of_the_run(workdir, tmp_path, capsys):
    main(["evaluate", f"--model={workdir}", f"--out={tmp_path / 'new' / 'metrics.json'}"])
    metrics = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert metrics == evaluation(workdir)["trained"] | {
        name: evaluation(workdir)[name] for name in ("distributions", "protocol")
    }
    out = capsys.readouterr().out
    assert "test" in out.splitlines()[0]
    assert "protocol: dataset scenes; split test; images 40; captions 200; preprocess clip" in out


def test_evaluate_takes_another_split_and_other_fields(workdir, tmp_path):
    out = tmp_path / "metrics.json"
    options = ["--split=test_novel", "--config.data.test_size=30", "--checkpoint=last"]
    main(["evaluate", f"--model={workdir}", f"--out={out}", *options])
    metrics = json.loads(out.read_text())
    assert metrics.pop("protocol")["split"] == "test_novel"
    assert metrics.pop("distributions")["uncertainty"]["true negatives"]["mean"] > 0
    assert metrics.keys() == evaluation(workdir)["trained"].keys()
    assert metrics != evaluation(workdir)["trained"]


def test_the_best_checkpoint_is_that_of_the_best_validation_rsum(workdir, model):
    rsum = {x["step"]: x["validation/rsum"] for x in read_metrics(workdir / "metrics.jsonl") if "validation/rsum" in x}
    assert model.step == max(rsum, key=rsum.get)
    selection = json.loads((workdir / f"checkpoints/{model.step}/metrics/metrics").read_text())
    assert selection == {"selection": {"by": "validation/rsum", "value": rsum[model.step]}}


def test_embed_writes_what_the_loaded_model_gives(workdir, model, images, tmp_path):
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{i}.png")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    options = [f"--images={tmp_path / 'pictures'}", f"--texts={tmp_path / 'texts.txt'}"]
    main(["embed", f"--model={workdir}", *options, f"--out={tmp_path / 'e.npz'}"])
    with np.load(tmp_path / "e.npz") as written:
        assert written["ids"].tolist() == ["0.png", "1.png", "2.png", "3.png", *(f"texts.txt:{i}" for i in (1, 2, 3))]
        assert written["modality"].tolist() == ["image"] * 4 + ["text"] * 3
        expected = np.concatenate([model.encode_images(images), model.encode_texts(TEXTS)])
        np.testing.assert_array_equal(written["embeddings"], expected)


def test_an_export_scores_bit_by_bit_as_the_run(workdir, model, images, tmp_path):
    main(["export", f"--model={workdir}", f"--out={tmp_path / 'export'}"])
    assert {p.name for p in (tmp_path / "export").iterdir()} == {"model.safetensors", "config.json", "tokenizer"}
    exported = vacsr_jax.load(tmp_path / "export")
    assert (exported.step, exported.config) == (model.step, model.config)
    for ours, theirs in zip(exported.score(images, TEXTS), model.score(images, TEXTS), strict=True):
        np.testing.assert_array_equal(ours, theirs)


# What `load` gives.


def test_embeddings_have_a_row_for_each_item(model, images):
    for embeddings, n in ((model.encode_images(images), 4), (model.encode_texts(TEXTS), 3)):
        assert embeddings.shape == (n, 64)
        assert embeddings.dtype == np.float32


def test_images_may_be_files_pil_images_or_arrays(model, images, tmp_path):
    Image.fromarray(images[0]).save(tmp_path / "0.png")
    expected = model.encode_images(images[:1])
    for given in (tmp_path / "0.png", str(tmp_path / "0.png"), Image.fromarray(images[0])):
        np.testing.assert_array_equal(model.encode_images([given]), expected)
        np.testing.assert_array_equal(model.encode_images(given), expected)
    np.testing.assert_array_equal(model.encode_texts(TEXTS[0]), model.encode_texts(TEXTS[:1]))


def test_nothing_to_encode_is_an_error(model):
    with pytest.raises(ValueError, match="expected at least one"):
        model.encode_images([])
    with pytest.raises(ValueError, match="got 0 items"):
        model.encode_texts([])
    with pytest.raises(ValueError, match=r"texts\[1\]: got ''"):
        model.encode_texts(["a red circle", ""])


def test_scores_are_logits_probabilities_and_uncertainties_of_every_pair(model, images):
    scores = model.score(images, TEXTS)
    for values in scores:
        assert values.shape == (4, 3)
        assert values.dtype == np.float32
    np.testing.assert_allclose(scores.probability, expit(scores.logit.astype(np.float64)), rtol=1e-6)
    assert (scores.uncertainty > 0).all()
    again = model.score(model.encode_images(images), model.encode_texts(TEXTS))
    np.testing.assert_array_equal(again.logit, scores.logit)


def test_draws_have_a_mean_inside_their_interval(model, images):
    samples = model.sample_similarity(jax.random.key(0), images, TEXTS, 200)
    assert samples.draws.shape == (200, 4, 3)
    assert samples.mean.shape == samples.low.shape == samples.high.shape == (4, 3)
    assert ((samples.draws > 0) & (samples.draws < 1)).all()
    assert ((samples.low < samples.mean) & (samples.mean < samples.high)).all()
    inside = (samples.draws >= samples.low) & (samples.draws <= samples.high)
    np.testing.assert_allclose(inside.mean(axis=0), 0.9, atol=0.011)


def test_the_key_decides_the_draws(model, images):
    first, again, other = (model.sample_similarity(jax.random.key(seed), images, TEXTS, 5).draws for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


def test_bad_samples_are_refused(model, images):
    for n, level in ((0, 0.9), (5, 0.0), (5, 1.0)):
        with pytest.raises(ValueError, match=f"n, level: got {n} and {level}"):
            model.sample_similarity(jax.random.key(0), images, TEXTS, n, level)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return set_up(load_config(CONFIG, SHRUNK), tmp_path_factory.mktemp("untrained"))


def test_every_parameter_moves_but_clips_own_scale(untrained, model):
    same = flatten_dict(jax.tree.map(np.array_equal, untrained.params, model.params), sep="/")
    assert {name for name, equal in same.items() if equal} == {"towers/logit_scale"}


# Killed, diverged, resumed.


def stop_after(n):
    """A stand-in for `batches` that raises KeyboardInterrupt when batch n + 1 is asked for."""
    real = loop.batches

    class Stopping:
        def __init__(self, *args, **kwargs):
            self.data, self.left = real(*args, **kwargs), n

        def __iter__(self):
            return self

        def __next__(self):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            return next(self.data)

        def close(self):
            self.data.close()

    return Stopping


def diverge_at(bad_step):
    """A stand-in for `make_step` whose loss is not a number at one step."""
    real = loop.make_step

    def make(*args):
        step = real(*args)

        def diverging(state, batch):
            state, terms = step(state, batch)
            return state, terms | {"loss": terms["loss"] + np.where(state.step == bad_step, np.nan, 0)}

        return diverging

    return make


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Killed after step 4, resumed, diverged at step 8, resumed: the workdir, and how each of the three ended."""
    workdir, ends = tmp_path_factory.mktemp("interrupted"), []
    for name, stand_in in (("batches", stop_after(4)), ("make_step", diverge_at(8)), (None, None)):
        with pytest.MonkeyPatch.context() as patch:
            if name:
                patch.setattr(loop, name, stand_in)
            _, error, status = train(workdir)
            ends.append((error, status))
    return workdir, ends


def last_state(workdir):
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.last_step()
    saved = checkpoints._manager.restore(step)
    checkpoints.close()
    return step, {name: saved[name] for name in ("params", "optimizer")}


def test_a_stopped_run_says_how_to_continue(interrupted):
    _, ((error, status), *_) = interrupted
    assert "run the same command again to continue from the last checkpoint" in error
    assert status == 130


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(workdir, interrupted):
    assert interrupted[1][-1][1] is None
    (step, straight), (again, resumed) = last_state(workdir), last_state(interrupted[0])
    assert step == again == STEPS
    assert jax.tree.structure(straight) == jax.tree.structure(resumed)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, straight, resumed)))


def test_a_resumed_run_leaves_the_same_curves_and_evaluation(workdir, interrupted):
    assert read_metrics(interrupted[0] / "metrics.jsonl") == read_metrics(workdir / "metrics.jsonl")
    assert evaluation(interrupted[0]) == evaluation(workdir)


def test_a_loss_that_is_no_number_stops_with_step_checkpoint_and_ids(interrupted, untrained):
    error, status = interrupted[1][1]
    assert status == 2
    assert "step 8: the loss is not finite (" in error
    assert "the last good checkpoint is step 6" in error
    index = batch_at(untrained.pairs, 7, batch_size=64, seed=0)["index"]
    assert error.strip().endswith(": " + ", ".join(untrained.pairs.source.ids[i // 5] for i in index))


def test_a_step_too_long_diverges_before_the_first_checkpoint(tmp_path):
    more = ["--config.optim.lr=1e38", "--config.method=sigmoid", "--config.checkpoint.every=100"]
    with pytest.raises(loop.DivergedError, match=r"step \d+: the loss .* nan.*; no checkpoint was written yet"):
        loop.train(load_config(CONFIG, SHRUNK + more), tmp_path)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_another_config_does_not_resume(workdir):
    before = (workdir / "metrics.jsonl").read_text()
    _, error, status = train(workdir, "--config.optim.lr=2e-3", "--config.data.noise=0.5")
    assert status == 2
    assert "another config: data.noise: saved 0.0, given 0.5; optim.lr: saved 0.001, given 0.002." in error
    assert (workdir / "metrics.jsonl").read_text() == before
