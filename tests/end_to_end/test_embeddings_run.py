"""A run on embeddings: from a file to `load(...).score(...)`, and every command that takes such a model."""

import json

import numpy as np
import pytest

import vacsr_jax
from tests.small_models import untrained
from vacsr_jax.main import main

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compile_fast", "one_device")]
N, D, D_TEXT = 120, 16, 12
FIELDS = {
    "train.batch_size": 16,
    "train.steps": 12,
    "optim.warmup_steps": 2,
    "checkpoint.every": 3,
    "train.log_every": 3,
    "data.validation_size": 20,
}


def vectors():
    """Images, and texts that are noisy images: two for each of the first five."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(N, D)).astype(np.float32)
    image_of = np.concatenate([np.arange(N), np.arange(5)])
    return images, (images[image_of] + rng.normal(size=(N + 5, D))).astype(np.float32), image_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embeddings")
    images, texts, image_of = vectors()
    split = np.array(["train"] * 80 + ["validation"] * 20 + ["test"] * 20)
    arrays = {"image_embeddings": images.astype(np.float16), "image_of": image_of, "split": split}
    np.savez(folder / "p.npz", text_embeddings=texts, model_id=np.array("some/clip"), **arrays)
    np.savez(folder / "other.npz", text_embeddings=texts[:, :D_TEXT], **arrays)
    return folder


def train(folder, name, file="p.npz", argument="", **fields):
    options = [f"--config.{field}={value}" for field, value in (FIELDS | fields).items()]
    main(
        [
            "train",
            f"--config=configs/embeddings.py:path={folder / file}{argument}",
            f"--workdir={folder / name}",
            *options,
        ]
    )
    return folder / name


@pytest.fixture(scope="module")
def run(folder):
    return train(folder, "run", **{"train.patience": 2, "optim.lr": 0.3})


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_it_starts_as_the_cosine_stops_early_and_is_never_worse(folder, run):
    images, texts, _ = vectors()
    curve = {r["step"]: r["validation/rsum"] for r in records(run) if "validation/rsum" in r}
    cosines = (lambda a, b: a @ b.T / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1))(
        images[80:100], texts[80:100]
    )
    hits = [
        np.mean([(row >= row[i]).sum() <= k for i, row in enumerate(c)])
        for k in (1, 5, 10)
        for c in (cosines, cosines.T)
    ]
    assert curve[0] == pytest.approx(100 * sum(hits), abs=1e-3)
    model = vacsr_jax.load(run)
    best = max(curve, key=lambda step: (curve[step], -step))
    assert model.step == best
    assert max(curve) == best + 6  # two checkpoints of three steps without a gain
    before = (run / "metrics.jsonl").read_bytes()
    train(folder, "run", **{"train.patience": 2, "optim.lr": 0.3})
    assert (run / "metrics.jsonl").read_bytes() == before  # the same command does not go on


def test_the_loaded_model_scores_ranks_and_says_what_it_wants(run, tmp_path):
    images, texts, _ = vectors()
    model = vacsr_jax.load(run)
    scores = model.score(images[:4], texts[:6])
    assert scores.probability.shape == (4, 6)
    items = model.encode_images(images[:4].astype(np.float16)), model.encode_texts(3 * texts[:6])
    np.testing.assert_allclose(model.score(*items).logit, scores.logit, atol=0.05)  # a length does not matter
    np.testing.assert_array_equal(
        model.score(*items).logit, model.score(items[0], model.encode_texts(3 * texts[:6])).logit
    )
    np.testing.assert_array_equal(model.top_k(*items, 2).index[:, 0], model.score(*items).match_score.argmax(1))
    assert model.cosine_vectors(items[0][:2]).shape == (2, D)
    assert 0 < model.noise_rate < 1
    model.warm([1])
    model.save(tmp_path / "export")
    np.testing.assert_array_equal(vacsr_jax.load(tmp_path / "export").score(*items).logit, model.score(*items).logit)
    for wrong, got in (
        (["a.png"], "got list"),
        ("a text", "got str"),
        (np.ones((2, 3), np.float32), r"got float32 \[2, 3\]"),
    ):
        with pytest.raises(ValueError, match=rf"{got}, expected image embeddings, float \[n, 16\] of model some/clip"):
            model.encode_images(wrong)
    with pytest.raises(ValueError, match="expected image embeddings"):
        model.preprocess(np.zeros((4, 4, 3), np.uint8))


def test_commands_take_it(folder, run, capsys, refuse):
    images, texts, _ = vectors()
    names = {"ids": np.array([f"i{k}" for k in range(20)] + [f"t{k}" for k in range(10)])}
    kinds = np.array(["image"] * 20 + ["text"] * 10)
    np.savez(folder / "d.npz", embeddings=np.concatenate([images[:20], texts[10:20]]), modality=kinds, **names)
    asked = {"ids": np.array(["q0", "q1"]), "modality": np.array(["text"] * 2), "answers": np.array(["i0", "i1"])}
    np.savez(folder / "q.npz", embeddings=texts[:2], **asked)
    main(["evaluate", f"--model={run}"])
    main(["export", f"--model={run}", f"--out={folder / 'export'}"])
    main(["calibrate", f"--model={run}", "--split=train"])
    assert "calibrated on" in vacsr_jax.load(run).meaning.probability
    assert (run / "calibration.png").stat().st_size > 1000
    model, files = vacsr_jax.load(run), [f"--documents={folder / 'd.npz'}"]
    ranked = np.argsort(-model.score(images[:20], texts[:1]).match_score[:, 0])
    for index, options in (("raw", []), ("projected", [f"--model={run}"])):
        main(["index", *files, *options, f"--out={folder / index}"])
        capsys.readouterr()
        main(["search", f"--index={folder / index}", f"--queries={folder / 'q.npz'}", f"--rerank={run}", "--k=30"])
        found = [line.split()[1] for line in capsys.readouterr().out.split("\n\n")[0].splitlines() if "image" in line]
        assert found == [f"i{k}" for k in ranked]
    main(["standardize", "compare", f"--queries={folder / 'q.npz'}", *files, f"--model={run}", "--k=1"])
    assert "match" in capsys.readouterr().out
    said = refuse("search", f"--index={folder / 'raw'}", "--text=a", f"--model={run}", f"--rerank={run}")
    assert "expected text embeddings" in said or "compares embeddings; give --queries" in said


@pytest.mark.parametrize("method", ["vacsr", "pcmepp"])
def test_every_kind_of_method_trains_on_them(method, folder):
    workdir = train(folder, method, argument=f",method={method}", **{"train.steps": 3})
    assert np.isfinite(vacsr_jax.load(workdir).score(*(x[:3] for x in vectors()[:2])).logit).all()


def test_sides_of_different_lengths_need_a_projection(folder, refuse):
    config = f"--config=configs/embeddings.py:path={folder / 'other.npz'}"
    said = refuse("train", config, f"--workdir={folder / 'refused'}")
    assert "image embeddings have 16 numbers and text embeddings 12" in said
    workdir = train(folder, "aligned", "other.npz", ",text=linear", **{"train.steps": 3})
    images, texts, _ = vectors()
    assert vacsr_jax.load(workdir).score(images[:2], texts[:3, :D_TEXT]).logit.shape == (2, 3)


def test_pairs_of_a_data_set_train_an_adapter_that_starts_a_run_on_the_towers(tmp_path, capsys, refuse):
    untrained().save(tmp_path / "towers")
    data = {"data.train_size": 20, "data.validation_size": 8, "data.test_size": 8}
    scenes = [f"--config.{name}={value}" for name, value in data.items()]
    out = tmp_path / "pairs.npz"
    main(["embed", f"--model={tmp_path / 'towers'}", "--pairs", "--config=configs/scenes.py", f"--out={out}", *scenes])
    with np.load(out) as file:
        assert file["image_embeddings"].shape == (36, 64)
        assert str(file["model_id"]) == untrained().fingerprint()
    argument = ",method=sigmoid,image=none,text=none"
    adapter = train(tmp_path, "adapter", "pairs.npz", argument, **{"train.steps": 3, "train.patience": 0})
    trained = vacsr_jax.load(adapter, checkpoint="last").params["pair"]
    fields = {
        "method": "sigmoid",
        "model.adapter": adapter,
        "train.steps": 1,
        "optim.warmup_steps": 0,
        "optim.lr": 1e-9,
    }
    options = [f"--config.{name}={value}" for name, value in (fields | data | {"train.batch_size": 8}).items()]
    main(["train", "--config=configs/scenes.py", f"--workdir={tmp_path / 'run'}", *options])
    started = vacsr_jax.load(tmp_path / "run").params["pair"]
    best = vacsr_jax.load(adapter).params["pair"]
    np.testing.assert_allclose(started["log_scale"], best["log_scale"], rtol=1e-5)
    assert trained.keys() == started.keys()
    capsys.readouterr()
    said = refuse(
        "train",
        "--config=configs/scenes.py:method=vacsr",
        f"--workdir={tmp_path / 'x'}",
        f"--config.model.adapter={adapter}",
        *scenes,
    )
    assert "holds another pair model: " in said
    assert "type: saved CosineModel, given VariationalAdapter" in said
