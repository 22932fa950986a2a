"""Images listed in a CSV file with their labels or numbers."""

import csv
import io
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image_datasets import FileDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line
from utils.labels import nfc


@DATASETS.register("csv")
class CsvTable(FileDataset):
    """Images listed in a CSV file in UTF-8, `file` in `root`, whose first line names its columns.

    `path` is relative to the file's folder. `label` is a class, or several separated by |; if any row has several,
    targets are float32 (n, classes). For regression `targets` names columns of numbers instead, and targets are
    float32 (n, columns). The columns `split` (train, val or test, default train) and `weight` (of an image in the
    loss, default 1) are optional. `classes` are the training set's. Raises UserError with the line of a mistake.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        classes: Sequence[str] | None = None,
        file: str = "labels.csv",
        targets: str | Sequence[str] = (),
    ):
        table = root / file
        self.target_names = [targets] if isinstance(targets, str) else list(targets)
        rows = read_table(table, self.target_names)
        own = [row for row in rows if row.split == split]
        if not own:
            raise MissingSplit(f"{table}: no rows of the {split} split")
        for row in own:
            if not os.path.isfile(image := os.path.join(table.parent, row.path)):
                raise UserError(f"{table}:{row.line}: no such file: {image}; correct the path, or remove the line")
        if self.target_names:
            values = np.array([row.values for row in own], np.float32)
        else:
            spelling = {nfc(label): label for row in rows if row.split == "train" for label in row.labels}
            self.classes = list(classes or (spelling[key] for key in sorted(spelling)))
            values = _label_targets(own, table, self.classes, any(len(row.labels) > 1 for row in rows))
        super().__init__(table.parent, (row.path for row in own), values)
        weights = [row.weight for row in own]
        self.weights = None if None in weights else np.array(weights, np.float32)


class Row(NamedTuple):
    line: int
    path: str
    labels: list[str]  # empty for regression
    values: list[float]  # the numbers of the target columns
    split: str
    weight: float | None


def read_table(table: Path, target_names: Sequence[str] = ()) -> list[Row]:
    """Reads the rows of a table, with labels unless it has target columns. Raises UserError with the line."""
    try:
        content = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot read the table: {one_line(error)}; expected CSV in UTF-8") from error
    lines = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(lines, ())]
        needed = ["path", *(target_names or ["label"])]
        if missing := [name for name in needed if name not in columns]:
            found = ",".join(columns) or "nothing"
            raise ValueError(f"no column '{missing[0]}', found {found}; expected {','.join(needed)}")
        return [_row(columns, cells, lines.line_num, target_names) for cells in lines if cells]
    except (csv.Error, ValueError) as error:
        raise UserError(f"{table}:{lines.line_num}: {one_line(error)}") from error


def _row(columns: Sequence[str], texts: Sequence[str], line: int, target_names: Sequence[str]) -> Row:
    """Parses a line of the table. Raises ValueError."""
    if len(texts) != len(columns):
        expected = ",".join(columns)
        raise ValueError(f"found {len(texts)} cells, expected {expected}; quote a cell that contains a comma")
    cells = {"split": "train", "weight": "1"} | dict(zip(columns, texts, strict=True))
    labels = [] if target_names else [label.strip() for label in cells["label"].split("|")]
    if not all(labels):
        raise ValueError("the label is empty; name a class, or remove the line")
    split = cells["split"].strip()
    if split not in ("train", "val", "test"):
        raise ValueError(f"split '{split}', expected train, val or test")
    weight = float(cells["weight"])
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight {weight}, expected a number from 0 up")
    values = [_number(name, cells[name]) for name in target_names]
    return Row(line, cells["path"], labels, values, split, weight if "weight" in columns else None)


def _number(column: str, text: str) -> float:
    with suppress(ValueError):
        if abs(value := float(text)) <= float(np.finfo(np.float32).max):
            return value
    raise ValueError(f"{column} '{text}', expected a finite number; correct it, or remove the line")


def _label_targets(rows: Sequence[Row], table: Path, classes: Sequence[str], has_several: bool) -> np.ndarray:
    """Returns class indices int64 (n,), or several labels as float32 (n, classes)."""
    index_of = {nfc(label): i for i, label in enumerate(classes)}
    for row in rows:
        if unknown := next((label for label in row.labels if nfc(label) not in index_of), None):
            known = did_you_mean(unknown, index_of)
            raise UserError(f"{table}:{row.line}: class '{unknown}' is not in the training set; {known}")
    if not has_several:
        return np.array([index_of[nfc(row.labels[0])] for row in rows], np.int64)
    targets = np.zeros((len(rows), len(classes)), np.float32)
    for target, row in zip(targets, rows, strict=True):
        target[[index_of[nfc(label)] for label in row.labels]] = 1
    return targets
