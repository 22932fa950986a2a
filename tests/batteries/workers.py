"""The same pixels from every kind and number of workers, however far ahead. Run by `make test-workers`."""

import pytest
import torch

from config import load_config
from tests.data.test_broken_images import pixels

COUNTS, AHEAD, KINDS = (1, 2, 4), (1, 4), ("threads", "fork", "forkserver", "spawn")


def read(*arguments) -> torch.Tensor:
    return pixels(lambda *words: load_config(None, words), *arguments)


@pytest.fixture(scope="module")
def without_workers() -> torch.Tensor:
    return read("inline")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prefetch", AHEAD)
@pytest.mark.parametrize("count", COUNTS)
def test_the_same_pixels(without_workers, kind, prefetch, count):
    assert torch.equal(without_workers, read(kind, count, prefetch))
