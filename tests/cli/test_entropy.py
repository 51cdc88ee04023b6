"""`vacsr entropy`: what it writes, and what it says about files that do not fit."""

import json

import numpy as np
import pytest

from vacsr_jax.main import main
from vacsr_jax.search import text_entropy as T

N, D = 12, 8


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


RNG = np.random.default_rng(0)
IMAGES = unit(RNG.normal(size=(N, D)))
TEXTS = unit(IMAGES + 0.4 * RNG.normal(size=(N, D)))
GENERAL = unit(np.mean(IMAGES, axis=0, keepdims=True))  # fits all images a little, none best
TRAIN = unit(RNG.normal(size=(40, D)))
IMAGE_IDS, TEXT_IDS = [f"i{j}" for j in range(N)], [f"t{j}" for j in range(N)]


@pytest.fixture
def files(tmp_path):
    """Writes the four files, with changes; returns their folder."""

    def write(**changes):
        both = {
            "embeddings": np.concatenate([IMAGES, TEXTS]),
            "ids": np.array(IMAGE_IDS + TEXT_IDS),
            "modality": np.repeat(["image", "text"], N),
        }
        contents = {
            "train": {"embeddings": TRAIN, "ids": np.arange(40).astype(str), "modality": np.repeat("image", 40)},
            "val": both | {"answers": np.array([""] * N + IMAGE_IDS)},
            "queries": {"embeddings": IMAGES, "ids": both["ids"][:N], "modality": both["modality"][:N]}
            | {"answers": np.array(TEXT_IDS)},
            "texts": {
                "embeddings": np.concatenate([TEXTS, GENERAL, IMAGES[:1]]),
                "ids": np.array([*TEXT_IDS, "general", "i0"]),
                "modality": np.array(["text"] * (N + 1) + ["image"]),
            },
        }
        for name, arrays in contents.items():
            arrays = arrays | changes.get(name, {})
            np.savez(tmp_path / f"{name}.npz", **{k: v for k, v in arrays.items() if v is not None})
        return tmp_path

    return write


def entropy(texts, images, scale):
    s = scale * images.astype(np.float64) @ texts.astype(np.float64).T
    p = np.exp(s) / np.exp(s).sum(axis=0)
    return -np.sum(p * np.log(p), axis=0)


def test_fit_bias_and_apply_in_turn(files, capsys):
    folder = files()
    reference, out = folder / "new" / "reference.npz", folder / "out.npz"
    main(
        [
            "entropy",
            "fit",
            f"--images={folder}/train.npz",
            "--scale=20",
            "--size=30",
            "--weight=0.5",
            f"--out={reference}",
        ]
    )
    kept = T.load(reference)
    assert (kept.scale, kept.weight, len(kept.ids)) == (20, 0.5, 30)
    np.testing.assert_allclose(kept.images, TRAIN[[int(i) for i in kept.ids]], atol=1e-6)
    assert "30 images, scale 20, weight 0.5" in capsys.readouterr().out

    main(
        [
            "entropy",
            "bias",
            f"--reference_images={reference}",
            f"--texts={folder}/texts.npz",
            "--append_dimension",
            f"--out={out}",
        ]
    )
    expected = entropy(np.concatenate([TEXTS, GENERAL]), kept.images, 20)
    with np.load(out) as file:
        assert file["ids"].tolist() == [*TEXT_IDS, "general", "i0"]
        np.testing.assert_allclose(file["entropy"], [*expected, 0], rtol=1e-4)
        np.testing.assert_allclose(file["bias"], 0.5 / 20 * file["entropy"], rtol=1e-6)
        np.testing.assert_allclose(file["embeddings"][:, :-1], [*TEXTS, *GENERAL, IMAGES[0]], atol=1e-6)
        assert (file["embeddings"][:, -1] == file["bias"]).all()
    assert f"13 texts fit {np.percentile(np.exp(expected), 10):.1f}, " in capsys.readouterr().out

    asked = [f"--queries={folder}/queries.npz", f"--documents={folder}/texts.npz"]
    main(["entropy", "apply", f"--reference_images={reference}", *asked, "--k=3", f"--out={folder / 'r.json'}"])
    cosines = IMAGES @ np.concatenate([TEXTS, GENERAL]).T
    scores = cosines + 0.5 / 20 * expected
    for one, line, raw in zip(json.loads((folder / "r.json").read_text()), scores, cosines, strict=True):
        best = np.argsort(-line)[:3]
        assert [r["id"] for r in one["results"]] == [[*TEXT_IDS, "general"][j] for j in best]
        np.testing.assert_allclose([r["score"] for r in one["results"]], line[best], atol=1e-5)
        np.testing.assert_allclose([r["cosine"] for r in one["results"]], raw[best], atol=1e-5)
    table = capsys.readouterr().out
    recall = [np.mean((s > np.diag(s)[:, None]).sum(axis=1) < 1) for s in (cosines, scores)]
    for name, value in zip(("cosine", "corrected"), recall, strict=True):
        assert f"{name:<10}" in table
        assert f"{value:.3f}" in table


