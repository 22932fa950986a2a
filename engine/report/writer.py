"""Writes the folder of a report: a page, and its numbers as files."""

from collections.abc import Mapping
from pathlib import Path

from engine.inference import SplitResult
from engine.registry import REPORT_PARTS
from engine.report.page import Page, render
from engine.report.tables import prediction_table, to_json, write_outputs
from engine.tasks.base import task_family
from utils.atomic_file import write_csv, write_file


def write_split_report(
    folder: Path, title: str, result: SplitResult, checkpoint: Path, facts: Mapping[str, str]
) -> None:
    """Writes index.html, metrics.json and, if predictions are kept, predictions.csv and outputs.npz."""
    page = Page(title, f"{result.num_samples:,} images of the {result.split} split", facts=dict(facts))
    page.subtitle += f"; {result.num_skipped:,} could not be read" if result.num_skipped else ""
    page.headline = {name.replace("_", " "): f"{value:.4f}" for name, value in result.scores.items()}
    family = task_family(result.task)
    parts = {name: REPORT_PARTS.info(name, "") for name in REPORT_PARTS.names()}
    for name, info in sorted(parts.items(), key=lambda part: part[1].get("order", 100)):
        if result.predictions is not None and family.intersection(info.get("tasks", (result.task,))):
            REPORT_PARTS.get(name, "")(result, page)
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, object] = {"checkpoint": str(checkpoint), "task": result.task, "split": result.split}
    skipped = {"num_skipped": result.num_skipped} if result.num_skipped else {}
    numbers = {**numbers, "num_samples": result.num_samples, **skipped, **result.scores}
    write_file(folder / "metrics.json", to_json(numbers, indent=2) + "\n")
    page.links = ["metrics.json", *page.files]
    for file, rows in page.files.items():
        write_csv(folder / file, rows)
    if result.predictions is not None and result.predictions.outputs.ndim == 2:
        write_csv(folder / "predictions.csv", prediction_table(result))
        write_outputs(folder / "outputs.npz", result)
        page.links += ["predictions.csv", "outputs.npz"]
    write_file(folder / "index.html", render(page))


def write_index(folder: Path, page: Page) -> None:
    """Writes the page of a whole run, which leads to the reports on its splits."""
    page.links = [f"{path.parent.name}/index.html" for path in sorted(folder.glob("*/index.html"))]
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / "index.html", render(page))
