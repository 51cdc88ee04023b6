"""`vacsr audit`: what it writes, what it trains in folds, and what it refuses; its page in a browser."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.audit.small_audit import WRONG, N, cosine_model, write_pairs
from vacsr_jax.data.embedding_files import read_pairs
from vacsr_jax.data.image_folder import read_image_folder
from vacsr_jax.data.records import RecordSource
from vacsr_jax.main import main

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    write_pairs(folder)
    cosine_model().save(folder / "model")
    return folder


def start(folder):
    return ["audit", f"--model={folder}/model", f"--embeddings={folder}/p.npz"]


@pytest.fixture(scope="module")
def audited(folder):
    out = folder / "out"
    main([*start(folder), f"--out={out}", "--drop=0.5", "--add=0.5"])
    return out


def rows(file):
    with file.open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def test_the_lists_have_their_columns_and_count_from_zero(folder, audited):
    source = read_pairs(folder / "p.npz").source(None)
    captions = [text for own in source.captions for text in own]
    labels, matches = rows(audited / "suspect_labels.csv"), rows(audited / "missing_matches.csv")
    assert list(labels[0])[:5] == ["image_index", "image_id", "caption_index", "caption", "p_wrong"]
    assert list(matches[0]) == ["image_index", "image_id", "caption_index", "caption", "p_match"]
    assert len(labels) == 2 * N
    for row in (*labels, *matches):
        assert source.ids[int(row["image_index"])] == row["image_id"]
        assert captions[int(row["caption_index"])] == row["caption"]
    assert {row["caption"] for row in labels[: len(WRONG)]} == {f"caption <{2 * i}>" for i in WRONG}
    assert all(source.text_image[int(row["caption_index"])] == int(row["image_index"]) for row in labels)
    p = [float(row["p_wrong"]) for row in labels]
    assert p == sorted(p, reverse=True)
    own = [f"i{re.findall(r'[0-9]+', row['caption'])[0]}" for row in labels[:3]]
    assert {json.loads(row["better_image_ids"])[0] for row in labels[:3]} == {f"i{int(x[1:]) // 2}" for x in own}


def test_the_summary_says_what_was_judged_and_by_what(audited):
    summary = json.loads((audited / "summary.json").read_text())
    assert summary["images"], summary["labels"] == (N, 2 * N)
    share = summary["wrong_labels"]["share"]
    assert share["low"] < len(WRONG) / (2 * N) < share["high"]
    assert summary["missing_matches"]["expected"]["estimate"] == pytest.approx(len(WRONG), rel=0.5)
    assert len(summary["data_sha256"]) == 64
    assert summary["fingerprints"] == [cosine_model().fingerprint()]
    assert any("too few" in caution for caution in summary["cautions"])


def test_cleaned_embeddings_are_pairs_without_the_wrong_and_with_the_missing_ones(folder, audited):
    given, cleaned = (read_pairs(path) for path in (folder / "p.npz", audited / "cleaned/pairs.npz"))
    names = [
        {(str(p.image_ids[i]), str(t)) for i, t in zip(p.image_of, p.strings, strict=True)} for p in (given, cleaned)
    ]
    dropped, added = names[0] - names[1], names[1] - names[0]
    assert {caption for _, caption in dropped} == {f"caption <{2 * i}>" for i in WRONG}
    assert {(f"i{i}", f"caption <{2 * i}>") for i in WRONG} <= added
    for file, number in (("dropped_labels", len(dropped)), ("extra_positives", len(added))):
        assert len(rows(audited / f"cleaned/{file}.csv")) == number


def test_a_cleaned_folder_of_pictures_opens_and_lacks_what_was_dropped(tmp_path):
    from vacsr_jax.audit.cleaned import write_cleaned
    from vacsr_jax.audit.judge import Labelled

    lines = []
    for i in range(3):
        Image.fromarray(np.full((8, 8, 3), 80 * i, np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"file_name": f"{i}.png", "captions": [f"a{i}", f"b{i}"], "author": "me"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    source = read_image_folder(tmp_path)
    data = Labelled(source, np.repeat(np.arange(3), 2))
    dropped, added = np.array([[0, 0], [0, 1], [2, 5]]), np.array([[1, 5]])
    for form, file in (("image_folder", "metadata.jsonl"), ("csv", "pairs.csv")):
        out = tmp_path / f"{form}_cleaned"
        assert file in write_cleaned(out, data, dropped, added, form)
        if form == "image_folder":
            again = read_image_folder(out)
            assert again.records[0]["author"] == "me"
        else:
            from vacsr_jax.data.caption_table import read_caption_table

            again = read_caption_table(out / file)
        assert isinstance(again, RecordSource)
        assert [list(own) for own in again.captions] == [["a1", "b1", "b2"], ["a2"]]
        assert again.image(0)[0, 0, 0] == 80
    assert read_image_folder(tmp_path).captions == source.captions


def test_what_it_refuses(folder, refuse, tmp_path):
    sure = f"--out={tmp_path / 'out'}"
    pairs = f"--embeddings={folder}/p.npz"
    assert "--model: missing; train one" in refuse("audit", sure)
    assert "leave --config out" in refuse("audit", pairs, "--config=scenes", sure)
    assert "--folds: the model is there already" in refuse("audit", f"--model={folder}/model", pairs, "--folds=3", sure)
    assert "--drop: got 2.0, expected a number from 0 to 1" in refuse("audit", pairs, "--drop=2", sure)
    assert "no image of split 'x'" in refuse("audit", f"--model={folder}/model", pairs, "--split=x", sure)
    assert "got 60 images, which are too few for 20 folds of 4; give --folds=15 or more" in refuse(
        "audit", pairs, "--folds=20", sure
    )
    (tmp_path / "marks.csv").write_text("list,image_index,caption_index,mark\nsuspect_labels,0,0,maybe\n")
    marks = f"--marks={tmp_path / 'marks.csv'}"
    assert "marks.csv: line 2: got" in refuse("audit", f"--model={folder}/model", pairs, marks, sure)
    assert "expected one of train, validation, test; drawn pictures have no end" in refuse(
        "audit", "--model=scenes", sure
    )
    cosine_model("sigmoid").save(tmp_path / "sigmoid")
    message = refuse("audit", f"--model={tmp_path}/sigmoid", pairs, sure)
    assert "does not tell a match from a label; train one with method=propensity" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("compile_fast", "one_device")
def test_without_a_model_no_image_is_judged_by_a_model_trained_on_it(folder, tmp_path, capsys):
    from vacsr_jax.audit.cross_fit import split_for

    fields = ["batch_size=16", "steps=4", "log_every=4"]
    options = [f"--config.train.{field}" for field in fields]
    options += ["--config.checkpoint.every=2", "--config.optim.warmup_steps=1"]
    out = tmp_path / "out"
    main(["audit", f"--embeddings={folder}/p.npz", "--folds=2", f"--out={out}", *options])
    printed = capsys.readouterr().out
    assert "fold 2 of 2" in printed
    labels = rows(out / "suspect_labels.csv")
    assert {row["caption"] for row in labels[: len(WRONG)]} == {f"caption <{2 * i}>" for i in WRONG}
    assert json.loads((out / "summary.json").read_text())["folds"] == 2
    source = read_pairs(folder / "p.npz").source(None)
    judged = np.arange(N) % 2 == 0
    split = split_for(source, judged, 0)
    for name in ("train", "validation"):
        assert not set(split.source(name).ids) & set(np.array(list(source.ids))[judged])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_in_a_browser(folder, audited, tmp_path):
    """A mark is made, kept while pages are turned, saved as a file, and taken by the command; it fits a phone."""
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 400, "height": 800})
        faults, asked = [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((audited / "audit.html").as_uri())
        assert page.locator("#suspect_labels .item").count() == 20
        assert "caption <" in page.locator("#suspect_labels q").first.inner_text()
        page.locator("#suspect_labels .wrong").first.click()
        page.locator("#suspect_labels .on").click()
        assert page.locator("#suspect_labels .where").inner_text() == f"21 to 40 of {2 * N}"
        page.locator("#suspect_labels .back").click()
        assert page.locator("#suspect_labels .wrong").first.get_attribute("aria-pressed") == "true"
        page.locator("[data-tab=missing_matches]").click()
        page.locator("#missing_matches .right").first.click()
        page.locator("[data-tab=trust]").click()
        assert "Wrong labels:" in page.locator("#trust").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        with page.expect_download() as download:
            page.locator("#save").click()
        download.value.save_as(tmp_path / "marks.csv")
        browser.close()
    assert not faults
    assert all(url.startswith(("file:", "blob:", "data:")) for url in asked)
    marks = rows(tmp_path / "marks.csv")
    assert [(row["list"], row["mark"]) for row in marks] == [("suspect_labels", "wrong"), ("missing_matches", "right")]
    out = tmp_path / "again"
    main([*start(folder), f"--out={out}", "--duplicates=0", f"--marks={tmp_path}/marks.csv"])
    assert json.loads((out / "summary.json").read_text())["marks"] == 2
    assert {row["data"] for row in marks} == {json.loads((audited / "summary.json").read_text())["data_sha256"][:16]}
