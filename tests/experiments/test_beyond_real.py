"""The correction on real pictures: its controls against the formulas, its truths, and COCO's test split."""

import argparse
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from experiments.beyond import corrections as C
from experiments.beyond import real, trained
from experiments.beyond.coco5k import coco5k
from experiments.beyond.words import MOSTLY, TRUE, coverage, names_of, true_pairs, words
from tests.parity.make_eccv_caption_golden import drawn_truth
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.metrics.coco import coco_metrics
from vacsr_jax.search.text_entropy import make_reference_images, save

RNG = np.random.default_rng(0)


def scored(n=20, m=40, bank=30):
    owner = np.arange(m) % n
    labels = owner == np.arange(n)[:, None]
    scores = 4 * RNG.normal(size=(n, m)) + 3 * labels
    truths = {C.LABELS: labels, TRUE: labels | (RNG.uniform(size=(n, m)) < 0.1)}
    return C.Scored(scores, 4 * RNG.normal(size=(bank, m)), truths, RNG.integers(3, 9, m), RNG.uniform(size=m))


def test_a_caption_is_true_where_all_of_its_words_were_said():
    assert words("Some cats are sleeping on the couches") == words("a cat sleeps, couch")
    covered = coverage(
        [words("a cat on a couch"), words("two dogs")], [words(x) for x in ("cats", "a red cat", "of a")]
    )
    np.testing.assert_allclose(covered, [[1, 0.5, 0], [0, 0, 0]])
    both = true_pairs(np.array([[1.0, 2 / 3, 0.6]]))
    assert (both[TRUE].tolist(), both[MOSTLY].tolist()) == ([[True, False, False]], [[True, True, False]])
    named = names_of(["Two dogs by potted plants", "a plant"], ["dog", "potted plant"])
    assert named == [{"dog", "potted plant"}, set()]


def test_the_controls_are_the_published_ones():
    x = scored()
    found = C.biases(x)
    for j in range(3):
        s = x.bank[:, j].astype(np.float64)
        p = np.exp(s) / np.exp(s).sum()
        assert found["entropy"][j] == pytest.approx(-(p * np.log(p)).sum(), rel=1e-5)
        assert found["CSLS"][j] == pytest.approx(-np.sort(s)[-10:].mean() / 2)
        assert found["inverted softmax"][j] == pytest.approx(-np.log(np.exp(s).sum()))
        flat = np.exp(0.2 * s) / np.exp(0.2 * s).sum()
        assert C.entropy(x, 0.2)[j] == pytest.approx(-(flat * np.log(flat)).sum() / 0.2, rel=1e-5)
    assert np.corrcoef(found["caption length"], x.lengths)[0, 1] == pytest.approx(-1)


def test_weights_come_from_the_validation_pairs_and_images_of_a_text_keep_their_order():
    held_out, x = scored(), scored()
    rows = dict(C.corrections(held_out, x, TRUE))
    before = C.both_directions(x, rows[C.NOTHING])
    for row, bias in rows.items():
        after = C.both_directions(x, bias)
        assert all(np.array_equal(after[m], before[m]) for m in after if m.startswith("t2i")), row
    assert not np.array_equal(after["i2t R@5"], before["i2t R@5"])  # the correction changes something
    sums = {}
    for w in C.WEIGHTS:
        s = held_out.scores + w * C.biases(held_out)["entropy"]
        rank = 1 + (s > np.where(held_out.truths[C.LABELS], s, -np.inf).max(1)[:, None]).sum(1)
        sums[w] = sum(np.mean(rank <= k) for k in (1, 5, 10))
    chosen = max(sums, key=sums.get)
    np.testing.assert_allclose(rows["entropy, w by labels"], chosen * C.biases(x)["entropy"])


