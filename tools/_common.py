"""The command line and the data of the tools that inspect an experiment without training it."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _path  # noqa: F401

from config import CfgNode, load_config
from config.loader import split_overrides
from utils.cli import ArgumentParser
from utils.logger import setup_logging

if TYPE_CHECKING:
    from utils.contracts import Dataset


def parse_experiment(argv: Sequence[str], about: str | None, **defaults: str | float) -> tuple[Any, ...]:
    """Returns the configuration of a command line, --config-file and KEY VALUE pairs, and the options in `defaults`."""
    words, overrides = split_overrides(argv, ("--config-file", *(f"--{name}" for name in defaults)))
    epilog = "KEY VALUE pairs, such as DATASETS.NAME fashion_mnist, change any key."
    parser = ArgumentParser(description=about, epilog=epilog)
    parser.add_argument("--config-file", metavar="FILE", help="the experiment; default: the bundled digits")
    for name, default in defaults.items():
        kind, metavar = (Path, "PATH") if name == "output" else (type(default), "VALUE")
        text = f"default: {default or 'none'}"
        parser.add_argument(f"--{name}", metavar=metavar, type=kind, default=default, help=text)
    args = parser.parse_args(words)
    cfg = load_config(args.config_file, overrides)
    setup_logging(cfg.LOG.LEVEL)
    return cfg, *(getattr(args, name) for name in defaults)


def build_own_splits(cfg: CfgNode) -> "dict[str, Dataset]":
    """Returns the splits that the data set itself has, not packed; images that VAL_RATIO holds out are in `train`."""
    from data.build import build_split
    from data.registry import MissingSplit
    from utils.contracts import output_names

    cfg = cfg.clone()
    cfg.DATASETS.PACKED = ""
    splits = {"train": build_split(cfg, "train")}
    for name in ("val", "test"):
        with suppress(MissingSplit):
            splits[name] = build_split(cfg, name, output_names(splits["train"]))
    return splits
