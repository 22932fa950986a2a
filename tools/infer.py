"""Classify images: the top classes in the terminal, a table, annotated pictures, and what the network looked at."""

import json
import os
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _path  # noqa: F401

from config import CfgNode
from config.defaults import default_config
from utils.cli import ArgumentParser, progress, run, say
from utils.errors import UserError
from utils.logger import get_logger, setup_logging

log = get_logger("infer")
_PREDICTED, _CAM = "predicted", "cam"  # the ends of pictures' names
_FEW = 64  # so many images are read before a worker process has started


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    setup_logging()
    for end in (_PREDICTED, _CAM):
        for old in args.output.glob(f"images/[0-9][0-9][0-9][0-9][0-9]_*_{end}.png"):
            old.unlink()  # of the last time, before they are taken for images to predict
    files = image_files(args.images)
    args.output.mkdir(parents=True, exist_ok=True)
    from engine.build_inference import build_predictor, checkpoint_config, resolve_device
    from engine.checkpoint import load_checkpoint
    from engine.resume import find_checkpoint

    checkpoint = find_checkpoint(Path(args.weights or default_config().OUTPUT_DIR))
    log.info("predicting with %s", checkpoint)
    state = load_checkpoint(checkpoint, mapped=True)
    # An image that cannot be read is reported and left out, however many they are.
    overrides = ["DATASETS.ON_ERROR", "skip", "DATASETS.MAX_SKIPPED", "1"]
    overrides += ["TEST.FLIP", "true"] if args.tta else []
    overrides += ["DATALOADER.NUM_WORKERS", "0"] if len(files) < _FEW else []
    cfg = checkpoint_config(state, checkpoint, overrides)
    predictor = build_predictor(cfg, state, checkpoint, resolve_device(args.device))
    return predict(args, cfg, predictor, files, state["classes"])


def parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", type=Path)
    parser.add_argument("--weights", metavar="RUN_OR_CHECKPOINT", help="default: the newest run's best weights")
    parser.add_argument("--topk", metavar="K", type=int, default=5, help="classes shown for each image (5)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("predictions"), help="default: predictions")
    parser.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--tta", action="store_true", help="average each image's outputs and its mirror image's")
    parser.add_argument("--draw", action="store_true", help="annotated pictures of the images in folders too")
    parser.add_argument("--cam", action="store_true", help="draw where the network looked for each class, by Grad-CAM")
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
    from data.build import build_eval_loader
    from data.image_io import printable
    from data.labelled_images import ImageFiles
    from engine.build_inference import checkpoint_spec
    from engine.report.tables import top_k, top_text
    from utils.atomic_file import write_csv

    rows: list[tuple] = []
    named_files = set(args.images)
    loader = build_eval_loader(cfg, ImageFiles(files), checkpoint_spec(cfg))
    for batch, outputs in predictor.predict(progress(loader.batches(), len(files))):
        answers = top_k(predictor.probabilities(outputs), args.topk)
        for image, index, top in zip(batch.images, batch.indices.tolist(), answers, strict=True):
            path, name = files[index], printable(files[index])
            named = [(classes[label], probability) for label, probability in top]
            show(name, named, args.json)
            rows.append((name, named[0][0], f"{named[0][1]:.6f}", top_text(named)))
            if args.draw or path in named_files:
                draw(path, named, picture_path(args.output, index, path, _PREDICTED))
            if args.cam:
                explain(predictor, image, top, classes, picture_path(args.output, index, path, _CAM))
    write_csv(args.output / "predictions.csv", ("file", "label", "probability", "top_k"), rows)
    log.info("%d of %d images predicted; predictions.csv and pictures in %s", len(rows), len(files), args.output)
    return 0 if len(rows) == len(files) else 2


def picture_path(output: Path, index: int, path: Path, end: str) -> Path:
    """A file in images/ with a name of at most 255 bytes, which is what file systems take."""
    stem = os.fsencode(path.stem)[:200].decode("utf-8", "ignore")
    return output / "images" / f"{index:05d}_{stem}_{end}.png"


def show(name: str, top: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        line = {"file": name, "label": top[0][0], "probability": top[0][1], "top_k": top}
        say(json.dumps(line, ensure_ascii=False))
    else:
        say(f"{name}: " + ", ".join(f"{label} {probability:.4f}" for label, probability in top))


def draw(path: Path, top: list[tuple[str, float]], target: Path) -> None:
    """Write the image with its classes above it."""
    from data.image_io import EncodedImage
    from utils.annotate import annotate, write_png

    picture = annotate(EncodedImage.open(path).read(3), [f"{label} {probability:.3f}" for label, probability in top])
    write_png(target, picture)


def explain(predictor: Any, image: Any, top: list[tuple[int, float]], classes: list[str], target: Path) -> None:
    """Write the image as the network saw it, uint8 (C, H, W), beside where it looked for each of its top classes."""
    from _experiment import cell_of

    from engine.grad_cam import grad_cam
    from utils.annotate import grid, heat, write_png

    maps = grad_cam(predictor.model, predictor.normalize(image[None]), [label for label, _ in top])
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()  # (1 or 3, H, W) -> (H, W, 3)
    pictures = [pixels, *(heat(pixels, seen) for seen in maps.cpu().numpy())]
    labels = ["image", *(f"{probability:.3f} {classes[label]}" for label, probability in top)]
    write_png(target, grid(pictures, len(pictures), cell_of(pixels.shape[:2]), "Grad-CAM", labels))


if __name__ == "__main__":
    run(main)
