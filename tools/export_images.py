"""Unpack any data set into folders of PNG files, without loss: PATH/<split>/<class>/<name>.png."""

import itertools
import os
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import _path  # noqa: F401
from _experiment import channels_of, own_splits, parse

from utils.cli import run
from utils.errors import UserError


def main(argv: Sequence[str]) -> None:
    args, cfg = parse(argv, __doc__, "exported")
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        raise UserError(f"--output {args.output}: not an empty folder; name another one")
    import numpy as np

    from data.build import native_input

    channels, datasets = channels_of(cfg), own_splits(cfg)
    if np.ndim(datasets["train"][0][1]):
        raise UserError(f"DATASETS.NAME {cfg.DATASETS.NAME}: several labels an image do not fit into a folder a class")
    for split, dataset in datasets.items():
        export(dataset, split, args.output / split, channels)
    words = ["DATASETS.NAME", "image_folder", "DATASETS.ROOT", str(args.output), "INPUT.CHANNELS", str(channels)]
    if size := native_input(cfg).get("size"):
        words += ["INPUT.SIZE", str(list(size))]
    print("to train on them:", shlex.join(["python", "tools/train_net.py", *words]))


def export(dataset: Any, split: str, folder: Path, channels: int) -> None:
    from tqdm import tqdm

    from data.image_io import to_pixels
    from utils.annotate import write_png

    files = file_names(dataset)

    def write(i: int) -> None:
        write_png(folder / files[i], to_pixels(dataset[i][0], channels)[..., ::-1])

    with ThreadPool() as pool:
        done = pool.imap(write, range(len(files)), 32)
        list(tqdm(done, split, len(files), unit="img", unit_scale=True, disable=None))
    print(f"{folder}: {len(files):,} images")


def file_names(dataset: Any) -> list[str]:
    """<class>/<name>.png of every sample, each a name that any file system takes, and no two alike."""
    from data.targets import targets_of

    taken: set[str] = set()
    folders = [unlike(name, taken) for name in dataset.classes]
    taken_in = defaultdict(set)
    stems = (Path(dataset.name(i)).stem for i in range(len(dataset)))
    targets = targets_of(dataset).tolist()
    return [f"{folders[t]}/{unlike(stem, taken_in[t])}.png" for t, stem in zip(targets, stems, strict=True)]


def unlike(name: str, taken: set[str]) -> str:
    """`name` made fit for a file and unlike those in `taken`, which it joins; capitals make no difference."""
    fit = re.sub(r'[\x00-\x1f/\\:*?"<>|]', "_", name).strip(". ")
    fit = os.fsencode(fit)[:200].decode("utf-8", "ignore") or "_"  # file systems take 255 bytes
    names = itertools.chain([fit], (f"{fit}_{number}" for number in itertools.count(2)))
    name = next(name for name in names if name.lower() not in taken)
    taken.add(name.lower())
    return name


if __name__ == "__main__":
    run(main)
