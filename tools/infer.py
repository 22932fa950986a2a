"""Predict images: top classes in the terminal, a table, annotated images, and Grad-CAM maps."""

import csv
import json
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import _path  # noqa: F401

from config.defaults import default_config
from utils.cli import ArgumentParser, progress_bar, run
from utils.errors import UserError, printable
from utils.logger import get_logger, setup_logging

if TYPE_CHECKING:
    from engine.classifier import Classifier, Prediction

log = get_logger("infer")
_PREDICTED, _CAM = "predicted", "cam"  # endings of the names of annotated images


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    setup_logging()
    for ending in (_PREDICTED, _CAM):
        for old in args.output.glob(f"images/[0-9][0-9][0-9][0-9][0-9]_*_{ending}.png"):
            old.unlink()  # of the last call, before they are taken for images to predict
    files = image_files(args.images)
    args.output.mkdir(parents=True, exist_ok=True)
    from engine.classifier import Classifier

    overrides = ["TEST.TTA_FLIP", "true"] if args.tta else []
    classifier = Classifier.load(args.weights or default_config().OUTPUT_DIR, args.device, overrides)
    log.info("predicting with %s", classifier.source)
    # Line by line and not in the end: a stop loses nothing that was predicted.
    with open(args.output / "predictions.csv", "w", 1, "utf-8", "surrogateescape", newline="") as file:
        return predict(args, classifier, files, file)


def parse(argv: Sequence[str]) -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("images", metavar="IMAGE_OR_FOLDER", nargs="+", type=Path)
    parser.add_argument("--weights", metavar="RUN_OR_CHECKPOINT", help="default: the newest run's best weights")
    parser.add_argument("--topk", metavar="K", type=int, default=5, help="classes shown for each image (5)")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("predictions"), help="default: predictions")
    parser.add_argument("--device", metavar="D", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    parser.add_argument("--tta", action="store_true", help="average the outputs for each image and its mirror image")
    parser.add_argument("--draw", action="store_true", help="also annotate the images in folders")
    parser.add_argument("--cam", action="store_true", help="draw a Grad-CAM map for each of the top classes")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line, for other programs")
    args = parser.parse_args(argv)
    if args.topk < 1:
        parser.error(f"--topk: found {args.topk}, expected at least 1")
    return args


def image_files(paths: Sequence[Path]) -> list[Path]:
    """Returns the image files given, and all images below the folders given. Raises UserError if there are none."""
    from data.file_scan import ignored, is_image, walk_files
    from utils.run_folder import RunFolder

    files: list[Path] = []
    for path in paths:
        if (url := re.match(r"(\w+:/)/?(.+)", str(path))) and not path.exists():
            raise UserError(f"{url[1]}/{url[2]}: URLs are not followed; download the image and name the file")
        if not path.exists():
            raise UserError(f"{path}: no such image or folder")
        if RunFolder(path).has_weights:
            raise UserError(f"{path}: a run, expected images; predict with it by --weights {path}")
        names = list(walk_files(path)) if path.is_dir() else []
        for message in ignored(names):
            log.warning("%s: %s", path, message)
        found = sorted(path / name for name in names if is_image(name)) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no images in this folder")
        files += found
    return files


def predict(args: Namespace, classifier: "Classifier", files: list[Path], file: TextIO) -> int:
    """Predicts, prints and writes the table; returns 2 if some image could not be read, else 0."""
    from data.image_io import EncodedImage
    from engine.report.tables import top_text
    from utils.drawing import grid, text_width, write_png

    named_files, has_labels = set(args.images), classifier.has_labels
    table = csv.writer(file, lineterminator="\n")
    table.writerow(("file", "label", "probability", "top_k") if has_labels else ("file", *classifier.names))
    count = 0
    for index, prediction in classifier.stream(files, progress_bar):
        if prediction.values is None:
            continue  # the loader has reported it
        if prediction.values.ndim != 1:
            problem = f"the prediction is an array {prediction.values.shape}, which this tool cannot show"
            raise UserError(f"{files[index]}: {problem}; use engine.classifier.Classifier")
        path = files[index]
        pairs = zip(classifier.names, prediction.values.tolist(), strict=True)
        top = prediction.top(args.topk) if has_labels else list(pairs)
        cells = [f"{value:.9g}" for _, value in top]
        if has_labels:
            cells = [prediction.label, f"{prediction.probability:.6f}", top_text(top)]
        table.writerow((path, *cells))
        count += 1
        show(path, top, prediction.labels, args.json)
        if args.draw or path in named_files:
            image, lines = EncodedImage.open(path).read(3), [f"{label} {value:.3f}" for label, value in top]
            cell = max(image.shape[0], 320), max(image.shape[1], 320, *map(text_width, lines))
            annotated = grid([image], 1, cell, path.name, [lines])
            write_png(image_path(args.output, index, path, _PREDICTED), annotated)
        if args.cam:
            explain(classifier, prediction, top, image_path(args.output, index, path, _CAM))
    log.info("%d of %d images predicted; see %s", count, len(files), args.output)
    return 0 if count == len(files) else 2


def image_path(output: Path, index: int, path: Path, ending: str) -> Path:
    """Returns a file in images/ with a name of at most 255 bytes, the limit of file systems."""
    stem = os.fsencode(path.stem)[:200].decode("utf-8", "ignore")
    return output / "images" / f"{index:05d}_{stem}_{ending}.png"


def show(path: Path, top: Sequence[tuple[str, float]], labels: list[str] | None, as_json: bool) -> None:
    """Prints a prediction above the progress bar: classes with their probabilities, or named numbers."""
    from tqdm import tqdm

    record: dict[str, object] = {"file": str(path), **dict(top)}
    line = f"{printable(path)}: "
    if labels is not None:
        joined = "|".join(labels)
        record = {"file": str(path), "label": joined, "labels": labels, "probability": top[0][1], "top_k": top}
        line += "" if labels == [top[0][0]] else f"{joined or 'no label'}: "
    line += ", ".join(f"{label} {value:.4f}" for label, value in top)
    tqdm.write(json.dumps(record, ensure_ascii=False) if as_json else line)


def explain(classifier: "Classifier", prediction: "Prediction", top: Sequence[tuple[str, float]], target: Path) -> None:
    """Writes the image as the network saw it, beside a Grad-CAM map for each of its top classes."""
    from engine.grad_cam import grad_cam
    from utils.drawing import grid, overlay_cam, thumbnail_size, write_png

    image = prediction.image
    assert image is not None
    labels = [classifier.names.index(label) for label, _ in top]
    maps = grad_cam(classifier.task.model, classifier.task.normalize(image[None].to(classifier.device)), labels)
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()  # (1 or 3, H, W) -> (H, W, 3)
    images = [pixels, *(overlay_cam(pixels, cam) for cam in maps.cpu().numpy())]
    titles = ["image", *(f"{probability:.3f} {label}" for label, probability in top)]
    write_png(target, grid(images, len(images), thumbnail_size(pixels.shape[:2]), "Grad-CAM", titles))


if __name__ == "__main__":
    run(main)
