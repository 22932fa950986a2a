"""Writes the folder of a report: a page, its images, and its numbers as files."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engine.inference import SplitResult
from engine.registry import REPORT_PARTS
from engine.report.page import Image, Page, render
from engine.report.tables import prediction_table, write_json, write_outputs
from utils.atomic_file import atomic_write, write_csv
from utils.errors import UserError


def check_finite(result: SplitResult) -> None:
    """Raises UserError if the network's outputs are NaN or Inf."""
    if result.predictions is None:
        return
    import numpy as np

    bad = ~np.isfinite(result.predictions.values.reshape(result.num_samples, -1)).all(axis=1)
    if bad.any():
        raise UserError(
            f"model outputs are NaN/Inf for {bad.sum()} of {len(bad)} images: the training diverged; train "
            "again with a lower SOLVER.BASE_LR or with warm-up"
        )


def write_split_report(
    folder: Path, title: str, result: SplitResult, checkpoint: Path, facts: Mapping[str, str]
) -> None:
    """Writes index.html, images/, metrics.json and, if predictions are kept, predictions.csv and outputs.npz."""
    page = Page(title, f"{result.num_samples:,} images of the {result.split} split", facts=dict(facts))
    page.subtitle += f"; {result.num_skipped:,} could not be read" if result.num_skipped else ""
    page.headline = {name.replace("_", " "): f"{value:.4f}" for name, value in result.scores.items()}
    parts = [(REPORT_PARTS.info(name, "").get("order", 100), name) for name in REPORT_PARTS.names()]
    for _, name in sorted(parts):
        tasks = REPORT_PARTS.info(name, "").get("tasks", (result.task,))
        if result.task in tasks and result.predictions is not None:
            REPORT_PARTS.get(name, "")(result, page)
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {"checkpoint": str(checkpoint), "task": result.task, "split": result.split}
    skipped = {"num_skipped": result.num_skipped} if result.num_skipped else {}
    write_json(folder / "metrics.json", {**numbers, "num_samples": result.num_samples, **skipped, **result.scores})
    page.links = ["metrics.json", *page.files]
    for file, (header, rows) in page.files.items():
        write_csv(folder / file, header, rows)
    if result.predictions is not None and result.predictions.outputs.ndim == 2:
        write_csv(folder / "predictions.csv", *prediction_table(result))
        write_outputs(folder / "outputs.npz", result)
        page.links += ["predictions.csv", "outputs.npz"]
    write_page(folder, page)


def write_index(folder: Path, page: Page) -> None:
    """Writes the page of a whole run, which leads to the reports on its splits."""
    reports = {}
    for path in sorted(folder.glob("*/metrics.json")):
        with suppress(OSError, ValueError):
            reports[path.parent.name] = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        (name, f"{numbers['num_samples']:,}", *(f"{numbers[key]:.4f}" for key in _headline(numbers)))
        for name, numbers in reports.items()
    ]
    if reports:
        page.tables["Reports"] = [("split", "images", *_headline(next(iter(reports.values())))), *_padded(rows)]
    page.links = [f"{name}/index.html" for name in reports]
    write_page(folder, page)


def _headline(numbers: Mapping[str, object]) -> list[str]:
    return [name for name, value in numbers.items() if isinstance(value, float)][:3]


def _padded(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    width = max(map(len, rows), default=0)
    return [[*row, *[""] * (width - len(row))] for row in rows]


def write_page(folder: Path, page: Page) -> None:
    """Writes index.html, and the images of the page into images/, in place of those there."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    files = {folder / "images" / f"{image.name}.png": image.data for image in page.images}
    for path, data in files.items():
        with atomic_write(path, "wb") as file:
            file.write(data)
    for old in set((folder / "images").glob("*.png")) - files.keys():
        old.unlink(missing_ok=True)
    with atomic_write(folder / "index.html") as file:
        file.write(render(page))


def kept_images(folder: Path, captions: Mapping[str, str]) -> list[Image]:
    """Returns the images of an earlier page that are still wanted, by name."""
    files = {name: folder / "images" / f"{name}.png" for name in captions}
    return [Image(name, captions[name], file.read_bytes()) for name, file in files.items() if file.is_file()]
