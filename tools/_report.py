"""What train_net and test_net share: testing a checkpoint on a split, and the report of it."""

from pathlib import Path
from typing import Any

from config import CfgNode
from config.loader import dump_overrides
from utils.errors import UserError
from utils.logger import get_logger
from utils.run_folder import RunFolder

log = get_logger("report")


def report(
    folder: Path,
    checkpoint: Path,
    state: dict[str, Any],
    cfg: CfgNode,
    split: str,
    dataset: Any | None,
    train_and_val: tuple[Any, Any | None] | None = None,
) -> Any:
    """Test a checkpoint, write index.html and all else there is to look at, and give the results.

    `cfg` is the checkpoint's configuration; without a data set the report is of the training alone. The
    sets that it was trained with are built unless they are given.
    """
    from engine.report.folder import run_facts, write_report
    from engine.report.pictures import read_history, training_pictures

    results = None if dataset is None else test(checkpoint, state, cfg, split, dataset)
    run = RunFolder(checkpoint.parent.parent)
    history = read_history(run.metrics)
    epoch = state.get("counters", {}).get("epoch")
    pictures = [*training_pictures(history, epoch), *data_pictures(cfg, state, train_and_val)]
    chosen = str(checkpoint) if epoch is None else f"{checkpoint}, of epoch {epoch}"
    facts = {"checkpoint": chosen, "data set": cfg.DATASETS.NAME, **run_facts(run, history)}
    overrides = run.overrides.read_text(encoding="utf-8") if run.overrides.is_file() else dump_overrides(cfg)
    title = f"{cfg.MODEL.NAME} on {cfg.DATASETS.NAME}"
    write_report(folder, title, results, pictures, facts, overrides)
    return results


def test(checkpoint: Path, state: dict[str, Any], cfg: CfgNode, split: str, dataset: Any) -> Any:
    """The numbers of a data set and what the network says of every sample of it."""
    from data.build import build_eval_loader
    from data.image_io import to_pixels
    from engine.build_inference import build_metrics, build_predictor, checkpoint_spec, resolve_device
    from engine.inference import Averages, evaluate
    from engine.report.folder import Results
    from engine.report.scores import score
    from modeling.build import build_criterion
    from utils.cli import progress

    predictor = build_predictor(cfg, state, checkpoint, resolve_device(cfg.MODEL.DEVICE))
    averages = Averages(build_criterion(cfg).to(predictor.device), build_metrics(cfg))
    loader = build_eval_loader(cfg, dataset, checkpoint_spec(cfg))
    predictions = evaluate(predictor, progress(loader.batches(), len(dataset)), averages)
    scores = score(predictions)
    metrics = {"checkpoint": str(checkpoint), "split": split, "count": averages.count}
    own = averages.result()
    metrics |= {**own, **scores.summary, **own}  # in this order; a metric of one's own goes before another of its name

    def read(i: int) -> Any:
        return to_pixels(dataset[i][0], 3, cfg.DATASETS.MAX_PIXELS)

    return Results(metrics, predictions, scores, dataset, read)


def data_pictures(cfg: CfgNode, state: dict[str, Any], train_and_val: tuple[Any, Any | None] | None) -> list[Any]:
    """Classes and first batch of the data that the network was trained on, where they are at hand."""
    from _experiment import first_batch

    from config import load_text
    from data.build import build_train_and_val
    from data.targets import class_counts
    from engine.build_inference import checkpoint_spec
    from engine.report.pictures import Picture
    from utils import plotting
    from utils.annotate import encode_png

    if load_text(state["config"], "the checkpoint").DATASETS.NAME != cfg.DATASETS.NAME:
        return []  # tested on others
    cfg = cfg.clone()
    cfg.DATALOADER.NUM_WORKERS = 0  # it is one batch
    try:
        train_set, val_set = train_and_val or build_train_and_val(cfg)
        if list(train_set.classes) != state["classes"]:
            raise UserError(f"{cfg.DATASETS.NAME} has other classes now")
        batch, _, _ = first_batch(cfg, train_set, checkpoint_spec(cfg), count=32)
    except UserError as error:
        log.info("no pictures of the training data: %s", error)
        return []
    sets = {"train": train_set, "val": val_set}
    counts = {name: class_counts(dataset) for name, dataset in sets.items() if dataset is not None}
    drawn = plotting.class_histogram(state["classes"], counts)
    return [
        Picture("class_histogram", "Images of each class", drawn),
        Picture("first_batch", "The first batch, as the network sees it", encode_png(batch)),
    ]
