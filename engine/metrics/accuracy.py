"""Is the answer right?"""

import torch

from engine.registry import METRICS


@METRICS.register()
def top1(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where the most probable class is the target, else 0. (N, classes), (N,) -> (N,)"""
    return (logits.argmax(dim=1) == targets).float()


@METRICS.register()
def top5(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where the target is among the five most probable classes. (N, classes), (N,) -> (N,)"""
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices  # (N, 5)
    return (best == targets[:, None]).any(dim=1).float()
