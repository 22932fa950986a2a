"""Look at every image of a data set: what is broken, odd, doubled or leaked; sizes, classes, mean and deviation.

The exit code is 1 if something is wrong: a broken image, one picture under two labels or in two splits.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import _path  # noqa: F401
from _experiment import channels_of, own_splits, parse

from utils.cli import run, show_table

# What is shown at most: findings of a kind; classes in the table; classes and images in the picture.
_FINDINGS, _CLASSES, _ROWS, _COLUMNS = 5, 30, 20, 10


def main(argv: Sequence[str]) -> int:
    args, cfg = parse(argv, __doc__, "data_check")
    from tqdm import tqdm

    from data.check import KINDS, class_members, class_warning, judge, mean_std, scan
    from utils.atomic_file import write_csv

    channels, datasets = channels_of(cfg), own_splits(cfg)
    classes, records = datasets["train"].classes, {}
    for split, dataset in datasets.items():
        found = scan(dataset, split, channels, cfg.DATASETS.MAX_PIXELS)
        records[split] = list(tqdm(found, split, len(dataset), unit="img", unit_scale=True, disable=None))
    whole = list(chain(*records.values()))
    judge(whole)
    members = {split: class_members(records[split], len(classes)) for split in records}
    counts = {split: [len(images) for images in members[split]] for split in records}

    args.output.mkdir(parents=True, exist_ok=True)
    header = ("split", "file", "class", "height", "width", "channels", "status", "reason")
    write_csv(args.output / "images.csv", header, rows_of(whole))
    draw_samples(args.output / "samples.png", datasets["train"], members["train"], channels)
    show_splits(records, KINDS)
    show_classes(counts, classes)
    show_findings(whole, KINDS)
    for split in records:
        if warning := class_warning(counts[split], classes):
            print(f"{split}: {warning}")
    if usable := [record for record in records["train"] if record.digest]:
        mean, std = (", ".join(f"{value:.4f}" for value in values) for values in mean_std(usable))
        print(f'of the training set: INPUT.MEAN "[{mean}]" INPUT.STD "[{std}]"')
    print(f"a row an image in {args.output / 'images.csv'}, samples of the classes in samples.png")
    return int(any(KINDS.get(record.status) for record in whole))


def rows_of(records: Iterable[Any]) -> Iterator[tuple]:
    for r in records:
        reason = "; ".join(f"{kind}: {why}" for kind, why in r.findings)
        yield r.split, r.name, r.label, r.height, r.width, r.channels, r.status, reason


def draw_samples(path: Path, dataset: Any, members: Sequence[Sequence[Any]], channels: int) -> None:
    """A row of images for each class."""
    import numpy as np

    from data.image_io import to_pixels
    from utils.annotate import grid, write_png

    rows = []
    for label in spread([label for label, images in enumerate(members) if images], _ROWS):
        images = (to_pixels(dataset[record.index][0], channels) for record in spread(members[label], _COLUMNS))
        rows.append(grid(images, _COLUMNS, (112, 112), f"{dataset.classes[label]}: {len(members[label]):,} images"))
    if rows:
        write_png(path, np.concatenate(rows))


def spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, at even steps."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]


def show_splits(records: dict[str, list[Any]], kinds: Iterable[str]) -> None:
    import numpy as np

    rows = [("split", "images", *kinds, "height", "width")]
    for split, images in records.items():
        found = [sum(kind in dict(record.findings) for record in images) for kind in kinds]
        sizes = np.percentile([(r.height, r.width) for r in images if r.digest] or [(0, 0)], (0, 50, 100), axis=0)
        extents = (f"{least:g} to {most:g}, median {median:g}" for least, median, most in sizes.T)
        rows.append((split, *(f"{count:,}" for count in (len(images), *found)), *extents))
    show_table(rows)


def show_classes(counts: dict[str, list[int]], classes: Sequence[str]) -> None:
    """The classes by size; where there are too many, the largest and the smallest."""
    order = sorted(range(len(classes)), key=lambda label: -counts["train"][label])
    half = _CLASSES // 2
    rows = [(f"{len(classes)} classes", *counts, "")]
    for label in order if len(order) <= _CLASSES else (*order[:half], *order[-half:]):
        bar = "#" * round(30 * counts["train"][label] / max(*counts["train"], 1))
        rows.append((classes[label], *(f"{split[label]:,}" for split in counts.values()), f"{bar:<30}"))
    show_table(rows)


def show_findings(records: Iterable[Any], kinds: Iterable[str]) -> None:
    for kind in kinds:
        lines = [f"{kind}: {r.split}: {r.name}: {why}" for r in records for found, why in r.findings if found == kind]
        print(*lines[:_FINDINGS], sep="\n", end="\n" if lines else "")
        if len(lines) > _FINDINGS:
            print(f"{kind}: {len(lines) - _FINDINGS:,} more in images.csv")


if __name__ == "__main__":
    run(main)
