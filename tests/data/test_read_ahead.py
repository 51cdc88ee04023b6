"""Reading ahead: in order, a bounded number at a time, and errors in their turn."""

import threading
import time

import numpy as np
import pytest

from vacsr_jax.data.read_ahead import image_batches, read_ahead


def test_results_come_in_order():
    def slow_if_even(i):
        time.sleep(0.01 * (i % 2 == 0))
        return 10 * i

    assert list(read_ahead(slow_if_even, range(9), ahead=4)) == [10 * i for i in range(9)]
    assert list(read_ahead(slow_if_even, [], ahead=4)) == []


def test_no_more_than_the_bound_are_begun_before_they_are_taken():
    begun = []
    results = read_ahead(begun.append, range(100), ahead=5)
    for taken in range(1, 20):
        next(results)
        time.sleep(0.002)
        assert len(begun) <= taken + 5
    results.close()
    assert len(begun) <= 25


def test_results_are_computed_while_nobody_takes_them():
    last = threading.Event()
    results = read_ahead(lambda i: last.set() if i == 3 else None, range(100), ahead=5)
    next(results)
    assert last.wait(5)
    results.close()


def test_an_error_is_raised_in_its_turn_and_ends_the_work():
    begun = []

    def fail(i):
        begun.append(i)
        if i == 2:
            raise ValueError("the third")
        return i

    results = read_ahead(fail, range(1000), ahead=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
    assert max(begun) < 10


class Uneven:
    """Images of which some cannot be read."""

    ids = "abcdef"

    def image(self, i):
        if i in (1, 4, 5):
            raise ValueError(f"no {i}")
        return np.full((2, 2, 3), i, np.uint8)


def test_batches_are_the_images_of_each_range_preprocessed():
    found = list(image_batches(Uneven(), [range(2, 4), range(0, 1)], lambda x: x + 1, ahead=3))
    assert [x[:, 0, 0, 0].tolist() for x in found] == [[3, 4], [1]]


def test_unreadable_images_are_raised_or_left_out_of_their_batch():
    with pytest.raises(ValueError, match="no 1"):
        list(image_batches(Uneven(), [range(6)], ahead=3))
    skipped = {}
    found = list(image_batches(Uneven(), [range(2), range(2, 4), range(4, 6)], ahead=3, skipped=skipped))
    assert [len(x) for x in found] == [1, 2, 0]
    assert skipped == {1: "no 1", 4: "no 4", 5: "no 5"}


def test_images_of_two_sizes_are_named():
    with pytest.raises(ValueError, match="image 'c': got uint8"):
        list(image_batches(Uneven(), [range(3, 1, -1)], lambda x: x[: int(x[0, 0, 0]) - 1], ahead=2))
