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
    found = criterion(logits, SimpleNamespace(targets=targets, weights=None))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(-(wanted * log_p).sum(1).mean(), rel=1e-5)


def test_mistakes_in_the_loss():
    with pytest.raises(UserError, match=r"LOSS: CrossEntropy: label_smoothing: found 2"):
        build_criterion(load_config(None, ["LOSS.label_smoothing", "2"]))
    with pytest.raises(UserError, match="LOSS.NAME 'crossentropy': no such loss; did you mean 'cross_entropy'"):
        build_criterion(load_config(None, ["LOSS.NAME", "crossentropy"]))


def bce(logits, targets, weights=None):
    criterion = build_criterion(load_config(None, ["LOSS.NAME", "bce"]))
    return criterion(logits, SimpleNamespace(targets=targets, weights=weights)).item()


def test_binary_cross_entropy_leaves_out_what_does_not_count():
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(9, 5, generator=generator)
    targets = torch.randint(-1, 2, (9, 5), generator=generator).float()
    targets[0] = -1  # nothing of it counts
    z, t = logits.double().numpy(), targets.double().numpy()
    losses = np.logaddexp(0, z) - t * z
    wanted = [losses[i][t[i] >= 0].mean() if (t[i] >= 0).any() else 0.0 for i in range(9)]
    assert bce(logits, targets) == pytest.approx(np.mean(wanted), rel=1e-5)
    weights = torch.rand(9, generator=generator)
    assert bce(logits, targets, weights) == pytest.approx((np.array(wanted) * weights.numpy()).mean(), rel=1e-5)
    assert bce(logits.bfloat16(), targets) == pytest.approx(np.mean(wanted), rel=2e-2)
    classes = torch.tensor([0, 4, 1, 2, 3, 0, 0, 1, 4])
    assert bce(logits, classes) == pytest.approx(bce(logits, torch.eye(5)[classes]))


def test_cross_entropy_with_weights_and_probabilities():
    generator = torch.Generator().manual_seed(0)
    logits, weights = torch.randn(6, 4, generator=generator), torch.rand(6, generator=generator)
    targets = torch.rand(6, 4, generator=generator).softmax(1)
    criterion = build_criterion(load_config(None, ["LOSS.label_smoothing", "0.2"]))
    found = criterion(logits, SimpleNamespace(targets=targets, weights=weights)).item()
    soft = 0.8 * targets.double() + 0.2 / 4
    losses = -(soft * logits.double().log_softmax(1)).sum(1)
    assert found == pytest.approx((losses * weights.double()).mean().item(), rel=1e-5)
