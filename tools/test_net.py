"""Test a trained network: scores, figures and predictions in the run's report folder."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import _path  # noqa: F401

from config import CfgNode, load_config
from config.loader import split_overrides
from config.node import is_argument
from utils.cli import ArgumentParser, print_table, progress_bar, run
from utils.errors import UserError
from utils.logger import get_logger, setup_logging

if TYPE_CHECKING:
    from engine.checkpoint import Checkpoint
    from engine.inference import SplitResult
    from utils.contracts import Dataset

log = get_logger("test")
_CLASSES, _NAME = 30, 40  # classes shown in the terminal, and letters of their names


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv, ("--output",))
    args = parse(words)
    setup_logging()
    from engine.build_inference import prepare_checkpoint
    from engine.build_report import report_folder, report_on_split, score_checkpoint
    from engine.checkpoint import load_checkpoint
    from engine.resume import find_checkpoint
    from utils.run_folder import run_of

    path = find_checkpoint(Path(os.path.expanduser(args.run or load_config(None, overrides).OUTPUT_DIR)))
    checkpoint, cfg = prepare_checkpoint(load_checkpoint(path), overrides)
    data_keys = [key for key in overrides[::2] if key.startswith("DATASETS.")]
    other_data = any(key == "DATASETS.NAME" or is_argument(key) for key in data_keys)
    moved = "DATASETS.ROOT" in data_keys
    # Data of the run may have moved; with a report elsewhere they are taken for other data.
    split, dataset = choose_split(args.split, cfg, checkpoint, other_data or (moved and args.output is not None))
    in_run = args.output is None and run_of(path) is not None
    if in_run and (other_data or (moved and split == "test") or "TEST.TTA_FLIP" in overrides):
        tests = "a test of other data or with another TEST.TTA_FLIP"
        raise UserError(f"--output: needed for {tests}, which does not belong in the run's report; name a folder")
    log.info("testing %s on the %s split of %s (%d images)", path, split, cfg.DATASETS.NAME, len(dataset))
    folder = args.output or report_folder(path, split)
    result = score_checkpoint(checkpoint, cfg, split, dataset, progress_bar)
    show(result, path, folder)
    report_on_split(folder, checkpoint, cfg, result)


def parse(words: Sequence[str]) -> Namespace:
    epilog = "KEY VALUE pairs, such as TEST.BATCH_SIZE 64, change keys that are not fixed by training."
    parser = ArgumentParser(description=__doc__, epilog=epilog)
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", nargs="?", help="default: the newest run's best weights")
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: test, or val where there is none")
    parser.add_argument("--output", metavar="DIR", type=Path, help="folder for the report; default: in the run")
    return parser.parse_args(words)


def choose_split(name: str | None, cfg: CfgNode, checkpoint: "Checkpoint", other_data: bool) -> "tuple[str, Dataset]":
    """Returns (name, data set) of the split to test, with the classes of the checkpoint. Raises UserError without it.

    `train` and `val` are what the run was trained on and validated on, unless the data are not those of the training.
    Without a name the validation set may replace a missing test set of the same data.
    """
    from data.build import build_split, build_train_and_val
    from data.registry import MissingSplit

    classes = checkpoint.classes or None
    try:
        if other_data or name not in ("train", "val"):
            return name or "test", build_split(cfg, name or "test", classes)
    except MissingSplit as error:
        if name or other_data:
            own = "val and train test what the run was validated and trained on"
            whole = "train tests all of it; without --output they are the run's own data, moved"
            hint = f"--split {whole if other_data else own}"
            raise UserError(f"{error}; {hint}") from error
        log.info("%s; testing the validation set instead", error)
    splits = build_train_and_val(cfg, checkpoint.splits, classes)
    if name == "train":
        return name, splits.train
    if not splits.val:
        why = "DATASETS.VAL_RATIO 0" if splits.val is None else "the run's validation images are all missing"
        raise UserError(f"{why}: there is no validation set to test; use --split test or train")
    return "val", splits.val


def show(result: "SplitResult", checkpoint: Path, folder: Path) -> None:
    """Prints the scores; of many classes those with the lowest F1."""
    from engine.predictions import LabelPredictions
    from engine.report.tables import class_rows, worst_classes

    if isinstance(result.predictions, LabelPredictions):
        columns, names = result.predictions.per_class, result.names
        worst = worst_classes(result.predictions, _CLASSES)
        rows, labels = class_rows(names, columns, 4), sorted(worst) if len(worst) == len(names) else worst
        shown = [(rows[label][0][:_NAME], *rows[label][1:]) for label in labels]
        print_table([(f"{len(labels)} of {len(names)} classes", *columns), *shown])
    facts: dict[str, object] = {"checkpoint": checkpoint, "split": result.split, "num_samples": result.num_samples}
    facts |= {"num_skipped": result.num_skipped} if result.num_skipped else {}
    facts |= {name: f"{value:.4f}" for name, value in result.scores.items()} | {"report": folder / "index.html"}
    width = max(12, *(len(name) + 2 for name in facts))
    for name, value in facts.items():
        print(f"{name:<{width}}{value}")


if __name__ == "__main__":
    run(main)
