"""What the tools that look at an experiment share: its command line, its data set, its first batch."""

import math
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.loader import CfgNode, load_config, split_overrides
from utils.cli import ArgumentParser
from utils.logger import setup_logging

COLUMNS = 8  # of a grid of images


def parse(argv: Sequence[str], description: str, output: str, **numbers: int | None) -> tuple[Namespace, CfgNode]:
    """The options and the experiment that a command line names; `numbers` are further options and their defaults."""
    words, overrides = split_overrides(argv, ("--config-file", "--output"))
    epilog = "KEY VALUE pairs, such as DATASETS.NAME fashion_mnist, change any key."
    parser = ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("--config-file", metavar="FILE", help="the experiment; without it the bundled digits")
    parser.add_argument("--output", metavar="PATH", type=Path, default=Path(output), help=f"default: {output}")
    for name, default in numbers.items():
        shown = "counted" if default is None else default
        parser.add_argument(
            f"--{name.replace('_', '-')}", metavar="N", type=int, default=default, help=f"default: {shown}"
        )
    args = parser.parse_args(words)
    for name in numbers:
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')}: found {getattr(args, name)}, expected at least 1")
    cfg = load_config(args.config_file, overrides)
    setup_logging(cfg.LOG.LEVEL, cfg.LOG.FORMAT)
    return args, cfg


def own_splits(cfg: CfgNode) -> dict[str, Any]:
    """The splits that the data set has of its own, by name; what VAL_RATIO would hold out is in train."""
    from data.build import build_split
    from data.registry import MissingSplit

    splits = {"train": build_split(cfg, "train")}
    for name in ("val", "test"):
        with suppress(MissingSplit):
            splits[name] = build_split(cfg, name, splits["train"].classes)
    return splits


def first_batch(cfg: CfgNode, dataset: Any, spec: Any, count: int) -> tuple[Any, Any, int]:
    """(a picture, BGR, of the first images of the first batch, that batch, one of its samples that can be read)."""
    from data.build import build_batch_transforms, build_train_loader
    from utils.annotate import grid
    from utils.labels import label_text

    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = 0  # for a single batch
    loader = build_train_loader(cfg, dataset, spec)
    batch = next(loader.batches(epoch=0))
    loader.close()
    mix = build_batch_transforms(cfg, len(dataset.classes))
    if mix is not None:
        batch = mix(batch, 0, 0)
    images = batch.images.byte().permute(0, 2, 3, 1).numpy()[:count]  # (N, C, H, W) -> (N, H, W, C)
    labels = [label_text(target, dataset.classes) for target in batch.targets.numpy()[:count]]
    title = f"{cfg.DATASETS.NAME}: {len(images)} of {len(batch)} images of the first batch, {spec.size}"
    index = next((i for i in batch.indices.tolist() if i not in loader.broken), int(batch.indices[0]))
    return grid(images, COLUMNS, cell_of(spec.size), title, labels), batch, index


def cell_of(size: Sequence[int]) -> list[int]:
    """Images of this (height, width) in a grid: enlarged or reduced to what can be seen and fits on a screen."""
    side = max(size)
    return [round(length * min(math.ceil(112 / side), 224 / side)) for length in size]


def channels_of(cfg: CfgNode) -> int:
    """The channels that images are read with; which network will take them does not matter here."""
    from data.build import native_input

    return cfg.INPUT.CHANNELS or native_input(cfg).get("channels", 3)
