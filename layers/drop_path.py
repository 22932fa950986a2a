"""Stochastic depth: G. Huang et al., 2016, arXiv:1603.09382."""

import torch
from torch import nn


class DropPath(nn.Module):
    """In training, a whole sample of a residual branch becomes 0 with probability `p`; the others grow to match."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        keep = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return x * keep / (1 - self.p)
