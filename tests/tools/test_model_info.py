"""The description of a network agrees with the network."""

import pytest

from modeling.registry import MODELS


def test_a_network_is_described(tool):
    done = tool("model_info", "resnet18", "--size", "64", "--classes", "7", "--batch", "2")
    count = sum(p.numel() for p in MODELS.get("resnet18", "")(num_classes=7).parameters())
    assert done.code == 0 and f"Total params: {count:,}" in done.out
    assert "[1, 512, 2, 2]" in done.out and "forward and backward: " in done.out


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "mse"])
def test_a_training_step_is_timed_with_any_loss(tool, loss):
    words = ["--size", "32", "--classes", "3", "--batch", "2", "LOSS.NAME", loss]
    assert "forward and backward: " in tool("model_info", "resnet9", *words).out


def test_names_are_listed(tool):
    pytest.importorskip("timm", reason="timm is not installed")
    names = tool("model_info", "--list", "*resnet18").out.split()
    assert {"resnet18", "torchvision/resnet18", "timm/resnet18"} <= set(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "expected a NAME, or --list PATTERN"),
        ("resnet81", "MODEL.NAME 'resnet81': no such model; did you mean 'resnet18'"),
        ("resnet18 --size 0", "--size and --classes are at least 1, --batch at least 2"),
    ],
)
def test_mistakes(tool, words, message):
    assert message in tool("model_info", *words.split()).error()
