"""Check every image of a data set: corrupt, unusual, duplicate, or leaked across splits; sizes, classes, mean, std.

The exit code is 1 if there are errors: corrupt images, equal images with different labels or in two splits, and groups
in two splits.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from _common import build_own_splits, parse_experiment

from utils.cli import print_table, progress_bar, run
from utils.errors import printable

if TYPE_CHECKING:
    from data.check import Record

_FINDINGS, _CLASSES = 5, 30  # shown at most: of a kind, in the table


def main(argv: Sequence[str]) -> int:
    cfg, output = parse_experiment(argv, __doc__, output="data_check")
    from data import check
    from data.build import image_channels
    from data.splits import group_names
    from utils.atomic_file import write_csv

    datasets, records = build_own_splits(cfg), {}
    for split, dataset in datasets.items():
        scanned = check.scan(dataset, split, image_channels(cfg), cfg.DATASETS.MAX_PIXELS)
        records[split] = list(progress_bar(scanned, len(dataset)))
    whole = list(chain(*records.values()))
    check.flag_issues(whole)
    groups = {split: group_names(dataset, cfg.DATASETS.GROUP) for split, dataset in datasets.items()}
    check.flag_groups(records, {split: names for split, names in groups.items() if names is not None})
    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "images.csv", table_rows(whole))

    print_splits(records, check.SEVERITY)
    usable = [record for record in records["train"] if record.digest]
    has_masks = any(getattr(record.target, "ndim", 0) > 1 for record in usable)
    classes = [] if has_masks else list(getattr(datasets["train"], "classes", ()))
    if classes:
        counts = {split: check.count_classes(found, len(classes)) for split, found in records.items()}
        print_classes(counts, classes)
    print_findings(whole, check.SEVERITY)
    for split in records if classes else ():
        if warning := check.class_warning(counts[split], classes):
            print(f"{split}: {warning}")
    if usable:
        mean, std = (", ".join(f"{value:.4f}" for value in values) for values in check.mean_std(usable))
        print(f'training set: INPUT.MEAN "[{mean}]" INPUT.STD "[{std}]"')
        if warning := check.wide_warning(usable):
            print(f"training set: {warning}")
    print(f"one row per image in {output / 'images.csv'}")
    return int(any(check.SEVERITY.get(record.status) == "error" for record in whole))


def table_rows(records: "Iterable[Record]") -> Iterator[tuple]:
    """Yields the rows of images.csv, its header first."""
    yield "split", "file", "class", "height", "width", "channels", "status", "reason"
    for r in records:
        reason = "; ".join(f"{kind}: {why}" for kind, why in r.findings)
        yield r.split, r.name, r.label, r.height, r.width, r.channels, r.status, reason


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
