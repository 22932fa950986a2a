"""Test a trained network: numbers and predictions in the run's report folder."""

import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from config import CfgNode
from config.loader import output_dir, split_overrides
from utils.cli import ArgumentParser, run
from utils.errors import UserError
from utils.logger import get_logger, setup_logging
from utils.run_folder import RunFolder

log = get_logger("test")


def main(argv: Sequence[str]) -> None:
    words, overrides = split_overrides(argv)
    args = parse(words)
    setup_logging()
    from engine.build_inference import build_predictor, checkpoint_config, resolve_device
    from engine.checkpoint import load_checkpoint
    from engine.resume import find_checkpoint

    checkpoint = find_checkpoint(Path(os.path.expanduser(args.run or output_dir(overrides))))
    state = load_checkpoint(checkpoint)
    cfg = checkpoint_config(state, checkpoint, overrides)
    split, dataset = choose_split(args.split, cfg, state["classes"])
    log.info("testing %s on the %s split of %s (%d images)", checkpoint, split, cfg.DATASETS.NAME, len(dataset))
    predictor = build_predictor(cfg, state, checkpoint, resolve_device(cfg.MODEL.DEVICE))
    metrics, rows = test(cfg, predictor, dataset, state["classes"])
    metrics = {"checkpoint": str(checkpoint), "split": split, **metrics}
    report(report_folder(checkpoint, split), metrics, rows)


def parse(words: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__, epilog="KEY VALUE pairs, such as TEST.BATCH_SIZE 64, change any key.")
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", nargs="?", help="default: the newest run's best weights")
    parser.add_argument("--split", choices=("val", "test"), help="default: test, or val where there is no test set")
    return parser.parse_args(words)


def choose_split(name: str | None, cfg: CfgNode, classes: list[str]) -> tuple[str, Any]:
    """(name, data set) of the split that is asked for, with the classes of the checkpoint."""
    from data.build import build_split, build_train_and_val
    from data.registry import MissingSplit

    try:
        if name != "val":
            return "test", build_split(cfg, "test", classes)
    except MissingSplit as error:
        if name == "test":
            raise UserError(f"{error}; test the validation set with --split val") from error
        log.info("%s; testing the validation set instead", error)
    dataset = build_train_and_val(cfg)[1]
    if dataset is None:
        raise UserError("DATASETS.VAL_RATIO 0: there is no validation set to test")
    if list(dataset.classes) != classes:
        raise UserError(f"the data set's classes are not those of the checkpoint: {', '.join(classes)}")
    return "val", dataset


def test(cfg: CfgNode, predictor: Any, dataset: Any, classes: list[str]) -> tuple[dict, list]:
    """The metrics of a data set and (file, target, prediction, probability) of every sample."""
    from data.build import build_eval_loader
    from data.targets import label_text
    from engine.build_inference import build_metrics, checkpoint_spec
    from engine.inference import Averages
    from engine.report import top_k
    from modeling.build import build_criterion

    averages = Averages(build_criterion(cfg).to(predictor.device), build_metrics(cfg))
    rows = []
    for batch, outputs in predictor.predict(build_eval_loader(cfg, dataset, checkpoint_spec(cfg)).batches()):
        averages.add(batch, outputs)
        probabilities = predictor.probabilities(outputs)
        samples = zip(batch.indices.tolist(), batch.targets.tolist(), top_k(probabilities, 1), strict=True)
        for index, target, ((probability,), (best,)) in samples:
            rows.append((dataset.name(index), label_text(target, classes), classes[best], f"{probability:.6f}"))
    return {"count": averages.count, **averages.result()}, rows


def report_folder(checkpoint: Path, split: str) -> Path:
    """`report/` of the run, or a folder beside a checkpoint that is in no run; the validation set has its own."""
    run = RunFolder(checkpoint.parent.parent)
    folder = run.report if checkpoint.parent == run.weights else checkpoint.with_name(f"{checkpoint.stem}_report")
    return folder / "val" if split == "val" else folder


def report(folder: Path, metrics: dict, rows: list) -> None:
    from engine.report import write_metrics, write_predictions

    write_metrics(folder, metrics)
    write_predictions(folder, ("file", "target", "prediction", "probability"), rows)
    width = max(12, *(len(name) + 2 for name in metrics))
    for name, value in {**metrics, "report": folder}.items():
        print(f"{name:<{width}}{value:.4f}" if isinstance(value, float) else f"{name:<{width}}{value}")


if __name__ == "__main__":
    run(main)
