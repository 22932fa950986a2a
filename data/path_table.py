"""Many paths in little memory."""

import os
from collections.abc import Iterable

import numpy as np


class PathTable:
    """An immutable list of relative paths, held as one block of bytes.

    A Python list of strings would be copied page by page into every worker process as
    its reference counts change; arrays stay shared.
    """

    def __init__(self, paths: Iterable[str]):
        encoded = [os.fsencode(path) for path in paths]
        self._bytes = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = np.cumsum([len(path) for path in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: int) -> str:
        start = self._ends[i - 1] if i else 0
        return os.fsdecode(self._bytes[start : self._ends[i]].tobytes())
