"""Divisions of a data set: validation split, folds, balanced subset.

The functions take the strata (n,) of all samples, integers; see `data.subset.strata_of`.
"""

from collections.abc import Sequence

import numpy as np

from data.samplers import stream


def stratified_split(strata: np.ndarray, ratio: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training, validation) indices, both sorted; each stratum gives its share, rounded.

    Every stratum keeps at least one sample for training.
    """
    order, places, sizes = _shuffled(strata, seed)
    return _partition(order, places < np.minimum(np.rint(sizes * ratio), sizes - 1))


def stratified_fold(strata: np.ndarray, fold: Sequence[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (training, validation) indices, both sorted; `fold` is [k, n]: validation is part k, from 1, of n.

    The parts are disjoint and differ by at most one sample, in all and within each stratum.
    """
    part, parts = fold
    order, _, _ = _shuffled(strata, seed)
    return _partition(order, np.arange(len(order)) % parts == part - 1)


def balanced_subset(strata: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Returns the sorted indices (count,) of samples, spread over the strata as evenly as their sizes permit."""
    order, places, _ = _shuffled(strata, seed)
    return np.sort(order[np.argsort(places, kind="stable")[:count]])


def _shuffled(strata: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns all indices, stratum by stratum, in random order within each, the only order of who is held out before
    whom; the place of each in its stratum, and the stratum's size.
    """
    rng = stream("split", seed)
    members = [rng.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)]
    places = [np.arange(len(indices)) for indices in members]
    sizes = [np.full(len(indices), len(indices)) for indices in members]
    return np.concatenate(members), np.concatenate(places), np.concatenate(sizes)


def _partition(order: np.ndarray, is_val: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sort(order[~is_val]), np.sort(order[is_val])
