"""How well the images of a class are ranked before all others."""

import numpy as np
import torch

from engine.registry import METRICS


@METRICS.register(whole_set=True)
def mean_average_precision(logits: torch.Tensor, targets: torch.Tensor) -> float:
    """Average precision of each class, averaged over the classes that occur. (N, classes), (N, classes) or (N,)

    Targets below 0, such as Pascal VOC's difficult objects, do not count. Counted by scikit-learn.
    """
    from sklearn.metrics import average_precision_score

    scores, labels = logits.numpy(), targets.numpy()
    if labels.ndim == 1:
        labels = np.eye(scores.shape[1])[labels]
    precisions = [
        average_precision_score(label[label >= 0], score[label >= 0])
        for label, score in zip(labels.T, scores.T, strict=True)
        if (label > 0).any()
    ]
    return float(np.mean(precisions)) if precisions else 0.0
