"""A checkpoint -> the scores of a split, and the reports on a test and on a training."""

import math
from pathlib import Path

from config import CfgNode
from config.loader import dump_overrides
from data.build import build_eval_loader, build_train_and_val
from engine.build_inference import build_metrics, build_trained_task, prepare_checkpoint, resolve_device
from engine.checkpoint import Checkpoint, load_checkpoint
from engine.inference import SplitResult, Watch, evaluate
from engine.report.page import Page
from engine.report.training import read_history, run_metadata, training_images
from engine.report.writer import write_index, write_split_report
from utils.contracts import Dataset
from utils.errors import UserError
from utils.run_folder import RunFolder, run_of


def score_checkpoint(
    checkpoint: Checkpoint, cfg: CfgNode, split: str, dataset: Dataset, watch: Watch = lambda batches, total: batches
) -> SplitResult:
    """Returns predictions and all metrics of a prepared checkpoint. Raises UserError for a loss that is NaN/Inf."""
    resolved = checkpoint.resolved
    device = resolve_device(cfg.MODEL.DEVICE)
    task = build_trained_task(checkpoint, cfg, device)
    metrics = build_metrics(cfg, resolved, complete=True)
    loader = build_eval_loader(cfg, dataset, resolved.input, device, task.spatial_targets)
    result = evaluate(task, split, loader, metrics, watch=watch)
    loader.close()
    if not math.isfinite(loss := result.scores["loss"]):
        hint = "the training diverged; train again with a lower SOLVER.BASE_LR or with warm-up"
        raise UserError(f"the loss of the {split} split is {loss}: {hint}")
    return result


def report_folder(checkpoint: Path, split: str) -> Path:
    """Returns report/<split> of a run, with -<checkpoint> if it is not the best; elsewhere a folder beside the file."""
    run = run_of(checkpoint)
    if run is None:
        return checkpoint.with_name(f"{checkpoint.stem}_report") / split
    return run.report / (split if checkpoint.name == run.best.name else f"{split}-{checkpoint.stem}")


def report_on_split(folder: Path, checkpoint: Checkpoint, cfg: CfgNode, result: SplitResult) -> None:
    """Writes the report on a test, and the run's index, which leads to it."""
    run = run_of(checkpoint.source)
    history = read_history(run.metrics) if run else []
    chosen = f"{checkpoint.source}, saved after epoch {checkpoint.epoch}"
    facts = {"checkpoint": chosen, "data set": f"{cfg.DATASETS.NAME} in {cfg.DATASETS.ROOT}"}
    write_split_report(folder, _title(cfg), result, checkpoint.source, {**facts, **run_metadata(run, history)})
    if run is not None and folder.parent == run.report:
        is_best = checkpoint.source == run.best or not run.best.exists()
        _write_index(run, cfg, (checkpoint if is_best else load_checkpoint(run.best, mapped=True)).epoch)


def report_on_training(run: RunFolder, now: CfgNode, watch: Watch = lambda batches, total: batches) -> Path:
    """Writes the report on the best weights and the validation set, with the curves of the training; returns its index.

    `best` may predate a resume, so data location and test settings come from the current configuration.
    """
    checkpoint, saved = prepare_checkpoint(load_checkpoint(run.best_weights))
    cfg = saved.clone()
    cfg.DATASETS.ROOT, cfg.MODEL.DEVICE = now.DATASETS.ROOT, now.MODEL.DEVICE
    cfg.DATALOADER, cfg.TEST = now.DATALOADER, now.TEST
    splits = build_train_and_val(cfg, checkpoint.splits, checkpoint.classes)
    if splits.val is None:
        _write_index(run, cfg, checkpoint.epoch)
    else:
        result = score_checkpoint(checkpoint, cfg, "val", splits.val, watch)
        report_on_split(report_folder(checkpoint.source, "val"), checkpoint, cfg, result)
    return run.report / "index.html"


def _title(cfg: CfgNode) -> str:
    return f"{cfg.MODEL.NAME} on {cfg.DATASETS.NAME}"


def _write_index(run: RunFolder, cfg: CfgNode, epoch: int) -> None:
    history = read_history(run.metrics)
    page = Page(_title(cfg), str(run))
    page.images = training_images(history, epoch)
    page.facts = {"best epoch": str(epoch), **run_metadata(run, history)}
    kept = run.overrides.is_file()
    page.config = run.overrides.read_text(encoding="utf-8", errors="replace") if kept else dump_overrides(cfg)
    write_index(run.report, page)
