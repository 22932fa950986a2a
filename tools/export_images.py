"""Export any classification data set losslessly as PNG files: PATH/<split>/<class>/<number>.png."""

import itertools
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _common import build_own_splits, parse_experiment

from utils.cli import progress_bar, run
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.contracts import Dataset


def main(argv: Sequence[str]) -> None:
    cfg, output = parse_experiment(argv, __doc__, output="exported")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: not an empty folder; name another one")
    import numpy as np

    from data.build import dataset_defaults, image_channels

    channels, datasets = image_channels(cfg), build_own_splits(cfg)
    if not hasattr(datasets["train"], "classes") or np.ndim(datasets["train"][0][1]):
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: expected one class per image, which becomes its folder")
    if channels not in (1, 3):
        raise UserError(f"INPUT.CHANNELS: found {channels}, expected 1 or 3, which PNG files can hold")
    for split, dataset in datasets.items():
        export(dataset, output / split, channels, cfg.DATASETS.MAX_PIXELS)
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", str(output), "INPUT.CHANNELS", str(channels)]
    if size := dataset_defaults(cfg).get("size"):
        words += ["INPUT.SIZE", str(list(size))]
    print("to train on them:", shlex.join(["python", "tools/train_net.py", *words]))


def export(dataset: "Dataset", folder: Path, channels: int, max_pixels: int) -> None:
    """Writes all images of a split. Raises UserError at the first one that cannot be read."""
    from data.image_io import to_pixels
    from data.workers import thread_pool
    from utils.contracts import class_names
    from utils.drawing import write_png

    folders = folder_names(class_names(dataset))

    def write(i: int) -> None:
        source, target = dataset[i]
        write_png(folder / folders[target] / f"{i:05d}.png", to_pixels(source, channels, max_pixels)[..., ::-1])

    with thread_pool(dataset) as pool:
        for _ in progress_bar(pool.imap(write, range(len(dataset)), 32), len(dataset)):
            pass
    print(f"{folder}: {len(dataset):,} images")


def folder_names(classes: Iterable[str]) -> list[str]:
    """Returns the names of the classes without reserved characters, numbered where they are equal but for case."""
    taken: dict[str, str] = {}  # name in lower case -> name
    for name in classes:
        valid = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")
        valid = os.fsencode(valid)[:200].decode("utf-8", "ignore") or "_"  # file systems take 255 bytes
        numbered = (f"{valid}_{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([valid], numbered) if name.lower() not in taken)
        taken[name.lower()] = name
    return list(taken.values())


if __name__ == "__main__":
    run(main)
