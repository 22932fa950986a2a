"""Scatter plots of regression: predicted against true values."""

from engine.inference import SplitResult
from engine.predictions import NumberPredictions
from engine.registry import REPORT_PARTS
from engine.report.page import Image, Page
from utils import plotting

_MAX_OUTPUTS = 12


@REPORT_PARTS.register(tasks=("regression",), order=10)
def scatter(result: SplitResult, page: Page) -> None:
    """Adds a scatter plot of each output, and its errors as a table."""
    predictions = result.predictions
    assert isinstance(predictions, NumberPredictions)
    scores = [column(predictions) for column in predictions.columns.values()]
    rows = []
    for i, name in enumerate(result.names):
        true, predicted = predictions.target_table[:, i], predictions.values[:, i]
        numbers = (*(score[i] for score in scores), true.mean(), true.std())
        rows.append([name, *(f"{number:.4g}" for number in numbers)])
        if i < _MAX_OUTPUTS:
            figure = plotting.scatter(true, predicted, name)
            page.images.append(Image(f"{name}: predicted against true", plotting.render(figure)))
    page.tables["Outputs"] = [("output", *predictions.columns, "mean", "standard deviation"), *rows]
