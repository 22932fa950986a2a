"""Classify images: the top classes in the terminal, annotated pictures and a table in a folder."""

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from config import CfgNode
from config.defaults import default_config
from utils.cli import ArgumentParser, run
from utils.errors import UserError
from utils.logger import get_logger, setup_logging

log = get_logger("infer")


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    setup_logging()
    for old in args.output.glob("images/[0-9][0-9][0-9][0-9][0-9]_*_predicted.png"):
        old.unlink()  # of the last time, before they are taken for images to predict
    files = image_files(args.images)
    args.output.mkdir(parents=True, exist_ok=True)
    from engine.build_inference import build_predictor, checkpoint_config, resolve_device
    from engine.checkpoint import load_checkpoint
    from engine.resume import find_checkpoint

    checkpoint = find_checkpoint(Path(args.weights or default_config().OUTPUT_DIR))
    log.info("predicting with %s", checkpoint)
    state = load_checkpoint(checkpoint)
    cfg = checkpoint_config(state, checkpoint)
    predictor = build_predictor(cfg, state, checkpoint, resolve_device(args.device))
    return predict(args, cfg, predictor, files, state["classes"])


def parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", type=Path)
    parser.add_argument("--weights", metavar="RUN_OR_CHECKPOINT", help="default: the newest run's best weights")
    parser.add_argument("--topk", metavar="K", type=int, default=5, help="classes shown for each image (5)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("predictions"), help="default: predictions")
    parser.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line, for other programs")
    args = parser.parse_args(argv)
    if args.topk < 1:
        parser.error(f"--topk: found {args.topk}, expected at least 1")
    return args


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Every image that was named, and every one below a folder that was named."""
    from data.file_scan import is_image, walk_files

    files = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        found = sorted(path / name for name in walk_files(path) if is_image(name)) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no images in this folder")
        files += found
    return files


def predict(args: Namespace, cfg: CfgNode, predictor: Any, files: list[Path], classes: list[str]) -> int:
    """Predict, show and write down; 2 if some image could not be read, else 0."""
    from data.image_io import printable
    from engine.report import top_k, write_predictions

    rows: list[tuple] = []
    for batch, outputs in predictor.predict(read_batches(cfg, files)):
        for index, (probabilities, best) in zip(
            batch.indices.tolist(), top_k(predictor.probabilities(outputs), args.topk), strict=True
        ):
            path = files[index]
            name = printable(path)
            top = [(classes[label], probability) for label, probability in zip(best, probabilities, strict=True)]
            show(name, top, args.json)
            draw(path, top, args.output / "images" / picture_name(index, path))
            table = "; ".join(f"{label} {probability:.6f}" for label, probability in top)
            rows.append((name, top[0][0], f"{top[0][1]:.6f}", table))
    write_predictions(args.output, ("file", "label", "probability", "top_k"), rows)
    log.info("%d of %d images predicted; pictures and predictions.csv in %s", len(rows), len(files), args.output)
    return 0 if len(rows) == len(files) else 2


def picture_name(index: int, path: Path) -> str:
    """A file name of at most 255 bytes, which is what file systems take."""
    stem = os.fsencode(path.stem)[:200].decode("utf-8", "ignore")
    return f"{index:05d}_{stem}_predicted.png"


def read_batches(cfg: CfgNode, files: list[Path]) -> Iterator[Any]:
    """Images as testing reads them, in batches; one that cannot be read is reported and left out."""
    from data.build import build_reader
    from data.labelled_images import ImageFiles
    from data.loaders import collate
    from data.samplers import SampleKey
    from engine.build_inference import checkpoint_spec

    reader = build_reader(cfg, ImageFiles(files), checkpoint_spec(cfg), "TEST_TRANSFORMS")
    for start in range(0, len(files), cfg.TEST.BATCH_SIZE):
        images = {}
        for index in range(start, min(start + cfg.TEST.BATCH_SIZE, len(files))):
            try:
                images[index], _ = reader.read(SampleKey(index, epoch=0, position=index))
            except UserError as error:
                print(f"error: {error}", file=sys.stderr)
        if images:
            yield collate(list(images.values()), [0] * len(images), list(images))


def show(name: str, top: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        line = {"file": name, "label": top[0][0], "probability": top[0][1], "top_k": top}
        print(json.dumps(line, ensure_ascii=False))
    else:
        print(f"{name}: " + ", ".join(f"{label} {probability:.4f}" for label, probability in top))


def draw(path: Path, top: list[tuple[str, float]], target: Path) -> None:
    """Write the image with its classes above it."""
    from data.image_io import EncodedImage
    from utils.annotate import annotate, write_png

    picture = annotate(EncodedImage.open(path).read(3), [f"{label} {probability:.3f}" for label, probability in top])
    write_png(target, picture)


if __name__ == "__main__":
    run(main)
