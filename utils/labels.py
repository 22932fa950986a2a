"""Targets as class indices and as text."""

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from utils.errors import UserError


def nfc(name: str) -> str:
    """Returns the form in which names of classes are compared: systems and programs compose letters differently."""
    return unicodedata.normalize("NFC", name)


def class_indices(target: ArrayLike, num_classes: int) -> list[int]:
    """Returns the classes of a target: an index (), or a vector (num_classes,), positive where one is present.

    Raises UserError for any other shape, and for an index out of range.
    """
    values = np.asarray(target)
    if values.ndim == 0 and 0 <= values < num_classes:
        return [int(values)]
    if values.shape == (num_classes,):
        return np.flatnonzero(values > 0).tolist()
    raise UserError(f"found the target {values}, expected an index below {num_classes}, or {num_classes} numbers")


def label_text(target: ArrayLike, classes: Sequence[str]) -> str:
    """Returns the names of a target's classes, joined by `|`. Raises UserError as `class_indices`."""
    return "|".join(classes[label] for label in class_indices(target, len(classes)))


def target_text(target: ArrayLike, classes: Sequence[str]) -> str:
    """Returns any target as text: its classes if it has some, the numbers of a vector, the shape of a mask."""
    values = np.asarray(target)
    if values.ndim > 1:
        return f"{values.dtype} {values.shape}"
    return label_text(target, classes) if classes else ", ".join(f"{value:g}" for value in values.ravel())
