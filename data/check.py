"""Corrupt, unusual, duplicate and leaked images of a data set; pixel statistics; class sizes."""

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from operator import attrgetter
from pathlib import Path

import cv2
import numpy as np

from data.image_io import MAX_PIXELS, EncodedImage, to_pixels
from data.subset import Target
from data.workers import thread_pool
from utils.contracts import Dataset, class_names
from utils.errors import UserError, printable
from utils.labels import class_indices, target_text

# Status of an image -> error or warning, the most severe first.
SEVERITY = dict.fromkeys(("corrupt", "conflicting labels", "leaked"), "error")
SEVERITY |= dict.fromkeys(("duplicate", "unusual"), "warning")
# Unusual: a shorter side below this share of the median one, an aspect ratio above this multiple of the median one.
_SMALL, _LONG = 1 / 5, 4
# Letterbox is proposed if more than this share of the images have an aspect ratio of at least so much.
_MANY, _WIDE = 0.2, 2
# A warning for a class of fewer images than this, and for one of this many times the images of another.
_FEW, _UNEQUAL = 10, 10


@dataclass(slots=True)
class Record:
    """One image of a data set; it is corrupt if it has no digest."""

    split: str
    name: str
    target: Target = None  # None if it cannot be read
    label: str = ""  # its classes or numbers; empty for a mask
    height: int = 0
    width: int = 0
    channels: int = 0  # as stored, which may differ from those it is read with
    digest: bytes = b""  # of the pixels
    sums: np.ndarray | None = None  # uint64 (2, channels as read): of the pixels, and of their squares
    findings: tuple[tuple[str, str], ...] = ()  # (status, reason)

    @property
    def status(self) -> str:
        """The most severe finding, else `ok`."""
        return next((kind for kind in SEVERITY if kind in dict(self.findings)), "ok")

    def add(self, kind: str, reason: str) -> None:
        self.findings += ((kind, reason),)


def scan(dataset: Dataset, split: str, channels: int, max_pixels: int = MAX_PIXELS) -> Iterator[Record]:
    """Yields a record of every image, in order, decoded with `channels`; several threads read if it is thread_safe."""
    with thread_pool(dataset) as pool:
        yield from pool.imap(lambda i: _read(dataset, split, i, channels, max_pixels), range(len(dataset)), 32)


def _read(dataset: Dataset, split: str, i: int, channels: int, max_pixels: int) -> Record:
    record = Record(split, dataset.name(i))
    try:
        source, target = dataset[i]
        record.target = target
        if np.ndim(target) <= 1:
            record.label = target_text(target, class_names(dataset))
        pixels = np.ascontiguousarray(to_pixels(source, channels, max_pixels))
    except UserError as error:
        record.add("corrupt", str(error).split(f"{printable(record.name)}: ", 1)[-1])
        return record
    record.height, record.width, record.channels = pixels.shape
    if isinstance(source, EncodedImage):
        _read_header(source, record)
    else:
        record.channels = np.atleast_3d(source).shape[2]
    record.digest = hashlib.blake2b(pixels.data, digest_size=16, key=b"%d %d" % pixels.shape[:2]).digest()
    # OpenCV adds up in double precision, which is exact for the integers of any image.
    powers = pixels, cv2.multiply(pixels, pixels, dtype=cv2.CV_16U)
    record.sums = np.array([[cv2.sumElems(c)[0] for c in cv2.split(power)] for power in powers]).astype(np.uint64)
    return record


