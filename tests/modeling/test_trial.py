"""What a forward pass before the training finds."""

import pytest
import torch
from torch import nn

from layers.normalize import Normalize
from modeling.trial import try_network
from utils.errors import UserError
from utils.input_spec import InputSpec


def attempt(model: nn.Module, size: tuple[int, int] = (8, 8), name: str = "mine") -> str:
    spec = InputSpec(size, 1, (0.5,), (0.5,))
    return try_network(model, Normalize(spec.mean, spec.std, 1), spec, 3, name)


def network(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_what_bf16_does_on_a_cpu():
    plain, depthwise = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
    assert attempt(network(plain)) == "right"
    assert attempt(network(plain, depthwise)) == "slow"
    halving = nn.Conv2d(4, 4, 3, stride=2, padding=1)
    assert attempt(network(plain, halving), (8, 2)) == "right"
    assert attempt(network(plain, halving), (8, 1)) == "wrong"
    assert attempt(network(plain, halving, halving), (8, 2)) == "wrong"  # narrow only by then


def test_that_it_is_wrong():
    """Should torch be mended, this tells: then the rule can go."""
    if not torch.cpu.get_capabilities().get("avx512_bf16", False):
        pytest.skip("seen on processors with avx512_bf16")
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(6):
        conv = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
        x = torch.randn(16, 64, 4, 1).to(memory_format=torch.channels_last)
        gradients = []
        for enabled in (True, False):
            conv.weight.grad = None
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                conv(x).float().sum().backward()
            gradients.append(conv.weight.grad)
        error = (gradients[0] - gradients[1]).abs().max().nan_to_num(1e9, 1e9)
        worst = max(worst, (error / gradients[1].abs().max()).item())
    if worst < 0.1:
        pytest.skip(f"this torch, {torch.__version__}, computes it well")


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([nn.Flatten(), nn.Linear(64, 2)], r"\[2, 2\] for two images and 3 classes, expected \[2, 3\]"),
        ([nn.Conv2d(1, 3, 8)], r"\[2, 3, 1, 1\]"),
        ([nn.Flatten(), nn.LSTM(64, 3)], "tuple"),
    ],
)
def test_what_is_no_logits(layers, found):
    with pytest.raises(UserError, match=f"MODEL.NAME mine: gave {found}"):
        attempt(nn.Sequential(*layers))


def test_errors_of_libraries_are_a_line_and_of_ones_own_a_traceback():
    model = nn.Sequential(nn.Conv2d(1, 4, 9), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(UserError, match=r"MODEL.NAME timm/x cannot take images of INPUT.SIZE \[8, 8\]: .*size"):
        attempt(model, name="timm/x")
    with pytest.raises(RuntimeError):
        attempt(model)


def test_it_leaves_no_trace():
    model = network(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    attempt(model)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
