"""A checkpoint -> the scores of a split, and the reports on a test and on a training."""

from pathlib import Path

import numpy as np

from config import CfgNode
from config.loader import dump_overrides
from data.build import build_batch_transforms, build_eval_loader, build_train_and_val, build_train_loader
from engine.build_inference import build_metrics, build_trained_task, prepare_checkpoint, resolve_device
from engine.checkpoint import Checkpoint, load_checkpoint
from engine.inference import SplitResult, Watch, evaluate
from engine.report.page import Image, Page
from engine.report.training import read_history, run_metadata, training_images
from engine.report.writer import check_finite, write_index, write_split_report
from engine.tasks.base import find_task
from utils.contracts import Batch, Dataset, InputSpec, class_names
from utils.drawing import COLUMNS, grid, thumbnail_size, write_png
from utils.labels import target_text
from utils.run_folder import RunFolder, run_of

_FIRST_BATCH = "first_batch.png"  # in a run's report
_SAMPLES = 32  # shown of it at most


def score_checkpoint(
    checkpoint: Checkpoint, cfg: CfgNode, split: str, dataset: Dataset, watch: Watch = lambda batches, total: batches
) -> SplitResult:
    """Returns predictions and all metrics of a prepared checkpoint. Raises UserError for outputs that are NaN/Inf."""
    resolved = checkpoint.resolved
    device = resolve_device(cfg.MODEL.DEVICE)
    task = build_trained_task(checkpoint, cfg, device)
    metrics = build_metrics(cfg, resolved, complete=True)
    loader = build_eval_loader(cfg, dataset, resolved.input, device, task.spatial_targets)
    result = evaluate(task, split, loader, metrics, watch=watch)
    loader.close()
    check_finite(result)
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
    is_spatial = find_task(checkpoint.resolved.task).spatial_targets
    first_batch, *_ = draw_first_batch(cfg, checkpoint.resolved.input, splits.train, is_spatial)
    write_png(run.report / _FIRST_BATCH, first_batch)
    if splits.val is None:
        _write_index(run, cfg, checkpoint.epoch)
    else:
        result = score_checkpoint(checkpoint, cfg, "val", splits.val, watch)
        report_on_split(report_folder(checkpoint.source, "val"), checkpoint, cfg, result)
    return run.report / "index.html"


def _title(cfg: CfgNode) -> str:
    return f"{cfg.MODEL.NAME} on {cfg.DATASETS.NAME}"


def _write_index(run: RunFolder, cfg: CfgNode, epoch: int) -> None:
    history, first_batch = read_history(run.metrics), run.report / _FIRST_BATCH
    page = Page(_title(cfg), str(run))
    page.images = training_images(history, epoch)
    if first_batch.is_file():
        page.images.append(Image("The first batch, as the network sees it", first_batch.read_bytes()))
    page.facts = {"best epoch": str(epoch), **run_metadata(run, history)}
    kept = run.overrides.is_file()
    page.config = run.overrides.read_text(encoding="utf-8", errors="replace") if kept else dump_overrides(cfg)
    write_index(run.report, page)


def draw_first_batch(
    cfg: CfgNode, spec: InputSpec, dataset: Dataset, spatial_targets: bool
) -> tuple[np.ndarray, Batch, dict[int, str]]:
    """Returns an image of the first batch, BGR, that batch, and which are corrupt."""
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = "0"  # for a single batch
    loader, classes = build_train_loader(cfg, dataset, spec, spatial_targets=spatial_targets), class_names(dataset)
    batch = next(loader.batches())
    if mix := build_batch_transforms(cfg, len(classes)):
        batch = mix(batch, 0, 0)
    images = batch.images.byte().permute(0, 2, 3, 1).numpy()[:_SAMPLES].copy()  # (N, C, H, W) -> (N, H, W, C)
    loader.close()
    labels = [target_text(target, classes) for target in batch.targets.numpy()[:_SAMPLES]]
    title = f"{cfg.DATASETS.NAME}: {len(images)} of {len(batch)} images of the first batch, {spec.size}"
    return grid(images, COLUMNS, thumbnail_size(spec.size), title, labels), batch, loader.broken
