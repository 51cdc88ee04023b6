import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vacsr_jax.data.loader import Pairs, batch_at, batches
from vacsr_jax.data.source import ArraySource


def make_pairs(n_images=7, per_image=3, **change):
    """Makes pairs whose image and caption carry their number, so that a wrong pair shows."""
    n = n_images * per_image
    images = np.zeros((n_images, 2, 2, 3), np.uint8) + np.arange(n_images, dtype=np.uint8)[:, None, None, None]
    source = ArraySource(images, [["t"] * per_image] * n_images, [f"i{i}" for i in range(n_images)])
    tokens = np.arange(2 * n, dtype=np.int32).reshape(n, 2)
    return Pairs(**{"source": source, "tokens": tokens, "image_index": np.arange(n) // per_image, **change})


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name])


def test_a_batch_is_made_of_true_pairs():
    batch = batch_at(make_pairs(), 4, batch_size=5, seed=0)
    assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
        "images": ("uint8", (5, 2, 2, 3)),
        "tokens": ("int32", (5, 2)),
        "group": ("int32", (5,)),
        "index": ("int64", (5,)),
    }
    np.testing.assert_array_equal(batch["tokens"][:, 0], 2 * batch["index"])
    np.testing.assert_array_equal(batch["group"], batch["index"] // 3)
    np.testing.assert_array_equal(batch["images"][:, 1, 1, 2], batch["group"])


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**40))
def test_every_epoch_holds_every_pair_once(n, batch_size, seed):
    pairs = make_pairs(n, 1)
    steps = -(-3 * n // batch_size)
    order = np.concatenate([batch_at(pairs, s, batch_size=batch_size, seed=seed)["index"] for s in range(steps)])
    for epoch in order[: 3 * n].reshape(3, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_epochs_and_seeds_have_orders_of_their_own():
    pairs = make_pairs(50, 1)
    orders = [tuple(batch_at(pairs, s, batch_size=50, seed=k)["index"]) for s in range(3) for k in range(3)]
    assert len(set(orders)) == 9


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 40), local=st.integers(1, 6), count=st.integers(1, 5), step=st.integers(0, 1000))
def test_shards_in_process_order_are_the_global_batch(n, local, count, step):
    pairs, where = make_pairs(n, 1), {"batch_size": local * count, "seed": 3}
    parts = [batch_at(pairs, step, shard=(p, count), **where) for p in range(count)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert_same(joined, batch_at(pairs, step, **where))


@settings(max_examples=15, deadline=None)
@given(start=st.integers(0, 10**6), threads=st.integers(0, 3), seed=st.integers(0, 5))
def test_iteration_is_random_access_from_any_step(start, threads, seed):
    pairs, where = make_pairs(), {"batch_size": 4, "seed": seed, "shard": (1, 2)}
    iterator = batches(pairs, start_step=start, threads=threads, **where)
    for step, batch in enumerate(itertools.islice(iterator, 8), start):
        assert_same(batch, batch_at(pairs, step, **where))
    iterator.close()


def invert(image):
    return 255 - image


@pytest.mark.slow
def test_worker_processes_change_nothing():
    pairs = make_pairs(preprocess=invert)
    iterator = batches(pairs, batch_size=4, seed=1, start_step=9, workers=2)
    for step, batch in enumerate(itertools.islice(iterator, 5), 9):
        assert_same({k: np.asarray(v) for k, v in batch.items()}, batch_at(pairs, step, batch_size=4, seed=1))
    iterator.close()


def test_fewer_pairs_than_the_batch_repeat_in_their_group():
    batch = batch_at(make_pairs(2, 1), 0, batch_size=5, seed=0)
    assert sorted(batch["index"][:4]) == [0, 0, 1, 1]
    np.testing.assert_array_equal(batch["group"], batch["index"])


def test_a_broken_image_is_raised_through_the_threads():
    def broken(image):
        raise ValueError("metadata.jsonl:17: cannot be read")

    with pytest.raises(ValueError, match=r"metadata\.jsonl:17"):
        next(batches(make_pairs(preprocess=broken), batch_size=2, seed=0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size 0: expected a positive"),
        ({"batch_size": 5, "shard": (0, 2)}, "multiple of the 2 processes"),
        ({"shard": (2, 2)}, r"shard \(2, 2\)"),
        ({"shard": (0, 0)}, r"shard \(0, 0\)"),
        ({"seed": -1}, "seed -1"),
        ({"start_step": -1}, "step -1"),
    ],
)
def test_wrong_numbers_are_refused_before_a_batch_is_asked_for(change, message):
    with pytest.raises(ValueError, match=message):
        batches(make_pairs(), **{"batch_size": 4, "seed": 0, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.zeros((21, 2), np.int64)}, "tokens: got int64"),
        ({"tokens": np.zeros((0, 2), np.int32)}, "at least one pair"),
        ({"image_index": np.zeros(20, int)}, r"image_index: got int64 \[20\], expected int \[21\]"),
        ({"image_index": np.zeros(21)}, "image_index: got float64"),
        ({"image_index": np.full(21, 7)}, r"got 7\.\.7, the source has images 0\.\.6"),
    ],
)
def test_pairs_refuse(change, message):
    with pytest.raises(ValueError, match=message):
        make_pairs(**change)
