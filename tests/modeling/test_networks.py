"""Networks against torchvision's, and the images that a network is built for."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.transforms import v2

from config import load_config
from layers.normalize import Normalize
from modeling.build import build_input_spec, build_model, build_normalize
from modeling.registry import MODELS
from modeling.resnet9 import ResNet9
from utils.errors import UserCodeError, UserError

RESNETS = [name for name in MODELS.names() if name in torchvision.models.list_models() and "res" in name]


@pytest.mark.parametrize("name", RESNETS)
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


class PoolingModule(nn.Module):
    """ResNet-9 with AdaptiveMaxPool2d, whose backward pass is not deterministic on a GPU."""

    def __init__(self, model: ResNet9):
        super().__init__()
        self.model, self.pool = model, nn.AdaptiveMaxPool2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model.fc(self.pool(self.model.features(x)).flatten(1))


@pytest.mark.parametrize("size", [(8, 8), (33, 50)])
def test_resnet9_pools_as_adaptive_max_pooling_does(size):
    torch.manual_seed(0)
    model = ResNet9(num_classes=5).double()
    images = torch.randn(4, 3, *size, dtype=torch.float64)
    found, expected = model(images), PoolingModule(model)(images)
    assert torch.equal(found, expected)
    parameters = list(model.parameters())
    factor = torch.randn(4, 5, dtype=torch.float64)
    for gradients in zip(
        *(torch.autograd.grad((y * factor).sum(), parameters) for y in (found, expected)), strict=True
    ):
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-14)
    names = [name for name in model.state_dict() if not name.startswith("features.")]
    assert names == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(("channels", "out"), [(1, 1), (3, 3), (1, 3), (5, 5)])
def test_normalize_equals_torchvisions(channels, out):
    images = torch.randint(0, 256, (4, channels, 5, 6), dtype=torch.uint8)
    mean, std = [0.2, 0.4, 0.6, 0.1, 0.9][:channels], [0.1, 0.2, 0.3, 0.5, 0.7][:channels]
    expected = v2.functional.normalize(images.float() / 255, mean, std).expand(-1, out, -1, -1)
    found = Normalize(mean, std, out)(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


DEFAULTS = {"size": (28, 28), "channels": 1, "mean": (0.3,), "std": (0.4,)}


def spec_of(*overrides: str, defaults=DEFAULTS):
    return build_input_spec(load_config(None, list(overrides)), defaults)


def test_the_input_is_that_of_the_key_or_else_of_the_data_set_or_else_of_the_network():
    assert spec_of("INPUT.SIZE", "[40, 50]").size == (40, 50)
    assert spec_of("MODEL.NAME", "resnet18").size == (28, 28)
    assert spec_of("MODEL.NAME", "resnet18", defaults={}).size == (224, 224)
    assert spec_of("MODEL.NAME", "torchvision/inception_v3", defaults={}).size == (299, 299)
    assert spec_of().mean == (0.3,) and spec_of("INPUT.CHANNELS", "3").mean == pytest.approx((0.3, 0.3, 0.3))
    assert spec_of(defaults={}).mean == (0.485, 0.456, 0.406)
    assert spec_of("INPUT.CHANNELS", "1", defaults={}).std == pytest.approx((0.226,))
    with pytest.raises(UserError, match=r"INPUT.SIZE: found \[4, 9\], resnet9 takes at least \[8, 8\]"):
        spec_of("INPUT.SIZE", "[4, 9]")
    with pytest.raises(UserError, match=r"INPUT.MEAN: found 3 numbers for 1 channels"):
        spec_of("INPUT.MEAN", "[0.1, 0.2, 0.3]")


def test_the_transforms_are_those_of_the_key_or_else_of_the_data_set():
    defaults = {**DEFAULTS, "train_transforms": ["HFlip"], "test_transforms": [{"Resize": {"size": 9}}]}
    spec = spec_of("INPUT.TRAIN_TRANSFORMS", "[{RandomCrop: {padding: 2}}]", defaults=defaults)
    assert spec.train_transforms == ({"RandomCrop": {"padding": 2}},)
    assert spec.test_transforms == ({"Resize": {"size": 9}},)
    assert spec_of("INPUT.TRAIN_TRANSFORMS", "[]", defaults=defaults).train_transforms == ()
    assert spec_of().train_transforms == spec_of().test_transforms == ()


def test_images_of_any_number_of_channels():
    spec = spec_of("INPUT.CHANNELS", "5", "MODEL.NAME", "resnet18", defaults={"size": (32, 32)})
    assert spec.mean == pytest.approx([(0.485 + 0.456 + 0.406) / 3] * 5) and len(spec.std) == 5
    assert spec_of(defaults={**DEFAULTS, "channels": 2}).std == (0.4, 0.4)
    for name in ("resnet9", "resnet18", "timm/resnet10t"):
        if name.startswith("timm/"):
            pytest.importorskip("timm", reason="timm is not installed")
        cfg = load_config(None, ["MODEL.NAME", name])
        spec = build_input_spec(cfg, {"size": (32, 32), "channels": 5})
        model, normalize = build_model(cfg, spec, 6), build_normalize(cfg, spec)
        assert model(normalize(torch.zeros(2, 5, 32, 32, dtype=torch.uint8))).shape == (2, 6)
    with pytest.raises(UserError, match=r"INPUT.MEAN: found 3 numbers for 5 channels; give one for each"):
        spec_of("INPUT.MEAN", "[0.1, 0.2, 0.3]", defaults={**DEFAULTS, "channels": 5})
    with pytest.raises(UserError, match="INPUT.CHANNELS: found 5, torchvision/resnet18 takes 3, or 1, which"):
        spec_of("INPUT.CHANNELS", "5", "MODEL.NAME", "torchvision/resnet18")


@MODELS.register("own_unfinished")
class Unfinished(nn.Module):
    def __init__(self, num_classes: int, in_channels: int):
        super().__init__()
        self.table = dict[str, int]()["missing"]


def test_a_bug_in_a_users_network_keeps_its_frames():
    cfg = load_config(None, ["MODEL.NAME", "own_unfinished"])
    with pytest.raises(UserCodeError, match="MODEL: Unfinished: KeyError 'missing'") as error:
        build_model(cfg, build_input_spec(cfg, {}), 3)
    assert isinstance(error.value.__cause__, KeyError)


def test_any_classifier_of_torchvision_takes_gray_images():
    cfg = load_config(None, ["MODEL.NAME", "torchvision/squeezenet1_1"])
    spec = build_input_spec(cfg, {**DEFAULTS, "size": (64, 64)})
    model, normalize = build_model(cfg, spec, 6), build_normalize(cfg, spec)
    assert model(normalize(torch.zeros(2, 1, 64, 64, dtype=torch.uint8))).shape == (2, 6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.NAME", "resnt18"], "MODEL.NAME 'resnt18': no such model; did you mean 'resnet18'"),
        (["MODEL.NAME", "torchvision/resnet19"], "torchvision has no such model; did you mean"),
        (["MODEL.widht", "8"], "MODEL.widht: ResNet9 takes no such argument; did you mean 'width'"),
        (["MODEL.num_classes", "8"], "MODEL.num_classes: set automatically"),
        (["MODEL.NAME", "torchvision/alexnet", "MODEL.foo", "8"], "unexpected keyword argument 'foo'"),
    ],
)
def test_mistakes_in_the_model(overrides, message):
    cfg = load_config(None, overrides)
    with pytest.raises(UserError, match=message):
        build_model(cfg, build_input_spec(cfg, {}), 10)
