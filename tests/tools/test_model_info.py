"""The description of a network agrees with the network."""

import pytest

from modeling.registry import MODELS


def test_a_network_is_described(tool):
    done = tool("model_info", "MODEL.NAME", "resnet18", "INPUT.SIZE", "[64, 64]", "MODEL.NUM_CLASSES", "7")
    count = sum(p.numel() for p in MODELS.get("resnet18", "")(num_classes=7).parameters())
    assert done.code == 0 and f"Total params: {count:,}" in done.out
    assert "[1, 512, 2, 2]" in done.out and "attention included: 0.148 G" in done.out


def test_names_are_listed(tool):
    pytest.importorskip("timm", reason="timm is not installed")
    names = tool("model_info", "--list", "*resnet18").out.split()
    assert {"resnet18", "torchvision/resnet18", "timm/resnet18"} <= set(names)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("resnet18", "unrecognized arguments: resnet18; see model_info.py --help"),
        ("MODEL.NAME resnet81", "MODEL.NAME 'resnet81': no such model; did you mean 'resnet18'"),
        ("INPUT.SIZE [0,8]", "INPUT.SIZE: found [0, 8], expected [height, width]"),
    ],
)
def test_mistakes(tool, words, message):
    assert message in tool("model_info", *words.split()).error()
