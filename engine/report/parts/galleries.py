"""Galleries: the samples that a network got most wrong, and those it was least certain of."""

from collections.abc import Callable

import cv2
import numpy as np

from engine.inference import SplitResult
from engine.predictions import LabelPredictions, NumberPredictions
from engine.registry import REPORT_PARTS
from engine.report.page import Image, Page
from utils.drawing import encode_png
from utils.errors import printable

_IMAGES = 24  # of a gallery
_SMALL, _THUMBNAIL = 64, 160  # pixels: shown as they are up to, and larger images reduced to


@REPORT_PARTS.register(tasks=("classification", "multilabel"), order=40)
def galleries(result: SplitResult, page: Page) -> None:
    """Adds the most confident mistakes and the least confident correct predictions."""
    predictions = result.predictions
    assert isinstance(predictions, LabelPredictions)
    correct, confidence = predictions.correct, predictions.confidence
    falling, rising = (np.argsort(values, kind="stable") for values in (-confidence, confidence))

    def caption(i: int) -> str:
        target, predicted = predictions.target_text(i) or "none", predictions.predicted_text(i) or "none"
        return f"{target if correct[i] else f'{target}, predicted {predicted}'}: {confidence[i]:.3f}"

    _add(page, "Most confident mistakes", result, falling[~correct[falling]], caption)
    _add(page, "Least confident correct predictions", result, rising[correct[rising]], caption)


@REPORT_PARTS.register(tasks=("regression",), order=40)
def largest_errors(result: SplitResult, page: Page) -> None:
    """Adds the samples with the largest errors, each output divided by the standard deviation of its targets."""
    predictions = result.predictions
    assert isinstance(predictions, NumberPredictions)
    scale = predictions.target_table.std(axis=0)
    errors = np.abs(predictions.errors) / np.where(scale > 0, scale, 1)
    caption = lambda i: f"{predictions.target_text(i)}, predicted {predictions.predicted_text(i)}"  # noqa: E731
    _add(page, "Largest errors", result, np.argsort(-errors.max(axis=1), kind="stable"), caption)


def _add(page: Page, title: str, result: SplitResult, rows: np.ndarray, caption: Callable[[int], str]) -> None:
    assert result.predictions is not None
    for i in rows[:_IMAGES].tolist():
        index = int(result.predictions.indices[i])
        image = Image(caption(i), thumbnail(result.read_image(index)), printable(result.dataset.name(index)))
        page.galleries.setdefault(title, []).append(image)


def thumbnail(image: np.ndarray) -> bytes:
    """Returns a small image uint8 (H, W, 1 or 3), RGB, as PNG without loss; a larger one reduced, as JPEG."""
    image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.shape[2] == 3 else image
    if max(image.shape[:2]) <= _SMALL:
        return encode_png(image)
    scale = min(_THUMBNAIL / max(image.shape[:2]), 1)
    size = [max(round(length * scale), 1) for length in (image.shape[1], image.shape[0])]
    return cv2.imencode(".jpg", cv2.resize(image, size, interpolation=cv2.INTER_AREA))[1].tobytes()
