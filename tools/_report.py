"""What train_net and test_net share: testing a checkpoint on a split, and the report of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config import CfgNode
from config.loader import dump_overrides
from utils.run_folder import RunFolder, run_of

# Pictures of the data that a network was trained on: their files and captions.
_DATA = {"class_histogram": "Images of each class", "first_batch": "The first batch, as the network sees it"}


def report(
    folder: Path,
    checkpoint: Path,
    state: dict[str, Any],
    cfg: CfgNode,
    results: Any | None,
    data_pictures: Sequence[Any] | None = None,
) -> None:
    """Write index.html and all else there is to look at; without results it is of the training alone.

    `cfg` is the checkpoint's configuration. Without `data_pictures` those are shown that the training
    left in its run.
    """
    from engine.report.folder import facts_of, write_report
    from engine.report.pictures import read_history, training_pictures

    run, epoch = run_of(checkpoint), state.get("counters", {}).get("epoch")
    history = read_history(run.metrics) if run else []
    pictures = training_pictures(history, epoch) + list(kept_pictures(run) if data_pictures is None else data_pictures)
    chosen = str(checkpoint) if epoch is None else f"{checkpoint}, of epoch {epoch}"
    facts = {"checkpoint": chosen, "data set": f"{cfg.DATASETS.NAME} in {cfg.DATASETS.ROOT}", **facts_of(run, history)}
    kept = run is not None and run.overrides.is_file()
    overrides = run.overrides.read_text(encoding="utf-8", errors="replace") if kept else dump_overrides(cfg)
    write_report(folder, f"{cfg.MODEL.NAME} on {cfg.DATASETS.NAME}", results, pictures, facts, overrides)


def test(checkpoint: Path, state: dict[str, Any], cfg: CfgNode, split: str, dataset: Any) -> Any:
    """The numbers of a data set and what the network says of every sample of it."""
    from data.build import build_eval_loader
    from data.image_io import to_pixels
    from engine.build_inference import build_metrics, build_predictor, checkpoint_spec, resolve_device
    from engine.inference import Averages, evaluate
    from engine.report.folder import Results
    from engine.scores import score
    from modeling.build import build_criterion
    from utils.cli import progress

    predictor = build_predictor(cfg, state, checkpoint, resolve_device(cfg.MODEL.DEVICE))
    averages = Averages(build_criterion(cfg).to(predictor.device), build_metrics(cfg))
    loader = build_eval_loader(cfg, dataset, checkpoint_spec(cfg))
    own, predictions = evaluate(predictor, progress(loader.batches(), len(dataset)), averages)
    loader.close()
    scores = score(predictions)
    metrics = {"checkpoint": str(checkpoint), "split": split, "count": averages.count}
    metrics |= {"left_out": len(loader.broken)} if loader.broken else {}
    metrics |= {**own, **scores.summary, **own}  # in this order; a metric of one's own goes before another of its name

    def read(i: int) -> Any:
        return to_pixels(dataset[i][0], 3, cfg.DATASETS.MAX_PIXELS)

    return Results(metrics, predictions, scores, dataset, read)


def draw_data(cfg: CfgNode, train_set: Any, val_set: Any | None) -> list[Any]:
    """The pictures of the data that a network is trained on."""
    from _experiment import first_batch

    from data.targets import class_counts
    from engine.build_inference import checkpoint_spec
    from engine.report.pictures import Picture
    from utils import plotting
    from utils.annotate import encode_png

    sets = {"train": train_set, "val": val_set}
    counts = {f"{name}: {len(s):,} images": class_counts(s) for name, s in sets.items() if s is not None}
    first, _, _ = first_batch(cfg, train_set, checkpoint_spec(cfg), count=32)
    drawn = plotting.class_histogram(train_set.classes, counts), encode_png(first)
    return [Picture(name, caption, data) for (name, caption), data in zip(_DATA.items(), drawn, strict=True)]


def kept_pictures(run: RunFolder | None) -> list[Any]:
    """The pictures of the data that the training left."""
    from engine.report.pictures import Picture

    files = {name: run.report / "pictures" / f"{name}.png" for name in _DATA} if run else {}
    return [Picture(name, _DATA[name], file.read_bytes()) for name, file in files.items() if file.is_file()]
