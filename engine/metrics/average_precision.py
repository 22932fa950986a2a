"""How well the images of a class are ranked before all others."""

import math

import numpy as np
import torch

from engine.registry import METRICS
from engine.scores import average_precisions


@METRICS.register(whole_set=True)
def mean_average_precision(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Average precision of each class, averaged over the classes that occur. (N, classes), (N, classes) or (N,)

    Targets below 0, such as Pascal VOC's difficult objects, do not count. Counted by scikit-learn. NaN
    for logits that are not finite.
    """
    if not logits.isfinite().all():
        return math.nan
    scores = logits.double()
    if targets.ndim == 1:
        scores, targets = scores.softmax(dim=1), torch.nn.functional.one_hot(targets, logits.shape[1])
    precisions = average_precisions(targets.numpy(), scores.numpy())
    return float(np.nanmean(precisions)) if np.isfinite(precisions).any() else 0.0
