"""Report on classes: confusion matrix, calibration, precision and recall, and a table of all classes."""

import numpy as np

from engine.inference import SplitResult
from engine.metrics.labels import calibration_bins
from engine.predictions import LabelPredictions, SingleLabel
from engine.registry import REPORT_PARTS
from engine.report.page import Image, Page
from engine.report.tables import class_rows, worst_classes
from utils import plotting

_ROWS = 50  # of the table of classes on the page; per_class.csv has all
_MAX_CLASSES = 1000  # of a confusion matrix, whose cells are smaller than a pixel then
_PAIRS = 20  # most frequently confused pairs


@REPORT_PARTS.register(tasks=("classification",), order=10)
def confusion(result: SplitResult, page: Page) -> None:
    """Adds the confusion matrix of up to 1,000 classes, and the pairs confused most often."""
    assert isinstance(result.predictions, SingleLabel)
    if len(result.names) <= _MAX_CLASSES:
        figure = plotting.confusion_matrix(result.predictions.confusion, result.names)
        page.images.append(Image("Confusion matrix", plotting.render(figure)))
    if pairs := confused_pairs(result.predictions):
        page.tables["Most frequent confusions"] = [("target", "prediction", "images", "share of target"), *pairs]


def confused_pairs(predictions: SingleLabel) -> list[tuple[str, str, str, str]]:
    """Returns (target, prediction, images, share of the target's images) of the most frequent confusions."""
    targets, names = predictions.target_classes, predictions.names
    mistakes = (targets * len(names) + predictions.predicted_classes)[~predictions.correct]
    pairs, counts = np.unique(mistakes, return_counts=True)
    found = []
    for place in np.argsort(-counts, kind="stable")[:_PAIRS].tolist():
        target, prediction = divmod(int(pairs[place]), len(names))
        share = counts[place] / (targets == target).sum()
        found.append((names[target], names[prediction], f"{counts[place]}", f"{share:.1%}"))
    return found


@REPORT_PARTS.register(tasks=("classification",), order=20)
def calibration(result: SplitResult, page: Page) -> None:
    """Adds the reliability diagram."""
    assert isinstance(result.predictions, SingleLabel)
    counts, confidence, accuracy = calibration_bins(result.predictions.correct, result.predictions.confidence)
    figure = plotting.reliability_diagram(confidence, accuracy, counts, result.scores["expected_calibration_error"])
    page.images.append(Image("Reliability diagram: accuracy by confidence", plotting.render(figure)))


@REPORT_PARTS.register(tasks=("classification", "multilabel"), order=30)
def per_class(result: SplitResult, page: Page) -> None:
    """Adds precision-recall curves, the table of classes, and per_class.csv."""
    predictions = result.predictions
    assert isinstance(predictions, LabelPredictions)
    if curves := _precision_recall(predictions):
        figure = plotting.precision_recall(curves, int(np.isfinite(predictions.average_precisions).sum()))
        page.images.append(Image("Precision-recall curves", plotting.render(figure)))
    columns = predictions.per_class
    worst = worst_classes(predictions, _ROWS)
    is_all = len(worst) == len(result.names)
    title = "Classes" if is_all else f"The {len(worst)} classes with the lowest F1, of {len(result.names)}"
    rows = class_rows(result.names, columns, 4)
    page.tables[title] = [("class", *columns), *(rows[label] for label in worst)]
    page.files["per_class.csv"] = [("class", *columns), *class_rows(result.names, columns, 6)]


def _precision_recall(predictions: LabelPredictions) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Returns (recalls, precisions, average precision) of the classes that are ranked worst, by name."""
    from sklearn.metrics import precision_recall_curve

    averages, curves = predictions.average_precisions, {}
    for label in np.argsort(averages)[: plotting.MAX_CURVES].tolist():
        if np.isfinite(averages[label]):
            precision, recall, _ = precision_recall_curve(*predictions.scores_of(label))
            curves[predictions.names[label]] = recall, precision, float(averages[label])
    return curves
