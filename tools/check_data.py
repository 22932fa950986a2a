"""Check every image of a data set: corrupt, unusual, duplicate, or leaked across splits; sizes, classes, mean, std.

The exit code is 1 if there are errors: corrupt images, and equal images with different labels or in two splits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401
from _common import build_own_splits, image_channels, parse_experiment

from utils.cli import print_table, progress_bar, run
from utils.errors import printable

if TYPE_CHECKING:
    from data.check import Record
    from utils.contracts import Dataset

# Limits of what is shown: findings of a kind; classes in the table; rows and columns of images in samples.png.
_FINDINGS, _CLASSES, _ROWS, _COLUMNS = 5, 30, 20, 10


def main(argv: Sequence[str]) -> int:
    args, cfg = parse_experiment(argv, __doc__, "data_check")
    from data.check import (
        SEVERITY,
        class_members,
        class_warning,
        flag_groups,
        flag_issues,
        mean_std,
        scan,
        wide_warning,
    )
    from data.held_out import group_names
    from utils.atomic_file import write_csv

    channels, datasets, max_pixels = image_channels(cfg), build_own_splits(cfg), cfg.DATASETS.MAX_PIXELS
    records = {}
    for split, dataset in datasets.items():
        records[split] = list(progress_bar(scan(dataset, split, channels, max_pixels), len(dataset)))
    whole = list(chain(*records.values()))
    flag_issues(whole)
    groups = {split: group_names(dataset, cfg.DATASETS.GROUP) for split, dataset in datasets.items()}
    flag_groups(records, {split: names for split, names in groups.items() if names is not None})
    args.output.mkdir(parents=True, exist_ok=True)
    write_csv(args.output / "images.csv", table_rows(whole))

    print_splits(records, SEVERITY)
    usable = [record for record in records["train"] if record.digest]
    samples = {f"train: {len(records['train']):,} images": usable}
    has_masks = any(getattr(record.target, "ndim", 0) > 1 for record in usable)
    classes = [] if has_masks else list(getattr(datasets["train"], "classes", ()))
    if classes:
        members = {split: class_members(records[split], len(classes)) for split in records}
        counts = {split: [len(images) for images in members[split]] for split in records}
        print_classes(counts, classes)
        pairs = zip(classes, members["train"], strict=True)
        samples = {f"{name}: {len(images):,} images": images for name, images in pairs}
    print_findings(whole, SEVERITY)
    for split in records if classes else ():
        if warning := class_warning(counts[split], classes):
            print(f"{split}: {warning}")
    if usable:
        mean, std = (", ".join(f"{value:.4f}" for value in values) for values in mean_std(usable))
        print(f'training set: INPUT.MEAN "[{mean}]" INPUT.STD "[{std}]"')
        if warning := wide_warning(usable):
            print(f"training set: {warning}")
    draw_samples(args.output / "samples.png", datasets["train"], samples, channels, max_pixels)
    print(f"one row per image in {args.output / 'images.csv'}, samples of the training set in samples.png")
    return int(any(SEVERITY.get(record.status) == "error" for record in whole))


def table_rows(records: "Iterable[Record]") -> Iterator[tuple]:
    """Yields the rows of images.csv, its header first."""
    yield "split", "file", "class", "height", "width", "channels", "status", "reason"
    for r in records:
        reason = "; ".join(f"{kind}: {why}" for kind, why in r.findings)
        yield r.split, r.name, r.label, r.height, r.width, r.channels, r.status, reason


def draw_samples(
    path: Path, dataset: "Dataset", samples: "Mapping[str, Sequence[Record]]", channels: int, max_pixels: int
) -> None:
    """Writes an image with a row of samples under each title."""
    import numpy as np

    from data.image_io import to_pixels
    from utils.drawing import grid, write_png

    rows = []
    for title in evenly_spaced([title for title, records in samples.items() if records], _ROWS):
        indices = [record.index for record in evenly_spaced(samples[title], _COLUMNS)]
        images = (to_pixels(dataset[i][0], channels, max_pixels) for i in indices)
        rows.append(grid(images, _COLUMNS, (112, 112), title))
    if rows:
        write_png(path, np.concatenate(rows))


def evenly_spaced(items: Sequence, limit: int) -> list:
    """Returns at most `limit` of the items, at even distances."""
    count = min(len(items), limit)
    return [items[number * len(items) // count] for number in range(count)]


def print_splits(records: "dict[str, list[Record]]", kinds: Iterable[str]) -> None:
    """Prints the number of images and findings, and the range of sizes, of each split."""
    import numpy as np

    rows = [("split", "images", *kinds, "height", "width")]
    for split, images in records.items():
        found = [sum(kind in dict(record.findings) for record in images) for kind in kinds]
        sizes = np.percentile([(r.height, r.width) for r in images if r.digest] or [(0, 0)], (0, 50, 100), axis=0)
        extents = (f"{low:g} to {high:g}, median {median:g}" for low, median, high in sizes.T)
        rows.append((split, *(f"{count:,}" for count in (len(images), *found)), *extents))
    print_table(rows)


def print_classes(counts: dict[str, list[int]], classes: Sequence[str]) -> None:
    """Prints the classes by size; if there are too many, the largest and the smallest."""
    order = sorted(range(len(classes)), key=lambda label: -counts["train"][label])
    half = _CLASSES // 2
    rows = [(f"{len(classes)} classes", *counts, "")]
    for label in order if len(order) <= _CLASSES else (*order[:half], *order[-half:]):
        bar = "#" * round(30 * counts["train"][label] / max(*counts["train"], 1))
        rows.append((classes[label], *(f"{split[label]:,}" for split in counts.values()), f"{bar:<30}"))
    print_table(rows)


def print_findings(records: "Iterable[Record]", kinds: Iterable[str]) -> None:
    """Prints the first findings of each kind."""
    for kind in kinds:
        lines = [f"{kind}: {r.split}: {r.name}: {why}" for r in records for found, why in r.findings if found == kind]
        print(*map(printable, lines[:_FINDINGS]), sep="\n", end="\n" if lines else "")
        if len(lines) > _FINDINGS:
            print(f"{kind}: {len(lines) - _FINDINGS:,} more in images.csv")


if __name__ == "__main__":
    run(main)
