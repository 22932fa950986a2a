"""Metrics of regression: absolute and squared errors, and the explained share of the variance."""

import math

import numpy as np

from engine.predictions import NumberPredictions
from engine.registry import METRICS

_TASKS = ("regression",)


@METRICS.register(tasks=_TASKS)
def mae(predictions: NumberPredictions) -> float:
    """Mean absolute error, averaged over samples and outputs."""
    return float(np.abs(predictions.errors).mean())


@METRICS.register(tasks=_TASKS)
def rmse(predictions: NumberPredictions) -> float:
    """Root mean squared error of each output, averaged over the outputs."""
    return float(np.sqrt(np.square(predictions.errors).mean(axis=0)).mean())


@METRICS.register(tasks=_TASKS)
def r2(predictions: NumberPredictions) -> float:
    """Coefficient of determination of each output, averaged over the outputs; NaN for fewer than two samples."""
    if len(predictions.indices) < 2:
        return math.nan
    from sklearn.metrics import r2_score

    return float(r2_score(predictions.target_table, predictions.values))
