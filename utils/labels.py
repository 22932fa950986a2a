"""The classes of a sample, and how they are said."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils.errors import UserError


def class_indices(target: Any, num_classes: int) -> list[int]:
    """The classes of a target: its index, or the places above 0 of a vector of several labels.

    Raises UserError for a target that does not fit the number of classes.
    """
    target = np.asarray(target)
    if target.ndim == 0 and 0 <= target < num_classes:
        return [int(target)]
    if target.shape == (num_classes,):
        return np.flatnonzero(target > 0).tolist()
    raise UserError(f"found the target {target}, expected an index below {num_classes}, or {num_classes} numbers")


def label_text(target: Any, classes: Sequence[str]) -> str:
    """A target in words: its class, or the classes that are present."""
    return "|".join(classes[label] for label in class_indices(target, len(classes)))
