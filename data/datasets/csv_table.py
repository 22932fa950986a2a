"""A table of images and their labels."""

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.labelled_images import ImagePaths
from data.path_table import PathTable
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line


@DATASETS.register("csv")
class CsvTable(ImagePaths):
    """Images listed in a CSV file in UTF-8, `file` in `root`, whose first line names its columns.

    `path` is relative to the file's folder. `label` is a class, or several with | between them; one
    row with several makes them targets (N, classes). `split`, train, val or test, may be left out
    where all is for training, and `weight`, of an image in the loss, where it is 1. `classes` are
    the training set's. Raises UserError with the line for what is wrong in it.
    """

    def __init__(self, root: Path, split: str, classes: Sequence[str] | None = None, file: str = "labels.csv"):
        table = root / file
        rows = read_table(table)
        own = [row for row in rows if row.split == split]
        if not own:
            raise MissingSplit(f"{table}: no rows of the {split} split")
        self.classes = list(classes or sorted({c for row in rows if row.split == "train" for c in row.labels}))
        self.root = table.parent
        self.paths = PathTable(row.path for row in own)
        index_of = {label: i for i, label in enumerate(self.classes)}
        indices = [_indices(row, table, index_of) for row in own]
        if any(len(row.labels) > 1 for row in rows):
            self.targets = np.zeros((len(own), len(index_of)), np.float32)
            for target, present in zip(self.targets, indices, strict=True):
                target[present] = 1
        else:
            self.targets = np.array(indices)[:, 0]
        weights = [row.weight for row in own]
        self.weights = None if None in weights else np.array(weights, np.float32)


class Row(NamedTuple):
    line: int
    path: str
    labels: list[str]
    split: str
    weight: float | None


def read_table(table: Path) -> list[Row]:
    """The rows of a table. Raises UserError with the line for one that is not as it should be."""
    try:
        text = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot read the table: {one_line(error)}; expected CSV in UTF-8") from error
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        columns = [name.strip() for name in next(lines, ())]
        if missing := [name for name in ("path", "label") if name not in columns]:
            raise ValueError(f"no column '{missing[0]}', found {','.join(columns) or 'nothing'}; expected path,label")
        return [_row(columns, cells, lines.line_num) for cells in lines if cells]
    except (csv.Error, ValueError) as error:
        raise UserError(f"{table}:{lines.line_num}: {one_line(error)}") from error


def _row(columns: Sequence[str], texts: Sequence[str], line: int) -> Row:
    """A line of the table. Raises ValueError for what is wrong in it."""
    if len(texts) != len(columns):
        expected = ",".join(columns)
        raise ValueError(f"found {len(texts)} cells, expected {expected}; put a text that has a comma in quotes")
    cells = {"split": "train", "weight": "1"} | dict(zip(columns, texts, strict=True))
    labels = [label.strip() for label in cells["label"].split("|")]
    if not all(labels):
        raise ValueError("the label is empty; name a class, or remove the line")
    split = cells["split"].strip()
    if split not in ("train", "val", "test"):
        raise ValueError(f"split '{split}', expected train, val or test")
    weight = float(cells["weight"])
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight {weight}, expected a number from 0 up")
    return Row(line, cells["path"], labels, split, weight if "weight" in columns else None)


def _indices(row: Row, table: Path, index_of: Mapping[str, int]) -> list[int]:
    """The classes of a row. Raises UserError for one that is unknown, and for an image that is not there."""
    for label in row.labels:
        if label not in index_of:
            known = did_you_mean(label, index_of)
            raise UserError(f"{table}:{row.line}: class '{label}' is not in the training set; {known}")
    image = os.path.join(os.path.dirname(table), row.path)
    if not os.path.isfile(image):
        raise UserError(f"{table}:{row.line}: no such file: {image}; correct the path, or remove the line")
    return [index_of[label] for label in row.labels]
