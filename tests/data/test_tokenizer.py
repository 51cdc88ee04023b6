"""Tokenizers: our own byte pairs, and CLIP's through Hugging Face's files."""

import contextlib
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vacsr_jax.data.tokenizer import check_texts, load_tokenizer, train_tokenizer

CLIP_BPE = Path(__file__).parents[3] / "shared" / "data" / "clip_bpe" / "bpe_simple_vocab_16e6.txt.gz"
WORDS = [
    "a",
    "red",
    "green",
    "blue",
    "circle",
    "square",
    "left",
    "right",
    "of",
    "the",
    "above",
    "below",
    "small",
    "big",
    "on",
    "with",
    "two",
    "three",
    "and",
    "one",
]
SMALLEST = 259  # 256 bytes, pad, start, end


def make_captions(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(4, 18))) for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(make_captions(300), vocab_size=400, context_length=20)


def save_clip(folder, merges, **options):
    """Writes a Hugging Face CLIP tokenizer folder with these merges, built like CLIP's vocabulary."""
    from transformers import CLIPTokenizer

    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    alphabet = [chr(b) for b in plain] + [chr(256 + i) for i in range(len(rest))]
    tokens = alphabet + [c + "</w>" for c in alphabet] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, **options).save_pretrained(folder)


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip_tokenizer")
    save_clip(folder, [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")], model_max_length=77)
    return folder


def test_rows_are_start_text_end_pads(tokenizer):
    rows = tokenizer(["a red circle", "two"])
    assert rows.dtype == np.int32
    assert rows.shape == (2, 20)
    assert (tokenizer.pad_id, tokenizer.start_id, tokenizer.end_id) == (0, 1, 2)
    assert (rows[:, 0] == 1).all()
    for row, words in zip(rows, (3, 1), strict=True):
        assert row[words + 1] == 2
        assert (row[words + 2 :] == 0).all()
        assert (row[1 : words + 1] > 2).all()
    assert rows.max() < tokenizer.vocab_size <= 400
    assert tokenizer([]).shape == (0, 20)


def test_case_and_spaces_do_not_matter_but_word_boundaries_do(tokenizer):
    rows = tokenizer(["a Red\n circle ", " a red circle", "a redcircle"])
    np.testing.assert_array_equal(rows[0], rows[1])
    assert (rows[1] != rows[2]).any()


def test_any_text_can_be_encoded(tokenizer):
    text = "žluťoučký 漢 🙂!"
    (row,) = train_tokenizer(["a red circle"], vocab_size=300, context_length=40)([text])
    assert tokenizer.backend.decode(tokenizer(["a red circle"])[0].tolist()).strip() == "a red circle"
    assert row[row > 2].size == len(text.encode()) + 1  # one id per byte, and the space before


def test_long_texts_keep_the_end_token(tokenizer):
    (row,) = tokenizer([" ".join(["red"] * 100)])
    assert row[-1] == tokenizer.end_id
    assert (row == tokenizer.end_id).sum() == 1
    assert (row[1:-1] == row[1]).all()


def test_training_is_deterministic():
    captions = make_captions(2000)
    first, second = (train_tokenizer(captions, vocab_size=320, context_length=20) for _ in range(2))
    assert first.backend.to_str() == second.backend.to_str()


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new")
    texts = ["a red circle", "unseen words", "red " * 50]
    again = load_tokenizer(tmp_path / "new")
    np.testing.assert_array_equal(again(texts), tokenizer(texts))
    assert again.vocab_size == tokenizer.vocab_size
    short = load_tokenizer(tmp_path / "new", context_length=5)(texts)
    assert short.shape == (3, 5)
    assert short[2, -1] == tokenizer.end_id


def test_bad_captions_are_named(tokenizer):
    for bad in ("", "  \n"):
        with pytest.raises(ValueError, match=r"texts\[1\]: got"):
            tokenizer(["fine", bad])
        with pytest.raises(ValueError, match=r"texts\[1\]: got"):
            train_tokenizer(["fine", bad], vocab_size=300, context_length=8)
    for bad in (None, 3, float("nan")):
        with pytest.raises(ValueError, match=rf"texts\[2\]: got {bad}, expected a str"):
            check_texts(["fine", "fine", bad])


def test_bad_arguments_are_refused(tokenizer):
    with pytest.raises(ValueError, match="got one str"):
        tokenizer("a red circle")
    with pytest.raises(ValueError, match="got none"):
        train_tokenizer([], vocab_size=300, context_length=8)
    with pytest.raises(ValueError, match=f"vocab_size: got {SMALLEST - 1}, expected at least {SMALLEST}"):
        train_tokenizer(["a"], vocab_size=SMALLEST - 1, context_length=8)
    with pytest.raises(ValueError, match="context_length: got 2"):
        train_tokenizer(["a"], vocab_size=SMALLEST, context_length=2)
    train_tokenizer(["a"], vocab_size=SMALLEST, context_length=3)


def test_sixty_thousand_captions_are_quick(tokenizer):
    captions = make_captions(6000)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        tokenizer(captions)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5  # ten times this is 60,000 captions; measured .08


def test_hugging_face_folder(small_clip):
    clip = load_tokenizer(small_clip)
    assert (clip.context_length, clip.vocab_size) == (77, 512 + 4 + 2)
    assert (clip.start_id, clip.end_id, clip.pad_id) == (516, 517, 517)
    rows = clip(["Cat dog", "cat " * 100])
    assert rows[0, :5].tolist() == [516, 513, 515, 517, 517]
    assert rows[1, [0, 1, 75, 76]].tolist() == [516, 513, 513, 517]


def test_hugging_face_rows_are_those_of_transformers(small_clip):
    from transformers import AutoTokenizer

    texts = ["a cat's dog, 12 CATS!", "é  漢字\t🙂", "dog " * 90]
    theirs = AutoTokenizer.from_pretrained(small_clip)(texts, padding="max_length", truncation=True, max_length=77)
    np.testing.assert_array_equal(load_tokenizer(small_clip)(texts), theirs.input_ids)


def test_hugging_face_tokenizer_can_be_saved_as_ours(small_clip, tmp_path):
    clip = load_tokenizer(small_clip, context_length=9)
    clip.save(tmp_path)
    texts = ["a cat's dog", "dog " * 90]
    np.testing.assert_array_equal(load_tokenizer(tmp_path)(texts), clip(texts))


def test_hugging_face_folders_that_are_refused(tmp_path):
    save_clip(tmp_path / "no_length", [])
    with pytest.raises(ValueError, match="does not say its context length; pass context_length"):
        load_tokenizer(tmp_path / "no_length")
    assert load_tokenizer(tmp_path / "no_length", 77)(["cat"]).shape == (1, 77)
    file = tmp_path / "no_length" / "tokenizer.json"
    edit_json(file, post_processor=None)
    edit_json(file.with_name("tokenizer_config.json"), tokenizer_class="PreTrainedTokenizerFast")
    with pytest.raises(ValueError, match="expected a CLIP tokenizer, which adds a start and an end token"):
        load_tokenizer(tmp_path / "no_length", 77)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a folder with vacsr_tokenizer\.json"):
        load_tokenizer(tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "content"),
    [("tokenizer_config.json", "null"), ("tokenizer.json", "null"), ("tokenizer_config.json", '{"bos_token": 1.5}')],
)
def test_hugging_face_files_of_something_else_are_refused(file, content, tmp_path):
    save_clip(tmp_path, [])
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=r"expected a folder with vacsr_tokenizer\.json, or"):
        load_tokenizer(tmp_path, 77)


