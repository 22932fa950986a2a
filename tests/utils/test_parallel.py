"""Work in threads."""

import threading
import time

import pytest

from utils.parallel import thread_map


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 100])
def test_results_come_in_order(count):
    def slow_at_first(i: int) -> int:
        time.sleep(0.002 if i % 8 == 0 and i < 40 else 0)
        return i * i

    assert list(thread_map(slow_at_first, count, chunk=8)) == [i * i for i in range(count)]


def test_several_threads_work_at_once():
    both = threading.Barrier(2)
    assert list(thread_map(lambda i: both.wait(5) >= 0, 2, chunk=1)) == [True, True]


def test_an_error_ends_the_work():
    calls = []

    def fail(i: int) -> None:
        calls.append(i)
        time.sleep(0.001)
        raise KeyError(i)

    with pytest.raises(KeyError, match="0"):
        list(thread_map(fail, 1000, chunk=1))
    assert len(calls) < 500
