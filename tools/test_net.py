"""Test a trained network: numbers, pictures and predictions in the run's report folder."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401
from _report import report, test

from config import CfgNode
from config.loader import output_dir, split_overrides
from utils.cli import ArgumentParser, run, show_table
from utils.errors import UserError
from utils.logger import get_logger, setup_logging
from utils.run_folder import run_of

log = get_logger("test")
_CLASSES, _NAME = 30, 40  # classes shown in the terminal, and letters of their names


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv)
    args = parse(words)
    setup_logging()
    from engine.build_inference import checkpoint_config
    from engine.checkpoint import load_checkpoint
    from engine.resume import find_checkpoint

    checkpoint = find_checkpoint(Path(os.path.expanduser(args.run or output_dir(overrides))))
    state = load_checkpoint(checkpoint)
    cfg = checkpoint_config(state, checkpoint, overrides)
    other_data = bool({"DATASETS.NAME", "DATASETS.ROOT"} & set(overrides))
    split, dataset = choose_split(args.split, cfg, state["classes"], other_data)
    log.info("testing %s on the %s split of %s (%d images)", checkpoint, split, cfg.DATASETS.NAME, len(dataset))
    folder = report_folder(checkpoint, split)
    results = test(checkpoint, state, cfg, split, dataset)
    show(results, folder)
    report(folder, checkpoint, state, cfg, results)


def parse(words: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as TEST.BATCH_SIZE 64, change any key.")
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", nargs="?", help="default: the newest run's best weights")
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: test, or val where there is none")
    return parser.parse_args(words)


def choose_split(name: str | None, cfg: CfgNode, classes: list[str], other_data: bool) -> tuple[str, Any]:
    """(name, data set) of the split that is asked for, with the classes of the checkpoint.

    Without a name the validation set may stand in, unless the network was trained on other data.
    """
    from data.build import build_split, build_train_and_val
    from data.registry import MissingSplit

    try:
        if name != "val":
            return name or "test", build_split(cfg, name or "test", classes)
    except MissingSplit as error:
        if name or other_data:
            raise UserError(f"{error}; --split val tests what a training holds out, --split train all of it") from error
        log.info("%s; testing the validation set instead", error)
    dataset = build_train_and_val(cfg)[1]
    if dataset is None:
        raise UserError("DATASETS.VAL_RATIO 0: there is no validation set to test")
    if list(dataset.classes) != classes:
        raise UserError(f"the data set's classes are not those of the checkpoint: {', '.join(classes)}")
    return "val", dataset


def report_folder(checkpoint: Path, split: str) -> Path:
    """`report/` of the run, or a folder beside a checkpoint that is in no run; other sets have their own."""
    run = run_of(checkpoint)
    folder = run.report if run else checkpoint.with_name(f"{checkpoint.stem}_report")
    return folder if split == "test" else folder / split


def show(results: Any, folder: Path) -> None:
    """The numbers in the terminal; of many classes those that went worst."""
    from engine.report.tables import class_rows, worst_classes

    classes, columns = results.dataset.classes, results.scores.per_class
    worst = worst_classes(results.scores, _CLASSES)
    labels = sorted(worst) if len(worst) == len(classes) else worst
    rows = [(name[:_NAME], *cells) for name, *cells in class_rows(classes, columns, 4, labels)]
    show_table([(f"{len(labels)} of {len(classes)} classes", *columns), *rows])
    width = max(12, *(len(name) + 2 for name in results.metrics))
    for name, value in {**results.metrics, "report": folder / "index.html"}.items():
        print(f"{name:<{width}}{value:.4f}" if isinstance(value, float) else f"{name:<{width}}{value}")


if __name__ == "__main__":
    run(main)
