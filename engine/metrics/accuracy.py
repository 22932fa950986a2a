"""Is the answer right?"""

import torch

from engine.registry import METRICS


@METRICS.register()
def top1(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where the most probable class is the target, else 0. (N, classes), (N,) or (N, classes) -> (N,)

    Of several labels, or of the probabilities of mixed images, any of the highest will do.
    """
    return _hits(logits, targets, 1)


@METRICS.register()
def top5(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """1 where the target is among the five most probable classes, else 0; shapes as for top1."""
    return _hits(logits, targets, 5)


def _hits(logits: torch.Tensor, targets: torch.Tensor, k: int) -> torch.Tensor:
    best = (
        logits.topk(min(k, logits.shape[1]), dim=1).indices if k > 1 else logits.argmax(dim=1, keepdim=True)
    )  # (N, k)
    if targets.ndim == 1:
        return (best == targets[:, None]).any(dim=1).float()
    highest = targets.amax(dim=1, keepdim=True)
    return ((targets.gather(1, best) == highest) & (highest > 0)).any(dim=1).float()
