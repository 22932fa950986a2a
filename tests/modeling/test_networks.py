"""Our networks against torchvision's, and what every network is fed."""

import pytest
import torch
import torchvision
from torchvision.transforms import v2

from config import load_config
from layers.normalize import Normalize
from modeling.build import build_model, build_normalize, input_spec
from modeling.registry import MODELS
from modeling.resnet import _VARIANTS
from utils.errors import UserError


@pytest.mark.parametrize("name", _VARIANTS)
def test_resnet_has_torchvisions_parameters(name):
    with torch.device("meta"):
        ours = MODELS.get(name, "")(num_classes=7).state_dict()
        theirs = torchvision.models.get_model(name, num_classes=7).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
@pytest.mark.parametrize("training", [False, True])
def test_resnet_has_torchvisions_outputs(name, training):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=7)
    ours = MODELS.get(name, "")(num_classes=7)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 48)
    for model in (ours, theirs):
        model.train(training)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


def test_zero_init_residual_makes_blocks_the_identity():
    block = MODELS.get("resnet50", "")(num_classes=2, zero_init_residual=True).layer1[1].eval()
    x = torch.rand(1, 256, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("channels", "size"), [(1, (8, 8)), (3, (33, 50))])
def test_resnet9_trains_on_any_size_from_8(channels, size):
    model = MODELS.get("resnet9", "")(num_classes=5, in_channels=channels)
    logits = model(torch.randn(4, channels, *size))
    assert logits.shape == (4, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("channels", "out"), [(1, 1), (3, 3), (1, 3)])
def test_normalize_equals_torchvisions(channels, out):
    images = torch.randint(0, 256, (4, channels, 5, 6), dtype=torch.uint8)
    mean, std = [0.2, 0.4, 0.6][:channels], [0.1, 0.2, 0.3][:channels]
    expected = v2.functional.normalize(images.float() / 255, mean, std).expand(-1, out, -1, -1)
    found = Normalize(mean, std, out)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


NATIVE = {"size": (28, 28), "channels": 1, "mean": (0.3,), "std": (0.4,)}


def spec_of(*overrides: str, native=NATIVE):
    return input_spec(load_config(None, list(overrides)), native)


def test_the_input_is_the_first_there_is_of_key_data_set_and_network():
    assert spec_of("INPUT.SIZE", "[40, 50]").size == (40, 50)
    assert spec_of("MODEL.NAME", "resnet18").size == (28, 28)
    assert spec_of("MODEL.NAME", "resnet18", native={}).size == (224, 224)
    assert spec_of("MODEL.NAME", "torchvision/inception_v3", native={}).size == (299, 299)
    assert spec_of().mean == (0.3,) and spec_of("INPUT.CHANNELS", "3").mean == pytest.approx((0.3, 0.3, 0.3))
    assert spec_of(native={}).mean == (0.485, 0.456, 0.406)
    assert spec_of("INPUT.CHANNELS", "1", native={}).std == pytest.approx((0.226,))
    with pytest.raises(UserError, match=r"INPUT.SIZE: found \[4, 9\], resnet9 takes at least \[8, 8\]"):
        spec_of("INPUT.SIZE", "[4, 9]")
    with pytest.raises(UserError, match=r"INPUT.MEAN: found 3 numbers for 1 channels"):
        spec_of("INPUT.MEAN", "[0.1, 0.2, 0.3]")


def test_any_classifier_of_torchvision_takes_gray_images():
    cfg = load_config(None, ["MODEL.NAME", "torchvision/squeezenet1_1"])
    spec = input_spec(cfg, {**NATIVE, "size": (64, 64)})
    model, normalize = build_model(cfg, spec, 6), build_normalize(cfg, spec)
    assert model(normalize(torch.zeros(2, 1, 64, 64, dtype=torch.uint8))).shape == (2, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.NAME", "resnt18"], "MODEL.NAME 'resnt18': no such model; did you mean 'resnet18'"),
        (["MODEL.NAME", "torchvision/resnet19"], "torchvision has no such model; did you mean"),
        (["MODEL.widht", "8"], "MODEL.widht: ResNet9 takes no such argument; did you mean 'width'"),
        (["MODEL.num_classes", "8"], "MODEL.num_classes: this argument is set by the program"),
        (["MODEL.NAME", "torchvision/alexnet", "MODEL.foo", "8"], "unexpected keyword argument 'foo'"),
    ],
)
def test_mistakes_in_the_model(overrides, message):
    cfg = load_config(None, overrides)
    with pytest.raises(UserError, match=message):
        build_model(cfg, input_spec(cfg, {}), 10)
