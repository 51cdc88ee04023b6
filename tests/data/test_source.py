import numpy as np
import pytest

from vacsr_jax.data.source import ArraySource, caption_pairs, concatenate, load_images, to_array_source


def make(n, *, names=None, size=4, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 3)).astype(np.uint8)
    labels = None if names is None else np.arange(n) % len(names)
    captions = [[f"{i}{k}" for k in range(i % 3)] for i in range(n)]
    return ArraySource(images, captions, [f"i{i}" for i in range(n)], labels, names or ())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((2, 4, 4, 3), np.float32)}, "images: got float32"),
        ({"images": np.zeros((2, 4, 4), np.uint8)}, "images: got uint8"),
        ({"captions": [["a"]]}, "captions: got 1 entries for 2 images"),
        ({"ids": ["x", "x"]}, "an id repeats"),
        ({"labels": np.zeros(3, int)}, "labels: got 3"),
    ],
)
def test_array_source_refuses(change, message):
    good = {"images": np.zeros((2, 4, 4, 3), np.uint8), "captions": [["a"], ["b"]], "ids": ["x", "y"]}
    ArraySource(**good)
    with pytest.raises(ValueError, match=message):
        ArraySource(**{**good, **change})


def test_caption_pairs_skip_images_without_captions():
    texts, image = caption_pairs(make(6))
    assert texts == ["10", "20", "21", "40", "50", "51"]
    np.testing.assert_array_equal(image, [1, 2, 2, 4, 5, 5])


def test_load_images_gives_the_same_from_memory_and_one_by_one():
    source, index = make(7), np.array([3, 3, 0, 6])
    one_by_one = load_images(source, index, lambda image: image)
    np.testing.assert_array_equal(load_images(source, index), one_by_one)
    np.testing.assert_array_equal(one_by_one, source.images[index])


def test_load_images_names_the_image_of_another_size():
    with pytest.raises(ValueError, match=r"image 'b/i0'.*\[6, 6, 3\].*\[4, 4, 3\]"):
        load_images(concatenate({"a": make(1), "b": make(1, size=6)}), np.array([0, 1]))


def test_to_array_source_preprocesses_every_image_once():
    source = make(5, names=["p", "q"])
    inverted = to_array_source(source, lambda image: 255 - image)
    np.testing.assert_array_equal(inverted.images, 255 - source.images)
    assert (inverted.ids, inverted.captions, inverted.class_names) == (
        source.ids,
        source.captions,
        source.class_names,
    )
    np.testing.assert_array_equal(inverted.labels, source.labels)


def test_concatenate_keeps_images_with_their_ids_captions_and_classes():
    a, b = make(3, names=["cat", "dog"]), make(4, names=["bee", "cat"], seed=1)
    both = concatenate({"a": a, "b": b})
    assert len(both) == 7
    assert both.class_names == ["cat", "dog", "bee"]
    for i in range(7):
        name, source, k = ("a", a, i) if i < 3 else ("b", b, i - 3)
        assert both.ids[i] == f"{name}/i{k}"
        assert both.captions[i] == source.captions[k]
        assert both.class_names[both.labels[i]] == source.class_names[source.labels[k]]
        np.testing.assert_array_equal(both.image(i), source.image(k))
    np.testing.assert_array_equal(both.image(-1), b.image(3))
    with pytest.raises(IndexError):
        both.image(7)


def test_concatenate_has_labels_only_if_all_have():
    both = concatenate({"a": make(2, names=["cat"]), "b": make(2)})
    assert both.labels is None
    assert both.class_names == []
    with pytest.raises(ValueError, match="at least one source"):
        concatenate({})
