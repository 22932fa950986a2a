"""The samples that a run trains on and validates on: drawn once, recorded, and followed from then on.

A draw is a function of the samples' names: an edit of a few samples moves few others. A unit is one or more samples
that stay together: copies of the same name, or a group. `units`, int64 (n,), is the hash of each sample's unit;
`strata`, int64 (n,), comes from `data.subset.strata_of`. The units of a stratum are ordered by their hashes; a unit
belongs to the stratum of most of its samples.
"""

import os
import posixpath
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import NamedTuple

import numpy as np

from data.image_io import BrokenImage, EncodedImage
from data.subset import Subset, has_spatial_targets, strata_of, weights_of
from utils.contracts import Dataset, SplitRecord
from utils.errors import UserError, one_line
from utils.labels import nfc
from utils.logger import get_logger

_BY_CONTENT = "content"  # a value of DATASETS.GROUP
log = get_logger("data")


@dataclass(frozen=True)
class SplitOptions:
    """The keys SPLIT_SEED, VAL_RATIO, FOLD, GROUP and TRAIN_SUBSET of DATASETS."""

    seed: int = 0
    val_ratio: float = 0.0
    fold: Sequence[int] | None = None
    group: str = ""
    subset: int = 0


@dataclass(frozen=True)
class Splits:
    """Training and validation set, the latter None if there is none, and the record that they follow.

    Of the training samples in the record, `missing` are gone; `relabelled` names those with another target or weight.
    """

    train: Dataset
    val: Dataset | None
    record: SplitRecord
    missing: int = 0
    relabelled: Sequence[str] = ()


def divide(source: Dataset, own_val: Dataset | None, options: SplitOptions, record: SplitRecord | None) -> Splits:
    """Divides a data set as in the record of a run, or anew; `own_val` is its own validation set.

    Samples come in the order of the record, whatever their order is now. Logs the number of training samples that are
    not in the record, which are ignored, and of missing validation samples. Raises UserError if nothing of the record
    is left, or a division leaves nothing on one side.
    """
    found, found_val = (_identify(dataset, options.seed) for dataset in (source, own_val))
    record = _draw(source, found, found_val, options) if record is None else record
    is_train, is_own = record.parts == record.TRAIN, record.parts == record.OWN_VAL
    rows = np.empty(len(record.parts), np.int64)
    for which, samples in ((is_own, found_val), (~is_own, found)):
        rows[which] = _locate(_Identities(record.names[which], record.fingerprints[which]), samples)
    present = rows >= 0
    if not present.any():
        raise UserError(f"none of the run's {len(rows)} images are in the data set; restore the data")
    if len(added := np.setdiff1d(np.arange(len(source)), rows[~is_own])):
        log.warning("ignored %d images that were added since, such as %s", len(added), source.name(int(added[0])))
    is_val = is_own | (record.parts == record.VAL)
    if lost := int((is_val & ~present).sum()):
        log.warning("left out %d of %d validation images, which are missing", lost, is_val.sum())
    val = Subset(own_val or source, rows[is_val & present]) if is_val.any() else None
    is_left = is_train & present
    changed = rows[is_left][found.fingerprints[rows[is_left]] != record.fingerprints[is_left]]
    relabelled = [source.name(i) for i in changed.tolist()]
    return Splits(Subset(source, rows[is_left]), val, record, int((is_train & ~present).sum()), relabelled)


class _Identities(NamedTuple):
    """Hashes of the names of samples, int64 (n,), and of their targets and weights, int32 (n,)."""

    names: np.ndarray
    fingerprints: np.ndarray


def _identify(dataset: Dataset | None, seed: int) -> _Identities:
    if dataset is None:
        return _Identities(np.zeros(0, np.int64), np.zeros(0, np.int32))
    checksums = [0] * len(dataset)
    # Targets that are only found by reading every image are not compared.
    targets = None if has_spatial_targets(dataset) else getattr(dataset, "targets", None)
    for values in (targets, weights_of(dataset)):
        if values is not None:
            table = np.ascontiguousarray(values).reshape(len(dataset), -1)
            checksums = [zlib.crc32(row.data, before) for row, before in zip(table, checksums, strict=True)]
    return _Identities(hash_names(sample_names(dataset), seed), np.array(checksums, np.uint32).view(np.int32))


def _locate(wanted: _Identities, present: _Identities) -> np.ndarray:
    """Returns the row in `present` of each wanted sample, int64 (n,), -1 for none; copies are paired in order of
    their fingerprints."""
    if not len(present.names):
        return np.full(len(wanted.names), -1)
    order, wanted_order = (np.lexsort((s.fingerprints, s.names)) for s in (present, wanted))
    names, wanted_names = present.names[order], wanted.names[wanted_order]
    copy = np.arange(len(wanted_names)) - np.searchsorted(wanted_names, wanted_names)
    place, end = np.searchsorted(names, wanted_names) + copy, np.searchsorted(names, wanted_names, side="right")
    rows = np.empty(len(wanted_names), np.int64)
    rows[wanted_order] = np.where(place < end, order[np.minimum(place, len(names) - 1)], -1)
    return rows


