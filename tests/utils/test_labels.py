"""Targets as class indices and as text."""

import numpy as np
import pytest

from utils.errors import UserError
from utils.labels import class_indices, label_text, target_text

CLASSES = ["cat", "dog", "fox"]


@pytest.mark.parametrize(
    ("target", "indices", "text"),
    [
        (0, [0], "cat"),
        (np.int64(2), [2], "fox"),
        (np.array([1.0, 0.0, 1.0]), [0, 2], "cat|fox"),
        (np.array([-1, 0.2, 0]), [1], "dog"),
        (np.zeros(3), [], ""),
    ],
)
def test_the_classes_of_a_target(target, indices, text):
    assert class_indices(target, 3) == indices
    assert label_text(target, CLASSES) == target_text(target, CLASSES) == text


@pytest.mark.parametrize("target", [3, -1, np.zeros(2), np.zeros((3, 3))])
def test_targets_of_another_shape_or_range_are_refused(target):
    with pytest.raises(UserError, match="expected an index below 3, or 3 numbers"):
        label_text(target, CLASSES)


@pytest.mark.parametrize(
    ("target", "classes", "text"),
    [
        (1.5, [], "1.5"),
        (np.float32([1.5, -2, 1e6]), [], "1.5, -2, 1e+06"),
        (np.zeros((4, 6), np.uint8), CLASSES, "uint8 (4, 6)"),
    ],
)
def test_other_targets_as_text(target, classes, text):
    assert target_text(target, classes) == text
