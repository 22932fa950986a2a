"""Images listed in a CSV file with their labels or numbers."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.image_datasets import FileDataset
from data.registry import DATASETS, MissingSplit
from utils.errors import UserError, did_you_mean, one_line
from utils.labels import nfc
from utils.logger import get_logger


@DATASETS.register("csv")
class CsvTable(FileDataset):
    """Images listed in a CSV file in UTF-8, `file` in `root`, whose first line names its columns.

    `path` is relative to the file's folder, and `suffix` is added to it. `label` is a class, or several separated by |;
    with `multilabel`, or if any row has several, targets are float32 (n, classes), a label may be empty, and rows of
    the same image with different labels are joined. For regression `targets` names columns of numbers instead, and
    targets are float32 (n, columns). The columns `split` (train, val or test, default train) and `weight` (of an image
    in the loss, default 1) are optional; `columns` maps these names to those in the file, and `group` names the column
    of DATASETS.GROUP. `classes` are the training set's: training images of others are ignored. `missing` are the files
    that do not exist. Raises UserError with the line of a mistake.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        classes: Sequence[str] | None = None,
        file: str = "labels.csv",
        targets: str | Sequence[str] = (),
        columns: Mapping[str, str] | None = None,
        suffix: str = "",
        multilabel: bool = False,
        group: str = "",
    ):
        table = root / file
        self.target_names = [targets] if isinstance(targets, str) else list(targets)
        rows = read_table(table, self.target_names, columns or {}, group)
        self.multilabel = multilabel or any(len(row.labels) > 1 for row in rows)
        own = [row._replace(path=row.path + suffix) for row in rows if row.split == split]
        if not own:
            raise MissingSplit(f"{table}: no rows of the {split} split")
        own = _join_repeated(own, table, self.multilabel)
        if classes is not None and split == "train":
            own = _of_classes(own, table, classes)
        files = ((row, os.path.join(table.parent, row.path)) for row in own)
        self.missing = [f"{table}:{row.line}: {path}" for row, path in files if not os.path.isfile(path)]
        if self.target_names:
            values = np.array([row.values for row in own], np.float32)
        else:
            spelling = {nfc(label): label for row in rows if row.split == "train" for label in row.labels}
            self.classes = list(classes or (spelling[key] for key in sorted(spelling)))
            values = _label_targets(own, table, self.classes, self.multilabel)
        super().__init__(table.parent, (row.path for row in own), values)
        weights = [row.weight for row in own]
        self.weights = None if None in weights else np.array(weights, np.float32)
        self.groups = [row.group.strip() or row.path for row in own] if group else None  # a blank is no group


class Row(NamedTuple):
    line: int
    path: str
    labels: list[str]  # none for regression
    values: list[float]  # the numbers of the target columns
    split: str
    weight: float | None
    group: str = ""


def read_table(table: Path, targets: Sequence[str], columns: Mapping[str, str], group: str = "") -> list[Row]:
    """Reads the rows of a table, with labels unless it has target columns. Raises UserError with the line."""
    try:
        content = table.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{table}: cannot read the table: {one_line(error)}; expected CSV in UTF-8") from error
    lines = csv.reader(io.StringIO(content, newline=""), strict=True)
    needed = ["path", *(targets or ["label"])]
    ours = {theirs: name for name, theirs in columns.items()}
    if unknown := columns.keys() - {*needed, "split", "weight"}:
        raise UserError(f"DATASETS.columns {min(unknown)}: no such column; expected {','.join(needed)},split,weight")
    try:
        found = [name.strip() for name in next(lines, ())]
        header = [ours.get(name, "" if name in columns else name) for name in found]
        if missing := [columns.get(name, name) for name in (*needed, *columns) if name not in header]:
            expected = ",".join(columns.get(name, name) for name in needed)
            problem = f"no column '{missing[0]}', found {','.join(found) or 'nothing'}"
            raise ValueError(f"{problem}; expected {expected}, or set DATASETS.columns")
        if group and group not in found:
            raise ValueError(f"no column '{group}', found {','.join(found)}; correct DATASETS.GROUP")
        return [
            _row(header, cells, lines.line_num, targets)._replace(group=cells[found.index(group)] if group else "")
            for cells in lines
            if cells
        ]
    except (csv.Error, ValueError) as error:
        raise UserError(f"{table}:{lines.line_num}: {one_line(error)}") from error