def _read_header(source: EncodedImage, record: Record) -> None:
    """Records the channels of a file, and a suffix that does not match its format."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source.data)) as header:
            record.channels = 3 if header.mode == "P" else len(header.getbands())
            found = "JPEG" if header.format == "MPO" else header.format
    except (OSError, ValueError, Image.DecompressionBombError):
        return  # OpenCV could decode it
    named = Image.registered_extensions().get(Path(source.name).suffix.lower(), found)
    if named != found:
        record.add("unusual", f"a {found} file with the suffix of {named}")


def flag_issues(records: Iterable[Record]) -> None:
    """Adds the findings that compare images, of all splits together: unusual images and copies."""
    good = [record for record in records if record.digest]
    if good:
        _flag_shapes(good)
    by_digest = attrgetter("digest")
    for _, same in groupby(sorted(good, key=by_digest), by_digest):
        if len(copies := list(same)) > 1:
            _flag_copies(copies)


def flag_groups(records: Mapping[str, Sequence[Record]], groups: Mapping[str, Sequence[str]]) -> None:
    """Adds a finding to the images whose group is in another split too; both arguments have the splits as keys."""
    members = {split: set(names) for split, names in groups.items()}
    for split, names in groups.items():
        for record, name in zip(records[split], names, strict=True):
            if other := next((other for other in members if other != split and name in members[other]), None):
                record.add("leaked", f"its group {name} is in {other} too")


def _flag_shapes(records: Sequence[Record]) -> None:
    heights, widths, channels = np.array([(r.height, r.width, r.channels) for r in records]).T
    side, aspect = np.minimum(heights, widths), np.maximum(heights, widths) / np.minimum(heights, widths)
    usual_side, usual_aspect, usual_channels = np.median(side), np.median(aspect), np.bincount(channels).argmax()
    unusual = {
        f"small, the median of the shorter sides is {usual_side:g}": side < _SMALL * usual_side,
        f"long, the median of the aspect ratios is {usual_aspect:.2f}": aspect > _LONG * usual_aspect,
        f"most images have {usual_channels} channels": channels != usual_channels,
    }
    for reason, which in unusual.items():
        for i in np.flatnonzero(which).tolist():
            records[i].add("unusual", f"{heights[i]} x {widths[i]} x {channels[i]}: {reason}")


def wide_warning(usable: Sequence[Record]) -> str | None:
    """Returns a warning if a crop to a square would lose half or more of many images, else None."""
    share = np.mean([max(r.height, r.width) >= _WIDE * min(r.height, r.width) for r in usable])
    if share <= _MANY:
        return None
    keys = 'INPUT.TRAIN_TRANSFORMS "[{Letterbox: {random: true}}]" INPUT.TEST_TRANSFORMS "[Letterbox]"'
    return f"{share:.0%} of the images are at least {_WIDE} times as long as wide: {keys} keeps them whole"


def _flag_copies(same: Sequence[Record]) -> None:
    """Flags records with the same pixels.

    The first in a split is not a duplicate; if labels within the split differ, all of its copies are in conflict.
    """
    splits = {split: list(members) for split, members in groupby(same, attrgetter("split"))}
    labels = {split: " / ".join(sorted({record.label for record in members})) for split, members in splits.items()}
    disputed = {split for split, members in splits.items() if labels_conflict([member.target for member in members])}
    for record, (split, members) in product(same, splits.items()):
        other = next((member for member in members if member is not record), None)
        kind = "leaked" if split != record.split else "conflicting labels" if split in disputed else "duplicate"
        if other and (kind != "duplicate" or record is not members[0]):
            record.add(kind, f"same pixels as {other.name} ({split}{labels[split] and f': {labels[split]}'})")


def labels_conflict(targets: Sequence[Target]) -> bool:
    """Tests if targets differ; of several labels, if one is present (1) in a target and absent (0) in another."""
    table = np.array(targets)
    if table.ndim == 2 and np.isin(table, (-1, 0, 1)).all():
        return bool(((table > 0).any(axis=0) & (table == 0).any(axis=0)).any())
    return bool((table != table[0]).any())


def mean_std(usable: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Returns the mean and standard deviation of each channel over all pixels, in 0..1, for INPUT.MEAN and STD."""
    count = sum(record.height * record.width for record in usable)
    table = [record.sums for record in usable if record.sums is not None]
    sums, squares = np.sum(table, axis=0).tolist()  # Python integers do not overflow
    means = [total / count / 255 for total in sums]
    return means, [math.sqrt(count * s - total * total) / count / 255 for total, s in zip(sums, squares, strict=True)]


def count_classes(records: Iterable[Record], num_classes: int) -> list[int]:
    """Returns the number of images of each class, without corrupt ones."""
    found = Counter(label for r in records if r.digest for label in class_indices(r.target, num_classes))
    return [found[label] for label in range(num_classes)]


def class_warning(counts: Sequence[int], classes: Sequence[str]) -> str | None:
    """Returns a warning about classes with few images, or many more than others, else None."""
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    few = sum(count < _FEW for count in counts)
    findings = [f"{few} of {len(counts)} classes have fewer than {_FEW} images"] if few else []
    if counts[most] > _UNEQUAL * counts[least]:
        findings.append(f"{classes[most]} has {counts[most]:,} images, {classes[least]} {counts[least]:,}")
    return "; ".join(findings) or None
