"""Metrics of regression: absolute and squared errors, and the explained share of the variance."""

import math

import numpy as np

from engine.predictions import Predictions
from engine.registry import METRICS

_TASKS = ("regression",)


def _errors(predictions: Predictions) -> np.ndarray:
    """float64 (N, outputs)"""
    return predictions.values - predictions.target_table


@METRICS.register(tasks=_TASKS)
def mae(predictions: Predictions) -> float:
    """Mean absolute error, averaged over samples and outputs."""
    return float(np.abs(_errors(predictions)).mean())


@METRICS.register(tasks=_TASKS)
def rmse(predictions: Predictions) -> float:
    """Root mean squared error of each output, averaged over the outputs."""
    return float(np.sqrt(np.square(_errors(predictions)).mean(axis=0)).mean())


@METRICS.register(tasks=_TASKS)
def r2(predictions: Predictions) -> float:
    """Coefficient of determination of each output, averaged over the outputs; NaN for fewer than two samples."""
    if len(predictions.indices) < 2:
        return math.nan
    from sklearn.metrics import r2_score

    return float(r2_score(predictions.target_table, predictions.values))
