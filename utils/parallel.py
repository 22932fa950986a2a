"""Many small pieces of work in threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def thread_map(function: Callable[[int], Any], count: int, chunk: int = 32) -> Iterator[Any]:
    """function(0), function(1), ... function(count - 1), in that order, `chunk` of them in a thread at a time.

    It pays where the work is done outside of Python: reading files, decoding, compressing.
    """

    def work(start: int) -> list[Any]:
        return [function(i) for i in range(start, min(start + chunk, count))]

    with ThreadPoolExecutor() as pool:
        for results in pool.map(work, range(0, count, chunk)):
            yield from results
