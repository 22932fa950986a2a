"""Is the answer right?"""

import torch

from engine.registry import METRICS


@METRICS.register()
def top1(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the most probable class is the target. (N, classes), (N,) or (N, classes) -> (N,)

    Of several labels, or of the probabilities of mixed images, any of the highest will do.
    """
    best = logits.argmax(dim=1)
    return best == targets if targets.ndim == 1 else _hits(best[:, None], targets)


@METRICS.register()
def top5(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether the target is among the five most probable classes; shapes as for top1."""
    return _hits(logits.topk(min(5, logits.shape[1]), dim=1).indices, targets)


def _hits(best: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Whether a target is among the classes `best` (N, k)."""
    if targets.ndim == 1:
        return (best == targets[:, None]).any(dim=1)
    highest = targets.amax(dim=1, keepdim=True)
    return ((targets.gather(1, best) == highest) & (highest > 0)).any(dim=1)