def test_scale_and_weight_come_from_validation_pairs(files, capsys):
    folder = files()
    main(["entropy", "fit", f"--images={folder}/train.npz", f"--validation={folder}/val.npz", "--choose_weight",
          f"--out={folder}/reference.npz"])  # fmt: skip
    s = IMAGES.astype(np.float64) @ TEXTS.T
    grid = np.geomspace(1, 1000, 3000)
    best = grid[np.argmax([np.mean(np.diag(g * s) - np.log(np.exp(g * s).sum(axis=0))) for g in grid[grid < 300]])]
    kept = T.load(folder / "reference.npz")
    assert kept.scale == pytest.approx(best, rel=5e-3)
    bias = entropy(TEXTS, TRAIN, kept.scale) / kept.scale
    found = {}
    for w in (0, 0.125, 0.25, 0.5, 1, 2):
        rank = (s + w * bias > np.diag(s + w * bias)[:, None]).sum(axis=1)
        found[w] = sum(np.mean(rank < k) for k in (1, 5, 10))
    assert kept.weight == max(found, key=found.get)
    assert "12 validation pairs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("verb", "changes", "message"),
    [
        ("fit --images={f}/train.npz", {}, "--scale: missing; it is 100 for CLIP"),
        ("fit --images={f}/train.npz --scale=-1", {}, "scale: got -1.0, expected a number above 0"),
        ("fit --images={f}/train.npz --scale=9 --size=41", {}, "--size: got 41, expected 1 to 40"),
        ("fit --images={f}/train.npz --scale=9 --choose_weight", {}, "--choose_weight: needs --validation"),
        ("fit --images={f}/queries.npz --validation={f}/val.npz", {"val": {"answers": None}}, "no answers"),
        (
            "fit --images={f}/train.npz --validation={f}/val.npz",
            {"val": {"answers": np.array(["nobody"] * 2 * N)}},
            "answers: 1 ids are not among the documents",
        ),
        ("bias --reference_images={f}/train.npz --texts={f}/texts.npz", {}, "train.npz holds no reference images"),
        (
            "bias --reference_images={f}/ok --texts={f}/train.npz",
            {},
            "no item has the modality 'text', only image",
        ),
        (
            "bias --reference_images={f}/ok --texts={f}/texts.npz",
            {"texts": {"embeddings": np.eye(N + 2, 5)[:, ::-1] + 1}},
            "texts: got 5 numbers each, expected 8",
        ),
        (
            "apply --reference_images={f}/ok --queries={f}/queries.npz --documents={f}/texts.npz --k=99",
            {},
            "from 1 to 13",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(files, capsys, verb, changes, message):
    folder = files(**changes)
    T.save(T.make_reference_images(TRAIN, 20.0), folder / "ok")
    with pytest.raises(SystemExit) as ended:
        main(["entropy", *verb.format(f=folder).split(), f"--out={folder}/out"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert message in err
    assert "Traceback" not in err
    assert not out
    assert not (folder / "out").exists()
