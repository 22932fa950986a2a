"""The command line and the data of the tools that inspect an experiment without training it."""

from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from config import CfgNode, load_config
from config.loader import split_overrides
from utils.cli import ArgumentParser
from utils.logger import setup_logging

if TYPE_CHECKING:
    from utils.contracts import Dataset


def parse_experiment(
    argv: Sequence[str], description: str | None, output: str, **numbers: int | None
) -> tuple[Namespace, CfgNode]:
    """Returns the options and the configuration of a command line: --config-file, --output and KEY VALUE pairs.

    `numbers` are further options for integers of at least 1, with their defaults. Raises UserError.
    """
    words, overrides = split_overrides(argv, ("--config-file", "--output"))
    epilog = "KEY VALUE pairs, such as DATASETS.NAME fashion_mnist, change any key."
    parser = ArgumentParser(description=description, epilog=epilog)
    parser.add_argument("--config-file", metavar="FILE", help="the experiment; default: the bundled digits")
    parser.add_argument("--output", metavar="PATH", type=Path, default=Path(output), help=f"default: {output}")
    options = {f"--{name.replace('_', '-')}": default for name, default in numbers.items()}
    for option, default in options.items():
        text = f"default: {default or 'taken from the data'}"
        parser.add_argument(option, metavar="N", type=int, default=default, help=text)
    args = parser.parse_args(words)
    for option, name in zip(options, numbers, strict=True):
        if (number := getattr(args, name)) is not None and number < 1:
            parser.error(f"{option}: found {number}, expected at least 1")
    cfg = load_config(args.config_file, overrides)
    setup_logging(cfg.LOG.LEVEL, cfg.LOG.FORMAT)
    return args, cfg


def build_own_splits(cfg: CfgNode) -> "dict[str, Dataset]":
    """Returns the splits that the data set itself has, by name; images that VAL_RATIO holds out are in `train`."""
    from data.build import build_split
    from data.registry import MissingSplit
    from utils.contracts import output_names

    splits = {"train": build_split(cfg, "train")}
    for name in ("val", "test"):
        with suppress(MissingSplit):
            splits[name] = build_split(cfg, name, output_names(splits["train"]))
    return splits


def image_channels(cfg: CfgNode) -> int:
    """Returns the number of channels of INPUT.CHANNELS, or else of the data set."""
    from data.build import dataset_defaults

    return cfg.INPUT.CHANNELS or dataset_defaults(cfg).get("channels", 3)
