"""The folder of a report: index.html, pictures/, and its numbers as files."""

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.report.page import Page, render
from engine.report.pictures import Picture, galleries, result_pictures, worst_pairs
from engine.report.tables import class_rows, prediction_rows, worst_classes, write_metrics
from engine.scores import Predictions, Scores
from utils.atomic_file import atomic_write, write_csv
from utils.run_folder import RunFolder

_ROWS = 50  # of the table of classes on the page; per_class.csv has all
_ENVIRONMENT = ("command", "python", "platform", "machine", "device")  # nobody's name is on a page that is shared


class Results(NamedTuple):
    """What a test of a split gave. `metrics` are those of metrics.json; `dataset` has `classes` and `name(i)`.

    `read(i)` gives a sample as people see it: uint8 (H, W, 1 or 3), RGB.
    """

    metrics: dict[str, Any]
    predictions: Predictions
    scores: Scores
    dataset: Any
    read: Callable[[int], np.ndarray]


def write_report(
    folder: Path,
    title: str,
    results: Results | None,
    pictures: Sequence[Picture],
    facts: Mapping[str, str],
    config: str,
) -> None:
    """Write everything there is to look at.

    `pictures` are those of the training and its data; without `results` there are no others.
    """
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    page = Page(title, "", pictures=pictures, facts=facts, config=config)
    if results is not None:
        _add_results(page, results)
        _write_tables(folder, results)
        page.links = ["metrics.json", "per_class.csv", "predictions.csv"]
    files = {folder / "pictures" / f"{picture.name}.png": picture.data for picture in page.pictures}
    for path, data in files.items():
        with atomic_write(path, "wb") as file:
            file.write(data)
    for old in set((folder / "pictures").glob("*.png")) - files.keys():
        old.unlink(missing_ok=True)
    with atomic_write(folder / "index.html") as file:
        file.write(render(page))


def _add_results(page: Page, results: Results) -> None:
    classes, scores = results.dataset.classes, results.scores
    left_out = results.metrics.get("left_out")
    page.subtitle = f"{results.metrics['count']:,} images of the {results.metrics['split']} split"
    page.subtitle += f", without {left_out:,} that cannot be read" if left_out else ""
    page.headline = {
        name.replace("_", " "): f"{value:.4f}" for name, value in results.metrics.items() if isinstance(value, float)
    }
    page.pictures = [*result_pictures(results.predictions, scores, classes), *page.pictures]
    if scores.confusion is not None and (pairs := worst_pairs(scores.confusion, classes)):
        page.tables["The most frequent mistakes"] = [("target", "taken for", "images", "of the class"), *pairs]
    worst = worst_classes(scores, _ROWS)
    shown = (
        "Classes" if len(worst) == len(classes) else f"The {len(worst)} classes with the least F1, of {len(classes)}"
    )
    rows = class_rows(classes, scores.per_class, 4, worst)
    page.tables[shown] = [("class", *scores.per_class), *rows]
    page.galleries = galleries(results.predictions, classes, results.dataset.name, results.read)


def _write_tables(folder: Path, results: Results) -> None:
    classes, columns = results.dataset.classes, results.scores.per_class
    write_csv(folder / "per_class.csv", ("class", *columns), class_rows(classes, columns, 6))
    rows = prediction_rows(results.predictions, classes, results.dataset.name)
    write_csv(folder / "predictions.csv", ("file", "target", "prediction", "probability", "top_k"), rows)
    write_metrics(folder / "metrics.json", results.metrics)


def facts_of(run: RunFolder | None, history: Sequence[dict[str, Any]]) -> dict[str, str]:
    """What is known of a run: its command, machine and packages, its commit, how long it was trained."""
    facts = {"reported": f"{time.strftime('%Y-%m-%d %H:%M:%S')} by {shlex.join(['python', *sys.argv])}"}
    if run is None:
        return facts
    if run.environment.is_file():
        head = run.environment.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        known = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        facts |= {name: known[name] for name in _ENVIRONMENT if name in known}
    commit, changes = run.code / "commit.txt", run.code / "dirty.diff"
    if commit.is_file():
        changed = changes.is_file() and changes.stat().st_size
        facts["commit"] = commit.read_text(errors="replace").strip() + (
            ", with the changes in code/dirty.diff" if changed else ""
        )
    if history:
        last = history[-1]
        duration = f" in {timedelta(seconds=round(last['seconds']))}" if "seconds" in last else ""
        facts["trained"] = f"{last['epoch']:g} epochs, {last['step']:,} steps{duration}"
    return facts
