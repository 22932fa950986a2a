"""Export any classification data set losslessly as PNG files: PATH/<split>/<class>/<name>.png."""

import itertools
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING

from _common import build_own_splits, parse_experiment

from config import CfgNode
from utils.cli import progress_bar, run
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.contracts import Dataset


def main(argv: Sequence[str]) -> None:
    cfg, output = parse_experiment(argv, __doc__, output="exported")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output {output}: not an empty folder; name another one")
    from data.build import dataset_defaults, image_channels

    channels, datasets = image_channels(cfg), build_own_splits(cfg)
    check(cfg, datasets["train"], channels)
    for split, dataset in datasets.items():
        export(dataset, output / split, channels, cfg.DATASETS.MAX_PIXELS)
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", str(output), "INPUT.CHANNELS", str(channels)]
    if size := dataset_defaults(cfg).get("size"):
        words += ["INPUT.SIZE", str(list(size))]
    print("to train on them:", shlex.join(["python", "tools/train_net.py", *words]))


def check(cfg: CfgNode, dataset: "Dataset", channels: int) -> None:
    """Raises UserError for a data set that folders of PNG files cannot hold."""
    import numpy as np

    if not hasattr(dataset, "classes") or np.ndim(dataset[0][1]):
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: expected one class per image, which becomes its folder")
    if channels not in (1, 3):
        raise UserError(f"INPUT.CHANNELS: found {channels}, expected 1 or 3, which PNG files can hold")


def export(dataset: "Dataset", folder: Path, channels: int, max_pixels: int) -> None:
    """Writes all images of a split. Raises UserError at the first one that cannot be read."""
    from data.image_io import to_pixels
    from utils.drawing import write_png

    files = file_names(dataset)

    def write(i: int) -> None:
        write_png(folder / files[i], to_pixels(dataset[i][0], channels, max_pixels)[..., ::-1])

    with ThreadPool() as pool:
        for _ in progress_bar(pool.imap(write, range(len(files)), 32), len(files)):
            pass
    print(f"{folder}: {len(files):,} images")


def file_names(dataset: "Dataset") -> list[str]:
    """Returns <class>/<name>.png for every sample, unique and valid on any file system."""
    from utils.contracts import output_names, targets_of

    taken: set[str] = set()
    folders = [unique_filename(name, taken) for name in output_names(dataset)]
    taken_in: dict[int, set[str]] = defaultdict(set)
    stems = (Path(dataset.name(i)).stem for i in range(len(dataset)))
    targets = targets_of(dataset).tolist()
    return [f"{folders[t]}/{unique_filename(stem, taken_in[t])}.png" for t, stem in zip(targets, stems, strict=True)]


def unique_filename(name: str, taken: set[str]) -> str:
    """Returns `name` without reserved characters, numbered if it is `taken` regardless of case, and adds it to them."""
    valid = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")
    valid = os.fsencode(valid)[:200].decode("utf-8", "ignore") or "_"  # file systems take 255 bytes
    names = itertools.chain([valid], (f"{valid}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name


if __name__ == "__main__":
    run(main)
