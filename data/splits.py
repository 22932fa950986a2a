"""Divisions of a data set as functions of the samples' names: an edit of a few samples moves few others.

A unit is one or more samples that stay together: copies of the same name, or a group. `units`, int64 (n,), is the hash
of each sample's unit; `strata`, int64 (n,), comes from `data.subset.strata_of`. The units of a stratum are ordered by
their hashes; a unit belongs to the stratum of most of its samples.
"""

import posixpath
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from utils.labels import nfc


def hash_names(names: Iterable[str], seed: int) -> np.ndarray:
    """Returns int64 (n,): a hash of each name, the same for the same path written differently (./a.png, a//b.png)."""
    salt = seed.to_bytes(8, "little")
    paths = (nfc(posixpath.normpath(name)) for name in names)
    digests = [blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8, key=salt).digest() for path in paths]
    return np.frombuffer(b"".join(digests), "<i8").astype(np.int64)


def held_out(units: np.ndarray, strata: np.ndarray, share: float) -> np.ndarray:
    """Returns bool (n,): the first units of each stratum, its share rounded, but at least one of two or more.

    Every stratum keeps at least one unit for training.
    """
    ranked = _rank(units, strata)
    count = np.clip(np.rint(ranked.size * share), 1, ranked.size - 1)
    return (ranked.place < count)[ranked.unit_of]


def in_fold(units: np.ndarray, strata: np.ndarray, fold: Sequence[int]) -> np.ndarray:
    """Returns bool (n,): part k, from 1, of n parts for `fold` [k, n], which are contiguous in each stratum.

    The parts are disjoint, and within a stratum they differ by at most one unit.
    """
    part, parts = fold
    ranked = _rank(units, strata)
    # Each stratum starts at a different part; otherwise part 1 would be the largest in every stratum.
    return ((ranked.place * parts // ranked.size + ranked.stratum) % parts == part - 1)[ranked.unit_of]


def balanced_subset(hashes: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """Returns the sorted indices (count,) of samples, spread over the strata as evenly as their sizes permit.

    Within a stratum the samples with the lowest `hashes` (n,) of their names are chosen.
    """
    order = np.lexsort((hashes, strata))
    sizes = np.unique(strata, return_counts=True)[1]
    places = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(order[np.argsort(places, kind="stable")[:count]])


class _Ranked(NamedTuple):
    """Units in the order of their hashes: each one's stratum, its place there, and the number of units there."""

    stratum: np.ndarray
    place: np.ndarray
    size: np.ndarray
    unit_of: np.ndarray  # (n,) of each sample


def _rank(units: np.ndarray, strata: np.ndarray) -> _Ranked:
    numbers, unit_of = np.unique(units, return_inverse=True)
    present, stratum_of = np.unique(strata, return_inverse=True)
    pairs, counts = np.unique(unit_of * len(present) + stratum_of, return_counts=True)
    unit, stratum = np.divmod(pairs, len(present))
    largest = np.lexsort((stratum, -counts, unit))
    stratum = stratum[largest[np.unique(unit[largest], return_index=True)[1]]]
    order = np.argsort(stratum, kind="stable")
    sizes = np.bincount(stratum, minlength=len(present))
    place = np.empty(len(numbers), np.int64)
    place[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return _Ranked(present[stratum], place, sizes[stratum], unit_of)
