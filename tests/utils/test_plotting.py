"""Figures of training and of results."""

import warnings

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg

from utils import plotting

PNG = b"\x89PNG"
CLASSES = ["cat", "dog", "图片 of $x$"]


def test_a_figure_is_encoded():
    figure = plotting.learning_curves({"loss": {"train": ([0, 1, 2], [0.1, 0.2, 0.1])}}, 1)
    assert plotting.render(figure).startswith(PNG)


def test_the_style_is_the_same_whoever_draws_and_ends_with_the_figure():
    before = dict(rcParams)
    figure = plotting.confusion_matrix(np.eye(3, dtype=int), CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as a letter that no font has
        FigureCanvasAgg(figure).draw()  # as TensorBoard does
        plotting.render(figure)
    (axes,) = figure.axes
    assert {label.get_fontsize() for label in axes.get_xticklabels()} == {9}
    curve = plotting.learning_curves({"learning rate": {"lr": (range(9), range(9))}}, None)
    FigureCanvasAgg(curve).draw()
    (axes,) = curve.axes
    assert {label.get_fontsize() for label in axes.get_xticklabels()} == {9}
    assert not axes.spines["top"].get_visible()
    assert dict(rcParams) == before


def test_a_confusion_matrix_shows_its_numbers():
    counts = np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])
    (axes,) = plotting.confusion_matrix(counts, CLASSES).axes
    assert np.array_equal(axes.images[0].get_array(), [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]])
    texts = {text.get_position()[::-1]: text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "3", (0, 1): "1", (1, 1): "2"}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", r"图片 of \$x\$"]


def test_values_are_plotted_against_the_truth_on_equal_axes():
    targets, predictions = np.array([0.0, 1.0, 6.0]), np.array([0.5, -3.0, 4.0])
    (axes,) = plotting.scatter(targets, predictions, "price in $").axes
    assert np.array_equal(axes.collections[0].get_offsets(), np.stack([targets, predictions], axis=1))
    low, high = axes.get_xlim()
    assert axes.get_ylim() == (low, high) and low < -3 and high > 6 and axes.get_aspect() == 1
    (diagonal,) = axes.lines
    assert diagonal.get_linestyle() == "--" and diagonal.get_slope() == 1
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("true", "predicted", r"price in \$")


@pytest.mark.parametrize("values", [[], [1.0], [np.nan, 1.0], [np.inf, -np.inf]])
def test_a_scatter_of_any_values_is_drawn(values):
    values = np.array(values)
    assert plotting.render(plotting.scatter(values, values[::-1], "")).startswith(PNG)


def test_a_reliability_diagram_has_a_bar_for_each_bin():
    accuracy = np.array([np.nan, 0.5, 0.75])
    figure = plotting.reliability_diagram(np.array([np.nan, 0.4, 0.8]), accuracy, np.array([0, 2, 4]), 0.0123)
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0, 0.5, 0.75]
    assert [bar.get_height() for bar in lower.patches] == [0, 2, 4]
    assert upper.get_title() == "Reliability diagram (ECE 0.0123)"


def test_limits_of_what_is_drawn():
    names = [f"{i}" for i in range(41)]
    for classes, has_numbers, has_names in ((20, True, True), (21, False, True), (41, False, False)):
        axes = plotting.confusion_matrix(np.ones((classes, classes), int), names[:classes]).axes[0]
        shown = [label.get_text() for label in axes.get_xticklabels()]
        assert bool(axes.texts) == has_numbers and (shown == names[:classes]) == has_names