def _draw(source: Dataset, found: _Identities, found_val: _Identities, options: SplitOptions) -> SplitRecord:
    if is_column(options.group):
        group_names(source, options.group)  # a mistake is reported even if nothing is drawn
    parts = np.full(len(source), SplitRecord.TRAIN, np.uint8)
    strata = strata_of(source)
    if not len(found_val.names) and (options.fold or options.val_ratio):
        groups = group_names(source, options.group)
        units = found.names if groups is None else hash_names(groups, options.seed)
        count = len(np.unique(units))
        if options.fold and count < options.fold[1]:
            raise UserError(f"DATASETS.FOLD {list(options.fold)}: found {count} different names or groups; lower n")
        is_val = in_fold(units, strata, options.fold) if options.fold else held_out(units, strata, options.val_ratio)
        parts[is_val] = SplitRecord.VAL
        if is_val.all() or not is_val.any():
            key, hint = ("FOLD", "") if options.fold else ("VAL_RATIO", ", or set it to 0 to train without validation")
            together = f" ({count} different names or groups)" if count < len(source) else ""
            sizes = f"{(~is_val).sum()} for training and {is_val.sum()} for validation"
            raise UserError(f"DATASETS.{key} divides {len(source)} images{together} into {sizes}: change it{hint}")
    rows = np.flatnonzero(parts == SplitRecord.TRAIN)
    if options.subset > len(rows):
        found_images = f"found {options.subset}, the training set has {len(rows)} images"
        raise UserError(f"DATASETS.TRAIN_SUBSET: {found_images}; lower it")
    if options.subset:
        parts[rows] = SplitRecord.UNUSED
        parts[rows[balanced_subset(found.names[rows], strata[rows], options.subset)]] = SplitRecord.TRAIN
    own_parts = np.full(len(found_val.names), SplitRecord.OWN_VAL, np.uint8)
    columns = zip((*found, parts), (*found_val, own_parts), strict=True)
    return SplitRecord(*(np.concatenate(column) for column in columns))


def sample_names(dataset: Dataset) -> list[str]:
    """Returns the names of all samples. Raises UserError for one that is no string."""
    names = [dataset.name(i) for i in range(len(dataset))]
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{type(dataset).__name__}.name: returned {type(name).__name__}, expected a string")
    return names


def is_column(group: str) -> bool:
    """Whether DATASETS.GROUP can only be the name of a column."""
    return bool(group) and group != _BY_CONTENT and "(?P<group>" not in group


def group_names(dataset: Dataset, group: str) -> Sequence[str] | None:
    """Returns the name of each sample's group (n,), None if there are no groups.

    `group` is DATASETS.GROUP: content (files of equal bytes), a pattern on the name with (?P<group>...), or a column
    of the table; empty: the data set's own `groups`, if any. Raises UserError if it does not fit.
    """
    if group == _BY_CONTENT:
        return _content_groups(dataset)
    if "(?P<group>" in group:
        names = sample_names(dataset)
        try:
            matches = [re.search(group, name) for name in names]
        except re.error as error:
            raise UserError(f"DATASETS.GROUP {group}: {one_line(error)}; correct the pattern") from error
        if not any(matches):
            raise UserError(f"DATASETS.GROUP {group}: matches no name; correct it for names such as {names[0]}")
        if unmatched := [name for name, match in zip(names, matches, strict=True) if not match]:
            message = "DATASETS.GROUP %s: does not match %d of %d names, such as %s; each of them is a group of its own"
            log.warning(message, group, len(unmatched), len(names), unmatched[0])
        return [match["group"] if match else name for match, name in zip(matches, names, strict=True)]
    groups = getattr(dataset, "groups", None)
    if is_column(group) and groups is None:
        expected = "content, a pattern with (?P<group>...), or a column of a CSV file"
        raise UserError(f"DATASETS.GROUP {group}: expected {expected}")
    return groups


def _content_groups(dataset: Dataset) -> list[str]:
    """Names each sample by the first name with the same bytes; a file is read only if its size is not unique."""
    groups = sample_names(dataset)
    of_size: dict[int, list[int]] = defaultdict(list)
    path = getattr(dataset, "path", None)
    for i in sorted(range(len(groups)), key=groups.__getitem__):
        with suppress(OSError):  # missing: in a group of its own
            of_size[os.path.getsize(path(i)) if path else 0].append(i)
    first: dict[bytes, str] = {}
    for i in chain.from_iterable(members for members in of_size.values() if len(members) > 1):
        with suppress(BrokenImage):
            source = getattr(dataset, "unpacked", dataset)[i][0]
            content = source.data if isinstance(source, EncodedImage) else np.ascontiguousarray(source).tobytes()
            groups[i] = first.setdefault(blake2b(content).digest(), groups[i])
    return groups


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
    _, place, size, unit_of = _rank(units, strata)
    return (place < np.clip(np.rint(size * share), 1, size - 1))[unit_of]


def in_fold(units: np.ndarray, strata: np.ndarray, fold: Sequence[int]) -> np.ndarray:
    """Returns bool (n,): part k, from 1, of n parts for `fold` [k, n], which are contiguous in each stratum.

    The parts are disjoint, and within a stratum they differ by at most one unit.
    """
    part, parts = fold
    stratum, place, size, unit_of = _rank(units, strata)
    # Each stratum starts at a different part; otherwise part 1 would be the largest in every stratum.
    return ((place * parts // size + stratum) % parts == part - 1)[unit_of]


def balanced_subset(hashes: np.ndarray, strata: np.ndarray, count: int) -> np.ndarray:
    """Returns the sorted indices (count,) of samples, spread over the strata as evenly as their sizes permit.

    Within a stratum the samples with the lowest `hashes` (n,) of their names are chosen.
    """
    order = np.lexsort((hashes, strata))
    sizes = np.unique(strata, return_counts=True)[1]
    places = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(order[np.argsort(places, kind="stable")[:count]])


def _rank(units: np.ndarray, strata: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the stratum of each unit, its place there, the number of units there, and the unit of each sample (n,).

    Units come in the order of their hashes.
    """
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
    return present[stratum], place, sizes[stratum], unit_of
