"""Requests wait, are answered together, and never spoil or outlive one another."""

import threading
import time

import pytest

from vacsr_jax.serve.batching import Batcher, BusyError


@pytest.fixture
def gate():
    """Lets the thread work; until it is set, the first batch is under way and everything else waits."""
    return threading.Event()


@pytest.fixture
def calls():
    return []


@pytest.fixture
def batcher(gate, calls):
    def answer(requests):
        calls.append(list(requests))
        gate.wait(10)
        if "bad" in requests:
            raise ValueError("bad")
        return [ValueError(x) if x == "refused" else x.upper() for x in requests]

    batcher = Batcher(answer, len, together=4, waiting=6)
    yield batcher
    gate.set()
    batcher.close()


def test_what_waits_is_answered_in_batches_of_one_kind(batcher, gate, calls):
    first = batcher.submit("a", 10)
    while not calls:
        time.sleep(0.001)
    others = [batcher.submit(x, 10) for x in ("b", "cc", "d", "e", "f")]
    gate.set()
    assert [x.result(10) for x in (first, *others)] == ["A", "B", "CC", "D", "E", "F"]
    assert calls == [["a"], ["b", "d", "e"], ["cc"], ["f"]]


def test_one_that_fails_does_not_spoil_the_others(batcher, gate, calls):
    first = batcher.submit("x", 10)
    while not calls:
        time.sleep(0.001)
    good, bad, other = (batcher.submit(x, 10) for x in ("yes", "bad", "one"))
    refused = batcher.submit("refused", 10)
    gate.set()
    assert [x.result(10) for x in (first, good, other)] == ["X", "YES", "ONE"]
    for x in (bad, refused):
        with pytest.raises(ValueError, match=r"bad|refused"):
            x.result(10)


def test_a_full_queue_refuses_and_a_late_answer_is_not_waited_for(batcher, gate, calls):
    batcher.submit("a", 10)
    while not calls:
        time.sleep(0.001)
    with pytest.raises(BusyError, match=r"no answer within 0\.05 s"):
        batcher.ask("late", 0.05)
    waiting = [batcher.submit("b", 10) for _ in range(5)]
    with pytest.raises(BusyError, match="6 requests wait already"):
        batcher.submit("c", 10)
    gate.set()
    assert [x.result(10) for x in waiting] == ["B"] * 5
    assert not any("late" in call for call in calls)  # nobody waited for it any more


def test_closing_answers_what_waits_and_takes_nothing_more(batcher, gate, calls):
    waiting = [batcher.submit("a", 10) for _ in range(5)]
    threading.Timer(0.05, gate.set).start()
    batcher.close()
    assert [x.result(0) for x in waiting] == ["A"] * 5
    with pytest.raises(BusyError, match="stopping"):
        batcher.submit("b", 10)