def _row(columns: Sequence[str], texts: Sequence[str], line: int, target_names: Sequence[str]) -> Row:
    """Parses a line of the table. Raises ValueError."""
    if len(texts) != len(columns):
        raise ValueError(f"found {len(texts)} cells, expected {len(columns)}; quote a cell that contains a comma")
    cells = {"split": "train", "weight": "1"} | dict(zip(columns, texts, strict=True))
    text = "" if target_names else cells["label"].strip()
    labels = [label.strip() for label in text.split("|")] if text else []
    if not all(labels):
        raise ValueError(f"found '{text}', with an empty label; name a class, or remove the |")
    split = cells["split"].strip()
    if split not in ("train", "val", "test"):
        raise ValueError(f"split '{split}', expected train, val or test")
    weight = _number("weight", cells["weight"])
    if weight < 0:
        raise ValueError(f"weight {weight}, expected a number from 0 up")
    values = [_number(name, cells[name]) for name in target_names]
    return Row(line, cells["path"], labels, values, split, weight if "weight" in columns else None)


def _number(column: str, text: str) -> float:
    with suppress(ValueError):
        if abs(value := float(text)) <= float(np.finfo(np.float32).max):
            return value
    raise ValueError(f"{column} '{text}', expected a finite number; correct it, or remove the line")


def _join_repeated(rows: list[Row], table: Path, multilabel: bool) -> list[Row]:
    """Returns the rows, those of one image joined if their labels differ, and logs which images are repeated.

    Raises UserError for labels that differ where images have one.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(os.path.normpath(row.path), []).append(row)
    repeated = [same for same in groups.values() if len(same) > 1]
    joined = [same for same in repeated if any(set(row.labels) != set(same[0].labels) for row in same)]
    for first, *others in joined:
        if not multilabel:
            other = next(row for row in others if row.labels != first.labels)
            found = f"{other.path} is '{'|'.join(other.labels)}', in line {first.line} '{'|'.join(first.labels)}'"
            raise UserError(f"{table}:{other.line}: {found}; correct one, or set DATASETS.multilabel true")
        first.labels[:] = dict.fromkeys(label for row in (first, *others) for label in row.labels)
    if repeated:
        example = (joined or repeated)[0]
        where = f"{example[0].path} in lines {', '.join(str(row.line) for row in example[:4])}"
        message = "%s: images in several rows: %d, such as %s; joined, as their labels differ: %d"
        get_logger("data").warning(message, table, len(repeated), where, len(joined))
    dropped = {row.line for _, *others in joined for row in others}
    return [row for row in rows if row.line not in dropped]


def _of_classes(rows: list[Row], table: Path, classes: Sequence[str]) -> list[Row]:
    """Returns the rows without those that have another class, and logs how many those are."""
    known = {*map(nfc, classes)}
    kept = [row for row in rows if known.issuperset(map(nfc, row.labels))]
    if ignored := len(rows) - len(kept):
        get_logger("data").warning("%s: ignored %d images of classes that the network does not have", table, ignored)
    return kept


def _label_targets(rows: Sequence[Row], table: Path, classes: Sequence[str], has_several: bool) -> np.ndarray:
    """Returns class indices int64 (n,), or several labels as float32 (n, classes)."""
    index_of = {nfc(label): i for i, label in enumerate(classes)}
    for row in rows:
        if not row.labels and not has_several:
            raise UserError(f"{table}:{row.line}: the label is empty; name a class, or set DATASETS.multilabel true")
        if unknown := next((label for label in row.labels if nfc(label) not in index_of), None):
            known = did_you_mean(unknown, index_of)
            raise UserError(f"{table}:{row.line}: class '{unknown}' is not in the training set; {known}")
    if not has_several:
        return np.array([index_of[nfc(row.labels[0])] for row in rows], np.int64)
    targets = np.zeros((len(rows), len(classes)), np.float32)
    for target, row in zip(targets, rows, strict=True):
        target[[index_of[nfc(label)] for label in row.labels]] = 1
    return targets
