"""Losses against the formula in float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from config import load_config
from modeling.build import build_criterion
from utils.errors import UserError


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy(smoothing, dtype):
    logits = (30 * torch.randn(16, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    targets = torch.arange(16) % 7
    z = logits.double().numpy()
    log_p = z - z.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    wanted = (1 - smoothing) * np.eye(7)[targets] + smoothing / 7
    criterion = build_criterion(load_config(None, ["LOSS.label_smoothing", str(smoothing)]))
    found = criterion(logits, SimpleNamespace(targets=targets))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-(wanted * log_p).sum(1).mean(), rel=1e-5)


def test_mistakes_in_the_loss():
    with pytest.raises(UserError, match=r"LOSS: CrossEntropy: label_smoothing: found 2"):
        build_criterion(load_config(None, ["LOSS.label_smoothing", "2"]))
    with pytest.raises(UserError, match="LOSS.NAME 'crossentropy': no such loss; did you mean 'cross_entropy'"):
        build_criterion(load_config(None, ["LOSS.NAME", "crossentropy"]))
