"""What the tools that look at an experiment share: its command line, the splits and channels of its data set."""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from config.loader import CfgNode, load_config, split_overrides
from utils.cli import ArgumentParser
from utils.logger import setup_logging


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


def channels_of(cfg: CfgNode) -> int:
    """The channels that images are read with; which network will take them does not matter here."""
    from data.build import native_input

    return cfg.INPUT.CHANNELS or native_input(cfg).get("channels", 3)
