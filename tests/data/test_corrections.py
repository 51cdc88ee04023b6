"""Labels that are left out and pairs that are added: what a batch holds, and which pairs of it are positives."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from vacsr_jax.data.corrections import corrected, read_corrections
from vacsr_jax.data.loader import Pairs
from vacsr_jax.data.source import ArraySource
from vacsr_jax.training.step import positive_pairs


@pytest.fixture
def pairs():
    source = ArraySource(np.zeros((4, 2, 2, 3), np.uint8), [("a", "b")] * 4, list("abcd"))
    return Pairs(source, np.arange(8, dtype=np.int32)[:, None], np.repeat(np.arange(4), 2))


def config_of(tmp_path, dropped="", extra=""):
    config = default.get_config()
    for name, text in (("dropped_labels", dropped), ("extra_positives", extra)):
        if text:
            (tmp_path / f"{name}.csv").write_text(f"image_index,caption_index,p\n{text}\n")
            config.data[name] = str(tmp_path / f"{name}.csv")
    return config


def test_nothing_to_correct_changes_nothing(pairs, tmp_path):
    assert corrected(config_of(tmp_path), pairs) is pairs


def test_dropped_labels_are_not_drawn(pairs, tmp_path):
    found = corrected(config_of(tmp_path, dropped="1,2,.9\n3,7,.8"), pairs)
    assert found.tokens[:, 0].tolist() == [0, 1, 3, 4, 5, 6]
    assert found.image_index.tolist() == [0, 0, 1, 2, 2, 3]
    assert found.also is None
    with pytest.raises(ValueError, match="caption 2 is labelled with image 1, not 0"):
        corrected(config_of(tmp_path, dropped="0,2,1"), pairs)


def test_added_pairs_are_drawn_and_are_positives_wherever_they_meet(pairs, tmp_path):
    found = corrected(config_of(tmp_path, extra="0,7,.9\n2,7,.9\n1,2,.9"), pairs)  # the last is a label already
    assert found.tokens[8:, 0].tolist() == [7, 7]
    assert found.image_index[8:].tolist() == [0, 2]
    assert sorted(found.also[7]) == [0, 2, 3]
    assert found.also[0].tolist() == [0, -1, -1]
    batch = found.take(np.array([0, 4, 7, 9]))  # captions 0 of image 0, 4 of 2, 7 of 3, and 7 as added to 2
    got = positive_pairs({k: jnp.asarray(batch[k]) for k in ("group", "also")}, config_of(tmp_path), None)
    expected = [[1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1]]  # caption 7 is true of images 0, 2 and 3
    np.testing.assert_array_equal(got, np.array(expected, bool))


def test_a_list_of_another_split_is_refused(pairs, tmp_path):
    file = tmp_path / "c.csv"
    config = default.get_config()
    config.data.dropped_labels = str(file)
    file.write_text("image_index,image_id,caption_index,caption\n1,b,3,b\n")
    assert len(corrected(config, pairs)) == 7
    for line, message in (("1,a,3,b", "image_id: got 'a', but .* has 'b' there"), ("1,b,3,x", "caption: got 'x'")):
        file.write_text(f"image_index,image_id,caption_index,caption\n{line}\n")
        with pytest.raises(ValueError, match=f"line 2: {message}"):
            corrected(config, pairs)


def test_ids_that_are_numbers_need_no_column(tmp_path):
    source = ArraySource(np.zeros((2, 2, 2, 3), np.uint8), [("a",), ("b",)], [7, 8])
    (tmp_path / "c.csv").write_text("image_index,caption_index\n1,0\n")
    assert read_corrections(tmp_path / "c.csv", source).tolist() == [[1, 0]]


def test_a_bad_line_is_named(pairs, tmp_path):
    file = tmp_path / "c.csv"
    for line, message in (
        ("image_index\n0", "no column caption_index"),
        ("image_index,caption_index\n0,x", "line 2: got .'0', 'x'., expected two whole numbers"),
        ("image_index,caption_index\n0,1\n9,1", "line 3: got image 9 and caption 1, expected 0 to 3 and 0 to 7"),
    ):
        file.write_text(line + "\n")
        with pytest.raises(ValueError, match=message):
            read_corrections(file, pairs.source)
