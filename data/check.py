"""What is broken, odd, doubled or leaked among the images of a data set, and what they are like."""

import hashlib
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from multiprocessing.pool import ThreadPool
from operator import attrgetter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.image_io import MAX_PIXELS, EncodedImage, to_pixels
from utils.errors import UserError
from utils.labels import class_indices, label_text

# What may be found, the worst first, and whether it is wrong or only worth a look.
KINDS = {"broken": True, "two labels": True, "leak": True, "duplicate": False, "odd": False}
# Odd: a shorter side below so much of the median one, an aspect ratio beyond so many times the median one.
_SMALL, _LONG = 1 / 5, 4
# Warned of: a class of fewer images than this, and one of so many times the images of another.
_FEW, _UNEQUAL = 10, 10


@dataclass(slots=True)
class Record:
    """One image of a data set; without a digest it is broken."""

    split: str
    index: int
    name: str
    target: Any = None  # None where it cannot be read
    label: str = ""
    height: int = 0
    width: int = 0
    channels: int = 0  # as stored, which need not be as read
    digest: bytes = b""  # of the pixels
    sums: np.ndarray | None = None  # uint64 (2, channels as read): of the pixels, and of their squares
    findings: tuple[tuple[str, str], ...] = ()  # (one of KINDS, why)

    @property
    def status(self) -> str:
        """The worst that was found, else `ok`."""
        return next((kind for kind in KINDS if kind in dict(self.findings)), "ok")

    def add(self, kind: str, why: str) -> None:
        self.findings += ((kind, why),)


def scan(dataset: Any, split: str, channels: int, max_pixels: int = MAX_PIXELS) -> Iterator[Record]:
    """A record of every image, in order, decoded with so many channels, as training reads it.

    The data set is read from several threads at once.
    """
    with ThreadPool() as pool:
        yield from pool.imap(lambda i: _read(dataset, split, i, channels, max_pixels), range(len(dataset)), 32)


def _read(dataset: Any, split: str, i: int, channels: int, max_pixels: int) -> Record:
    record = Record(split, i, dataset.name(i))
    try:
        source, target = dataset[i]
        record.label = label_text(target, dataset.classes)
        record.target = target
        pixels = np.ascontiguousarray(to_pixels(source, channels, max_pixels))
        if not pixels.size:
            raise UserError(f"found an image of {pixels.shape[0]} by {pixels.shape[1]} pixels")
    except UserError as error:
        record.add("broken", str(error).removeprefix(f"{record.name}: "))
        return record
    record.height, record.width, record.channels = pixels.shape
    if isinstance(source, EncodedImage):
        _read_header(source, record)
    else:
        record.channels = source.shape[2] if source.ndim == 3 else 1
    record.digest = hashlib.blake2b(pixels, digest_size=16, key=b"%d %d" % pixels.shape[:2]).digest()
    # OpenCV adds up in double precision, which holds the whole numbers of any image exactly.
    powers = pixels, cv2.multiply(pixels, pixels, dtype=cv2.CV_16U)
    record.sums = np.array([cv2.sumElems(power)[:channels] for power in powers]).astype(np.uint64)
    return record


def _read_header(source: EncodedImage, record: Record) -> None:
    """The channels of a file, and whether its name lies about its format."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(source.data)) as header:
            record.channels = 3 if header.mode == "P" else len(header.getbands())
            found = "JPEG" if header.format == "MPO" else header.format
    except (OSError, ValueError, Image.DecompressionBombError):
        return  # OpenCV has decoded it, and that is what counts
    named = Image.registered_extensions().get(Path(source.name).suffix.lower(), found)
    if named != found:
        record.add("odd", f"a {found} file that is named as {named}")


def judge(records: Iterable[Record]) -> None:
    """Add to the records, of all splits together, what shows only beside the others: odd images and copies."""
    good = [record for record in records if record.digest]
    if good:
        _judge_shapes(good)
    by_digest = attrgetter("digest")
    for _, same in groupby(sorted(good, key=by_digest), by_digest):
        copies = list(same)
        if len(copies) > 1:
            _judge_copies(copies)


def _judge_shapes(records: Sequence[Record]) -> None:
    heights, widths, channels = np.array([(r.height, r.width, r.channels) for r in records]).T
    side, aspect = np.minimum(heights, widths), np.maximum(heights, widths) / np.minimum(heights, widths)
    usual_side, usual_aspect, usual_channels = np.median(side), np.median(aspect), np.bincount(channels).argmax()
    odd = {
        f"small, the median of the shorter sides is {usual_side:g}": side < _SMALL * usual_side,
        f"long, the median of the aspect ratios is {usual_aspect:.2f}": aspect > _LONG * usual_aspect,
        f"most images have {usual_channels} channels": channels != usual_channels,
    }
    for why, which in odd.items():
        for i in np.flatnonzero(which):
            records[i].add("odd", f"{heights[i]} x {widths[i]} x {channels[i]}: {why}")


def _judge_copies(same: Sequence[Record]) -> None:
    """Records with the same pixels. Of those within a split and a label the first may stay."""
    splits = {split: list(members) for split, members in groupby(same, attrgetter("split"))}
    labels = {split: " / ".join(sorted({record.label for record in members})) for split, members in splits.items()}
    disputed = {split for split, members in splits.items() if _contradict([member.target for member in members])}
    for record, (split, members) in product(same, splits.items()):
        other = next((member for member in members if member is not record), None)
        kind = "leak" if split != record.split else "two labels" if split in disputed else "duplicate"
        if other and (kind != "duplicate" or record is not members[0]):
            record.add(kind, f"same pixels as {other.name} ({split}: {labels[split]})")


def _contradict(targets: Sequence[Any]) -> bool:
    """Whether one target says what another denies; a -1 in a vector of several labels says nothing."""
    table = np.array(targets)
    if table.ndim == 1:
        return bool((table != table[0]).any())
    return bool(((table > 0).any(axis=0) & (table == 0).any(axis=0)).any())


def mean_std(usable: Sequence[Record]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel over all pixels, in 0..1, as INPUT.MEAN and STD take them."""
    count = sum(record.height * record.width for record in usable)
    sums, squares = np.sum([record.sums for record in usable], axis=0).tolist()  # as integers of any length
    means = [total / count / 255 for total in sums]
    return means, [math.sqrt(count * s - total * total) / count / 255 for total, s in zip(sums, squares, strict=True)]


def class_members(records: Iterable[Record], num_classes: int) -> list[list[Record]]:
    """The usable images of each class."""
    members: list[list[Record]] = [[] for _ in range(num_classes)]
    for record in records:
        for label in class_indices(record.target, num_classes) if record.digest else ():
            members[label].append(record)
    return members


def class_warning(counts: Sequence[int], classes: Sequence[str]) -> str | None:
    """What there is to say of classes with few images, or with many more than others."""
    least, most = int(np.argmin(counts)), int(np.argmax(counts))
    few = sum(count < _FEW for count in counts)
    if not few and counts[most] <= _UNEQUAL * counts[least]:
        return None
    extremes = f"{classes[most]} has {counts[most]:,}, {classes[least]} {counts[least]:,}"
    return f"unequal or tiny classes: {extremes}, {few} of {len(counts)} have fewer than {_FEW} images"