def test_code_that_comes_with_a_tokenizer_is_neither_run_nor_asked_about(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run it"))
    save_clip(tmp_path, [])
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    edit_json(tmp_path / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil"] * 2}, tokenizer_class="Evil")
    with contextlib.suppress(ValueError):
        load_tokenizer(tmp_path, 77)
    assert not (tmp_path / "ran").exists()


def test_clips_own_vocabulary(tmp_path):
    if not CLIP_BPE.is_file():
        pytest.skip(f"CLIP's own byte pairs are not here ({CLIP_BPE.name} in ../shared/data/clip_bpe)")
    lines = gzip.decompress(CLIP_BPE.read_bytes()).decode().split("\n")
    save_clip(tmp_path, [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]])
    clip = load_tokenizer(tmp_path, context_length=77)
    assert clip.vocab_size == 49408
    (row,) = clip(["a photo of a cat"])
    assert row[:8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 49407]


def test_transformers_is_imported_late_and_quietly(small_clip):
    code = (
        "import os, sys\n"
        "import vacsr_jax.data.tokenizer as t\n"
        "assert 'transformers' not in sys.modules\n"
        f"t.load_tokenizer({str(small_clip)!r})\n"
        "assert 'transformers' in sys.modules\n"
        "assert 'TRANSFORMERS_NO_ADVISORY_WARNINGS' not in os.environ\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "PyTorch" not in done.stdout + done.stderr