@pytest.mark.filterwarnings("ignore:An input array is constant", "ignore:invalid value")  # scores of 0, entropies alike
@pytest.mark.slow
def test_every_image_of_clip_is_tested_with_a_bank_that_lacks_it(monkeypatch, tmp_path, capsys):
    n, seen = 24, []
    monkeypatch.setattr(real, "BANK", 8)
    monkeypatch.setattr(real, "VALIDATION", 6)
    monkeypatch.setattr(real, "Scored", lambda *a: seen.append(a) or C.Scored(*a))
    one = np.eye(n, 32)
    features = {f"{name}{kind}": one for name in ("image", "text") for kind in ("", "_random_init")}
    np.savez(tmp_path / "features.npz", **features)
    captions = [f"{'cat' if i % 2 else 'dog'} {chr(97 + i)}x" for i in range(n)]
    lines = [json.dumps({"index": i, "caption": c, "all_captions": [c, "a cat"]}) for i, c in enumerate(captions)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    (tmp_path / "cxc_image_image.csv").write_text("index_a,index_b,score_0_5\n0,1,3\n2,3,1\n4,5,2\n")
    real.clip(argparse.Namespace(data=str(tmp_path), out=str(tmp_path / "out"), splits=6))
    out = capsys.readouterr().out
    assert "| nothing" in out
    seen = [x for x in seen if x[2]]  # those of the human pairs have no truth
    for scores, bank, truths, *_ in seen[:12]:  # if the bank had the image, its one-hot embedding would score 100
        assert (scores[truths["labels"]] == 100).all()
        assert (bank == 0).all()
    found = json.loads((tmp_path / "out" / "clip.json").read_text())
    mixed, found = (found[f"CLIP ViT-B/16, {texts}"] for texts in ("captions and concepts", "captions"))
    assert found["nothing"]["i2t R@1"] == [1.0, 0.0]
    assert found["entropy, w 1"]["t2i R@1"] == mixed["entropy, w 1"]["t2i R@1"] == [1.0, 0.0]
    scores, bank, truths, lengths, _ = next(x for x in seen if x[0].shape[1] > len(x[0]))
    concepts = slice(len(scores), None)  # "cat" and "dog", one of them at least in four captions of the bank
    assert not truths["labels"][:, concepts].any()
    np.testing.assert_allclose(
        np.linalg.norm(bank[:, concepts], axis=0), 100
    )  # a mean of captions' one-hots, normalised
    assert truths[TRUE][:, concepts].any(axis=0).all()
    assert (lengths[concepts] == 1).all()


@pytest.fixture
def coco(tmp_path):
    """The options of coco5k, for a drawn ground truth."""
    truth, folder = drawn_truth(), tmp_path / "truth"
    folder.mkdir()
    np.save(folder / "coco_test_ids.npy", truth.test_ids)
    for name in ("original", "cxc", "eccv"):
        for kind, matches in zip(("image_to_caption", "caption_to_image"), getattr(truth, name), strict=True):
            (folder / f"{name}_{kind}.json").write_text(json.dumps(matches))
    sides = {"images": ("image", list(truth.original.i2t)), "captions": ("text", list(truth.original.t2i))}
    for name, (kind, ids) in sides.items():
        x = RNG.normal(size=(len(ids), 8))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        np.savez(
            tmp_path / f"{name}.npz", embeddings=x, ids=np.array(ids).astype(str), modality=np.repeat(kind, len(ids))
        )
    save(
        make_reference_images(RNG.normal(size=(15, 8)), 20.0, weight=0.5, ids=[f"train{i}" for i in range(15)]),
        tmp_path / "bank",
    )
    paths = {name: str(tmp_path / f"{name}.npz") for name in sides}
    return argparse.Namespace(
        **paths, bank=str(tmp_path / "bank"), ground_truth=str(folder), out=str(tmp_path / "out"), truth=truth
    )


def test_cocos_test_split_before_and_after(coco, tmp_path, capsys):
    coco5k(coco)
    found = json.loads((tmp_path / "out" / "coco5k.json").read_text())
    assert list(found) == ["nothing", "entropy, w 0.5", "CSLS", "inverted softmax"]
    x, y = (dict(np.load(path)) for path in (coco.images, coco.captions))
    ids, cosines = [z["ids"].astype(int) for z in (x, y)], x["embeddings"] @ y["embeddings"].T
    assert found["nothing"] == coco_metrics(cosines.astype(np.float32), *ids, coco.truth)
    kept = np.load(coco.bank)["images"].astype(np.float64) @ y["embeddings"].T * 20
    p = np.exp(kept) / np.exp(kept).sum(axis=0)
    corrected = cosines - 0.5 / 20 * np.sum(p * np.log(p), axis=0)
    assert found["entropy, w 0.5"] == coco_metrics(corrected, *ids, coco.truth)
    assert found["entropy, w 0.5"] != found["nothing"]
    for scores in found.values():
        assert scores["eccv_map_at_r"]["t2i"] == found["nothing"]["eccv_map_at_r"]["t2i"]
    assert "| entropy, w 0.5" in capsys.readouterr().out


def test_a_bank_of_test_images_is_refused(coco):
    ids = np.load(coco.images)["ids"][:3]
    save(make_reference_images(RNG.normal(size=(3, 8)), 20.0, ids=ids), coco.bank)
    with pytest.raises(ValueError, match="3 images of the bank are in the test split"):
        coco5k(coco)


class Fake:
    """A model whose embeddings are an image's mean colour and a text's first letter."""

    def encode_images(self, images):
        return np.stack([image.mean((0, 1)) for image in images]).astype(np.float32)

    def encode_texts(self, texts):
        return np.array([[ord(text[0]), len(text), 1] for text in texts], np.float32)

    def score(self, images, texts):
        return SimpleNamespace(label_score=images @ texts.T / 1e4, match_score=images @ texts.T / 1e4)


def test_objects_that_a_caption_names_say_where_it_is_true(tmp_path, monkeypatch, capsys):
    entries, archive = [], tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for i in range(24):
            name, objects = f"{i:03}.jpg", ["cat"] if i % 2 else ["cat", "dog"]
            Image.new("RGB", (8, 8), (10 * i, 5, 9 * i)).save(tmp_path / name)
            file.write(tmp_path / name, f"images/{name}")
            captions = [f"{'c' * i} a dog and a cat", f"{i} cats", "nothing named"]
            sentences = [{"raw": text} for text in captions]
            split = "train" if i < 12 else "test"
            entries.append({"filename": name, "split": split, "objects": objects, "sentences": sentences})
    (tmp_path / "dataset_coco_mini159.json").write_text(json.dumps({"images": entries}))
    seen = []
    monkeypatch.setattr(trained, "by_method", lambda options, config, out, numbers: {"fake": stack(numbers(Fake(), 0))})
    monkeypatch.setattr(trained, "evaluate_rows", lambda a, b: seen.append((a, b)) or EVALUATE(a, b))
    trained.coco_mini(argparse.Namespace(data=str(tmp_path), out=str(tmp_path / "out")))
    held_out, test = seen[0]
    assert (held_out.scores.shape, held_out.bank.shape, test.scores.shape) == ((3, 6), (9, 6), (12, 24))
    assert test.truths[TRUE][:, 0].tolist() == [True, False] * 6  # "a dog and a cat"
    assert test.truths[TRUE][:, 1].all()  # "cats"
    assert test.truths[C.LABELS].sum(axis=0).tolist() == [1] * 24
    assert "| nothing" in capsys.readouterr().out
    folder = tmp_path / "out" / "coco_mini" / "pictures"
    assert [len(read_image_folder(folder, split=s)) for s in ("train", "validation", "test")] == [9, 3, 12]


EVALUATE = trained.evaluate_rows


def stack(units):
    return trained.stacked([units[""], units[""]])
